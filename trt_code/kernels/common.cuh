// Device-side helpers shared by the kernels: conversions, 16-byte vectors, launches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <tuple>

#include "common.h"
#include "ptx/arithmetic.cuh"
#include "ptx/shared_address.cuh"
#include "ptx/sync.cuh"

namespace lite {

constexpr int32_t kWarpSize = 32;
constexpr uint32_t kFullWarp = 0xffffffffu;

/// The largest dynamic shared memory that needs no opt-in: every architecture gives a block 48 KiB,
/// and no kernel here has 16 KiB of static shared memory in addition to dynamic memory.
constexpr size_t kFreeSharedBytes = 32 * 1024;

template <typename Integer>
__host__ __device__ constexpr Integer ceilDiv(Integer a, Integer b) {
  return (a + b - 1) / b;
}

template <typename Integer>
__host__ __device__ constexpr Integer roundUp(Integer a, Integer b) {
  return ceilDiv(a, b) * b;
}

// ---- host ---------------------------------------------------------------------------------------

/// Returns whether every pointer is a multiple of `bytes`. Null pointers are.
inline bool aligned(size_t bytes, std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [bytes](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
  });
}

/// Reads one attribute of the current device.
inline cudaError_t deviceAttribute(cudaDeviceAttr attribute, int* value) {
  int device = 0;
  const cudaError_t status = cudaGetDevice(&device);
  return status == cudaSuccess ? cudaDeviceGetAttribute(value, attribute, device) : status;
}

/// Reports whether the current device runs code for sm_90a.
inline cudaError_t isHopper(bool* hopper) {
  int major = 0, minor = 0;
  cudaError_t status = deviceAttribute(cudaDevAttrComputeCapabilityMajor, &major);
  if (status == cudaSuccess) status = deviceAttribute(cudaDevAttrComputeCapabilityMinor, &minor);
  *hopper = major == 9 && minor == 0;
  return status;
}

/// Allows launches of `kernel` with `bytes` of dynamic shared memory on the current device.
///
/// The limit belongs to the kernel, not to a launch, and all threads share it. So this function
/// only ever raises it, from the default to the device's maximum. If a thread set it to the size of
/// its own launch, it could lower the limit below the launch of another thread.
template <typename... Parameters>
cudaError_t allowSharedBytes(void (*kernel)(Parameters...), size_t bytes) {
  if (bytes <= kFreeSharedBytes) return cudaSuccess;
  const void* function = reinterpret_cast<const void*>(kernel);
  cudaFuncAttributes now{};
  cudaError_t status = cudaFuncGetAttributes(&now, function);
  if (status != cudaSuccess || bytes <= size_t(now.maxDynamicSharedSizeBytes)) return status;
  int most = 0;
  status = deviceAttribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &most);
  if (status != cudaSuccess) return status;
  return cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              most - int(now.sharedSizeBytes));
}

/// Launches `kernel` over `blocks` blocks in one dimension, with `sharedBytes` of dynamic shared
/// memory. With `early`, the kernel may start while the previous kernel on the stream still runs
/// (Hopper and later). It must then call waitForPrevious() before it touches data that an earlier
/// kernel reads or writes. Returns the status of this launch only; cudaGetLastError could return an
/// earlier caller's error.
template <typename... Parameters, typename... Arguments>
cudaError_t launchAt(bool early, void (*kernel)(Parameters...), int64_t blocks, dim3 threads,
                     size_t sharedBytes, cudaStream_t stream, const Arguments&... arguments) {
  if (blocks > std::numeric_limits<int32_t>::max()) return cudaErrorInvalidConfiguration;
  const cudaError_t status = allowSharedBytes(kernel, sharedBytes);
  if (status != cudaSuccess) return status;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = threads;
  config.dynamicSmemBytes = sharedBytes;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, size_t sharedBytes,
                   cudaStream_t stream, const Arguments&... arguments) {
  return launchAt(false, kernel, blocks, threads, sharedBytes, stream, arguments...);
}

/// Launches a kernel that calls waitForPrevious(). The launch is early on devices that support it
/// (Hopper and later).
template <typename... Parameters, typename... Arguments>
cudaError_t launchEarly(void (*kernel)(Parameters...), int64_t blocks, dim3 threads,
                        size_t sharedBytes, cudaStream_t stream, const Arguments&... arguments) {
  int major = 0;
  const cudaError_t status = deviceAttribute(cudaDevAttrComputeCapabilityMajor, &major);
  if (status != cudaSuccess) return status;
  return launchAt(major >= 9, kernel, blocks, threads, sharedBytes, stream, arguments...);
}

/// Calls f with a value of the element type given by `dtype`.
template <typename F>
cudaError_t dispatch(DataType dtype, const F& f) {
  switch (dtype) {
    case DataType::kFloat:
      return f(float{});
    case DataType::kHalf:
      return f(__half{});
    case DataType::kBFloat16:
      return f(__nv_bfloat16{});
  }
  return cudaErrorInvalidValue;
}

