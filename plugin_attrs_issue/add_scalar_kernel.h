// y[row, i] = x[row, i] + amount + offsets[i % offsetCount], FP32.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

constexpr int32_t kMaxOffsets = 16;

// Passed by value: kernels get it as an argument, so there is no device memory to own.
struct AddScalarParams {
  int64_t count;
  int32_t width;
  float amount;
  int32_t offsetCount;
  float offsets[kMaxOffsets];
};

cudaError_t addScalar(const AddScalarParams& params, const float* x, float* y, cudaStream_t stream);
