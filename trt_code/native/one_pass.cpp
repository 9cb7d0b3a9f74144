#include "one_pass.h"

#include <algorithm>
#include <cmath>

#include "../kernels/special_tokens.h"
#include "best.h"
#include "threads.h"
#include "vector.h"

namespace lite::native {
namespace {

constexpr int kLengthOffset = 128;  // train_model/models/one_pass.py
constexpr int kPerSourceToken = 2;  // train_model/models/canvas.py
constexpr int kLeast = 2;           // bos and eos
constexpr int kGroup = 512;         // source tokens; their activations stay in the cache

// Begins the target's stage with a canvas for each sentence.
void begin_canvas(Workspace& w) {
  w.tokens.clear();
  w.positions.clear();
  w.sentence.clear();
  w.spans.clear();
  for (std::size_t i = 0; i < w.lengths.size(); ++i) {
    const int begin = static_cast<int>(w.tokens.size());
    for (int t = 0; t < w.lengths[i]; ++t) {
      w.tokens.push_back(t == 0 ? kBos : t == w.lengths[i] - 1 ? kEos : kUnk);
      w.positions.push_back(t);
      w.sentence.push_back(static_cast<std::int32_t>(i));
    }
    w.spans.push_back({begin, static_cast<int>(w.tokens.size())});
  }
  w.begin_target(static_cast<int>(w.tokens.size()));
}

// One step of the Viterbi search.
class Step {
 public:
  Step(int beam, Transitions transitions)
      : beam_(beam),
        wide_(padded(beam)),
        transitions_(transitions),
        to_(static_cast<std::size_t>(transitions.rank) * wide_),
        best_(wide_),
        slots_(wide_) {}

  // Adds to each score its best predecessor's score and transition; `back` receives that
  // predecessor's slot, of equally good ones the first.
  void take(const int* before_tokens, const float* before_scores, const int* tokens, float* scores,
            int* back) {
    const int rank = transitions_.rank;
    for (int j = 0; j < beam_; ++j) {  // transposed, so that a vector has neighbouring slots
      const float* row = transitions_.to + static_cast<std::size_t>(tokens[j]) * rank;
      for (int d = 0; d < rank; ++d) to_[static_cast<std::size_t>(d) * wide_ + j] = row[d];
    }
    std::fill(best_.begin(), best_.end(), kNone);
    std::fill(slots_.begin(), slots_.end(), 0);
    int i = 0;
    for (; i + kMany <= beam_; i += kMany) compare_all<kMany>(before_tokens, before_scores, i);
    for (; i < beam_; ++i) compare_all<1>(before_tokens, before_scores, i);
    for (int j = 0; j < beam_; ++j) {
      scores[j] += best_[j];
      back[j] = slots_[j];
    }
  }

 private:
  // Vectors of slots and predecessors at once: eight sums, so that none waits for itself.
  static constexpr int kWide = kLanes == 16 ? 2 : 4, kMany = 8 / kWide;

  // Compares kM predecessors, from slot i on, with the best so far of every slot.
  template <int kM>
  void compare_all(const int* before_tokens, const float* before_scores, int i) {
    const float* from[kM];
    for (int m = 0; m < kM; ++m)
      from[m] =
          transitions_.from + static_cast<std::size_t>(before_tokens[i + m]) * transitions_.rank;
    int j = 0;
    for (; j + kWide * kLanes <= wide_; j += kWide * kLanes)
      compare<kM, kWide>(from, before_scores, i, j);
    for (; j < wide_; j += kLanes) compare<kM, 1>(from, before_scores, i, j);
  }

  // The same for kVectors vectors of slots from slot j on.
  template <int kM, int kVectors>
  void compare(const float* const (&from)[kM], const float* before_scores, int i, int j) {
    // The transition alone: added to the score of a long path, each product would be rounded.
    Floats sums[kM][kVectors] = {};
    for (int d = 0; d < transitions_.rank; ++d) {
      const float* to = &to_[static_cast<std::size_t>(d) * wide_ + j];
      for (int m = 0; m < kM; ++m)
        for (int v = 0; v < kVectors; ++v) sums[m][v] += all(from[m][d]) * load(to + v * kLanes);
    }
    for (int v = 0; v < kVectors; ++v) {
      Floats best = load(&best_[j + v * kLanes]);
      Ints slots;
      std::memcpy(&slots, &slots_[j + v * kLanes], sizeof slots);
      for (int m = 0; m < kM; ++m) {
        const Floats sum = sums[m][v] + before_scores[i + m];
        const auto better = sum > best;
        best = better ? sum : best;
        slots = better ? (i + m) - Ints{} : slots;
      }
      store(&best_[j + v * kLanes], best);
      std::memcpy(&slots_[j + v * kLanes], &slots, sizeof slots);
    }
  }

