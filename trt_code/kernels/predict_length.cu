// A few blocks compute one sentence. Each block computes the mean in its shared memory. Then the
// warps take classes in turn, and each keeps its best one. The result is the best of all blocks. On
// GPUs with clusters, four blocks form one; on others there is one block per sentence.
//
// One block would spend most of its time reading the weights. doc/kernels.md (What was tried) has
// the measurements.
#include "common.cuh"
#include "predict_length.h"
#include "ptx/cluster.cuh"

namespace lite {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTogether = 8;  // classes that a warp processes at the same time
constexpr int kBlocks = 4;    // per cluster

struct alignas(8) Best {
  float score;
  int index;

  /// Returns the better of two candidates. If they are equal, the one with the lower index.
  __device__ void take(const Best& other) {
    if (other.score > score || (other.score == score && other.index < index)) *this = other;
  }
};

template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    predictLengthKernel(PredictLengthParams p, int blocks, const T* __restrict__ x,
                        const int32_t* __restrict__ mask, const T* __restrict__ weight,
                        const int64_t* __restrict__ limits, int64_t* __restrict__ lengths) {
  extern __shared__ __align__(16) float mean[];  // [channels]
  __shared__ Best bests[kWarps];
  __shared__ Best ofBlocks[kBlocks];
  const int64_t sentence = blockIdx.x / blocks;
  const int block = blockIdx.x % blocks;
#if __CUDA_ARCH__ >= 900
  if (blocks > 1) clusterArrive();  // other blocks may write to a block once it has started
#endif
  const int32_t* real = mask + sentence * p.source;
  const T* rows = x + sentence * p.source * p.channels;

  int count = 0;
  for (int s = threadIdx.x; s < roundUp(p.source, kThreads); s += kThreads) {
    count += __syncthreads_count(s < p.source && real[s] != 0);
  }
  const float scale = 1.0f / float(max(count, 1));
  for (int c = threadIdx.x; c < p.channels; c += kThreads) {
    float sum = 0.0f;
#pragma unroll 16
    for (int s = 0; s < p.source; ++s) {
      const float value = toFloat(rows[int64_t(s) * p.channels + c]);
      sum += real[s] != 0 ? value : 0.0f;
    }
    mean[c] = sum * scale;
  }
  __syncthreads();

  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int stride = kWarps * blocks;
  Best best{-INFINITY, 0};
  for (int first = block * kWarps + warp; first < p.classes; first += stride * kTogether) {
    float score[kTogether] = {};
#pragma unroll 2
    for (int c = lane * kVec; c < p.channels; c += kWarpSize * kVec) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int row = min(first + j * stride, p.classes - 1);
        const Vector<T, kVec> w = loadVector<kVec>(weight + int64_t(row) * p.channels + c);
#pragma unroll
        for (int e = 0; e < kVec; ++e) score[j] += toFloat(w.item[e]) * mean[c + e];
      }
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      score[j] = warpSum(score[j]);
      const int i = first + j * stride;
      if (i < p.classes && score[j] > best.score) best = {score[j], i};
    }
  }
  if (lane == 0) bests[warp] = best;
  __syncthreads();
#if __CUDA_ARCH__ >= 900
  if (blocks > 1) clusterWait();
#endif
  if (threadIdx.x == 0) {
    for (int i = 1; i < kWarps; ++i) best.take(bests[i]);
#if __CUDA_ARCH__ >= 900
    if (blocks > 1) {
      const uint32_t to = remoteAddress(sharedAddress(&ofBlocks[block]), 0);
      storeRemote(to, __float_as_uint(best.score), uint32_t(best.index));
    }
#endif
  }
#if __CUDA_ARCH__ >= 900
  __syncwarp();
  if (blocks > 1) clusterSync();
#endif
  if (block != 0 || threadIdx.x != 0) return;
  for (int i = 1; i < blocks; ++i) best.take(ofBlocks[i]);
  const int64_t length = int64_t(best.index) + p.offset + (p.relative ? count : 0);
  lengths[sentence] = min(max(length, int64_t{2}), limits[sentence]);
}

/// Launches the blocks of every sentence, as a cluster if there are several.
template <typename T, int kVec>
cudaError_t run(const PredictLengthParams& p, const void* x, const int32_t* mask,
                const void* weight, const int64_t* limits, int64_t* lengths, cudaStream_t stream) {
  int major = 0;
  const cudaError_t status = deviceAttribute(cudaDevAttrComputeCapabilityMajor, &major);
  if (status != cudaSuccess) return status;
  const int blocks = major >= 9 ? kBlocks : 1;
  if (int64_t(p.batch) * blocks > std::numeric_limits<int32_t>::max()) {
    return cudaErrorInvalidConfiguration;
  }
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {unsigned(blocks), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(p.batch * blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = p.channels * sizeof(float);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = blocks > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, predictLengthKernel<T, kVec>, p, blocks,
                            static_cast<const T*>(x), mask, static_cast<const T*>(weight), limits,
                            lengths);
}

}  // namespace

cudaError_t predictLength(const PredictLengthParams& p, const void* x, const int32_t* mask,
                          const void* weight, const int64_t* limits, int64_t* lengths,
                          cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.batch == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const bool vectorised = p.channels % kWidest<T> == 0 && aligned(16, {weight});
    return vectorised ? run<T, kWidest<T>>(p, x, mask, weight, limits, lengths, stream)
                      : run<T, 1>(p, x, mask, weight, limits, lengths, stream);
  });
}

}  // namespace lite
