// Scaled-dot-product attention from a short target to a short source: out = softmax(q k^T) v, with
// padding hidden. The heads lie side by side in the channels. The caller has already scaled the
// query.
#pragma once

#include "common.h"

namespace lite {

/// query and out are [batch, length, channels]. Row s of sentence b of the keys starts at keys + (b
/// * source + s) * stride; the values are laid out in the same way.
struct AttentionParams {
  int32_t batch, length, source, channels, heads;
  int64_t stride;
  DataType dtype;
  bool tf32 = false;  // round FP32 operands to TF32
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const AttentionParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.length < 0) return "batch and length must not be negative";
  if (p.source < 1 || p.source > 512) return "the source must have 1 to 512 positions";
  if (p.heads < 1 || p.channels < 1 || p.channels % p.heads != 0) {
    return "the channels must divide into the heads";
  }
  const int32_t width = p.channels / p.heads;
  if (width > 128) return "a head must be at most 128 channels wide";
  if (p.dtype == DataType::kFloat) {
    return p.stride < p.channels ? "the stride of the keys must be at least the channels" : nullptr;
  }
  if (width % 16 != 0) return "a head must be 16, 32, .. 128 channels wide in 16 bits";
  if (p.stride < p.channels || p.stride % 8 != 0) {
    return "the stride of the keys must be a multiple of 8 and at least the channels";
  }
  return nullptr;
}

/// mask [batch, source] is 0 at padding and may be nullptr. 16-bit tensors are 16-byte aligned. In
/// a sentence that is all padding, every position gets the same weight, as in PyTorch with a finite
/// mask. If fp8Factor is not 0, out is e4m3 and holds the result times fp8Factor; only for 16 bits.
cudaError_t attention(const AttentionParams& params, const void* query, const void* keys,
                      const void* values, const int32_t* mask, void* out, cudaStream_t stream,
                      float fp8Factor = 0.0f);

}  // namespace lite
