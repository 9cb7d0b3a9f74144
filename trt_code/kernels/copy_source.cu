// FP32, and 16-bit types where copy_source_mma.cuh does not support the width. One block computes
// kQueries neighbouring positions of one sentence:
//
//   1. It loads their queries into shared memory.
//   2. The matrix units compute the scores, one tile of keys per warp. For odd widths, each warp
//      instead reads one key once and multiplies it with all queries.
//   3. Each warp computes the softmax of one query, in FP32 and exactly.
//   4. Every thread owns channels at half of the positions and sums the embeddings.
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
    copySourceKernel(CopySourceParams p, CopySourceTensors tensors) {
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
  const CopyBlock<T, kQueries> block(p, tensors);

  if (block.copies()) {
    const T* from = block.queries();
    const int count = min(kQueries, p.length - block.t0);
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
      product.template run<false>(block.keys, p.channels, p.channels, queries, parts);
      __syncthreads();
      for (int i = threadIdx.x; i < p.source * kQueries; i += kThreads) {
        float sum = parts[i];
        for (int split = 1; split < product.splits; ++split) {
          sum += parts[split * product.partStride() + i];
        }
        weights[i] = block.real[i / kQueries] != 0 ? sum : kHidden;
      }
    } else {
      for (int s = warp; s < p.source; s += kWarps) {
        float score[kQueries] = {};
        for (int c = lane * kVec; c < p.channels; c += kWarpSize * kVec) {
          const Vector<T, kVec> key = loadVector<kVec>(block.keys + int64_t(s) * p.channels + c);
#pragma unroll
          for (int q = 0; q < kQueries; ++q) {
            const Vector<float, kVec> query = loadVector<kVec>(&queries[q * stride + c]);
#pragma unroll
            for (int i = 0; i < kVec; ++i) score[q] += toFloat(key.item[i]) * query.item[i];
          }
        }
        const float sum = sumOfEight(score);
        if (lane % 4 == 0) weights[s * kQueries + lane / 4] = block.real[s] != 0 ? sum : kHidden;
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
    if (block.copies()) {
#pragma unroll 8
      for (int s = 0; s < p.source; ++s) {
        const Vector<T, kOwn> value =
            loadVector<kOwn>(block.embedded + int64_t(s) * p.channels + c);
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
      const int t = block.t0 + q0 + q;
      if (t >= p.length) continue;
      if (!block.isCopy(t)) {
        const Vector<T, kOwn> special = loadVector<kOwn>(block.special(t) + c);
#pragma unroll
        for (int e = 0; e < kOwn; ++e) sum[q][e] = toFloat(special.item[e]);
      }
      const Vector<T, kOwn> at = loadVector<kOwn>(block.position(t) + c);
#pragma unroll
      for (int e = 0; e < kOwn; ++e) sum[q][e] += toFloat(at.item[e]);
      storeVector(block.result(t) + c, sum[q]);
    }
  }
  block.storeMask();
}

template <typename T, int kVec>
cudaError_t run(const CopySourceParams& p, const CopySourceTensors& tensors, cudaStream_t stream) {
  if constexpr (sizeof(T) == 2 && kVec > 1) {
    int maxShared = 0;
    const cudaError_t status = deviceAttribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &maxShared);
    if (status != cudaSuccess) return status;
    if (copy_source_mma::supports<T>(p.channels, maxShared)) {
      return copy_source_mma::run<T>(p, tensors, maxShared, stream);
    }
  }
  const int groups = ceilDiv(p.length, kQueries);
  using Product = TileProduct<T, kQueries>;
  const size_t queries = kVec > 1 ? Product::columnStride(p.channels) * sizeof(T) +
                                        Product(p.source, kWarps).bytes() / kQueries
                                  : p.channels * sizeof(float);
  const size_t sharedBytes = kQueries * (p.source * sizeof(float) + queries);
  return launchEarly(copySourceKernel<T, kVec>, int64_t(p.batch) * groups, dim3(kThreads),
                     sharedBytes, stream, p, tensors);
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
