// The functions that trt_code/native/library.py calls. Each returns -1 after an error, whose
// message lite_error() has. A tensor is a pointer and its sizes; it is copied. Columns count from
// the register's first.
#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "../kernels/special_tokens.h"
#include "one_pass.h"
#include "operators.h"
#include "products.h"
#include "program.h"
#include "search.h"
#include "vector.h"

using namespace lite::native;

namespace {

constexpr const char* kNoMemory = "there is not enough memory; translate fewer tokens at a time";
thread_local std::string last_error;

template <typename Function>
int guarded(Function function) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    last_error = kNoMemory;
  } catch (const std::length_error&) {  // a vector beyond what the machine can address
    last_error = kNoMemory;
  } catch (const std::system_error&) {
    last_error = "the system starts no more threads; choose fewer with --threads";
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown error";
  }
  return -1;
}

void check(bool fits) {
  if (!fits) throw InputError("an operator's sizes do not fit each other");
}

// heads * size, which a damaged file could make overflow
int width_of(int heads, int size) {
  check(heads > 0 && size > 0 && static_cast<std::int64_t>(heads) * size <= kMostColumns);
  return heads * size;
}

// The program, and the checks of an operator that is added to one of its stages.
class Builder {
 public:
  Builder(void* program, int stage) : program_(*static_cast<Program*>(program)) {
    check(stage == 0 || stage == 1);
    stage_ = static_cast<Stage>(stage);
  }

  void rows(int reg, int column, int width) const {
    program_.need(reg, stage_, Kind::kRows, column, width);
  }
  void history(int reg, int column, int width) const {
    program_.need(reg, Stage::kTarget, Kind::kHistory, column, width);
    check(stage_ == Stage::kTarget);
  }
  // Rows of exactly this width.
  void whole(int reg, int width) const {
    rows(reg, 0, width);
    check(program_.columns(reg) == width);
  }
  // Rows, or the current block of a history, whichever the register has.
  void input(int reg, int column, int width) const {
    output(reg, column, width, program_.is_history(reg));
  }
  // Rows, or the current block of a history if `past`.
  void output(int reg, int column, int width, bool past) const {
    past ? history(reg, column, width) : rows(reg, column, width);
  }
  void source(int reg, Kind kind, int column, int width) const {
    program_.need(reg, Stage::kSource, kind, column, width);
  }
  // A linear layer from columns of `in` to columns of `out`.
  void linear(int in, int in_column, int inputs, int out, int out_column, int outputs, bool past,
              bool has_bias, int bias_size, int activation) const {
    check((!has_bias || bias_size == outputs) && activation >= 0 &&
          activation <= static_cast<int>(Activation::kSwish) && in != out);
    input(in, in_column, inputs);
    output(out, out_column, outputs, past);
    program_.most_operations = std::max(program_.most_operations, 2.0 * inputs * outputs);
  }
  // The most positions of a sequence.
  int positions() const {
    return stage_ == Stage::kSource ? program_.max_source : program_.max_target;
  }
  int add(Operator op) const {
    program_.add(stage_, std::move(op));
    return 0;
  }

  Program& program_;

 private:
  Stage stage_;
};

std::vector<float> copy(const float* from, std::size_t floats) { return {from, from + floats}; }

}  // namespace

