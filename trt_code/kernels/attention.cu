// One block computes one head of one sentence for a few tiles of 16 queries, one tile per warp. The
// block loads keys and values into shared memory, at most kChunk positions at a time. Every warp
// loops over them with an online softmax (Dao et al. 2022). All products run on the matrix units
// and accumulate in FP32. Sources are short, so the loads are not pipelined, but all
// of a chunk's are in flight at once. Small grids use one warp per block, which gives more blocks.
// Long sources are taken in larger steps: each step has the cost of moving the sums to a new
// maximum. Padding does not change a result: it comes after the keys, whose division into steps it
// leaves as it is.
//
// FP32 operands are split into two TF32 parts. With `tf32` they are rounded to one (products.cuh).
//
// doc/kernels.md (What was tried) has the measurements.
#include "attention.h"
#include "products.cuh"
#include "ptx/async_copy.cuh"

namespace lite {
namespace {

constexpr int kQueries = 16;                    // per warp
constexpr int kShortStep = 16, kLongStep = 32;  // keys per step
constexpr int kMaxWarps = 4;                    // per block
constexpr float kHidden = -1e30f;

/// Products of one warp for 16-bit rows. kKeyRow and kValueRow are the row strides in shared
/// memory, in elements. They spread accesses over all banks.
template <typename T, int kWidth, bool kTf32>
struct Products {
  static constexpr int kChunk = 128;
  static constexpr int kKeyRow = kWidth + 8, kValueRow = kWidth + 8;
  uint32_t query[kWidth / 16][4];

  /// Loads the queries of a lane's two rows. A row pointer is nullptr if the row does not exist.
  __device__ void load(const T* row0, const T* row1, int /*width*/, bool /*vectorised*/) {
    const int quad = threadIdx.x % 4;
#pragma unroll
    for (int d = 0; d < kWidth / 16; ++d) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int column = d * 16 + half * 8 + quad * 2;
        query[d][half * 2] = row0 == nullptr ? 0 : loadPair(row0 + column);
        query[d][half * 2 + 1] = row1 == nullptr ? 0 : loadPair(row1 + column);
      }
    }
  }

  /// Computes scores [16 queries, 2 x 8 keys], in the register layout of mma16816.
  __device__ void score(float (*scores)[4], const T* keys) const {
    const int lane = threadIdx.x % kWarpSize;
    const uint32_t row =
        sharedAddress(keys + (lane / 16 * 8 + lane % 8) * kKeyRow + lane / 8 % 2 * 8);
#pragma unroll
    for (int d = 0; d < kWidth / 16; ++d) {
      uint32_t b[4];  // two halves of the channels of eight keys, then of the next eight
      loadTiles(b, row + d * 16 * sizeof(T));
      mma16816<T>(scores[0], query[d], {b[0], b[1]});
      mma16816<T>(scores[1], query[d], {b[2], b[3]});
    }
  }

  /// Adds weights * values to sums [16 queries, kWidth]. The weights have the layout of the scores.
  __device__ static void add(float (&sums)[kWidth / 8][4], const float (*weights)[4],
                             const T* values) {
    const int lane = threadIdx.x % kWarpSize;
    uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* pair = &weights[i / 2][i % 2 * 2];
      a[i] = packFloats<T>(pair[0], pair[1]);
    }
#pragma unroll
    for (int d = 0; d < kWidth / 16; ++d) {
      uint32_t b[4];
      loadTransposed(b, sharedAddress(values + lane % 16 * kValueRow + d * 16 + lane / 16 * 8));
      mma16816<T>(sums[d * 2], a, {b[0], b[1]});
      mma16816<T>(sums[d * 2 + 1], a, {b[2], b[3]});
    }
  }
};

/// Loads four floats of a row of `width` elements; elements past its end are zero.
__device__ __forceinline__ uint4 loadFour(const float* row, int column, int width,
                                          bool vectorised) {
  uint4 words{};
  if (vectorised) {
    if (column < width) words = *reinterpret_cast<const uint4*>(row + column);
    return words;
  }
  const auto at = [&](int i) { return column + i < width ? __float_as_uint(row[column + i]) : 0u; };
  return {at(0), at(1), at(2), at(3)};
}

