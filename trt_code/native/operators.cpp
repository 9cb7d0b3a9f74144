#include "operators.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "vector.h"

namespace lite::native {

void layer_norm(const float* x, const float* residual, int rows, int width, const float* gamma,
                const float* beta, float epsilon, float* out) {
  for (int r = 0; r < rows; ++r, x += width, out += width) {
    float sum = 0;
    if (residual) {
      for (int c = 0; c < width; ++c) sum += out[c] = x[c] + residual[c];
      residual += width;
    } else {
      for (int c = 0; c < width; ++c) sum += out[c] = x[c];
    }
    const float mean = sum / width;
    float squares = 0;
    for (int c = 0; c < width; ++c) {
      out[c] -= mean;
      squares += out[c] * out[c];
    }
    const float scale = 1 / std::sqrt(squares / width + epsilon);
    for (int c = 0; c < width; ++c) out[c] = out[c] * scale * gamma[c] + beta[c];
  }
}

void glu(const float* x, int x_stride, int rows, int width, float* out, int out_stride) {
  for (int r = 0; r < rows; ++r, x += x_stride, out += out_stride) {
    const float* gate = x + width;
    int c = 0;
    for (; c + kLanes <= width; c += kLanes)
      store(out + c, load(x + c) / (1 + exp_of(-load(gate + c))));
    for (; c < width; ++c) out[c] = x[c] / (1 + exp_of(-gate[c]));
  }
}

namespace {

// Softmax of the taps of `heads` heads in vectors that are `stride` floats apart. Lanes l, l +
// heads, l + 2 * heads, ... of each have taps of one head.
void softmax_vectors(float* x, int stride, int vectors, int heads) {
  Floats most = load(x);
  for (int t = 1; t < vectors; ++t) {
    const Floats next = load(x + t * stride);
    most = next > most ? next : most;
  }
  for (int turn = heads; turn < kLanes; turn *= 2) {
    const Floats next = turned(most, turn);
    most = next > most ? next : most;
  }
  Floats sum{};
  for (int t = 0; t < vectors; ++t) {
    const Floats power = exp_of(load(x + t * stride) - most);
    store(x + t * stride, power);
    sum += power;
  }
  for (int turn = heads; turn < kLanes; turn *= 2) sum += turned(sum, turn);
  const Floats scale = 1 / sum;
  for (int t = 0; t < vectors; ++t) store(x + t * stride, load(x + t * stride) * scale);
}

}  // namespace

void softmax_taps(float* logits, int rows, int heads, int taps) {
  std::vector<float> part(static_cast<std::size_t>(taps + 1) * kLanes);  // whole vectors of a row
  const bool several = kLanes % heads == 0 && heads < kLanes;  // taps of a head in a vector
  for (int r = 0; r < rows; ++r, logits += heads * taps) {
    if (several) {
      const int floats = heads * taps, vectors = padded(floats);
      std::copy_n(logits, floats, part.data());
      std::fill(&part[floats], &part[vectors], kNone);
      softmax_vectors(part.data(), kLanes, vectors / kLanes, heads);
      std::copy_n(part.data(), floats, logits);
      continue;
    }
    int h = 0;
    for (; h + kLanes <= heads; h += kLanes) softmax_vectors(logits + h, heads, taps, kLanes);
    if (h == heads) continue;
    for (int t = 0; t < taps; ++t)
      std::copy_n(logits + t * heads + h, heads - h, &part[t * kLanes]);
    softmax_vectors(part.data(), kLanes, taps, kLanes);
    for (int t = 0; t < taps; ++t)
      std::copy_n(&part[t * kLanes], heads - h, logits + t * heads + h);
  }
}

namespace {

// out[i, 0..columns) = the sum over n of x[i, n] * rows[n, 0..columns) for kM rows of x, columns =
// kVectors * kLanes. x[i, n] is at i * x_stride + n * x_step.
template <int kM, int kVectors>
void weighted(const float* x, int x_stride, int x_step, int terms, const float* rows,
              int row_stride, float* out, int out_stride) {
  Floats sums[kM][kVectors] = {};
  for (int n = 0; n < terms; ++n, x += x_step, rows += row_stride) {
    Floats row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = load(rows + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kM; ++i)
      for (int v = 0; v < kVectors; ++v) sums[i][v] += all(x[i * x_stride]) * row[v];
  }
  for (int i = 0; i < kM; ++i)
    for (int v = 0; v < kVectors; ++v) store(out + i * out_stride + v * kLanes, sums[i][v]);
}

// The sum for one row and column. The function is not inlined, so that the order of its sum does
// not depend on the other rows.
__attribute__((noinline)) float weighted_sum(const float* x, int x_step, int terms,
                                             const float* column, int row_stride) {
  float sum = 0;
  for (int n = 0; n < terms; ++n)
    sum += x[n * x_step] * column[static_cast<std::size_t>(n) * row_stride];
  return sum;
}

// weighted() for any number of columns.
template <int kM>
__attribute__((always_inline)) inline void weighted_columns(const float* x, int x_stride,
                                                            int x_step, int terms,
                                                            const float* rows, int row_stride,
                                                            int columns, float* out,
                                                            int out_stride) {
  int c = 0;
  for (; c + 2 * kLanes <= columns; c += 2 * kLanes)
    weighted<kM, 2>(x, x_stride, x_step, terms, rows + c, row_stride, out + c, out_stride);
  for (; c + kLanes <= columns; c += kLanes)
    weighted<kM, 1>(x, x_stride, x_step, terms, rows + c, row_stride, out + c, out_stride);
  for (; c < columns; ++c)
    for (int i = 0; i < kM; ++i)
      out[i * out_stride + c] = weighted_sum(x + i * x_stride, x_step, terms, rows + c, row_stride);
}

}  // namespace

void convolve(const float* x, int x_stride, Span sentence, int width, const float* taps,
              int tap_stride, int heads, int kernel_size, int padding_l, const float* padding,
              float* out, int out_stride) {
  const int head_width = width / heads;
  for (int r = sentence.begin; r < sentence.end; ++r) {
    const float* own = taps + static_cast<std::size_t>(r) * tap_stride;
    float* row = out + static_cast<std::size_t>(r) * out_stride;
    const int first = std::max(0, sentence.begin - (r - padding_l));
    const int last = std::min(kernel_size, sentence.end - (r - padding_l));
    const float* from = x + static_cast<std::size_t>(r - padding_l + first) * x_stride;
    for (int h = 0; h < heads; ++h)
      weighted_columns<1>(own + first * heads + h, 0, heads, last - first, from + h * head_width,
                          x_stride, head_width, row + h * head_width, 0);
    if (!padding) continue;
    const int leading = std::max(0, first - sentence.padding_before);
    const int trailing = std::min(kernel_size, last + sentence.padding_after);
    for (int h = 0; h < heads; ++h) {
      float tap = 0;
      for (int j = leading; j < first; ++j) tap += own[j * heads + h];
      for (int j = last; j < trailing; ++j) tap += own[j * heads + h];
      for (int c = h * head_width; c < (h + 1) * head_width; ++c) row[c] += tap * padding[c];
    }
  }
}

void convolve_step(const Past& past, int rows, int width, const float* taps, int tap_stride,
                   int heads, int kernel_size, float* out, int out_stride) {
  const int head_width = width / heads;
  const int used = std::min(kernel_size, past.steps);
  for (int r = 0; r < rows; ++r) {
    const float* own = taps + static_cast<std::size_t>(r) * tap_stride;
    float* row = out + static_cast<std::size_t>(r) * out_stride;
    std::fill_n(row, width, 0.f);
    for (int back = 0; back < used; ++back) {
      const float* from = past.row(r, past.steps - 1 - back);
      for (int h = 0; h < heads; ++h) {
        const float tap = own[(kernel_size - 1 - back) * heads + h];
        for (int c = h * head_width; c < (h + 1) * head_width; ++c) row[c] += tap * from[c];
      }
    }
  }
}

namespace {

// Softmax over the first `size` of `stride` floats, a multiple of kLanes, in each of kM rows. The
// rows take turns at each step: the sums of one would wait for each other.
template <int kM>
void softmax_rows(float* x, int stride, int size) {
  float most[kM], scale[kM];
  Floats wide[kM];
  for (int i = 0; i < kM; ++i) {
    std::fill(x + i * stride + size, x + (i + 1) * stride, kNone);
    wide[i] = load(x + i * stride);
  }
  for (int c = kLanes; c < stride; c += kLanes)
    for (int i = 0; i < kM; ++i) {
      const Floats next = load(x + i * stride + c);
      wide[i] = next > wide[i] ? next : wide[i];
    }
  for (int i = 0; i < kM; ++i) {
    most[i] = greatest(wide[i]);
    wide[i] = Floats{};
  }
  for (int c = 0; c < stride; c += kLanes)
    for (int i = 0; i < kM; ++i) {
      const Floats power = exp_of(load(x + i * stride + c) - most[i]);
      store(x + i * stride + c, power);
      wide[i] += power;
    }
  for (int i = 0; i < kM; ++i) scale[i] = 1 / sum_of(wide[i]);
  for (int c = 0; c < stride; c += kLanes)
    for (int i = 0; i < kM; ++i) store(x + i * stride + c, load(x + i * stride + c) * scale[i]);
}

// Attention of kM rows in one head: keys [head_width, stride], values [size, head_width].
template <int kM>
void attend_head(const float* query, int query_stride, const float* keys, int stride,
                 const float* values, int value_stride, int size, int head_width, float* scores,
                 float* out, int out_stride) {
  weighted_columns<kM>(query, query_stride, 1, head_width, keys, stride, stride, scores, stride);
  softmax_rows<kM>(scores, stride, size);
  weighted_columns<kM>(scores, stride, 1, size, values, value_stride, head_width, out, out_stride);
}

constexpr int kRowsAtOnce = kLanes == 16 ? 8 : 4;  // that read keys and values together

}  // namespace

std::size_t attention_floats(int key_stride, int head_width) {
  return static_cast<std::size_t>(key_stride) * (head_width + kRowsAtOnce);
}

void attend(const float* query, int query_stride, int rows, const Source& source, int heads,
            int head_width, float* scratch, float* out, int out_stride) {
  if (source.size == 0) {
    for (int r = 0; r < rows; ++r) std::fill_n(out + r * out_stride, heads * head_width, 0.f);
    return;
  }
  using Head = decltype(&attend_head<1>);
  constexpr Head kAttend[] = {attend_head<1>, attend_head<2>, attend_head<3>, attend_head<4>,
                              attend_head<5>, attend_head<6>, attend_head<7>, attend_head<8>};
  static_assert(std::size(kAttend) >= kRowsAtOnce);
  const int stride = source.key_stride;
  float *scores = scratch, *copied = scratch + static_cast<std::size_t>(kRowsAtOnce) * stride;
  for (int begin = 0; begin < heads * head_width; begin += head_width) {
    const float* values = source.values + begin;
    int value_stride = source.value_stride;
    if (rows > kRowsAtOnce) {
      // Rows that are a power of two apart push each other out of the cache. A copy pays if it is
      // read more than once.
      for (int s = 0; s < source.size; ++s, values += value_stride)
        copy_row(values, head_width, copied + static_cast<std::size_t>(s) * head_width);
      values = copied;
      value_stride = head_width;
    }
    const float* keys = source.keys + static_cast<std::size_t>(begin) * stride;
    for (int r = 0; r < rows; r += kRowsAtOnce)
      kAttend[std::min(kRowsAtOnce, rows - r) - 1](
          query + static_cast<std::size_t>(r) * query_stride + begin, query_stride, keys, stride,
          values, value_stride, source.size, head_width, scores,
          out + static_cast<std::size_t>(r) * out_stride + begin, out_stride);
  }
}

void transpose_keys(const float* rows, int row_stride, int size, int heads, int head_width,
                    int key_stride, float* keys) {
  std::fill_n(keys, static_cast<std::size_t>(heads) * head_width * key_stride, 0.f);
  for (int s = 0; s < size; ++s) {
    const float* row = rows + static_cast<std::size_t>(s) * row_stride;
    for (int c = 0; c < heads * head_width; ++c)
      keys[static_cast<std::size_t>(c) * key_stride + s] = row[c];
  }
}

void attend_past(const Past& past, const float* query, int query_stride, int rows, int heads,
                 int head_width, float* scores, float* out, int out_stride) {
  const int width = heads * head_width;
  for (int r = 0; r < rows; ++r, query += query_stride, out += out_stride) {
    for (int t = 0; t < past.steps; ++t) {
      const float* key = past.row(r, t);
      for (int h = 0; h < heads; ++h) {
        float sum = 0;
        for (int c = h * head_width; c < (h + 1) * head_width; ++c) sum += query[c] * key[c];
        scores[h * past.steps + t] = sum;
      }
    }
    for (int h = 0; h < heads; ++h) softmax(scores + h * past.steps, past.steps);
    std::fill_n(out, width, 0.f);
    for (int t = 0; t < past.steps; ++t) {
      const float* value = past.row(r, t) + width;
      for (int h = 0; h < heads; ++h) {
        const float weight = scores[h * past.steps + t];
        for (int c = h * head_width; c < (h + 1) * head_width; ++c) out[c] += weight * value[c];
      }
    }
  }
}

}  // namespace lite::native
