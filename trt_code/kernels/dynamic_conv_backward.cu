// Gradients of dynamicConv, for training. One thread sums each output element in a fixed order, so
// runs repeat bit for bit. Neighbouring threads take neighbouring positions, so loads are coalesced
// and the caches serve the overlap of the windows. Terms are summed in groups of kTerms, which
// keeps the rounding error of long sums small.
#include "common.cuh"
#include "dynamic_conv.h"

namespace lite {
namespace {

constexpr int kThreads = 128;
constexpr int kChannels = 8;  // per thread, gradient of x: each tap is read once for all of them
constexpr int kTaps = 8;    // per thread, gradient of the weight: grad is read once for all of them
constexpr int kTerms = 16;  // per partial sum

// gradX[b, c, s] = sum_k weight[b, h, k, t] * grad[b, c, t] with t = s - k + paddingL inside [0,
// T).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    gradXKernel(DynamicConvParams p, int channelBlocks, int positionBlocks,
                const T* __restrict__ grad, const T* __restrict__ weight, T* __restrict__ gradX) {
  int64_t block = blockIdx.x;
  const int s = int(block % positionBlocks) * kThreads + threadIdx.x;
  block /= positionBlocks;
  const int headChannels = p.channels / p.heads;
  const int c0 = int(block % channelBlocks) * kChannels;
  block /= channelBlocks;
  if (s >= p.length) return;
  const int64_t first = (block * headChannels + c0) * p.length;
  const int channels = min(kChannels, headChannels - c0);
  weight += block * p.kernelSize * p.length;

  float sum[kChannels] = {};
  for (int k0 = 0; k0 < p.kernelSize; k0 += kTerms) {
    float part[kChannels] = {};
    for (int k = k0; k < min(k0 + kTerms, p.kernelSize); ++k) {
      const int t = s - k + p.paddingL;
      if (t < 0 || t >= p.length) continue;
      const float factor = toFloat(weight[int64_t(k) * p.length + t]);
#pragma unroll
      for (int r = 0; r < kChannels; ++r) {
        if (r < channels) part[r] += factor * toFloat(grad[first + int64_t(r) * p.length + t]);
      }
    }
#pragma unroll
    for (int r = 0; r < kChannels; ++r) sum[r] += part[r];
  }
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    if (r < channels) gradX[first + int64_t(r) * p.length + s] = fromFloat<T>(sum[r]);
  }
}

// gradWeight[b, h, k, t] = sum over the head's channels of grad[b, c, t] * x[b, c, t + k -
// paddingL].
template <typename T>
__global__ void __launch_bounds__(kThreads)
    gradWeightKernel(DynamicConvParams p, int tapBlocks, int positionBlocks,
                     const T* __restrict__ grad, const T* __restrict__ x,
                     T* __restrict__ gradWeight) {
  int64_t block = blockIdx.x;
  const int t = int(block % positionBlocks) * kThreads + threadIdx.x;
  block /= positionBlocks;
  const int k0 = int(block % tapBlocks) * kTaps;
  block /= tapBlocks;
  if (t >= p.length) return;
  const int headChannels = p.channels / p.heads;
  const int64_t first = block * headChannels * p.length;

  float sum[kTaps] = {};
  for (int c0 = 0; c0 < headChannels; c0 += kTerms) {
    float part[kTaps] = {};
    for (int c = c0; c < min(c0 + kTerms, headChannels); ++c) {
      const int64_t row = first + int64_t(c) * p.length;
      const float factor = toFloat(grad[row + t]);
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        const int s = t + k0 + j - p.paddingL;
        if (s >= 0 && s < p.length) part[j] += factor * toFloat(x[row + s]);
      }
    }
#pragma unroll
    for (int j = 0; j < kTaps; ++j) sum[j] += part[j];
  }
#pragma unroll
  for (int j = 0; j < kTaps; ++j) {
    if (k0 + j < p.kernelSize) {
      gradWeight[(block * p.kernelSize + k0 + j) * p.length + t] = fromFloat<T>(sum[j]);
    }
  }
}

}  // namespace

cudaError_t dynamicConvBackward(const DynamicConvParams& p, const void* grad, const void* x,
                                const void* weight, void* gradX, void* gradWeight,
                                cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t heads = int64_t(p.batch) * p.heads;
    const int positionBlocks = ceilDiv(p.length, kThreads);
    const int channelBlocks = ceilDiv(p.channels / p.heads, kChannels);
    const cudaError_t status =
        launch(gradXKernel<T>, heads * channelBlocks * positionBlocks, kThreads, 0, stream, p,
               channelBlocks, positionBlocks, static_cast<const T*>(grad),
               static_cast<const T*>(weight), static_cast<T*>(gradX));
    if (status != cudaSuccess) return status;
    const int tapBlocks = ceilDiv(p.kernelSize, kTaps);
    return launch(gradWeightKernel<T>, heads * tapBlocks * positionBlocks, kThreads, 0, stream, p,
                  tapBlocks, positionBlocks, static_cast<const T*>(grad), static_cast<const T*>(x),
                  static_cast<T*>(gradWeight));
  });
}

}  // namespace lite
