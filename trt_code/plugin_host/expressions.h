// Dimension expressions for getOutputShapes. TensorRT offers no way to create an IExprBuilder. Both
// public classes forward to an `mImpl` declared in NvInferImpl.h, and the host supplies its own.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <vector>

namespace host {

// The source of an input dimension's value.
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
  // An input dimension that is only known at run time.
  const nvinfer1::IDimensionExpr* dynamic(Dimension dimension);
  // Returns the value for inputs of these shapes. Throws std::runtime_error for an expression that
  // this builder did not create, and for a division by zero.
  int64_t evaluate(const nvinfer1::IDimensionExpr* expression,
                   const std::vector<nvinfer1::Dims>& inputs) const;

 private:
  class Builder;
  std::unique_ptr<Builder> builder_;
};

}  // namespace host
