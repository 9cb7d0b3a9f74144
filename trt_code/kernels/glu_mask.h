// Gated linear unit with a padding mask: y = x[:, :C] * sigmoid(x[:, C:]), 0 in rows where the mask
// is 0. Computed in FP32, rounded once.
#pragma once

#include "common.h"

namespace lite {

/// x is [rows, 2 * channels], y is [rows, channels], mask is [rows].
struct GluMaskParams {
  int64_t rows;
  int32_t channels;
  DataType dtype;
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const GluMaskParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.rows < 0) return "rows must not be negative";
  if (p.channels < 1) return "channels must be at least 1";
  return nullptr;
}

/// If mask is nullptr, no row is masked. If fp8Factor is not 0, y is e4m3 and holds the result
/// times fp8Factor.
cudaError_t gluMask(const GluMaskParams& params, const void* x, const int32_t* mask, void* y,
                    cudaStream_t stream, float fp8Factor = 0.0f);

}  // namespace lite
