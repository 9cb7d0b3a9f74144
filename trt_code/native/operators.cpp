#include "operators.h"

#include <algorithm>
#include <cmath>
#include <iterator>

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
    for (int c = 0; c < width; ++c) out[c] = x[c] / (1 + exp_of(-gate[c]));
  }
}

void softmax_taps(float* logits, int rows, int heads, int taps) {
  for (int i = 0; i < rows * heads; ++i) softmax(logits + static_cast<std::size_t>(i) * taps, taps);
}

void convolve(const float* x, int x_stride, Span sentence, int width, const float* taps,
              int tap_stride, int heads, int kernel_size, int padding_l, const float* padding,
              float* out, int out_stride) {
  const int head_width = width / heads;
  for (int r = sentence.begin; r < sentence.end; ++r) {
    const float* own = taps + static_cast<std::size_t>(r) * tap_stride;
    float* row = out + static_cast<std::size_t>(r) * out_stride;
    std::fill_n(row, width, 0.f);
    const int first = std::max(0, sentence.begin - (r - padding_l));
    const int last = std::min(kernel_size, sentence.end - (r - padding_l));
    for (int j = first; j < last; ++j) {
      const float* from = x + static_cast<std::size_t>(r - padding_l + j) * x_stride;
      for (int h = 0; h < heads; ++h) {
        const float tap = own[h * kernel_size + j];
        for (int c = h * head_width; c < (h + 1) * head_width; ++c) row[c] += tap * from[c];
      }
    }
    if (!padding) continue;
    const int leading = std::max(0, first - sentence.padding_before);
    const int trailing = std::min(kernel_size, last + sentence.padding_after);
    for (int h = 0; h < heads; ++h) {
      float tap = 0;
      for (int j = leading; j < first; ++j) tap += own[h * kernel_size + j];
      for (int j = last; j < trailing; ++j) tap += own[h * kernel_size + j];
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
        const float tap = own[h * kernel_size + kernel_size - 1 - back];
        for (int c = h * head_width; c < (h + 1) * head_width; ++c) row[c] += tap * from[c];
      }
    }
  }
}

namespace {

// out[i, 0..columns) = the sum over n of x[i, n] * rows[n, 0..columns) for kM rows of x, columns =
// kVectors * kLanes.
template <int kM, int kVectors>
void weighted(const float* x, int x_stride, int terms, const float* rows, int row_stride,
              float* out, int out_stride) {
  Floats sums[kM][kVectors] = {};
  for (int n = 0; n < terms; ++n, rows += row_stride) {
    Floats row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = load(rows + v * kLanes);
#pragma GCC unroll 4
    for (int i = 0; i < kM; ++i)
      for (int v = 0; v < kVectors; ++v) sums[i][v] += all(x[i * x_stride + n]) * row[v];
  }
  for (int i = 0; i < kM; ++i)
    for (int v = 0; v < kVectors; ++v) store(out + i * out_stride + v * kLanes, sums[i][v]);
}

// The same for as many whole vectors as [0, columns) has. Returns the first column that is left.
template <int kM>
__attribute__((always_inline)) inline int weighted_vectors(const float* x, int x_stride, int terms,
                                                           const float* rows, int row_stride,
                                                           int columns, float* out,
                                                           int out_stride) {
  int c = 0;
  for (; c + 2 * kLanes <= columns; c += 2 * kLanes)
    weighted<kM, 2>(x, x_stride, terms, rows + c, row_stride, out + c, out_stride);
  for (; c + kLanes <= columns; c += kLanes)
    weighted<kM, 1>(x, x_stride, terms, rows + c, row_stride, out + c, out_stride);
  return c;
}

// The sum for one row and column. The function is not inlined, so that the order of its sum does
// not depend on the other rows.
__attribute__((noinline)) float weighted_sum(const float* x, int terms, const float* column,
                                             int row_stride) {
  float sum = 0;
  for (int n = 0; n < terms; ++n) sum += x[n] * column[static_cast<std::size_t>(n) * row_stride];
  return sum;
}

// attend() for kM rows.
template <int kM>
void attend_rows(const float* query, int query_stride, const Source& source, int heads,
                 int head_width, float* scores, float* out, int out_stride) {
  const int stride = source.key_stride;
  for (int h = 0; h < heads; ++h) {
    const int begin = h * head_width;
    const float* keys = source.keys + static_cast<std::size_t>(begin) * stride;
    // the stride is a multiple of kLanes
    weighted_vectors<kM>(query + begin, query_stride, head_width, keys, stride, stride, scores,
                         stride);
    for (int i = 0; i < kM; ++i) {
      std::fill(scores + i * stride + source.size, scores + (i + 1) * stride, kNone);
      softmax(scores + i * stride, stride);
    }
    const float* values = source.values + begin;
    int c = weighted_vectors<kM>(scores, stride, source.size, values, source.value_stride,
                                 head_width, out + begin, out_stride);
    for (; c < head_width; ++c)
      for (int i = 0; i < kM; ++i)
        out[i * out_stride + begin + c] =
            weighted_sum(scores + i * stride, source.size, values + c, source.value_stride);
  }
}

}  // namespace

void attend(const float* query, int query_stride, int rows, const Source& source, int heads,
            int head_width, float* scores, float* out, int out_stride) {
  if (source.size == 0) {
    for (int r = 0; r < rows; ++r) std::fill_n(out + r * out_stride, heads * head_width, 0.f);
    return;
  }
  using Rows = decltype(&attend_rows<1>);
  constexpr Rows kAttend[] = {attend_rows<1>, attend_rows<2>, attend_rows<3>, attend_rows<4>};
  static_assert(std::size(kAttend) == kRowsAtOnce);
  for (int r = 0; r < rows; r += kRowsAtOnce)
    kAttend[std::min(kRowsAtOnce, rows - r) - 1](
        query + static_cast<std::size_t>(r) * query_stride, query_stride, source, heads, head_width,
        scores, out + static_cast<std::size_t>(r) * out_stride, out_stride);
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
