// A linear layer with what follows it: y = act(x weight^T + bias) + residual. cuBLASLt is made for
// large products; below a thousand rows its kernels mostly wait, and it has no gate.
#pragma once

#include "common.h"

namespace lite {

enum class Activation : int32_t { kNone = 0, kRelu = 1, kGlu = 2 };

/// x is [rows, in], weight [out, in], y [rows, out]; with the gate, the weight's first half gives
/// the values and the second the gates, and y is [rows, out / 2].
struct LinearParams {
  int64_t rows;
  int32_t in, out;
  Activation activation;
  DataType dtype;
};

/// Why there cannot be so many outputs; nullptr when there can.
inline const char* checkOutputs(const LinearParams& p) {
  const bool good = p.out >= 2 && p.out % (p.activation == Activation::kGlu ? 4 : 2) == 0;
  return good ? nullptr : "the outputs must be even, and the gates too";
}

/// Why linear(), which is for few rows, cannot run with these parameters; nullptr when it can.
inline const char* check(const LinearParams& p) {
  if (p.dtype != DataType::kHalf && p.dtype != DataType::kBFloat16) {
    return "the data type must be half or bfloat16";
  }
  if (p.rows < 0) return "rows must not be negative";
  if (p.in < 8 || p.in % 8 != 0) return "the inputs must be a multiple of 8";
  return checkOutputs(p);
}

struct LinearTensors {
  const void* x;
  const void* weight;
  const void* bias;      // [out], nullable
  const void* residual;  // like y, nullable; added last
  const int32_t* mask;   // [rows], nullable: rows of y where it is 0 are zero
  void* y;
};

/// How many ways there are to cut the product into blocks; which is fastest depends on the sizes.
constexpr int kLinearVariants = 5;

/// All pointers are 16-byte aligned; variant is 0 to kLinearVariants - 1. The weight is read while
/// the kernel before on the stream may still run, which must therefore not write it.
cudaError_t linear(const LinearParams& params, const LinearTensors& tensors, int variant,
                   cudaStream_t stream);

/// Whether the current GPU can multiply in TF32 by linearTf32(): a Hopper.
bool hasLinearTf32();

/// Why linearTf32() cannot run with these parameters; nullptr when it can.
const char* checkTf32(const LinearParams& params);

/// How many ways there are to cut that.
constexpr int kTf32LinearVariants = 4;

/// The same for floats, rounded to TF32 to be multiplied, and for any number of rows; a residual
/// only without activation. cudaErrorNotSupported where the GPU is no Hopper.
cudaError_t linearTf32(const LinearParams& params, const LinearTensors& tensors, int variant,
                       cudaStream_t stream);

}  // namespace lite