/// Calls f with an object of the type number `variant` of Variants, a std::tuple.
template <typename Variants, int kFirst = 0, typename F>
cudaError_t dispatchVariant(int variant, const F& f) {
  if constexpr (kFirst < std::tuple_size_v<Variants>) {
    return variant == kFirst ? f(std::tuple_element_t<kFirst, Variants>{})
                             : dispatchVariant<Variants, kFirst + 1>(variant, f);
  } else {
    return cudaErrorInvalidValue;
  }
}

// ---- device -------------------------------------------------------------------------------------

/// N elements that are loaded or stored in one access.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T item[N];
};

/// The number of elements in the widest access, 16 bytes.
template <typename T>
constexpr int kWidest = 16 / int(sizeof(T));

__device__ __forceinline__ float toFloat(float value) { return value; }
__device__ __forceinline__ float toFloat(__half value) { return __half2float(value); }
__device__ __forceinline__ float toFloat(__nv_bfloat16 value) { return __bfloat162float(value); }

/// An 8-bit float, e4m3. Magnitudes above 448, infinity included, are rounded to 448.
using Fp8 = __nv_fp8_e4m3;

template <typename T>
__device__ __forceinline__ T fromFloat(float value);
template <>
__device__ __forceinline__ float fromFloat<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half fromFloat<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 fromFloat<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ Fp8 fromFloat<Fp8>(float value) {
  return Fp8(value);
}

template <int N, typename T>
__device__ __forceinline__ Vector<T, N> loadVector(const T* from) {
  return *reinterpret_cast<const Vector<T, N>*>(from);
}

/// Rounds two floats to neighbouring 16-bit elements, the first one in the lower half.
template <typename T>
__device__ __forceinline__ uint32_t packFloats(float a, float b);
template <>
__device__ __forceinline__ uint32_t packFloats<__half>(float a, float b) {
  const __half2 pair = __floats2half2_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ __forceinline__ uint32_t packFloats<__nv_bfloat16>(float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <int N, typename T>
__device__ __forceinline__ void storeVector(T* to, const float (&values)[N]) {
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    Vector<uint32_t, N / 2> packed;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      packed.item[i] = packFloats<T>(values[2 * i], values[2 * i + 1]);
    }
    *reinterpret_cast<Vector<uint32_t, N / 2>*>(to) = packed;
  } else {
    Vector<T, N> packed;
#pragma unroll
    for (int i = 0; i < N; ++i) packed.item[i] = fromFloat<T>(values[i]);
    *reinterpret_cast<Vector<T, N>*>(to) = packed;
  }
}

/// Stores floats as FP8. One instruction converts two of them.
template <int N>
__device__ __forceinline__ void storeVector(Fp8* to, const float (&values)[N]) {
  if constexpr (N % 2 == 0) {
    Vector<__nv_fp8x2_storage_t, N / 2> packed;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      packed.item[i] = __nv_cvt_float2_to_fp8x2(make_float2(values[2 * i], values[2 * i + 1]),
                                                __NV_SATFINITE, __NV_E4M3);
    }
    *reinterpret_cast<Vector<__nv_fp8x2_storage_t, N / 2>*>(to) = packed;
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = fromFloat<Fp8>(values[i]);
  }
}

/// Stores values as T, or multiplied by `factor` as FP8.
template <int N, typename Out>
__device__ __forceinline__ void storeScaled(Out* to, float (&values)[N], float factor) {
  if constexpr (sizeof(Out) == 1) {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= factor;
  }
  storeVector(to, values);
}

/// Returns the sum over the lanes of a warp, in every lane.
__device__ __forceinline__ float warpSum(float value) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, offset);
  }
  return value;
}

/// Returns the largest value of the lanes of a warp, in every lane; NaN if one of them is NaN.
__device__ __forceinline__ float warpMax(float value) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value = maxNan(value, __shfl_xor_sync(kFullWarp, value, offset));
  }
  return value;
}

/// Returns exp(x), accurate enough for T, or for a float that is then rounded to TF32.
template <typename T, bool kTf32>
__device__ __forceinline__ float exponential(float value) {
  constexpr float kLog2E = 1.4426950408889634f;
  return sizeof(T) == sizeof(float) && !kTf32 ? expf(value) : exp2Fast(value * kLog2E);
}

/// Returns a * sigmoid(b), accurate enough for T or TF32: the fast forms have an error of 2 ulp of
/// FP32, far below the rounding of those types.
template <typename T, bool kTf32 = false>
__device__ __forceinline__ float glu(T a, T b) {
  if constexpr (sizeof(T) == sizeof(float) && !kTf32) {
    return toFloat(a) / (1.0f + expf(-toFloat(b)));
  } else {
    return toFloat(a) * reciprocalFast(1.0f + exponential<T, kTf32>(-toFloat(b)));
  }
}

}  // namespace lite
