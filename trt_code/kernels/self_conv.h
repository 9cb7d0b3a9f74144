// A dynamic convolution that computes its taps from its own input, in one kernel:
//
//   taps = softmax over K of (x weight^T);  y = dynamicConv(x * mask, taps)
//
// It fuses the GEMM for the logits with dynamic_conv_fused, so the logits are not written to
// memory. The GEMM runs on the matrix units. FP32 operands use three TF32 products, or one.
#pragma once

#include "common.h"

namespace lite {

/// x and y are [batch, length, channels]. With `glu`, x is [batch, length, 2 * channels] and the
/// input is its GLU.
struct SelfConvParams {
  int32_t batch, length, channels, heads, kernelSize, paddingL;
  bool glu;
  DataType dtype;
  bool tf32 = false;  // round FP32 operands of the GEMM to TF32
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
const char* check(const SelfConvParams& params);

/// weight [heads * kernelSize, channels] computes the logits of the taps, head by head. mask
/// [batch, length] is 0 where the input of the convolution (not of the taps) counts as zero, and
/// may be nullptr. All pointers are 16-byte aligned. If fp8Factor is not 0, y is e4m3 and holds the
/// result times fp8Factor; only for 16 bits.
cudaError_t selfConv(const SelfConvParams& params, const void* x, const void* weight,
                     const int32_t* mask, void* y, cudaStream_t stream, float fp8Factor = 0.0f);

}  // namespace lite