/// Products of one warp for FP32 rows. The order of the channels and of the keys does not change a
/// sum. So every lane passes four neighbouring channels to the matrix units, and passes the weights
/// from the registers that already hold them.
template <int kWidth, bool kTf32>
struct Products<float, kWidth, kTf32> {
  static constexpr int kChunk = 64;
  static constexpr int kKeyRow = (kWidth / 16 | 1) * 16, kValueRow = kWidth + 4;
  uint4 query[kWidth / 16][2];

  __device__ void load(const float* row0, const float* row1, int width, bool vectorised) {
    const int quad = threadIdx.x % 4;
#pragma unroll
    for (int d = 0; d < kWidth / 16; ++d) {
      const int column = d * 16 + quad * 4;
      query[d][0] = row0 == nullptr ? uint4{} : loadFour(row0, column, width, vectorised);
      query[d][1] = row1 == nullptr ? uint4{} : loadFour(row1, column, width, vectorised);
    }
  }

  __device__ void score(float (*scores)[4], const float* keys) const {
    const int lane = threadIdx.x % kWarpSize, group = lane / 4, quad = lane % 4;
#pragma unroll
    for (int d = 0; d < kWidth / 16; ++d) {
      const uint4 upper = query[d][0], lower = query[d][1];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const uint4 key =
            *reinterpret_cast<const uint4*>(keys + (n * 8 + group) * kKeyRow + d * 16 + quad * 4);
        mmaWords<float, kTf32>(scores[n], {upper.x, lower.x, upper.y, lower.y}, {key.x, key.y});
        mmaWords<float, kTf32>(scores[n], {upper.z, lower.z, upper.w, lower.w}, {key.z, key.w});
      }
    }
  }

  __device__ static void add(float (&sums)[kWidth / 8][4], const float (*weights)[4],
                             const float* values) {
    const int lane = threadIdx.x % kWarpSize, group = lane / 4, quad = lane % 4;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float (&w)[4] = weights[n];
      const uint32_t a[4] = {__float_as_uint(w[0]), __float_as_uint(w[2]), __float_as_uint(w[1]),
                             __float_as_uint(w[3])};
      const float* value = values + (n * 8 + quad * 2) * kValueRow + group;
#pragma unroll
      for (int d = 0; d < kWidth / 8; ++d) {
        mmaWords<float, kTf32>(
            sums[d], a, {__float_as_uint(value[d * 8]), __float_as_uint(value[d * 8 + kValueRow])});
      }
    }
  }
};

/// Bytes of shared memory for `rows` keys, their values and the terms added to their scores.
template <typename T, int kWidth>
constexpr size_t sharedBytes(int rows) {
  using Warp = Products<T, kWidth, false>;
  return rows * ((Warp::kKeyRow + Warp::kValueRow) * sizeof(T) + sizeof(float));
}

