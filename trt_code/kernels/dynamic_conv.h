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

/// Sizes of the plain form. x and y are [batch, channels, length]. weight is [batch, heads,
/// kernelSize, length], after the softmax.
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

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
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

/// Computes y = DynamicConv(x, weight).
cudaError_t dynamicConv(const DynamicConvParams& params, const void* x, const void* weight, void* y,
                        cudaStream_t stream);

/// Computes both gradients of dynamicConv: gradX [batch, channels, length] and gradWeight [batch,
/// heads, kernelSize, length]. Deterministic: no atomics.
cudaError_t dynamicConvBackward(const DynamicConvParams& params, const void* grad, const void* x,
                                const void* weight, void* gradX, void* gradWeight,
                                cudaStream_t stream);

/// The channels-last form, fused with the padding mask and the softmax: y [B, T, C] = DynamicConv(x
/// * mask, softmax(logits)).
///
/// x is [B, T, C] and counts as 0 where mask [B, T] (may be nullptr) is 0. logits is [B, T, heads *
/// kernelSize], head-major. The softmax runs in FP32 over each head's kernelSize entries.
cudaError_t dynamicConvFused(const DynamicConvFusedParams& params, const void* x,
                             const void* logits, const int32_t* mask, void* y, cudaStream_t stream);

}  // namespace lite
