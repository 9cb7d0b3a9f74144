// copy_source in 16-bit types for many positions. One block computes kQueries neighbouring
// positions of one sentence, with both products on the matrix units:
//
//   1. It loads their queries into shared memory.
//   2. It computes the scores of all keys, in FP32.
//   3. It computes the softmax, with one lane per query, and rounds the weights to T.
//   4. Each warp multiplies the weights with 32 channels of the embeddings. A lane loads 8
//      neighbouring channels at once, and also holds 8 neighbouring channels of the result: column
//      n of tile j stands for channel 8 * (n / 2) + 2 * j + n % 2.
#pragma once

#include "copy_source.h"
#include "products.cuh"
#include "special_tokens.h"

namespace lite {
namespace copy_source_mma {

constexpr int kQueries = 32;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kUnit = 16;      // depth of a matrix instruction
constexpr int kChannels = 32;  // of a warp's result
constexpr int kVec = 8;        // elements per access
constexpr float kHidden = -1e30f;

template <typename T>
struct Sizes {
  using Product = TileProduct<T, kQueries>;
  Product product;
  int queryStride;                 // elements
  int weightStride;                // elements; rows of weights use all banks
  size_t queries, parts, weights;  // bytes of shared memory

  __host__ __device__ explicit Sizes(const CopySourceParams& p)
      : product(p.source, kWarps),
        queryStride(Product::columnStride(p.channels)),
        weightStride(roundUp(p.source, kUnit) + kVec),
        queries(kQueries * queryStride * sizeof(T)),
        parts(product.bytes()),
        weights(kQueries * weightStride * sizeof(T)) {}

