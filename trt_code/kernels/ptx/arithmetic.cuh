// Arithmetic without an operator in CUDA C++.
#pragma once

#include <cstdint>

namespace lite {

/// Returns the larger of two floats, or NaN if one of them is NaN.
__device__ __forceinline__ float maxNan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

/// Returns max(value, 0), or NaN if value is NaN, as in PyTorch.
__device__ __forceinline__ float relu(float value) {
  float result;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(result) : "f"(value));
  return result;
}

/// The same as maxNan for two pairs of FP16 numbers.
__device__ __forceinline__ uint32_t maxNanHalf2(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

/// The same as maxNan for two pairs of BF16 numbers.
__device__ __forceinline__ uint32_t maxNanBFloat162(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

/// Returns 2^value with an error of 2 ulp. Results and arguments below 2^-126 count as 0.
__device__ __forceinline__ float exp2Fast(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

/// Returns 1 / value with an error of 1 ulp. Results and arguments below 2^-126 count as 0.
__device__ __forceinline__ float reciprocalFast(float value) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

/// Returns a float rounded to TF32, to nearest.
__device__ __forceinline__ uint32_t toTf32(float value) {
  uint32_t result;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
  return result;
}

}  // namespace lite