extern "C" {

const char* lite_error() { return last_error.c_str(); }

void* lite_program(int source_vocab, int target_vocab, int max_source, int max_target) {
  auto program = std::make_unique<Program>();
  program->source_vocab = source_vocab;
  program->target_vocab = target_vocab;
  program->max_source = max_source;
  program->max_target = max_target;
  return program.release();
}

void lite_free(void* program) { delete static_cast<Program*>(program); }

int lite_register(void* program, int stage, int kind, int columns) {
  return guarded([&] {
    check((stage == 0 || stage == 1) && kind >= 0 && kind <= 2);
    return static_cast<Program*>(program)->add_register(static_cast<Stage>(stage),
                                                        static_cast<Kind>(kind), columns);
  });
}

// The register with the target's scores, the end of the network.
int lite_logits(void* program, int reg) {
  return guarded([&] {
    const Builder build(program, static_cast<int>(Stage::kTarget));
    build.rows(reg, 0, build.program_.target_vocab);
    return build.program_.logits = reg;
  });
}

// out = scale * table[token] + vectors[first position + position]; without vectors: scale *
// table[token].
int lite_embed(void* program, int stage, const float* table, int vocab, int width,
               const float* vectors, int positions, int columns, float scale, int out) {
  return guarded([&] {
    const Builder build(program, stage);
    const bool source = stage == static_cast<int>(Stage::kSource);
    check(vocab >= (source ? build.program_.source_vocab : build.program_.target_vocab));
    check(!vectors || (columns == width && positions >= lite::kFirstPosition + build.positions()));
    build.rows(out, 0, width);
    auto words = copy(table, static_cast<std::size_t>(vocab) * width);
    for (float& x : words) x *= scale;
    auto at =
        vectors ? copy(vectors, static_cast<std::size_t>(positions) * width) : std::vector<float>();
    return build.add([=, words = std::move(words), at = std::move(at)](Workspace& w) {
      const View to = w.view(out);
      for (int r = 0; r < w.rows; ++r) {
        const float* word = words.data() + static_cast<std::size_t>(w.tokens[r]) * width;
        float* row = to.row(r);
        std::copy_n(word, width, row);
        if (at.empty()) continue;
        const float* vector =
            at.data() + static_cast<std::size_t>(lite::kFirstPosition + w.positions[r]) * width;
        for (int c = 0; c < width; ++c) row[c] += vector[c];
      }
    });
  });
}

// out = activation(in * weight^T + bias); `out` is a history if `past`.
int lite_linear(void* program, int stage, int in, int in_column, const float* weight, int outputs,
                int inputs, const float* bias, int bias_size, int activation, int out,
                int out_column, int past) {
  return guarded([&] {
    const Builder build(program, stage);
    build.linear(in, in_column, inputs, out, out_column, outputs, past, bias, bias_size,
                 activation);
    auto packed = std::make_shared<Weight>(weight, bias, outputs, inputs);
    return build.add([=](Workspace& w) {
      const View from = w.view(in, in_column), to = w.view(out, out_column);
      packed->multiply(from.data, from.stride, w.rows, to.data, to.stride,
                       static_cast<Activation>(activation), w.team);
    });
  });
}

// The same in INT8: weight [outputs, inputs], scales [outputs], x_scale > 0.
int lite_integer_linear(void* program, int stage, int in, int in_column, const std::int8_t* weight,
                        int outputs, int inputs, const float* scales, int scales_size,
                        const float* bias, int bias_size, float x_scale, int activation, int out,
                        int out_column, int past) {
  return guarded([&] {
    const Builder build(program, stage);
    check(scales_size == outputs && x_scale > 0);
    build.linear(in, in_column, inputs, out, out_column, outputs, past, bias, bias_size,
                 activation);
    auto packed = std::make_shared<IntegerWeight>(weight, scales, bias, outputs, inputs, x_scale);
    return build.add([=](Workspace& w) {
      const View from = w.view(in, in_column), to = w.view(out, out_column);
      packed->multiply(from.data, from.stride, w.rows, to.data, to.stride,
                       static_cast<Activation>(activation), w.team,
                       w.scratch(packed->scratch_floats(w.rows)));
    });
  });
}

// out = norm(in + residual); residual is -1 for none.
int lite_norm(void* program, int stage, int in, int residual, const float* gamma, int width,
              const float* beta, int beta_size, float epsilon, int out) {
  return guarded([&] {
    const Builder build(program, stage);
    check(beta_size == width);
    // whole rows, one after the other
    for (const int reg : {in, residual < 0 ? in : residual, out}) build.whole(reg, width);
    return build.add([=, gamma = copy(gamma, width), beta = copy(beta, width)](Workspace& w) {
      layer_norm(w.view(in).data, residual < 0 ? nullptr : w.view(residual).data, w.rows, width,
                 gamma.data(), beta.data(), epsilon, w.view(out).data);
    });
  });
}

// out += in
int lite_add(void* program, int stage, int in, int width, int out) {
  return guarded([&] {
    const Builder build(program, stage);
    build.whole(in, width);
    build.whole(out, width);
    return build.add([=](Workspace& w) {
      const View from = w.view(in), to = w.view(out);
      const std::size_t floats = static_cast<std::size_t>(w.rows) * width;
      for (std::size_t i = 0; i < floats; ++i) to.data[i] += from.data[i];
    });
  });
}

// Copies columns; `out` is a history if `past`.
int lite_copy(void* program, int stage, int in, int in_column, int width, int out, int past) {
  return guarded([&] {
    const Builder build(program, stage);
    build.rows(in, in_column, width);
    build.output(out, 0, width, past);
    return build.add([=](Workspace& w) {
      const View from = w.view(in, in_column), to = w.view(out);
      for (int r = 0; r < w.rows; ++r) std::copy_n(from.row(r), width, to.row(r));
    });
  });
}

// out = the first half of in's columns times the sigmoid of the second; `out` is a history if
// `past`.
int lite_glu(void* program, int stage, int in, int width, int out, int past) {
  return guarded([&] {
    const Builder build(program, stage);
    check(width > 0 && width <= kMostColumns);
    build.rows(in, 0, 2 * width);
    build.output(out, 0, width, past);
    return build.add([=](Workspace& w) {
      const View from = w.view(in), to = w.view(out);
      glu(from.data, from.stride, w.rows, width, to.data, to.stride);
    });
  });
}

// A convolution with taps from the register `taps` [rows, kernel_size * heads], which it
// normalises, or for -1 with `fixed` taps [kernel_size, heads] at every position. `padding` [width]
// is the input's value at source positions that were padding; null for zero.
int lite_convolve(void* program, int stage, int in, int width, int taps, const float* fixed,
                  int fixed_size, int fixed_heads, const float* padding, int padding_size,
                  int normalize, int heads, int kernel_size, int padding_l, int out, int out_column,
                  int past) {
  return guarded([&] {
    const Builder build(program, stage);
    const int tap_columns = width_of(heads, kernel_size);
    check(width % heads == 0 && padding_l >= 0 && padding_l < kernel_size);
    check(taps >= 0 || (fixed && fixed_heads == heads && fixed_size == kernel_size));
    check(!past || padding_l == kernel_size - 1);
    check(!padding ||
          (padding_size == width && !past && stage == static_cast<int>(Stage::kSource)));
    build.output(in, 0, width, past);
    if (taps >= 0) build.whole(taps, tap_columns);
    build.rows(out, out_column, width);
    check(in != out && taps != out);
    auto same =
        fixed ? copy(fixed, static_cast<std::size_t>(heads) * kernel_size) : std::vector<float>();
    if (normalize && fixed) softmax_taps(same.data(), 1, heads, kernel_size);
    auto outside = padding ? copy(padding, width) : std::vector<float>();
    return build.add([=, same = std::move(same), outside = std::move(outside)](Workspace& w) {
      const float* weights = same.data();
      int stride = 0;
      if (taps >= 0) {
        const View view = w.view(taps);
        if (normalize) softmax_taps(view.data, w.rows, heads, kernel_size);
        weights = view.data;
        stride = view.stride;
      }
      const View to = w.view(out, out_column);
      if (past) {
        convolve_step(w.past(in), w.rows, width, weights, stride, heads, kernel_size, to.data,
                      to.stride);
        return;
      }
      const View from = w.view(in);
      for (const Span& span : w.spans)
        convolve(from.data, from.stride, span, width, weights, stride, heads, kernel_size,
                 padding_l, outside.empty() ? nullptr : outside.data(), to.data, to.stride);
    });
  });
}

// Transposes keys of the source, in the columns from in_column on, for lite_attend_source.
int lite_keys(void* program, int in, int in_column, int heads, int head_width, int out) {
  return guarded([&] {
    const Builder build(program, static_cast<int>(Stage::kSource));
    const int width = width_of(heads, head_width);
    build.rows(in, in_column, width);
    build.source(out, Kind::kKeys, 0, width);
    return build.add([=](Workspace& w) {
      const View from = w.view(in, in_column);
      for (std::size_t i = 0; i < w.source.size(); ++i)
        transpose_keys(from.row(w.source[i].begin), from.stride, w.source[i].size(), heads,
                       head_width, w.key_stride(i), w.keys(out, i));
    });
  });
}

// Attention of target rows to the source: its `keys`, and its values in columns of the register
// `values`.
int lite_attend_source(void* program, int query, int keys, int values, int values_column, int heads,
                       int head_width, int out) {
  return guarded([&] {
    const Builder build(program, static_cast<int>(Stage::kTarget));
    const int width = width_of(heads, head_width);
    check(query != out);
    build.rows(query, 0, width);
    build.rows(out, 0, width);
    build.source(keys, Kind::kKeys, 0, width);
    build.source(values, Kind::kRows, values_column, width);
    return build.add([=](Workspace& w) {
      const View from = w.view(query), value = w.view(values, values_column), to = w.view(out);
      for (int r = 0, end; r < w.rows; r = end) {  // the rows of a sentence are neighbours
        const int sentence = w.sentence[r], stride = w.key_stride(sentence);
        for (end = r + 1; end < w.rows && w.sentence[end] == sentence;) ++end;
        const Span span = w.source[sentence];
        const Source source{w.keys(keys, sentence), stride, value.row(span.begin), value.stride,
                            span.size()};
        attend(from.row(r), from.stride, end - r, source, heads, head_width,
               w.scratch(attention_floats(stride, head_width)), to.row(r), to.stride);
      }
    });
  });
}

// Attention within a sequence. pairs: keys in columns [0, width), values in [width, 2 * width); a
// history if `past`.
int lite_attend_self(void* program, int stage, int query, int pairs, int heads, int head_width,
                     int out, int past) {
  return guarded([&] {
    const Builder build(program, stage);
    const int width = width_of(heads, head_width);
    check(query != out && pairs != out);
    build.rows(query, 0, width);
    build.output(pairs, 0, 2 * width, past);
    build.rows(out, 0, width);
    return build.add([=](Workspace& w) {
      const View from = w.view(query), to = w.view(out);
      if (past) {
        const Past before = w.past(pairs);
        attend_past(before, from.data, from.stride, w.rows, heads, head_width,
                    w.scratch(static_cast<std::size_t>(heads) * before.steps), to.data, to.stride);
        return;
      }
      const View pair = w.view(pairs);
      for (const Span& span : w.spans) {
        const int stride = padded(span.size());
        const std::size_t key_floats = static_cast<std::size_t>(stride) * width;
        float* keys = w.scratch(key_floats + attention_floats(stride, head_width));
        const float* begin = pair.row(span.begin);
        transpose_keys(begin, pair.stride, span.size(), heads, head_width, stride, keys);
        const Source source{keys, stride, begin + width, pair.stride, span.size()};
        attend(from.row(span.begin), from.stride, span.size(), source, heads, head_width,
               keys + key_floats, to.row(span.begin), to.stride);
      }
    });
  });
}

// out = vectors[first position + position]
int lite_positions(void* program, int stage, const float* vectors, int positions, int width,
                   int out) {
  return guarded([&] {
    const Builder build(program, stage);
    check(positions >= lite::kFirstPosition + build.positions());
    build.rows(out, 0, width);
    auto at = copy(vectors, static_cast<std::size_t>(positions) * width);
    return build.add([=, at = std::move(at)](Workspace& w) {
      const View to = w.view(out);
      for (int r = 0; r < w.rows; ++r)
        std::copy_n(
            at.data() + static_cast<std::size_t>(lite::kFirstPosition + w.positions[r]) * width,
            width, to.row(r));
    });
  });
}

// Replaces the target rows of unknown tokens in `out` by those of `in`.
int lite_fill_unknown(void* program, int in, int width, int out) {
  return guarded([&] {
    const Builder build(program, static_cast<int>(Stage::kTarget));
    build.rows(in, 0, width);
    build.rows(out, 0, width);
    return build.add([=](Workspace& w) {
      const View from = w.view(in), to = w.view(out);
      for (int r = 0; r < w.rows; ++r)
        if (w.tokens[r] == lite::kUnk) std::copy_n(from.row(r), width, to.row(r));
    });
  });
}

// The source rows at even distances over the target rows.
int lite_copy_source(void* program, int in, int width, int out) {
  return guarded([&] {
    const Builder build(program, static_cast<int>(Stage::kTarget));
    build.source(in, Kind::kRows, 0, width);
    build.rows(out, 0, width);
    return build.add([=](Workspace& w) { copy_source(w, w.view(in), w.view(out), width); });
  });
}

// Predicts target lengths from the encoder's output; weight: [classes, width].
int lite_lengths(void* program, int in, const float* weight, int classes, int width, int is_offset,
                 int is_bounded) {
  return guarded([&] {
    const Builder build(program, static_cast<int>(Stage::kSource));
    build.whole(in, width);
    auto rows = copy(weight, static_cast<std::size_t>(classes) * width);
    build.program_.predicts_lengths = true;
    return build.add([=, rows = std::move(rows)](Workspace& w) {
      predict_lengths(w, w.view(in).data, width, rows.data(), classes,
                      {is_offset != 0, is_bounded != 0});
    });
  });
}

// Chooses the best path of a CRF through the `beam` best tokens of each row of the register
// `logits`.
int lite_choose_path(void* program, int logits, const float* from, int words, int rank,
                     const float* to, int to_words, int to_rank, int beam) {
  return guarded([&] {
    const Builder build(program, static_cast<int>(Stage::kTarget));
    check(words == build.program_.target_vocab && to_words == words && to_rank == rank &&
          beam > 0 && beam <= words);
    build.whole(logits, words);
    auto first = copy(from, static_cast<std::size_t>(words) * rank),
         second = copy(to, first.size());
    build.program_.chooses = true;
    return build.add([=, first = std::move(first), second = std::move(second)](Workspace& w) {
      choose_path(w, w.view(logits).data, words, {first.data(), second.data(), rank}, beam);
    });
  });
}

// Chooses the best token of each row of the register `logits`.
int lite_choose_tokens(void* program, int logits) {
  return guarded([&] {
    const Builder build(program, static_cast<int>(Stage::kTarget));
    const int words = build.program_.target_vocab;
    build.whole(logits, words);
    build.program_.chooses = true;
    return build.add([=](Workspace& w) { choose_tokens(w, w.view(logits).data, words); });
  });
}

// See translate().
int lite_translate(void* program, const std::int64_t* src_tokens, int batch, int width,
                   const std::int64_t* lengths, int threads, std::int64_t* predicted,
                   std::int64_t* tokens, float* scores, int room) {
  return guarded([&] {
    Program& network = *static_cast<Program*>(program);
    check(network.predicts_lengths && network.chooses && batch > 0 && width > 0 && room > 0 &&
          room <= network.max_target);
    translate(network, src_tokens, batch, width, lengths, threads, predicted, tokens, scores, room);
    return 0;
  });
}

// Translates src_tokens [batch, width]; returns the number of steps. See Record for the arrays.
int lite_search(void* program, const std::int64_t* src_tokens, int batch, int width, int beam,
                int longest, int min_len, float unk_penalty, int threads, std::int64_t* tokens,
                std::int64_t* parents, float* totals, std::int64_t* counts, std::int64_t* ends,
                float* end_totals) {
  return guarded([&] {
    Program& network = *static_cast<Program*>(program);
    check(network.logits >= 0 && batch > 0 && width > 0 && beam > 0 && longest >= 0 &&
          longest < network.max_target && 2 * beam < network.target_vocab);
    return search(network, src_tokens, batch, width, {beam, longest, min_len, unk_penalty}, threads,
                  {tokens, parents, totals, counts, ends, end_totals});
  });
}

}  // extern "C"
