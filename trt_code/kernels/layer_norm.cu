// Each row is read once and kept in the registers of one warp, which computes the mean, the squared
// deviations and the result from them. So the memory traffic is minimal. Statistics are two-pass.
// The first mean has a rounding error that grows with the inputs' distance from zero. The sum of
// the deviations, reduced together with their squares, corrects both the mean and the variance for
// this error. A row that is too wide for a warp is read three times by a block, the second and
// third time from cache.
//
// Scale and shift are loaded together with the row, although they are needed last: loading them
// where they are used makes the kernel wait. doc/kernels.md (What was tried) has the measurements.
#include "common.cuh"
#include "layer_norm.h"

namespace lite {
namespace {

constexpr int kWarpsPerBlock = 4;  // rows per block of the warp kernel
constexpr int kMaxItems = 32;      // elements of a row in each lane's registers
constexpr int kWideThreads = 512;

template <typename T>
struct Tensors {
  const T* x;
  const T* residual;  // nullable
  const float* scale;
  const float* shift;
  T* y;
  const T* after;  // nullable, [period, width]
  int64_t period;
  Fp8* fp8;  // nullable
  float fp8Factor;
};

struct Statistics {
  float mean;
  float inverseDeviation;
};

/// Returns the mean and 1 / sqrt(variance + eps), from the sum of the deviations from the rounded
/// mean and the sum of their squares.
__device__ __forceinline__ Statistics finish(float mean, float sum, float squares, int width,
                                             float eps) {
  const float correction = sum / width;
  const float variance = fmaxf((squares - sum * correction) / width, 0.0f);
  return {mean + correction, rsqrtf(variance + eps)};
}

/// Adds this row of `after`, the term that is added after the norm.
template <typename T, int kVec>
__device__ __forceinline__ void addAfter(const Tensors<T>& t, int64_t row, int width, int c,
                                         float (&value)[kVec]) {
  if (t.after == nullptr) return;
  const Vector<T, kVec> more = loadVector<kVec>(t.after + row % t.period * width + c);
#pragma unroll
  for (int i = 0; i < kVec; ++i) value[i] += toFloat(more.item[i]);
}

template <typename T, int kVec, int kItems>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarpSize)
    layerNormWarpKernel(int64_t rows, int width, float eps, Tensors<T> t) {
  constexpr int kVectors = kItems / kVec;
  const int64_t row = int64_t(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarpSize;
  if (row >= rows) return;
  const int first = threadIdx.x % kWarpSize * kVec;
  constexpr int kStep = kWarpSize * kVec;
  const int64_t offset = row * width;

  admitNext();
  waitForPrevious();
  // All loads are issued before the first result is used.
  Vector<T, kVec> x[kVectors];
  Vector<T, kVec> residual[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int c = first + v * kStep;
    if (c < width) x[v] = loadVector<kVec>(t.x + offset + c);
  }
  if (t.residual != nullptr) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int c = first + v * kStep;
      if (c < width) residual[v] = loadVector<kVec>(t.residual + offset + c);
    }
  }
  Vector<float, kVec> scale[kVectors];
  Vector<float, kVec> shift[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int c = first + v * kStep;
    if (c >= width) continue;
    scale[v] = loadVector<kVec>(t.scale + c);
    shift[v] = loadVector<kVec>(t.shift + c);
  }

  float value[kItems];
  float total = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int c = first + v * kStep;
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      float sum = 0.0f;
      if (c < width) {
        sum = toFloat(x[v].item[i]);
        if (t.residual != nullptr) sum += toFloat(residual[v].item[i]);
      }
      value[v * kVec + i] = sum;
      total += sum;
    }
  }

  const float mean = warpSum(total) / width;
  float sum = 0.0f;
  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (first + v * kStep < width) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float deviation = value[v * kVec + i] - mean;
        sum += deviation;
        squares += deviation * deviation;
      }
    }
  }
  const Statistics statistics = finish(mean, warpSum(sum), warpSum(squares), width, eps);

#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int c = first + v * kStep;
    if (c >= width) continue;
    float result[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float normal = (value[v * kVec + i] - statistics.mean) * statistics.inverseDeviation;
      result[i] = normal * scale[v].item[i] + shift[v].item[i];
    }
    addAfter(t, row, width, c, result);
    storeVector(t.y + offset + c, result);
    if (t.fp8 != nullptr) storeScaled(t.fp8 + offset + c, result, t.fp8Factor);
  }
}

