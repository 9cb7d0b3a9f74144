// DynamicConv: a convolution whose weights differ at every position and are shared by the channels
// of a head (Wu et al. 2019, "Pay Less Attention with Lightweight and Dynamic Convolutions").
//
//   y[b, c, t] = sum_k weight[b, h(c), k, t] * x[b, c, t + k - paddingL],  h(c) = c / (C / heads)
//
// with x taken as zero outside [0, T). Sums are FP32 in every data type.
#pragma once

#include "common.h"

namespace lite {

constexpr int32_t kDynamicConvMaxKernelSize = 255;

/// Sizes of the plain form. x and y are [batch, channels, length], weight (already softmaxed) is
/// [batch, heads, kernelSize, length].
struct DynamicConvParams {
  int32_t batch;
  int32_t channels;
  int32_t length;
  int32_t heads;
  int32_t kernelSize;
  int32_t paddingL;
  DataType dtype;
};

/// Sizes of the fused, channels-last form. See dynamicConvFused.
struct DynamicConvFusedParams {
  int32_t batch;
  int32_t length;
  int32_t channels;
  int32_t heads;
  int32_t kernelSize;
  int32_t paddingL;
  DataType dtype;
};

/// Why these parameters cannot run, in one line; nullptr when they can.
inline const char* check(const DynamicConvParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.length < 0) return "batch and length must not be negative";
  if (p.channels < 1 || p.heads < 1) return "channels and heads must be at least 1";
  if (p.channels % p.heads != 0) return "channels must be a multiple of heads";
  if (p.kernelSize < 1 || p.kernelSize > kDynamicConvMaxKernelSize) {
    return "the kernel size must be in 1..255";
  }
  if (p.paddingL < 0 || p.paddingL >= p.kernelSize) {
    return "padding_l must be in 0..kernel_size-1";
  }
  return nullptr;
}

inline const char* check(const DynamicConvFusedParams& p) {
  return check(
      DynamicConvParams{p.batch, p.channels, p.length, p.heads, p.kernelSize, p.paddingL, p.dtype});
}

/// y = DynamicConv(x, weight).
cudaError_t dynamicConv(const DynamicConvParams& params, const void* x, const void* weight, void* y,
                        cudaStream_t stream);

/// Both gradients of dynamicConv: gradX [batch, channels, length] and
/// gradWeight [batch, heads, kernelSize, length]. Deterministic: no atomics.
cudaError_t dynamicConvBackward(const DynamicConvParams& params, const void* grad, const void* x,
                                const void* weight, void* gradX, void* gradWeight,
                                cudaStream_t stream);

/// Channels-last form with its neighbours folded in: y [B, T, C] = DynamicConv(x * mask,
/// softmax(logits)).
///
/// x is [B, T, C] and counts as 0 where mask [B, T] (nullable) is 0. logits is
/// [B, T, heads * kernelSize], head-major; the softmax runs over each head's kernelSize entries in
/// FP32.
cudaError_t dynamicConvFused(const DynamicConvFusedParams& params, const void* x,
                             const void* logits, const int32_t* mask, void* y, cudaStream_t stream);

}  // namespace lite
