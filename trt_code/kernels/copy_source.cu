// A block takes kQueries neighbouring positions of one sentence:
//
//   1. their queries come to shared memory as FP32;
//   2. every warp takes source positions in turn and multiplies each key, read once, with all
//   queries;
//   3. a warp a query does the softmax, FP32 and exact;
//   4. every thread owns channels and adds up the embeddings, each read once for all queries.
//
// A first version, with a warp a query that read keys and queries from cache, took 50 us for
// 16 x 64 positions of 32 x 512 on an H100, nearly all of it latency.
#include "common.cuh"
#include "copy_source.h"

namespace lite {
namespace {

constexpr int kQueries = 8;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kBegin = 0, kPadding = 1, kEnd = 2;
constexpr int kFirstPosition = 2;
constexpr float kHidden = -1e30f;

/// Sum each of eight values over a warp; lane l gets the sum of value l / 4.
__device__ __forceinline__ float sumOfEight(float (&value)[kQueries]) {
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int count = kQueries / 2, offset = 16; count >= 1; count /= 2, offset /= 2) {
    const bool upper = lane & offset;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const float send = upper ? value[i] : value[i + count];
      const float keep = upper ? value[i + count] : value[i];
      value[i] = keep + __shfl_xor_sync(kFullWarp, send, offset);
    }
  }
  value[0] += __shfl_xor_sync(kFullWarp, value[0], 2);
  return value[0] + __shfl_xor_sync(kFullWarp, value[0], 1);
}

template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    copySourceKernel(CopySourceParams p, CopySourceTensors tensors, int groups) {
  extern __shared__ __align__(16) float shared[];
  float* queries = shared;                          // [kQueries][channels]
  float* weights = shared + kQueries * p.channels;  // [source][kQueries]
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  admitNext();
  waitForPrevious();
  const int64_t sentence = blockIdx.x / groups;
  const int t0 = int(blockIdx.x % groups) * kQueries;
  const int last = int(tensors.lengths[sentence]) - 1;
  const T* keys = static_cast<const T*>(tensors.keys) + sentence * p.source * p.channels;
  const T* embedded = static_cast<const T*>(tensors.embedded) + sentence * p.source * p.channels;
  const int32_t* real = tensors.sourceMask + sentence * p.source;

  const bool copies = t0 < last;  // else the block holds the end and padding alone
  if (copies) {
    const T* from =
        static_cast<const T*>(tensors.queries) + int64_t(t0 + kFirstPosition) * p.channels;
    const int count = min(kQueries, p.length - t0) * p.channels;
    for (int i = threadIdx.x; i < kQueries * p.channels; i += kThreads) {
      queries[i] = i < count ? toFloat(from[i]) : 0.0f;
    }
    __syncthreads();

    for (int s = warp; s < p.source; s += kWarps) {
      float score[kQueries] = {};
#pragma unroll 2
      for (int c = lane * kVec; c < p.channels; c += kWarpSize * kVec) {
        const Vector<T, kVec> key = loadVector<kVec>(keys + int64_t(s) * p.channels + c);
#pragma unroll
        for (int q = 0; q < kQueries; ++q) {
          const float* query = queries + q * p.channels + c;
#pragma unroll
          for (int i = 0; i < kVec; ++i) score[q] += toFloat(key.item[i]) * query[i];
        }
      }
      const float sum = sumOfEight(score);
      if (lane % 4 == 0) weights[s * kQueries + lane / 4] = real[s] != 0 ? sum : kHidden;
    }
    __syncthreads();

    float* column = weights + warp;
    float largest = -INFINITY;
    for (int s = lane; s < p.source; s += kWarpSize) largest = fmaxf(largest, column[s * kQueries]);
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, offset));
    }
    float total = 0.0f;
    for (int s = lane; s < p.source; s += kWarpSize) {
      const float term = expf(column[s * kQueries] - largest);
      column[s * kQueries] = term;
      total += term;
    }
    const float scale = 1.0f / warpSum(total);
    for (int s = lane; s < p.source; s += kWarpSize) column[s * kQueries] *= scale;
    __syncthreads();
  }

  constexpr int kOwn = kVec > 1 ? 2 : 1;  // channels of a thread
  for (int c = threadIdx.x * kOwn; c < p.channels; c += kThreads * kOwn) {
    float sum[kQueries][kOwn] = {};
    if (copies) {
#pragma unroll 8
      for (int s = 0; s < p.source; ++s) {
        const Vector<T, kOwn> value = loadVector<kOwn>(embedded + int64_t(s) * p.channels + c);
        const Vector<float, 4> low = loadVector<4>(weights + s * kQueries);
        const Vector<float, 4> high = loadVector<4>(weights + s * kQueries + 4);
#pragma unroll
        for (int q = 0; q < kQueries; ++q) {
          const float weight = q < 4 ? low.item[q % 4] : high.item[q % 4];
#pragma unroll
          for (int i = 0; i < kOwn; ++i) sum[q][i] += weight * toFloat(value.item[i]);
        }
      }
    }
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      const int t = t0 + q;
      if (t >= p.length) continue;
      if (t == 0 || t >= last) {
        const int token = t == 0 ? kBegin : t == last ? kEnd : kPadding;
        const Vector<T, kOwn> own = loadVector<kOwn>(static_cast<const T*>(tensors.embedding) +
                                                     int64_t(token) * p.channels + c);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) sum[q][i] = toFloat(own.item[i]);
      }
      const int64_t position = t <= last ? t + kFirstPosition : kPadding;
      const Vector<T, kOwn> at =
          loadVector<kOwn>(static_cast<const T*>(tensors.positionRows) + position * p.channels + c);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) sum[q][i] += toFloat(at.item[i]);
      storeVector(static_cast<T*>(tensors.x) + (sentence * p.length + t) * p.channels + c, sum[q]);
    }
  }
  if (threadIdx.x < kQueries && t0 + threadIdx.x < p.length) {
    const int t = t0 + threadIdx.x;
    tensors.mask[sentence * p.length + t] = t <= last;
  }
}

}  // namespace

cudaError_t copySource(const CopySourceParams& p, const CopySourceTensors& tensors,
                       cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kVec = kWidest<T>;
    const bool vectorised =
        p.channels % kVec == 0 && aligned(16, {tensors.queries, tensors.keys, tensors.embedded,
                                               tensors.embedding, tensors.positionRows, tensors.x});
    const int groups = ceilDiv(p.length, kQueries);
    const size_t sharedBytes = size_t(kQueries) * (p.channels + p.source) * sizeof(float);
    return launchAt(startsEarly(), vectorised ? copySourceKernel<T, kVec> : copySourceKernel<T, 1>,
                    int64_t(p.batch) * groups, dim3(kThreads), sharedBytes, stream, p, tensors,
                    groups);
  });
}

}  // namespace lite