/// Returns the sum over a block of kWideThreads, in every thread.
__device__ float blockSum(float value) {
  __shared__ float partial[kWideThreads / kWarpSize];
  value = warpSum(value);
  __syncthreads();  // all threads have read the previous call's result
  if (threadIdx.x % kWarpSize == 0) partial[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float total = 0.0f;
  for (const float part : partial) total += part;
  return total;
}

template <typename T, int kVec>
__global__ void __launch_bounds__(kWideThreads)
    layerNormBlockKernel(int width, float eps, Tensors<T> t) {
  const int64_t offset = int64_t(blockIdx.x) * width;
  constexpr int kStep = kWideThreads * kVec;
  const auto load = [&](int c, float (&value)[kVec]) {
    const Vector<T, kVec> x = loadVector<kVec>(t.x + offset + c);
#pragma unroll
    for (int i = 0; i < kVec; ++i) value[i] = toFloat(x.item[i]);
    if (t.residual != nullptr) {
      const Vector<T, kVec> residual = loadVector<kVec>(t.residual + offset + c);
#pragma unroll
      for (int i = 0; i < kVec; ++i) value[i] += toFloat(residual.item[i]);
    }
  };

  float value[kVec];
  float total = 0.0f;
  for (int c = threadIdx.x * kVec; c < width; c += kStep) {
    load(c, value);
#pragma unroll
    for (int i = 0; i < kVec; ++i) total += value[i];
  }
  const float mean = blockSum(total) / width;

  float sum = 0.0f;
  float squares = 0.0f;
  for (int c = threadIdx.x * kVec; c < width; c += kStep) {
    load(c, value);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float deviation = value[i] - mean;
      sum += deviation;
      squares += deviation * deviation;
    }
  }
  const float totalSum = blockSum(sum);
  const Statistics statistics = finish(mean, totalSum, blockSum(squares), width, eps);

  for (int c = threadIdx.x * kVec; c < width; c += kStep) {
    load(c, value);
    const Vector<float, kVec> scale = loadVector<kVec>(t.scale + c);
    const Vector<float, kVec> shift = loadVector<kVec>(t.shift + c);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float normal = (value[i] - statistics.mean) * statistics.inverseDeviation;
      value[i] = normal * scale.item[i] + shift.item[i];
    }
    addAfter(t, blockIdx.x, width, c, value);
    storeVector(t.y + offset + c, value);
    if (t.fp8 != nullptr) storeScaled(t.fp8 + offset + c, value, t.fp8Factor);
  }
}

template <typename T, int kVec, int kItems>
cudaError_t runWarp(const LayerNormParams& p, const Tensors<T>& t, cudaStream_t stream) {
  return launchEarly(layerNormWarpKernel<T, kVec, kItems>, ceilDiv<int64_t>(p.rows, kWarpsPerBlock),
                     kWarpsPerBlock * kWarpSize, 0, stream, p.rows, p.width, p.eps, t);
}

template <typename T>
cudaError_t run(const LayerNormParams& p, const Tensors<T>& t, cudaStream_t stream) {
  constexpr int kVec = kWidest<T>;
  const bool vectorised = p.width % kVec == 0 && aligned(16, {t.x, t.residual, t.y, t.after}) &&
                          aligned(kVec * sizeof(float), {t.scale, t.shift});
  if (p.width > kMaxItems * kWarpSize) {
    return launch(vectorised ? layerNormBlockKernel<T, kVec> : layerNormBlockKernel<T, 1>, p.rows,
                  kWideThreads, 0, stream, p.width, p.eps, t);
  }
  if (!vectorised) return runWarp<T, 1, kMaxItems>(p, t, stream);
  if (p.width <= 8 * kWarpSize) return runWarp<T, kVec, 8>(p, t, stream);
  if (p.width <= 16 * kWarpSize) return runWarp<T, kVec, 16>(p, t, stream);
  return runWarp<T, kVec, kMaxItems>(p, t, stream);
}

}  // namespace

cudaError_t layerNorm(const LayerNormParams& p, const void* x, const void* residual,
                      const float* scale, const float* shift, void* y, cudaStream_t stream,
                      const void* after, int64_t period, void* fp8, float fp8Factor) {
  const bool placed = fp8 == nullptr || (p.width % 16 == 0 && aligned(16, {x, y, fp8}));
  if (check(p) != nullptr || period < 1 || !placed) return cudaErrorInvalidValue;
  if (p.rows == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    return run(p,
               Tensors<T>{static_cast<const T*>(x), static_cast<const T*>(residual), scale, shift,
                          static_cast<T*>(y), static_cast<const T*>(after), period,
                          static_cast<Fp8*>(fp8), fp8Factor},
               stream);
  });
}

}  // namespace lite