/// kWidth is the head's width, rounded up for FP32. `vectorised` means that FP32 rows can be read
/// in 16-byte accesses. 16-bit rows always can. kKeys is the number of keys per step.
template <typename T, int kWidth, bool kTf32, int kKeys, typename Out>
__global__ void __launch_bounds__(kMaxWarps* kWarpSize)
    attentionKernel(AttentionParams p, int tiles, bool vectorised, const T* __restrict__ query,
                    const T* __restrict__ keys, const T* __restrict__ values,
                    const int32_t* __restrict__ mask, Out* __restrict__ out, float fp8Factor) {
  using Warp = Products<T, kWidth, kTf32>;
  constexpr int kVec = kWidest<T>, kVectors = kWidth / kVec;
  constexpr int kTiles = kKeys / 8;
  const int rows = min(roundUp(p.source, kKeys), Warp::kChunk);
  extern __shared__ __align__(16) unsigned char shared[];
  T* sharedKeys = reinterpret_cast<T*>(shared);
  T* sharedValues = sharedKeys + rows * Warp::kKeyRow;
  // 0, hidden, or -inf outside
  float* bias = reinterpret_cast<float*>(sharedValues + rows * Warp::kValueRow);

  admitNext();
  waitForPrevious();
  const int width = p.channels / p.heads;
  const int tile = blockIdx.x % tiles;
  const int head = blockIdx.x / tiles % p.heads;
  const int64_t sentence = blockIdx.x / tiles / p.heads;
  const int64_t offset = sentence * p.source * p.stride + head * width;
  const auto fetch = [&](int from) {
    for (int i = threadIdx.x; i < rows * kVectors; i += blockDim.x) {
      const int row = i / kVectors, column = i % kVectors * kVec;
      const bool inside = from + row < p.source;
      const int64_t at = offset + (inside ? from + row : 0) * p.stride;
      T* key = sharedKeys + row * Warp::kKeyRow + column;
      T* value = sharedValues + row * Warp::kValueRow + column;
      if constexpr (sizeof(T) == 2) {
        copyAsync(sharedAddress(key), keys + at + column, inside);
        copyAsync(sharedAddress(value), values + at + column, inside);
      } else {
        const auto load = [&](const T* row) {
          return inside ? loadFour(row, column, width, vectorised) : uint4{};
        };
        const uint4 keyWords = load(keys + at), valueWords = load(values + at);
        *reinterpret_cast<uint4*>(key) = keyWords;
        *reinterpret_cast<uint4*>(value) = valueWords;
      }
    }
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
      const int s = from + row;
      const bool real = s < p.source && (mask == nullptr || mask[sentence * p.source + s] != 0);
      bias[row] = real ? 0.0f : s < p.source ? kHidden : -INFINITY;
    }
  };
  fetch(0);

  const int lane = threadIdx.x % kWarpSize, group = lane / 4, quad = lane % 4;
  const int first = (tile * (blockDim.x / kWarpSize) + threadIdx.x / kWarpSize) * kQueries;
  const int64_t base = sentence * p.length * p.channels + head * width;
  const auto rowAt = [&](auto* tensor, int half) {
    const int t = first + half * 8 + group;
    return t < p.length ? tensor + base + int64_t(t) * p.channels : nullptr;
  };
  Warp warp;
  warp.load(rowAt(query, 0), rowAt(query, 1), width, vectorised);

  float sums[kWidth / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
  for (int chunk = 0; chunk < p.source; chunk += rows) {
    if (chunk > 0) {
      __syncthreads();  // all warps have finished with the previous chunk
      fetch(chunk);
    }
    waitForAllCopies();
    __syncthreads();
    for (int s = 0; first < p.length && s < min(rows, p.source - chunk); s += kKeys) {
      float scores[kTiles][4] = {};
#pragma unroll
      for (int n = 0; n < kTiles; n += 2) {
        warp.score(scores + n, sharedKeys + (s + n * 8) * Warp::kKeyRow);
      }
      float peak[2] = {largest[0], largest[1]};
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float hidden = bias[s + n * 8 + quad * 2 + i % 2];
          // replaced, not added: all hidden positions get the same score
          scores[n][i] = hidden == 0.0f ? scores[n][i] : hidden;
          peak[i / 2] = fmaxf(peak[i / 2], scores[n][i]);
        }
      }
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        peak[row] = fmaxf(peak[row], __shfl_xor_sync(kFullWarp, peak[row], 1));
        peak[row] = fmaxf(peak[row], __shfl_xor_sync(kFullWarp, peak[row], 2));
        const float shrink = exponential<T, kTf32>(largest[row] - peak[row]);
        largest[row] = peak[row];
        total[row] *= shrink;
#pragma unroll
        for (int d = 0; d < kWidth / 8; ++d) {
          sums[d][row * 2] *= shrink;
          sums[d][row * 2 + 1] *= shrink;
        }
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& weight = scores[n][row * 2 + e];
            weight = exponential<T, kTf32>(weight - largest[row]);
            total[row] += weight;
          }
        }
      }
#pragma unroll
      for (int n = 0; n < kTiles; n += 2) {
        Warp::add(sums, scores + n, sharedValues + (s + n * 8) * Warp::kValueRow);
      }
    }
  }

#pragma unroll
  for (int row = 0; row < 2; ++row) {
    total[row] += __shfl_xor_sync(kFullWarp, total[row], 1);
    total[row] += __shfl_xor_sync(kFullWarp, total[row], 2);
    Out* to = rowAt(out, row);
    const float scale = 1.0f / total[row];
    if constexpr (sizeof(T) == 2) {
      storeRow(to, sums, row, sizeof(Out) == 1 ? scale * fp8Factor : scale, kWidth);
    } else {
      if (to == nullptr) continue;
#pragma unroll
      for (int d = 0; d < kWidth / 8; ++d) {
        const int column = d * 8 + quad * 2;
        const float pair[2] = {sums[d][row * 2] * scale, sums[d][row * 2 + 1] * scale};
        if (vectorised && column < width) {
          storeVector(to + column, pair);
        } else {
          if (column < width) to[column] = pair[0];
          if (column + 1 < width) to[column + 1] = pair[1];
        }
      }
    }
  }
}