  int beam_, wide_;
  Transitions transitions_;
  std::vector<float> to_, best_;     // [rank, wide], [wide]
  std::vector<std::int32_t> slots_;  // of the best predecessors
};

}  // namespace

void predict_lengths(Workspace& w, const float* x, int width, const float* weight, int classes,
                     LengthRule rule) {
  w.lengths.clear();
  for (const Span& span : w.source) {
    float* mean = w.scratch(width);
    std::fill_n(mean, width, 0.f);
    for (int r = span.begin; r < span.end; ++r)
      for (int c = 0; c < width; ++c) mean[c] += x[static_cast<std::size_t>(r) * width + c];
    const float scale = 1.f / std::max(1, span.size());
    int best = 0;
    float most = kNone;
    for (int i = 0; i < classes; ++i) {
      float sum = 0;
      for (int c = 0; c < width; ++c)
        sum += mean[c] * weight[static_cast<std::size_t>(i) * width + c];
      if (sum * scale > most) {
        most = sum * scale;
        best = i;
      }
    }
    int length = rule.is_offset ? best - kLengthOffset + span.size() : best;
    length = std::max(length, kLeast);
    if (rule.is_bounded) length = std::min(length, kPerSourceToken * std::max(1, span.size()));
    w.lengths.push_back(length);
  }
}

void choose_path(Workspace& w, const float* logits, int words, Transitions transitions, int beam) {
  w.chosen.resize(w.rows);
  w.scores.resize(w.rows);
  BestOfMany best(beam);
  std::vector<float> prefix(static_cast<std::size_t>(w.rows) *
                            beam);  // scores of the paths up to each slot
  std::vector<int> tokens(prefix.size()), back(prefix.size());
  Step step(beam, transitions);
  for (const Span& span : w.spans) {
    for (int r = span.begin; r < span.end; ++r) {
      const std::size_t own = static_cast<std::size_t>(r) * beam;
      best.find(logits + static_cast<std::size_t>(r) * words, words, &prefix[own], &tokens[own]);
      if (r > span.begin)
        step.take(&tokens[own - beam], &prefix[own - beam], &tokens[own], &prefix[own], &back[own]);
    }
    if (span.size() == 0) continue;
    const auto last = prefix.begin() + static_cast<std::ptrdiff_t>(span.end - 1) * beam;
    int slot = static_cast<int>(std::max_element(last, last + beam) - last);
    // fairseq's score of a position: the path's score at the slot that the next position chose,
    // minus the one before
    float after = last[slot];
    for (int r = span.end - 1; r >= span.begin; --r) {
      const std::size_t own = static_cast<std::size_t>(r) * beam;
      w.chosen[r] = tokens[own + slot];
      const float earlier = r > span.begin ? prefix[own - beam + slot] : 0;
      w.scores[r] = after - earlier;
      after = earlier;
      slot = back[own + slot];
    }
  }
}

void choose_tokens(Workspace& w, const float* logits, int words) {
  w.chosen.resize(w.rows);
  w.scores.resize(w.rows);
  for (int r = 0; r < w.rows; ++r, logits += words) {
    const int best = static_cast<int>(std::max_element(logits, logits + words) - logits);
    w.chosen[r] = best;
    w.scores[r] = logits[best] - log_sum_exp(logits, words);
  }
}

void copy_source(const Workspace& w, View source, View out, int width) {
  for (std::size_t i = 0; i < w.spans.size(); ++i) {
    const Span from = w.source[i], to = w.spans[i];
    const float step = static_cast<float>(from.size() - 1) / static_cast<float>(to.size() - 1);
    for (int t = 0; t < to.size(); ++t) {
      float* row = out.row(to.begin + t);
      if (from.size() == 0) {
        std::fill_n(row, width, 0.f);
        continue;
      }
      const int at = std::min(static_cast<int>(std::rint(step * t)), from.size() - 1);
      std::copy_n(source.row(from.begin + at), width, row);
    }
  }
}

void translate(Program& program, const std::int64_t* src_tokens, int batch, int width,
               const std::int64_t* lengths, int threads, std::int64_t* predicted,
               std::int64_t* tokens, float* scores, int room) {
  on_threads(program, src_tokens, batch, width, threads, kGroup,
             [&](int, Workspace& w, const std::vector<int>& sentences) {
               program.run(w);
               for (std::size_t i = 0; i < sentences.size(); ++i) {
                 predicted[sentences[i]] = w.lengths[i];
                 const std::int64_t length = lengths ? lengths[sentences[i]] : w.lengths[i];
                 w.lengths[i] = static_cast<int>(
                     std::clamp<std::int64_t>(length, std::min(kLeast, room), room));
               }
               begin_canvas(w);
               program.run(w);
               for (std::size_t i = 0; i < sentences.size(); ++i) {
                 const std::size_t to = static_cast<std::size_t>(sentences[i]) * room;
                 std::copy(w.chosen.begin() + w.spans[i].begin, w.chosen.begin() + w.spans[i].end,
                           tokens + to);
                 std::copy(w.scores.begin() + w.spans[i].begin, w.scores.begin() + w.spans[i].end,
                           scores + to);
               }
             });
}

}  // namespace lite::native
