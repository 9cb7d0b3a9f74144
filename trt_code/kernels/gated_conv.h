// A dynamic convolution from its gate to its sum, in one kernel:
//
//   g = GLU(x);  taps = softmax over K of (g weight^T);  y = dynamicConv(g * mask, taps)
//
// that is, glu_mask, the GEMM that makes the taps, and dynamic_conv_fused, without a trip to memory
// in between. 16-bit types; the GEMM runs on the matrix units.
#pragma once

#include "common.h"

namespace lite {

/// x is [batch, length, 2 * channels], y is [batch, length, channels].
struct GatedConvParams {
  int32_t batch, length, channels, heads, kernelSize, paddingL;
  DataType dtype;
};

/// Why these parameters cannot run, in one line; nullptr when they can.
const char* check(const GatedConvParams& params);

/// weight [heads * kernelSize, channels] makes the logits of the taps, head by head; mask
/// [batch, length] is 0 where the input of the convolution (not of the taps) counts as zero, and
/// may be nullptr. All pointers are 16-byte aligned.
cudaError_t gatedConv(const GatedConvParams& params, const void* x, const void* weight,
                      const int32_t* mask, void* y, cudaStream_t stream);

}  // namespace lite
