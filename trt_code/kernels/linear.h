// A linear layer fused with its activation and residual: y = act(x weight^T + bias) + residual.
// cuBLASLt is made for large products: below a thousand rows its kernels mostly wait. It has no
// gate either.
#pragma once

#include "common.h"

namespace lite {

enum class Activation : int32_t { kNone = 0, kRelu = 1, kGlu = 2 };

/// x is [rows, in], weight [out, in], y [rows, out]. With the gate, the first half of the weight
/// computes the values and the second half the gates, and y is [rows, out / 2].
struct LinearParams {
  int64_t rows;
  int32_t in, out;
  Activation activation;
  DataType dtype;
};

/// Returns nullptr if the kernels support this number of outputs, otherwise the reason in one line.
inline const char* checkOutputs(const LinearParams& p) {
  const bool good = p.out >= 2 && p.out % (p.activation == Activation::kGlu ? 4 : 2) == 0;
  return good ? nullptr : "the outputs must be even, and the gates too";
}

/// Returns nullptr if linear(), which is made for few rows, supports these parameters, otherwise
/// the reason in one line.
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
  const int32_t* mask;   // [rows], nullable: rows of y are zero where the mask is 0
  void* y;
};

/// The number of ways to divide the product into blocks. The fastest depends on the sizes.
constexpr int kLinearVariants = 5;

/// All pointers are 16-byte aligned; variant is 0 to kLinearVariants - 1. The kernel may read the
/// weight while the previous kernel on the stream still runs, so that kernel must not write it.
cudaError_t linear(const LinearParams& params, const LinearTensors& tensors, int variant,
                   cudaStream_t stream);

/// Returns whether the current GPU supports linearTf32(), linearFp32() and linear_wide.h, that is,
/// whether it is a Hopper GPU.
bool hasLinearTf32();

/// Returns nullptr if linearTf32() and linearFp32() support these parameters, otherwise the reason
/// in one line.
const char* checkTf32(const LinearParams& params);

/// The number of ways to divide the product of linearTf32().
constexpr int kTf32LinearVariants = 4;

/// Does the same for FP32 tensors of any number of rows. Operands are rounded to TF32 for the
/// products. A residual is only supported without activation. Returns cudaErrorNotSupported if the
/// GPU is not a Hopper GPU.
cudaError_t linearTf32(const LinearParams& params, const LinearTensors& tensors, int variant,
                       cudaStream_t stream);

/// The number of ways to divide the product of linearFp32().
constexpr int kFp32LinearVariants = 3;

/// Does the same with the precision of FP32. The operands are split for three TF32 products. Bits
/// of an operand below 2^-136 (1.1e-41) are lost: operands below 1e-34 have less than FP32's
/// precision, and those below 5e-42 count as 0. Results may be subnormal.
cudaError_t linearFp32(const LinearParams& params, const LinearTensors& tensors, int variant,
                       cudaStream_t stream);

}  // namespace lite
