// copy_source in 16-bit types. One block computes kQueries neighbouring positions of one sentence,
// with both products on the matrix units. Larger blocks read keys and embeddings less often; small
// batches need more of them.
//
//   1. It loads their queries into shared memory.
//   2. It computes the scores of all keys, in FP32.
//   3. It computes the softmax. A weight is stored as the sum of two or three elements of T, so it
//      has the precision of FP32. These take the place of the queries.
//   4. Each warp multiplies the weights with 32 channels of the embeddings. A lane loads 8
//      neighbouring channels at once, and also holds 8 neighbouring channels of the result: column
//      n of tile j stands for channel 8 * (n / 2) + 2 * j + n % 2. A sum that is NaN is computed
//      again, since a part of a weight that is zero times infinity gives NaN.
//
// Every sum has the same order in blocks of both sizes, and padding of the source adds zeros to its
// end. So the bits of a result depend on its sentence alone, not on the batch or the padding.
#pragma once

#include "copy_source.h"
#include "products.cuh"
#include "special_tokens.h"

namespace lite {

/// What one block computes: kQueries neighbouring positions of one sentence.
template <typename T, int kQueries>
struct CopyBlock {
  const CopySourceParams& p;
  const CopySourceTensors& tensors;
  int64_t sentence;
  int t0, last;       // the first position of the block, the last one of the sentence
  const T* keys;      // of the sentence
  const T* embedded;  // likewise
  const int32_t* real;

  __device__ CopyBlock(const CopySourceParams& p, const CopySourceTensors& tensors)
      : p(p), tensors(tensors) {
    const int groups = ceilDiv(p.length, kQueries);
    sentence = blockIdx.x / groups;
    t0 = int(blockIdx.x % groups) * kQueries;
    last = int(tensors.lengths[sentence]) - 1;
    keys = static_cast<const T*>(tensors.keys) + sentence * p.source * p.channels;
    embedded = static_cast<const T*>(tensors.embedded) + sentence * p.source * p.channels;
    real = tensors.sourceMask + sentence * p.source;
  }

  /// Whether any position of the block is a copy. Otherwise it holds only the end and padding.
  __device__ bool copies() const { return t0 < last; }
  __device__ bool isCopy(int t) const { return t > 0 && t < last; }

  /// The queries of the block's first position. Rows of further positions follow.
  __device__ const T* queries() const {
    return static_cast<const T*>(tensors.queries) + int64_t(t0 + kFirstPosition) * p.channels;
  }

  /// The embedding of a position that is not a copy.
  __device__ const T* special(int t) const {
    const int64_t token = t == 0 ? kBos : t == last ? kEos : kPad;
    return static_cast<const T*>(tensors.embedding) + token * p.channels;
  }

  __device__ const T* position(int t) const {
    const int64_t row = t <= last ? t + kFirstPosition : kPad;
    return static_cast<const T*>(tensors.positionRows) + row * p.channels;
  }

  __device__ T* result(int t) const {
    return static_cast<T*>(tensors.x) + (sentence * p.length + t) * p.channels;
  }

  __device__ void storeMask() const {
    const int t = t0 + int(threadIdx.x);
    if (threadIdx.x < kQueries && t < p.length) {
      tensors.mask[sentence * p.length + t] = t <= last;
    }
  }
};

namespace copy_source_mma {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kSlots = 16;     // threads that share the softmax of a query
constexpr int kUnit = 16;      // queries and depth of a matrix instruction
constexpr int kChannels = 32;  // of a warp's result
constexpr int kVec = 8;        // elements per access
constexpr float kHidden = -1e30f;
constexpr int64_t kManyBlocks = 128;  // nearly as many as there are multiprocessors

template <typename T, int kQueries>
struct Sizes {
  static constexpr int kScoreStride = kQueries + 8;  // lanes that store scores use all banks
  int queryStride;                                   // elements
  int weightStride;        // elements; an odd number of 16-byte vectors, to avoid bank conflicts
  size_t operand, scores;  // bytes of shared memory; the operand is the queries, then the weights

