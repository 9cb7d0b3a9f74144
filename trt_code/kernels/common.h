// Conventions for the interface of every operator. Plain C++ and the CUDA runtime's types, no
// framework.
//
// Each operator is a pair of files, `name.h` and `name.cu`. It has a `NameParams` struct, a
// launcher, and a `check` function that returns nullptr if the kernel supports the parameters,
// otherwise the reason in one line. A launcher:
//
//   - validates first, and returns cudaErrorInvalidValue without launching anything;
//   - launches only on the caller's stream. It neither allocates nor synchronises, so it can be
//     captured into a CUDA graph;
//   - returns the status of every CUDA call that it made;
//   - expects dense, row-major tensors. It assumes no more about the alignment of their first
//     element than the element type requires. It does nothing if a batch, length or row count is 0.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace lite {

enum class DataType : int32_t { kFloat = 0, kHalf = 1, kBFloat16 = 2 };

inline bool isKnown(DataType dtype) {
  return dtype == DataType::kFloat || dtype == DataType::kHalf || dtype == DataType::kBFloat16;
}

/// Returns the size of one element in bytes.
inline size_t elementSize(DataType dtype) { return dtype == DataType::kFloat ? 4 : 2; }

constexpr const char* kUnknownDataType = "the data type must be float, half or bfloat16";

}  // namespace lite
