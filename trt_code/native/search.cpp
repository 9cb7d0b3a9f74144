#include "search.h"

#include <algorithm>
#include <numeric>

#include "../kernels/special_tokens.h"
#include "best.h"
#include "threads.h"

namespace lite::native {
namespace {

// The search of one thread's sentences.
class Searcher {
 public:
  Searcher(const Program& program, Workspace& workspace, const SearchOptions& options,
           const Record& record, int batch, std::vector<int> sentences)
      : program_(program),
        w_(workspace),
        options_(options),
        record_(record),
        batch_(batch),
        sentences_(std::move(sentences)),
        best_(2 * options.beam) {}

  int run() {
    const int beam = options_.beam, stride = options_.longest + 1;
    w_.ancestor_stride = stride;
    active_.resize(sentences_.size());
    std::iota(active_.begin(), active_.end(), 0);
    const std::size_t rows = active_.size() * beam;
    tokens_.assign(rows, static_cast<int>(kEos));
    parents_.resize(rows);
    std::iota(parents_.begin(), parents_.end(), 0);
    totals_.assign(rows,
                   kNone);  // all beams are equal before the first step, so one of them counts
    for (std::size_t i = 0; i < rows; i += beam) totals_[i] = 0;
    int position = 0;
    for (; position < stride && !active_.empty(); ++position) {
      begin(position);
      program_.run(w_);
      choose(position);
    }
    return position;
  }

 private:
  void begin(int position) {
    const int beam = options_.beam, rows = static_cast<int>(active_.size()) * beam;
    const std::size_t stride = w_.ancestor_stride;
    next_ancestors_.resize(rows * stride);
    for (int r = 0; r < rows; ++r) {
      std::copy_n(w_.ancestors.begin() + (position ? parents_[r] * stride : 0), position,
                  next_ancestors_.begin() + r * stride);
      next_ancestors_[r * stride + position] = r;
    }
    w_.ancestors.swap(next_ancestors_);
    w_.step = position;
    w_.tokens.assign(tokens_.begin(), tokens_.end());
    w_.positions.assign(rows, position);
    w_.sentence.resize(rows);
    for (int r = 0; r < rows; ++r) w_.sentence[r] = active_[r / beam];
    w_.begin_target(rows);
  }

  void choose(int position) {
    const int beam = options_.beam, words = program_.target_vocab;
    const View logits = w_.view(program_.logits);
    std::vector<int> still, tokens, parents;
    std::vector<float> totals;
    for (std::size_t a = 0; a < active_.size(); ++a) {
      best_.clear();
      for (int b = 0; b < beam; ++b) {
        const std::size_t row = a * beam + b;
        if (totals_[row] == kNone) continue;
        float* x = logits.row(row);
        const float offset = totals_[row] - log_sum_exp(x, words);
        if (position == options_.longest) {
          best_.offer(x[kEos] + offset, b, kEos);
          continue;
        }
        x[kPad] = kNone;
        x[kUnk] -= options_.unk_penalty;
        if (position < options_.min_len) x[kEos] = kNone;
        best_.offer_all(x, words, offset, b);
      }
      keep(position, static_cast<int>(a), still, tokens, parents, totals);
    }
    active_.swap(still);
    tokens_.swap(tokens);
    parents_.swap(parents);
    totals_.swap(totals);
  }

  // Record a sentence's candidates, and go on with those that did not end.
  void keep(int position, int a, std::vector<int>& still, std::vector<int>& tokens,
            std::vector<int>& parents, std::vector<float>& totals) {
    const int beam = options_.beam, sentence = sentences_[active_[a]];
    const std::vector<Candidate>& found = best_.get();
    const auto is_end = [](const Candidate& c) { return c.token == kEos && c.score > kNone; };
    std::int64_t& count = record_.counts[sentence];
    for (int i = 0; i < beam; ++i) {
      if (!is_end(found[i]) || count == beam) continue;
      const std::size_t at = static_cast<std::size_t>(sentence) * beam + count++;
      record_.ends[at] = static_cast<std::int64_t>(position) * beam + found[i].beam;
      record_.end_totals[at] = found[i].score;
    }
    const bool goes_on = count < beam;
    if (goes_on) still.push_back(active_[a]);
    int alive = 0;
    for (const Candidate& candidate : found) {
      if (alive == beam) break;
      if (is_end(candidate) && position < options_.longest) continue;
      const std::size_t at =
          (static_cast<std::size_t>(position) * batch_ + sentence) * beam + alive++;
      record_.tokens[at] = candidate.token;
      record_.parents[at] = candidate.beam;
      record_.totals[at] = candidate.score;
      if (!goes_on) continue;
      tokens.push_back(candidate.token);
      parents.push_back(a * beam + candidate.beam);
      totals.push_back(candidate.score);
    }
  }

  const Program& program_;
  Workspace& w_;
  const SearchOptions options_;
  const Record record_;
  const int batch_;
  const std::vector<int> sentences_;  // their numbers in the batch
  Best best_;
  std::vector<int> active_;            // unfinished sentences, as positions in sentences_
  std::vector<int> tokens_, parents_;  // of each row; parents as rows of the step before
  std::vector<float> totals_;
  std::vector<std::int32_t> next_ancestors_;
};

}  // namespace

int search(Program& program, const std::int64_t* src_tokens, int batch, int width,
           const SearchOptions& options, int threads, const Record& record) {
  std::vector<int> steps(std::max(1, threads), 0);
  on_threads(program, src_tokens, batch, width, threads, kWhole,
             [&](int part, Workspace& workspace, const std::vector<int>& sentences) {
               program.run(workspace);
               Searcher searcher(program, workspace, options, record, batch, sentences);
               steps[part] = std::max(steps[part], searcher.run());
             });
  return *std::max_element(steps.begin(), steps.end());
}

}  // namespace lite::native
