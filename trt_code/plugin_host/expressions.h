// Dimension expressions for getOutputShapes. TensorRT gives no way to make an IExprBuilder: both
// public classes are shells around an `mImpl` of NvInferImpl.h, which the host fills with its own.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <vector>

namespace host {

// Where a dimension of an input gets its value from.
struct Dimension {
  int32_t input;
  int32_t axis;
};

class Expressions {
 public:
  Expressions();
  ~Expressions();

  nvinfer1::IExprBuilder& builder();
  const nvinfer1::IDimensionExpr* constant(int64_t value);
  // An input's dimension that is not known until run time.
  const nvinfer1::IDimensionExpr* dynamic(Dimension dimension);
  // The value when the inputs have these shapes. Throws std::runtime_error for an expression that
  // this builder did not make, and for a division by zero.
  int64_t evaluate(const nvinfer1::IDimensionExpr* expression,
                   const std::vector<nvinfer1::Dims>& inputs) const;

 private:
  class Builder;
  std::unique_ptr<Builder> builder_;
};

}  // namespace host