template <typename T, int kWidth, bool kTf32, int kKeys, typename Out>
cudaError_t runSteps(const AttentionParams& p, const void* query, const void* keys,
                     const void* values, const int32_t* mask, void* out, float fp8Factor,
                     cudaStream_t stream) {
  constexpr int64_t kEnoughBlocks = 128;
  const int64_t heads = int64_t(p.batch) * p.heads;
  int warps = std::min(kMaxWarps, ceilDiv(p.length, kQueries));
  while (warps > 1 && heads * ceilDiv(p.length, warps * kQueries) < kEnoughBlocks) warps /= 2;
  const int tiles = ceilDiv(p.length, warps * kQueries);
  const int rows = std::min(roundUp(p.source, kKeys), Products<T, kWidth, kTf32>::kChunk);
  const int width = p.channels / p.heads;
  const bool vectorised = width % kWidest<T> == 0 && p.stride % kWidest<T> == 0 &&
                          aligned(16, {query, keys, values, out});
  return launchEarly(attentionKernel<T, kWidth, kTf32, kKeys, Out>, heads * tiles,
                     dim3(warps * kWarpSize), sharedBytes<T, kWidth>(rows), stream, p, tiles,
                     vectorised, static_cast<const T*>(query), static_cast<const T*>(keys),
                     static_cast<const T*>(values), mask, static_cast<Out*>(out), fp8Factor);
}

template <typename T, int kWidth, typename Out>
cudaError_t run(const AttentionParams& p, const void* query, const void* keys, const void* values,
                const int32_t* mask, void* out, float fp8Factor, cudaStream_t stream) {
  const auto run = p.source > kShortStep ? runSteps<T, kWidth, false, kLongStep, Out>
                                         : runSteps<T, kWidth, false, kShortStep, Out>;
  return run(p, query, keys, values, mask, out, fp8Factor, stream);
}

template <typename T, typename Out>
cudaError_t runOfWidth(const AttentionParams& p, const void* query, const void* keys,
                       const void* values, const int32_t* mask, void* out, float fp8Factor,
                       cudaStream_t stream) {
  switch (p.channels / p.heads) {
#define LITE_WIDTH(width) \
  case width:             \
    return run<T, width, Out>(p, query, keys, values, mask, out, fp8Factor, stream);
    LITE_WIDTH(16)
    LITE_WIDTH(32)
    LITE_WIDTH(48)
    LITE_WIDTH(64)
    LITE_WIDTH(80)
    LITE_WIDTH(96)
    LITE_WIDTH(112)
    LITE_WIDTH(128)
#undef LITE_WIDTH
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename T>
cudaError_t runOut(const AttentionParams& p, const void* query, const void* keys,
                   const void* values, const int32_t* mask, void* out, float fp8Factor,
                   cudaStream_t stream) {
  const auto run = fp8Factor == 0.0f ? runOfWidth<T, T> : runOfWidth<T, Fp8>;
  return run(p, query, keys, values, mask, out, fp8Factor, stream);
}

template <bool kTf32>
cudaError_t runFloat(const AttentionParams& p, const void* query, const void* keys,
                     const void* values, const int32_t* mask, void* out, cudaStream_t stream) {
  const int width = p.channels / p.heads;
  const auto run = width <= 32   ? runSteps<float, 32, kTf32, kShortStep, float>
                   : width <= 64 ? runSteps<float, 64, kTf32, kShortStep, float>
                                 : runSteps<float, 128, kTf32, kShortStep, float>;
  return run(p, query, keys, values, mask, out, 0.0f, stream);
}

}  // namespace

cudaError_t attention(const AttentionParams& p, const void* query, const void* keys,
                      const void* values, const int32_t* mask, void* out, cudaStream_t stream,
                      float fp8Factor) {
  const bool isFloat = p.dtype == DataType::kFloat;
  const bool placed = isFloat ? fp8Factor == 0.0f : aligned(16, {query, keys, values, out});
  if (check(p) != nullptr || !placed) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  switch (p.dtype) {
    case DataType::kFloat:
      return p.tf32 ? runFloat<true>(p, query, keys, values, mask, out, stream)
                    : runFloat<false>(p, query, keys, values, mask, out, stream);
    case DataType::kHalf:
      return runOut<__half>(p, query, keys, values, mask, out, fp8Factor, stream);
    default:
      return runOut<__nv_bfloat16>(p, query, keys, values, mask, out, fp8Factor, stream);
  }
}

}  // namespace lite