  __host__ __device__ size_t bytes() const {
    return queries + parts + weights + kWarps * kQueries * sizeof(float);
  }
};

/// Combines one value of each warp and lane over the warps. `partial` is [kWarps][kQueries].
template <typename Combine>
__device__ __forceinline__ float overWarps(float value, float* partial, const Combine& combine) {
  const int lane = threadIdx.x % kWarpSize;
  __syncthreads();  // all warps have read the previous call's values
  partial[threadIdx.x] = value;
  __syncthreads();
  float result = partial[lane];
  for (int w = 1; w < kWarps; ++w) result = combine(result, partial[w * kWarpSize + lane]);
  return result;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    kernel(CopySourceParams p, CopySourceTensors tensors, int groups) {
  static_assert(kQueries == kWarpSize);
  const Sizes<T> sizes(p);
  extern __shared__ __align__(16) unsigned char shared[];
  T* queries = reinterpret_cast<T*>(shared);
  float* parts = reinterpret_cast<float*>(shared + sizes.queries);  // [splits][source][kQueries]
  T* weights = reinterpret_cast<T*>(shared + sizes.queries + sizes.parts);
  float* partial = reinterpret_cast<float*>(shared + sizes.queries + sizes.parts + sizes.weights);
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int group = lane / 4, quad = lane % 4;
  admitNext();
  waitForPrevious();
  const int64_t sentence = blockIdx.x / groups;
  const int t0 = int(blockIdx.x % groups) * kQueries;
  const int last = int(tensors.lengths[sentence]) - 1;
  const T* keys = static_cast<const T*>(tensors.keys) + sentence * p.source * p.channels;
  const T* embedded = static_cast<const T*>(tensors.embedded) + sentence * p.source * p.channels;

  const bool copies = t0 < last;  // otherwise the block holds only the end and padding
  if (copies) {
    // 1. The queries.
    const int vectors = p.channels / kVec;
    const T* from =
        static_cast<const T*>(tensors.queries) + int64_t(t0 + kFirstPosition) * p.channels;
    for (int i = threadIdx.x; i < kQueries * vectors; i += kThreads) {
      const int q = i / vectors, c = i % vectors * kVec;
      uint4 words{};
      if (t0 + q < p.length) {
        words = *reinterpret_cast<const uint4*>(from + int64_t(q) * p.channels + c);
      }
      *reinterpret_cast<uint4*>(queries + q * sizes.queryStride + c) = words;
    }
    __syncthreads();

    // 2. The scores.
    sizes.product.template run<false>(keys, p.channels, p.channels, queries, parts);
    __syncthreads();

    // 3. The weights.
    const int32_t* real = tensors.sourceMask + sentence * p.source;
    float largest = -INFINITY;
    for (int s = warp; s < p.source; s += kWarps) {
      float* score = parts + s * kQueries + lane;
      float sum = *score;
      for (int split = 1; split < sizes.product.splits; ++split) {
        sum += score[split * sizes.product.partStride()];
      }
      *score = real[s] != 0 ? sum : kHidden;
      largest = fmaxf(largest, *score);
    }
    largest = overWarps(largest, partial, [](float a, float b) { return fmaxf(a, b); });
    float total = 0.0f;
    for (int s = warp; s < p.source; s += kWarps) {
      float* score = parts + s * kQueries + lane;
      *score = exponential<T, false>(*score - largest);
      total += *score;
    }
    total = overWarps(total, partial, [](float a, float b) { return a + b; });
    const float scale = 1.0f / total;
    for (int s = warp; s < roundUp(p.source, kUnit); s += kWarps) {
      const float weight = s < p.source ? parts[s * kQueries + lane] * scale : 0.0f;
      weights[lane * sizes.weightStride + s] = fromFloat<T>(weight);
    }
    __syncthreads();
  }

  // 4. The embeddings.
  const T* table = static_cast<const T*>(tensors.embedding);
  const T* positions = static_cast<const T*>(tensors.positionRows);
  for (int c = warp * kChannels + quad * kVec; c < p.channels; c += kWarps * kChannels) {
    float sum[2][4][4] = {};
    if (copies) {
#pragma unroll 4
      for (int s0 = 0; s0 < p.source; s0 += kUnit) {
        uint4 upper{}, lower{};  // rows `group` and `group` + 8
        if (s0 + group < p.source) {
          upper = *reinterpret_cast<const uint4*>(embedded + int64_t(s0 + group) * p.channels + c);
        }
        if (s0 + 8 + group < p.source) {
          lower =
              *reinterpret_cast<const uint4*>(embedded + int64_t(s0 + 8 + group) * p.channels + c);
        }
        const uint32_t u[4] = {upper.x, upper.y, upper.z, upper.w};
        const uint32_t l[4] = {lower.x, lower.y, lower.z, lower.w};
        uint32_t a[2][4];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          loadTiles(a[m], sharedAddress(weights + (m * kUnit + lane % kUnit) * sizes.weightStride +
                                        s0 + lane / kUnit * 8));
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t b0 = transposeTile(u[j]), b1 = transposeTile(l[j]);
          mma16816<T>(sum[0][j], a[0], {b0, b1});
          mma16816<T>(sum[1][j], a[1], {b0, b1});
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int t = t0 + i * 8 + group;
      if (t >= p.length) continue;
      float value[kVec];
      if (t == 0 || t >= last) {
        const int64_t token = t == 0 ? kBos : t == last ? kEos : kPad;
        const Vector<T, kVec> special = loadVector<kVec>(table + token * p.channels + c);
#pragma unroll
        for (int e = 0; e < kVec; ++e) value[e] = toFloat(special.item[e]);
      } else {
#pragma unroll
        for (int e = 0; e < kVec; ++e) value[e] = sum[i / 2][e / 2][i % 2 * 2 + e % 2];
      }
      const int64_t position = t <= last ? t + kFirstPosition : kPad;
      const Vector<T, kVec> at = loadVector<kVec>(positions + position * p.channels + c);
#pragma unroll
      for (int e = 0; e < kVec; ++e) value[e] += toFloat(at.item[e]);
      storeVector(static_cast<T*>(tensors.x) + (sentence * p.length + t) * p.channels + c, value);
    }
  }
  if (threadIdx.x < kQueries && t0 + threadIdx.x < p.length) {
    const int t = t0 + int(threadIdx.x);
    tensors.mask[sentence * p.length + t] = t <= last;
  }
}

/// Returns whether the sizes fit and give enough blocks.
template <typename T>
bool suits(const CopySourceParams& p, int64_t leastBlocks, size_t maxShared) {
  return p.channels % kChannels == 0 && Sizes<T>(p).bytes() <= maxShared &&
         p.batch * int64_t(ceilDiv(p.length, kQueries)) >= leastBlocks;
}

template <typename T>
cudaError_t run(const CopySourceParams& p, const CopySourceTensors& tensors, cudaStream_t stream) {
  const int groups = ceilDiv(p.length, kQueries);
  return launchEarly(kernel<T>, int64_t(p.batch) * groups, dim3(kThreads), Sizes<T>(p).bytes(),
                     stream, p, tensors, groups);
}

}  // namespace copy_source_mma
}  // namespace lite
