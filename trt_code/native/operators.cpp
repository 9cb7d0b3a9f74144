#include "operators.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

void attend(const float* query, const float* keys, int key_stride, const float* values,
            int value_stride, int size, int heads, int head_width, float* scores, float* out) {
  if (size == 0) {
    std::fill_n(out, heads * head_width, 0.f);
    return;
  }
  for (int h = 0; h < heads; ++h, query += head_width, out += head_width, values += head_width) {
    const float* head_keys = keys + static_cast<std::size_t>(h) * head_width * key_stride;
    for (int s = 0; s < key_stride; s += kLanes) {
      Floats sums{};
      for (int c = 0; c < head_width; ++c)
        sums += all(query[c]) * load(head_keys + static_cast<std::size_t>(c) * key_stride + s);
      store(scores + s, sums);
    }
    for (int s = size; s < key_stride; ++s) scores[s] = -std::numeric_limits<float>::infinity();
    softmax(scores, key_stride);
    int c = 0;
    for (; c + kLanes <= head_width; c += kLanes) {
      Floats sums{};
      for (int s = 0; s < size; ++s)
        sums += all(scores[s]) * load(values + static_cast<std::size_t>(s) * value_stride + c);
      store(out + c, sums);
    }
    for (; c < head_width; ++c) {
      float sum = 0;
      for (int s = 0; s < size; ++s)
        sum += scores[s] * values[static_cast<std::size_t>(s) * value_stride + c];
      out[c] = sum;
    }
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
