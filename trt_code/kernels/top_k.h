// The k largest entries of each row, in descending order, with their positions. Exact: among equal
// values the lowest index comes first, and NaN counts as the greatest value, as in PyTorch.
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

/// Why these parameters cannot run, in one line; nullptr when they can.
inline const char* check(const TopKParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.rows < 0) return "rows must not be negative";
  if (p.k < 1 || p.k > kTopKMaxK) return "k must be in 1..64";
  if (p.width < p.k) return "k must not be greater than the width";
  if (p.width > kTopKMaxWidth) return "the width must be at most 2^30";
  return nullptr;
}

/// Bytes of device memory that topK needs as scratch; may be 0.
size_t topKWorkspaceSize(const TopKParams& params);

/// One pass over x. values have x's type and are copies of its entries, bit for bit.
cudaError_t topK(const TopKParams& params, const void* x, void* values, int32_t* indices,
                 void* workspace, cudaStream_t stream);

}  // namespace lite