  __host__ __device__ Sizes(int channels, int source)
      : queryStride(TileProduct<T, 8>::columnStride(channels)),
        weightStride(roundUp(source, kUnit) + kVec),
        operand(sizeof(T) * kQueries * max(queryStride, kFloatParts<T> * weightStride)),
        scores(sizeof(float) * source * kScoreStride) {}

  __host__ __device__ size_t bytes() const {
    return operand + scores + kSlots * kQueries * sizeof(float);
  }
};

/// Combines one value of each slot and query over the slots. `partial` is [kSlots][kQueries].
template <int kQueries, typename Combine>
__device__ __forceinline__ float overSlots(float value, float* partial, const Combine& combine) {
  __syncthreads();  // all threads have read the previous call's values
  if (threadIdx.x < kSlots * kQueries) partial[threadIdx.x] = value;
  __syncthreads();
  const float* own = partial + threadIdx.x % kQueries;
  float result = own[0];
  for (int slot = 1; slot < kSlots; ++slot) result = combine(result, own[slot * kQueries]);
  return result;
}

template <typename T, int kQueries>
__global__ void __launch_bounds__(kThreads, 2)
    kernel(CopySourceParams p, CopySourceTensors tensors) {
  static_assert(kSlots * kQueries <= kThreads);
  using Size = Sizes<T, kQueries>;
  constexpr int kUnits = kQueries / kUnit, kParts = kFloatParts<T>, kStride = Size::kScoreStride;
  const Size sizes(p.channels, p.source);
  extern __shared__ __align__(16) unsigned char shared[];
  T* queries = reinterpret_cast<T*>(shared);  // [kQueries][queryStride]
  T* weights = queries;                       // [kParts][kQueries][weightStride]
  float* scores = reinterpret_cast<float*>(shared + sizes.operand);  // [source][kStride]
  float* partial = scores + p.source * kStride;                      // [kSlots][kQueries]
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int group = lane / 4, quad = lane % 4;
  admitNext();
  waitForPrevious();
  const CopyBlock<T, kQueries> block(p, tensors);

  if (block.copies()) {
    // 1. The queries.
    const int vectors = p.channels / kVec;
    const T* from = block.queries();
#pragma unroll 4
    for (int i = threadIdx.x; i < kQueries * vectors; i += kThreads) {
      const int q = i / vectors, c = i % vectors * kVec;
      uint4 words{};
      if (block.t0 + q < p.length) {
        words = *reinterpret_cast<const uint4*>(from + int64_t(q) * p.channels + c);
      }
      *reinterpret_cast<uint4*>(queries + q * sizes.queryStride + c) = words;
    }
    __syncthreads();

    // 2. The scores.
    multiplyRows<kQueries, kWarps>(
        block.keys, p.source, p.channels,
        [&](int q, int index) { return queries + q * sizes.queryStride + index * kVec; },
        8 * sizes.queryStride, scores, kStride);
    __syncthreads();

    // 3. The weights.
    const int query = threadIdx.x % kQueries, slot = threadIdx.x / kQueries;
    const int end = slot < kSlots ? p.source : 0;
    float largest = -INFINITY;
    for (int s = slot; s < end; s += kSlots) {
      float& score = scores[s * kStride + query];
      if (block.real[s] == 0) score = kHidden;
      largest = fmaxf(largest, score);
    }
    largest = overSlots<kQueries>(largest, partial, [](float a, float b) { return fmaxf(a, b); });
    float total = 0.0f;
    for (int s = slot; s < end; s += kSlots) {
      float& score = scores[s * kStride + query];
      score = exponential<T, false>(score - largest);
      total += score;
    }
    total = overSlots<kQueries>(total, partial, [](float a, float b) { return a + b; });
    const float scale = 1.0f / total;
    for (int s = slot; s < roundUp(end, kUnit); s += kSlots) {
      float weight = 0.0f;
      if (s < end) weight = scores[s * kStride + query] *= scale;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const T high = fromFloat<T>(weight);
        weights[(part * kQueries + query) * sizes.weightStride + s] = high;
        weight -= toFloat(high);
      }
    }
    __syncthreads();
  }

