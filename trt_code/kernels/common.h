// What every operator's interface shares. Plain C++ and the CUDA runtime's types: no framework.
//
// Each operator is a pair of files, `name.h` and `name.cu`, with a `NameParams` struct, a `check`
// that says in one line why given parameters cannot be run (nullptr when they can), and a launcher:
//
//   - it validates first, and returns cudaErrorInvalidValue without launching anything;
//   - it launches on the caller's stream alone, allocates nothing and synchronises nothing, so it
//     may be captured into a CUDA graph;
//   - it returns the status of every CUDA call that it made;
//   - tensors are dense and row-major; nothing is assumed about the alignment of their first
//     element beyond that of the element type. A batch, length or row count of 0 does nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace lite {

enum class DataType : int32_t { kFloat = 0, kHalf = 1, kBFloat16 = 2 };

inline bool isKnown(DataType dtype) {
  return dtype == DataType::kFloat || dtype == DataType::kHalf || dtype == DataType::kBFloat16;
}

/// Bytes of one element.
inline size_t elementSize(DataType dtype) { return dtype == DataType::kFloat ? 4 : 2; }

constexpr const char* kUnknownDataType = "the data type must be float, half or bfloat16";

}  // namespace lite
