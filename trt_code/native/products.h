// Products of rows with a weight matrix that was packed once.
#pragma once

#include <vector>

namespace lite::native {

enum class Activation { kLinear, kRelu, kGelu, kGeluTanh, kTanh, kSwish };

// The weight [outputs, inputs] of a linear layer and its bias, in panels of neighbouring outputs:
// each panel has the weights of the first input, then those of the second, and so on.
class Weight {
 public:
  Weight(const float* weight, const float* bias, int outputs, int inputs);

  // out[r, 0..outputs) = activation(x[r, 0..inputs) * weight^T + bias) for each of `rows` rows.
  // `x_stride` and `out_stride` are the floats between rows. `out` may not overlap `x`.
  void multiply(const float* x, int x_stride, int rows, float* out, int out_stride,
                Activation activation) const;

  int outputs() const { return outputs_; }
  int inputs() const { return inputs_; }

 private:
  int outputs_, inputs_;
  std::vector<float> panels_, bias_;
};

}  // namespace lite::native
