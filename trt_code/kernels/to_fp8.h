// Rounds a tensor to FP8 (e4m3): y = x * factor. Magnitudes above 448 become 448.
#pragma once

#include "common.h"

namespace lite {

struct ToFp8Params {
  int64_t count;  // elements
  DataType dtype;
  float factor;
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const ToFp8Params& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.count < 0 || p.count % 16 != 0) return "the elements must be a multiple of 16";
  return nullptr;
}

/// x and y have `count` elements and are 16-byte aligned.
cudaError_t toFp8(const ToFp8Params& params, const void* x, void* y, cudaStream_t stream);

}  // namespace lite
