// Selects the k largest entries of each row, in descending order, with their positions. Exact:
// among equal values the lowest index comes first, and NaN is the greatest value, as in PyTorch.
#pragma once

#include "common.h"

namespace lite {

constexpr int32_t kTopKMaxK = 64;
constexpr int32_t kTopKMaxWidth = 1 << 30;

/// x is [rows, width]; values and indices are [rows, k].
struct TopKParams {
  int64_t rows;
  int32_t width;
  int32_t k;
  DataType dtype;
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const TopKParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.rows < 0) return "rows must not be negative";
  if (p.k < 1 || p.k > kTopKMaxK) return "k must be in 1..64";
  if (p.width < p.k) return "k must not be greater than the width";
  if (p.width > kTopKMaxWidth) return "the width must be at most 2^30";
  return nullptr;
}

/// Returns the size in bytes of the scratch memory on the device that topK needs. May be 0.
size_t topKWorkspaceSize(const TopKParams& params);

/// Reads x once. values have the type of x and are bit-for-bit copies of its entries.
cudaError_t topK(const TopKParams& params, const void* x, void* values, int32_t* indices,
                 void* workspace, cudaStream_t stream);

}  // namespace lite
