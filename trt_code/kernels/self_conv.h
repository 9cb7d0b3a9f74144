// A dynamic convolution whose taps come from its own input, in one kernel:
//
//   taps = softmax over K of (x weight^T);  y = dynamicConv(x * mask, taps)
//
// that is, the GEMM that makes the logits and dynamic_conv_fused, without a trip to memory in
// between. The GEMM runs on the matrix units, of FP32 operands with three TF32 products or one.
#pragma once

#include "common.h"

namespace lite {

/// x and y are [batch, length, channels]; with `glu`, x is [batch, length, 2 * channels] and its
/// GLU is what counts.
struct SelfConvParams {
  int32_t batch, length, channels, heads, kernelSize, paddingL;
  bool glu;
  DataType dtype;
  bool tf32 = false;  // round FP32 operands of the GEMM to TF32
};

/// Why these parameters cannot run, in one line; nullptr when they can.
const char* check(const SelfConvParams& params);

/// weight [heads * kernelSize, channels] makes the logits of the taps, head by head; mask
/// [batch, length] is 0 where the input of the convolution (not of the taps) counts as zero, and
/// may be nullptr. All pointers are 16-byte aligned.
cudaError_t selfConv(const SelfConvParams& params, const void* x, const void* weight,
                     const int32_t* mask, void* y, cudaStream_t stream);

}  // namespace lite
