// Linear layers of many rows on Hopper, fused with what follows them: a gate, or a residual and
// LayerNorm. Operands have 16 bits or are FP8 (e4m3). cuBLASLt has neither epilogue, so its result
// makes one more trip through memory.
#pragma once

#include "common.h"

namespace lite {

/// x is [rows, in] and weight [out, in].
struct WideParams {
  int64_t rows;
  int32_t in, out;
  DataType dtype;  // half or bfloat16: the type of every tensor that is not FP8
  bool fp8;        // x and weight are e4m3, otherwise they have `dtype`
  float alpha;     // scales the product, before the bias is added
};

/// y = values * sigmoid(gates), of which the first half of the weight computes the values. Both are
/// rounded to `dtype` before, as a separate kernel would read them.
struct WideGateTensors {
  const void* x;
  const void* weight;
  const void* bias;     // [out], nullable
  const int32_t* mask;  // [rows], nullable: rows of y are zero where the mask is 0
  void* y;              // [rows, out / 2]; e4m3, multiplied by fp8Factor, unless that is 0
  float fp8Factor;
};

/// y = LayerNorm(product + bias + residual) + after. Nothing is rounded before the end.
struct WideNormTensors {
  const void* x;
  const void* weight;
  const void* bias;      // [out], nullable
  const void* residual;  // [rows, out]
  const float* scale;    // [out]
  const float* shift;    // [out]
  float eps;
  const void* after;  // [period, out], nullable: its row i % period is added to row i
  int64_t period;
  void* y;    // [rows, out]
  void* fp8;  // [rows, out], nullable: y times fp8Factor as e4m3
  float fp8Factor;
};

/// Returns nullptr if linearGate() supports these parameters, otherwise the reason in one line.
const char* checkWideGate(const WideParams& params);

/// Returns nullptr if linearNorm() supports these parameters, otherwise the reason in one line.
const char* checkWideNorm(const WideParams& params);

/// All pointers are 16-byte aligned. The kernels may read weight, bias, scale and shift while the
/// previous kernel on the stream still runs, so that kernel must not write them. They return
/// cudaErrorNotSupported if the GPU is not a Hopper GPU.
cudaError_t linearGate(const WideParams& params, const WideGateTensors& tensors,
                       cudaStream_t stream);
cudaError_t linearNorm(const WideParams& params, const WideNormTensors& tensors,
                       cudaStream_t stream);

}  // namespace lite
