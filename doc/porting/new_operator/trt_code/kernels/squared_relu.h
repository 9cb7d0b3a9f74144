// Squared ReLU with an upper limit: y = min(max(x, 0)^2, limit). Computed in FP32, rounded once.
#pragma once

#include "common.h"

namespace lite {

/// x and y have `count` numbers.
struct SquaredReluParams {
  int64_t count;
  float limit;
  DataType dtype;
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const SquaredReluParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.count < 0) return "count must not be negative";
  if (!(p.limit > 0.0f)) return "limit must be positive";
  return nullptr;
}

cudaError_t squaredRelu(const SquaredReluParams& params, const void* x, void* y,
                        cudaStream_t stream);

}  // namespace lite
