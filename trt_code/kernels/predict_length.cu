// A block a sentence: the mean goes to shared memory, then every warp takes classes in turn and
// keeps its best; the block's best is the answer.
#include "common.cuh"
#include "predict_length.h"

namespace lite {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTogether = 8;  // classes that a warp has under way

template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    predictLengthKernel(PredictLengthParams p, const T* __restrict__ x,
                        const int32_t* __restrict__ mask, const T* __restrict__ weight,
                        const int64_t* __restrict__ limits, int64_t* __restrict__ lengths) {
  extern __shared__ __align__(16) float mean[];  // [channels]
  __shared__ float bestScore[kWarps];
  __shared__ int bestClass[kWarps];
  const int64_t sentence = blockIdx.x;
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
  float best = -INFINITY;
  int best_class = 0;
  for (int first = warp; first < p.classes; first += kWarps * kTogether) {
    float score[kTogether] = {};
#pragma unroll 2
    for (int c = lane * kVec; c < p.channels; c += kWarpSize * kVec) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int row = min(first + j * kWarps, p.classes - 1);
        const Vector<T, kVec> w = loadVector<kVec>(weight + int64_t(row) * p.channels + c);
#pragma unroll
        for (int e = 0; e < kVec; ++e) score[j] += toFloat(w.item[e]) * mean[c + e];
      }
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      score[j] = warpSum(score[j]);
      const int i = first + j * kWarps;
      if (i < p.classes && score[j] > best) {
        best = score[j];
        best_class = i;
      }
    }
  }
  if (lane == 0) {
    bestScore[warp] = best;
    bestClass[warp] = best_class;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 0; i < kWarps; ++i) {
    if (bestScore[i] > best || (bestScore[i] == best && bestClass[i] < best_class)) {
      best = bestScore[i];
      best_class = bestClass[i];
    }
  }
  const int64_t length = int64_t(best_class) + p.offset + (p.relative ? count : 0);
  lengths[sentence] = min(max(length, int64_t{2}), limits[sentence]);
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
    return launch(vectorised ? predictLengthKernel<T, kWidest<T>> : predictLengthKernel<T, 1>,
                  p.batch, kThreads, p.channels * sizeof(float), stream, p,
                  static_cast<const T*>(x), mask, static_cast<const T*>(weight), limits, lengths);
  });
}

}  // namespace lite
