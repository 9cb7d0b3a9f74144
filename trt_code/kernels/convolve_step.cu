// One block computes a few hypotheses, so that it reads the weights of the taps once for all of
// them. Each thread computes whole taps: the weights lie so that neighbouring threads read
// neighbouring vectors.
#include "common.cuh"
#include "convolve_step.h"
#include "history.cuh"

namespace lite {
namespace {

constexpr int kMostThreads = 256;
constexpr int kMostShared = 96 * 1024;
constexpr int kFewRows = 512;  // up to here a block computes one row, for more blocks

/// The shared memory of one row in floats: gated input, taps, and the inputs' rows.
int64_t rowFloats(const ConvolveStepParams& p) {
  return p.channels + int64_t(p.heads) * p.kernelSize + p.kernelSize;
}

template <typename T, int kRows>
__global__ void __launch_bounds__(kMostThreads)
    convolveStepKernel(ConvolveStepParams p, const T* x, const T* __restrict__ weight, T* inputs,
                       const int32_t* ancestors, const int64_t* position, T* out) {
  extern __shared__ __align__(16) float shared[];
  constexpr int kVec = kWidest<T>;
  const int channels = p.channels, taps = p.heads * p.kernelSize;
  float* gated = shared;                                       // [kRows, channels]
  float* weights = gated + kRows * channels;                   // [kRows, taps]
  int* from = reinterpret_cast<int*>(weights + kRows * taps);  // [kRows, kernelSize]
  const int first = blockIdx.x * kRows, rows = min(kRows, p.rows - first);
  admitNext();
  waitForPrevious();

  const int now = History(first, p.rows, p.capacity, ancestors, position).position;
  for (int i = threadIdx.x; i < kRows * channels; i += blockDim.x) {
    const int r = i / channels, c = i % channels;
    if (r >= rows) {
      gated[i] = 0.0f;
      continue;
    }
    const T* own = x + (first + r) * p.stride;
    const T value = p.glu ? fromFloat<T>(glu(own[c], own[channels + c])) : own[c];
    inputs[(int64_t(first + r) * p.capacity + now) * channels + c] = value;
    gated[i] = toFloat(value);
  }
  // the row of every input under the taps, or -1 before the sentence's first
  for (int i = threadIdx.x; i < rows * p.kernelSize; i += blockDim.x) {
    const int r = i / p.kernelSize, j = now - (p.kernelSize - 1) + i % p.kernelSize;
    const History history(first + r, p.rows, p.capacity, ancestors, position);
    from[i] = j < 0 ? -1 : history.rowOf(j);
  }
  __syncthreads();

  for (int t = threadIdx.x; t < taps; t += blockDim.x) {
    float sums[kRows] = {};
#pragma unroll 4
    for (int c = 0; c < channels; c += kVec) {
      const auto part = loadVector<kVec>(weight + (int64_t(c / kVec) * taps + t) * kVec);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float factor = toFloat(part.item[i]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r] += factor * gated[r * channels + c + i];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) weights[r * taps + t] = sums[r];
  }
  __syncthreads();

  if (p.softmax) {
    const int lane = threadIdx.x % kWarpSize;
    for (int i = threadIdx.x / kWarpSize; i < rows * p.heads; i += blockDim.x / kWarpSize) {
      float* own = weights + i * p.kernelSize;
      float largest = -INFINITY, sum = 0.0f;
      for (int k = lane; k < p.kernelSize; k += kWarpSize) largest = maxNan(largest, own[k]);
      largest = warpMax(largest);
      for (int k = lane; k < p.kernelSize; k += kWarpSize) {
        own[k] = exponential<T, false>(own[k] - largest);
        sum += own[k];
      }
      const float scale = 1.0f / warpSum(sum);
      for (int k = lane; k < p.kernelSize; k += kWarpSize) own[k] *= scale;
    }
    __syncthreads();
  }

  const int headWidth = channels / p.heads;
  for (int i = threadIdx.x; i < rows * channels; i += blockDim.x) {
    const int r = i / channels, c = i % channels;
    const float* own = weights + r * taps + c / headWidth * p.kernelSize;
    const int* ownFrom = from + r * p.kernelSize;
    float sum = own[p.kernelSize - 1] * gated[i];
#pragma unroll 4
    for (int k = 0; k < p.kernelSize - 1; ++k) {
      if (ownFrom[k] < 0) continue;
      const int64_t at = int64_t(ownFrom[k]) * p.capacity + now - (p.kernelSize - 1) + k;
      sum += own[k] * toFloat(inputs[at * channels + c]);
    }
    out[(first + r) * p.outStride + c] = fromFloat<T>(sum);
  }
}

}  // namespace

const char* check(const ConvolveStepParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.rows < 0) return "rows must not be negative";
  if (p.capacity < 1) return "the capacity must be at least 1";
  if (p.heads < 1 || p.channels < 1 || p.channels % p.heads != 0) {
    return "channels must be a positive multiple of heads";
  }
  if (p.channels % tapsVector(p.dtype) != 0) return "channels must fill vectors of 16 bytes";
  if (p.kernelSize < 1) return "the kernel size must be at least 1";
  if (rowFloats(p) * int64_t(sizeof(float)) > kMostShared) {
    return "channels and taps of a row must fit into 96 KiB";
  }
  if (p.stride < int64_t(p.channels) * (1 + p.glu) || p.outStride < p.channels) {
    return "the rows must not overlap";
  }
  return nullptr;
}

cudaError_t convolveStep(const ConvolveStepParams& p, const void* x, const void* weight,
                         void* inputs, const int32_t* ancestors, const int64_t* position, void* out,
                         cudaStream_t stream) {
  if (check(p) != nullptr || !aligned(16, {weight})) return cudaErrorInvalidValue;
  if (p.rows == 0) return cudaSuccess;
  const int taps = p.heads * p.kernelSize;
  const int threads = std::min(roundUp(std::max(p.channels, taps), kWarpSize), kMostThreads);
  const size_t bytes = rowFloats(p) * sizeof(float);
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto run = [&](auto kernel, int rows) {
      return launchEarly(kernel, ceilDiv(p.rows, rows), threads, rows * bytes, stream, p,
                         static_cast<const T*>(x), static_cast<const T*>(weight),
                         static_cast<T*>(inputs), ancestors, position, static_cast<T*>(out));
    };
    constexpr int kTogether = 4;
    const bool many = p.rows > kFewRows && kTogether * bytes <= kMostShared;
    return many ? run(convolveStepKernel<T, kTogether>, kTogether)
                : run(convolveStepKernel<T, 1>, 1);
  });
}

}  // namespace lite
