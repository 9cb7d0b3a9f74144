// One block computes kQueries neighbouring positions of one sentence:
//
//   1. It loads their queries into shared memory.
//   2. The matrix units compute the scores, one tile of keys per warp. For odd widths, each warp
//      instead reads one key once and multiplies it with all queries.
//   3. Each warp computes the softmax of one query, in FP32 and exactly.
//   4. Every thread owns channels at half of the positions and sums the embeddings.
//
// If the weights may be rounded, many positions in 16 bits run in larger tiles, also with the sums
// on the matrix units (copy_source_mma.cuh).
//
// doc/kernels.md (What was tried) has the measurements.
#include <type_traits>

#include "copy_source_mma.cuh"

namespace lite {
namespace {

constexpr int kQueries = 8;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;
constexpr float kHidden = -1e30f;
constexpr int64_t kManyTiles = 128;  // nearly as many as there are multiprocessors

/// Sums each of eight values over a warp. Lane l gets the sum of value l / 4.
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
  constexpr bool kMatrix = kVec > 1;
  using Query = std::conditional_t<kMatrix, T, float>;
  using Product = TileProduct<T, kQueries>;
  const int stride = kMatrix ? Product::columnStride(p.channels) : p.channels;
  const Product product(p.source, kWarps);
  extern __shared__ __align__(16) float shared[];
  float* weights = shared;                       // [source][kQueries]
  float* parts = weights + p.source * kQueries;  // partial sums of the product
  Query* queries = reinterpret_cast<Query*>(kMatrix ? parts + product.bytes() / 4
                                                    : parts);  // [kQueries][stride]
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  admitNext();
  waitForPrevious();
  const int64_t sentence = blockIdx.x / groups;
  const int t0 = int(blockIdx.x % groups) * kQueries;
  const int last = int(tensors.lengths[sentence]) - 1;
  const T* keys = static_cast<const T*>(tensors.keys) + sentence * p.source * p.channels;
  const T* embedded = static_cast<const T*>(tensors.embedded) + sentence * p.source * p.channels;
  const int32_t* real = tensors.sourceMask + sentence * p.source;

  const bool copies = t0 < last;  // otherwise the block holds only the end and padding
  if (copies) {
    const T* from =
        static_cast<const T*>(tensors.queries) + int64_t(t0 + kFirstPosition) * p.channels;
    const int count = min(kQueries, p.length - t0);
    for (int i = threadIdx.x; i < kQueries * p.channels; i += kThreads) {
      const int q = i / p.channels, c = i % p.channels;
      const T value = q < count ? from[i] : fromFloat<T>(0.0f);
      if constexpr (kMatrix) {
        queries[q * stride + c] = value;
      } else {
        queries[q * stride + c] = toFloat(value);
      }
    }
    __syncthreads();

    if constexpr (kMatrix) {
      product.template run<false>(keys, p.channels, p.channels, queries, parts);
      __syncthreads();
      for (int i = threadIdx.x; i < p.source * kQueries; i += kThreads) {
        float sum = parts[i];
        for (int split = 1; split < product.splits; ++split) {
          sum += parts[split * product.partStride() + i];
        }
        weights[i] = real[i / kQueries] != 0 ? sum : kHidden;
      }
    } else {
      for (int s = warp; s < p.source; s += kWarps) {
        float score[kQueries] = {};
        for (int c = lane * kVec; c < p.channels; c += kWarpSize * kVec) {
          const Vector<T, kVec> key = loadVector<kVec>(keys + int64_t(s) * p.channels + c);
#pragma unroll
          for (int q = 0; q < kQueries; ++q) {
            const Vector<float, kVec> query = loadVector<kVec>(&queries[q * stride + c]);
#pragma unroll
            for (int i = 0; i < kVec; ++i) score[q] += toFloat(key.item[i]) * query.item[i];
          }
        }
        const float sum = sumOfEight(score);
        if (lane % 4 == 0) weights[s * kQueries + lane / 4] = real[s] != 0 ? sum : kHidden;
      }
    }
    __syncthreads();

    if (warp < kQueries) {
      float* column = weights + warp;
      float largest = -INFINITY;
      for (int s = lane; s < p.source; s += kWarpSize) {
        largest = fmaxf(largest, column[s * kQueries]);
      }
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
    }
    __syncthreads();
  }

  constexpr int kOwn = kVec > 1 ? 2 : 1;  // channels per thread
  constexpr int kEach = kQueries / 2;     // positions per thread
  const int own = p.channels / kOwn;
  for (int i = threadIdx.x; i < 2 * own; i += kThreads) {
    const int c = i % own * kOwn, q0 = i / own * kEach;
    float sum[kEach][kOwn] = {};
    if (copies) {
#pragma unroll 8
      for (int s = 0; s < p.source; ++s) {
        const Vector<T, kOwn> value = loadVector<kOwn>(embedded + int64_t(s) * p.channels + c);
        const Vector<float, kEach> weight = loadVector<kEach>(weights + s * kQueries + q0);
#pragma unroll
        for (int q = 0; q < kEach; ++q) {
#pragma unroll
          for (int e = 0; e < kOwn; ++e) sum[q][e] += weight.item[q] * toFloat(value.item[e]);
        }
      }
    }
#pragma unroll
    for (int q = 0; q < kEach; ++q) {
      const int t = t0 + q0 + q;
      if (t >= p.length) continue;
      if (t == 0 || t >= last) {
        const int64_t token = t == 0 ? kBos : t == last ? kEos : kPad;
        const Vector<T, kOwn> special =
            loadVector<kOwn>(static_cast<const T*>(tensors.embedding) + token * p.channels + c);
#pragma unroll
        for (int e = 0; e < kOwn; ++e) sum[q][e] = toFloat(special.item[e]);
      }
      const int64_t position = t <= last ? t + kFirstPosition : kPad;
      const Vector<T, kOwn> at =
          loadVector<kOwn>(static_cast<const T*>(tensors.positionRows) + position * p.channels + c);
#pragma unroll
      for (int e = 0; e < kOwn; ++e) sum[q][e] += toFloat(at.item[e]);
      storeVector(static_cast<T*>(tensors.x) + (sentence * p.length + t) * p.channels + c, sum[q]);
    }
  }
  if (threadIdx.x < kQueries && t0 + threadIdx.x < p.length) {
    const int t = t0 + threadIdx.x;
    tensors.mask[sentence * p.length + t] = t <= last;
  }
}

template <typename T, int kVec>
cudaError_t run(const CopySourceParams& p, const CopySourceTensors& tensors, cudaStream_t stream) {
  if constexpr (sizeof(T) == 2 && kVec > 1) {
    int maxShared = 0;
    const cudaError_t status = deviceAttribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &maxShared);
    if (status != cudaSuccess) return status;
    if (p.rounded && copy_source_mma::suits<T>(p, kManyTiles, maxShared)) {
      return copy_source_mma::run<T>(p, tensors, stream);
    }
  }
  const int groups = ceilDiv(p.length, kQueries);
  using Product = TileProduct<T, kQueries>;
  const size_t queries = kVec > 1 ? Product::columnStride(p.channels) * sizeof(T) +
                                        Product(p.source, kWarps).bytes() / kQueries
                                  : p.channels * sizeof(float);
  const size_t sharedBytes = kQueries * (p.source * sizeof(float) + queries);
  return launchEarly(copySourceKernel<T, kVec>, int64_t(p.batch) * groups, dim3(kThreads),
                     sharedBytes, stream, p, tensors, groups);
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
    return vectorised ? run<T, kVec>(p, tensors, stream) : run<T, 1>(p, tensors, stream);
  });
}

}  // namespace lite
