// Products of rows with a weight matrix that was packed once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "integers.h"
#include "team.h"

namespace lite::native {

enum class Activation { kLinear, kRelu, kGelu, kGeluTanh, kTanh, kSwish };

// The weight [outputs, inputs] of a linear layer and its bias, in panels of neighbouring outputs:
// each panel has the weights of the first input, then those of the second, and so on.
class Weight {
 public:
  Weight(const float* weight, const float* bias, int outputs, int inputs);

  // out[r, 0..outputs) = activation(x[r, 0..inputs) * weight^T + bias) for each of `rows` rows.
  // `x_stride` and `out_stride` are the floats between rows. `out` may not overlap `x`. The threads
  // of `team`, which may be null, share the outputs; the result does not depend on it.
  void multiply(const float* x, int x_stride, int rows, float* out, int out_stride,
                Activation activation, Team* team) const;

  int outputs() const { return outputs_; }
  int inputs() const { return inputs_; }

 private:
  int outputs_, inputs_;
  std::vector<float> panels_, bias_;
};

// The same in INT8: x is rounded to multiples of one scale, and the sums are exact integers.
class IntegerWeight {
 public:
  // weight [outputs, inputs]; output n is its integer sum times x_scale * scales[n], plus bias[n].
  IntegerWeight(const std::int8_t* weight, const float* scales, const float* bias, int outputs,
                int inputs, float x_scale);

  // As Weight::multiply. `scratch` has room for scratch_floats(rows) floats.
  void multiply(const float* x, int x_stride, int rows, float* out, int out_stride,
                Activation activation, Team* team, float* scratch) const;

  std::size_t scratch_floats(int rows) const { return static_cast<std::size_t>(rows) * words_; }

 private:
  int outputs_, inputs_, words_;  // words of kTogether inputs
  float x_scale_;
  std::vector<Integer> panels_;        // kTogether inputs of an output are neighbours
  std::vector<std::int32_t> offsets_;  // what to add to the sums if kOffset was added to each input
  std::vector<float> scales_, bias_;
};

}  // namespace lite::native