  // 4. The embeddings.
  for (int base = warp * kChannels; base < p.channels; base += kWarps * kChannels) {
    const int c = base + quad * kVec;
    const bool inside = c < p.channels;
    const T* column = block.embedded + (inside ? c : 0);
    float sum[kUnits][4][4] = {};
    if (block.copies()) {
#pragma unroll 1
      for (int s0 = 0; s0 < p.source; s0 += kUnit) {
        const auto load = [&](int s) {
          return inside && s < p.source
                     ? *reinterpret_cast<const uint4*>(column + int64_t(s) * p.channels)
                     : uint4{};
        };
        const uint4 upper = load(s0 + group), lower = load(s0 + 8 + group);
        const uint32_t u[4] = {upper.x, upper.y, upper.z, upper.w};
        const uint32_t l[4] = {lower.x, lower.y, lower.z, lower.w};
        uint32_t b[4][2];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          b[j][0] = transposeTile(u[j]);
          b[j][1] = transposeTile(l[j]);
        }
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
#pragma unroll
          for (int m = 0; m < kUnits; ++m) {
            const int row = part * kQueries + m * kUnit + lane % kUnit;
            uint32_t a[4];
            loadTiles(a, sharedAddress(weights + row * sizes.weightStride + s0 + lane / kUnit * 8));
#pragma unroll
            for (int j = 0; j < 4; ++j) mma16816<T>(sum[m][j], a, b[j]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kQueries / 8; ++i) {
      const int q = i * 8 + group, t = block.t0 + q;
      if (t >= p.length || !inside) continue;
      float value[kVec];
      if (block.isCopy(t)) {
        float all = 0.0f;  // NaN if a value is
#pragma unroll
        for (int e = 0; e < kVec; ++e) all += value[e] = sum[i / 2][e / 2][i % 2 * 2 + e % 2];
        if (isnan(all)) {
          float again[kVec] = {};
#pragma unroll 1
          for (int source = 0; source < p.source; ++source) {
            const Vector<T, kVec> row = loadVector<kVec>(column + int64_t(source) * p.channels);
#pragma unroll
            for (int e = 0; e < kVec; ++e) {
              again[e] += scores[source * kStride + q] * toFloat(row.item[e]);
            }
          }
#pragma unroll
          for (int e = 0; e < kVec; ++e) value[e] = isnan(value[e]) ? again[e] : value[e];
        }
      } else {
        const Vector<T, kVec> special = loadVector<kVec>(block.special(t) + c);
#pragma unroll
        for (int e = 0; e < kVec; ++e) value[e] = toFloat(special.item[e]);
      }
      const Vector<T, kVec> at = loadVector<kVec>(block.position(t) + c);
#pragma unroll
      for (int e = 0; e < kVec; ++e) value[e] += toFloat(at.item[e]);
      storeVector(block.result(t) + c, value);
    }
  }
  block.storeMask();
}

/// Returns whether the kernel supports this width on a GPU whose blocks have `maxShared` bytes of
/// shared memory. The batch, the source and the length do not matter.
template <typename T>
bool supports(int channels, size_t maxShared) {
  return channels % kVec == 0 && Sizes<T, kUnit>(channels, kMaxCopySource).bytes() <= maxShared;
}

template <typename T, int kQueries>
cudaError_t runBlocks(const CopySourceParams& p, const CopySourceTensors& tensors,
                      cudaStream_t stream) {
  return launchEarly(kernel<T, kQueries>, int64_t(p.batch) * ceilDiv(p.length, kQueries),
                     dim3(kThreads), Sizes<T, kQueries>(p.channels, p.source).bytes(), stream, p,
                     tensors);
}

/// Runs a width that is supported.
template <typename T>
cudaError_t run(const CopySourceParams& p, const CopySourceTensors& tensors, size_t maxShared,
                cudaStream_t stream) {
  const bool large = Sizes<T, 2 * kUnit>(p.channels, p.source).bytes() <= maxShared &&
                     p.batch * int64_t(ceilDiv(p.length, 2 * kUnit)) >= kManyBlocks;
  return large ? runBlocks<T, 2 * kUnit>(p, tensors, stream)
               : runBlocks<T, kUnit>(p, tensors, stream);
}

}  // namespace copy_source_mma
}  // namespace lite
