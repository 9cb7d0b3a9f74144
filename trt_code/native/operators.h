// The operators between the products, on rows of packed sequences: no row is padding.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lite::native {

// Rows [begin, end) of one sentence, and the number of positions that were padding before and after
// it.
struct Span {
  int begin, end;
  int padding_before = 0, padding_after = 0;
  int size() const { return end - begin; }
};

// Where the earlier positions of hypotheses are. A search appends one block of rows to a history
// per step, and nothing is ever copied: hypothesis r's position t is row ancestor(r, t) of block t.
struct Past {
  const float* const* blocks;
  int stride;                     // floats between the rows of a block
  const std::int32_t* ancestors;  // [rows, ancestor_stride]
  int ancestor_stride;
  int steps;  // blocks, the current one included

  const float* row(int r, int t) const {
    return blocks[t] +
           static_cast<std::size_t>(ancestors[r * static_cast<std::size_t>(ancestor_stride) + t]) *
               stride;
  }
};

// out[r] = (x[r] + residual[r]) normalised over `width` floats, times gamma plus beta. residual may
// be null.
void layer_norm(const float* x, const float* residual, int rows, int width, const float* gamma,
                const float* beta, float epsilon, float* out);

// out[r, c] = x[r, c] * sigmoid(x[r, width + c])
void glu(const float* x, int x_stride, int rows, int width, float* out, int out_stride);

// Softmax over the taps of each head: logits [rows, taps, heads].
void softmax_taps(float* logits, int rows, int heads, int taps);

// A depthwise convolution: out[r, c] = sum over j of taps[r, j, head of c] * x[r - padding_l + j,
// c], within a sentence. A tap_stride of 0 gives all rows the same taps. `padding` [width] is the
// value of x at positions that were padding, or null for zero.
void convolve(const float* x, int x_stride, Span sentence, int width, const float* taps,
              int tap_stride, int heads, int kernel_size, int padding_l, const float* padding,
              float* out, int out_stride);

// The same for the last position of each of `rows` hypotheses, whose inputs are in the past.
void convolve_step(const Past& past, int rows, int width, const float* taps, int tap_stride,
                   int heads, int kernel_size, float* out, int out_stride);

// What rows attend to: `size` keys [heads, head_width, key_stride], transposed, and as many values.
struct Source {
  const float* keys;
  int key_stride;
  const float* values;
  int value_stride, size;
};

// Attention of `rows` rows to the same source. `scratch` has room for attention_floats(). The query
// is scaled already.
void attend(const float* query, int query_stride, int rows, const Source& source, int heads,
            int head_width, float* scratch, float* out, int out_stride);
std::size_t attention_floats(int key_stride, int head_width);

// keys [heads, head_width, key_stride] from rows [size, heads * head_width]; zeros up to
// key_stride.
void transpose_keys(const float* rows, int row_stride, int size, int heads, int head_width,
                    int key_stride, float* keys);

// Attention of each hypothesis to itself and its past. Its keys are in columns [0, width) of the
// past, its values in [width, 2 * width).
void attend_past(const Past& past, const float* query, int query_stride, int rows, int heads,
                 int head_width, float* scores, float* out, int out_stride);

}  // namespace lite::native
