// 16-bit types: a block takes one head of one sentence: its keys and values go to shared memory
// once, and every warp walks over them for 16 queries with an online softmax (Dao et al. 2022), all
// products on the matrix units, sums in FP32. Sources are short, so nothing is pipelined; small
// grids take one warp a block to have more blocks.
//
// FP32: no matrix units, since TF32 would cost digits. A block takes 16 queries of one head; keys,
// then values, come through shared memory 64 at a time, and the scores of all source positions stay
// there between the two.
#include "attention.h"
#include "mma.cuh"

namespace lite {
namespace {

constexpr int kQueries = 16;  // of a warp
constexpr int kKeys = 16;     // of a step
constexpr int kMaxWarps = 4;  // of a block
constexpr int kPad = 8;       // elements after each row of shared memory, against bank conflicts
constexpr float kHidden = -1e30f;

template <typename T, int kWidth>
__global__ void __launch_bounds__(kMaxWarps* kWarpSize)
    attentionKernel(AttentionParams p, int tiles, const T* __restrict__ query,
                    const T* __restrict__ keys, const T* __restrict__ values,
                    const int32_t* __restrict__ mask, T* __restrict__ out) {
  constexpr int kRow = kWidth + kPad;
  constexpr int kVectors = kWidth / 8;  // 16-byte accesses a row
  const int rows = (p.source + kKeys - 1) / kKeys * kKeys;
  extern __shared__ __align__(16) unsigned char shared[];
  T* sharedKeys = reinterpret_cast<T*>(shared);
  T* sharedValues = sharedKeys + rows * kRow;
  float* bias = reinterpret_cast<float*>(sharedValues + rows * kRow);  // 0, hidden, or -inf outside

  admitNext();
  waitForPrevious();
  const int tile = blockIdx.x % tiles;
  const int head = blockIdx.x / tiles % p.heads;
  const int64_t sentence = blockIdx.x / tiles / p.heads;
  const int64_t offset = sentence * p.source * p.stride + head * kWidth;
  for (int i = threadIdx.x; i < rows * kVectors; i += blockDim.x) {
    const int row = i / kVectors, column = i % kVectors * 8;
    Vector<T, 8> key{}, value{};
    if (row < p.source) {
      key = loadVector<8>(keys + offset + row * p.stride + column);
      value = loadVector<8>(values + offset + row * p.stride + column);
    }
    *reinterpret_cast<Vector<T, 8>*>(sharedKeys + row * kRow + column) = key;
    *reinterpret_cast<Vector<T, 8>*>(sharedValues + row * kRow + column) = value;
  }
  for (int s = threadIdx.x; s < rows; s += blockDim.x) {
    const bool real = s < p.source && (mask == nullptr || mask[sentence * p.source + s] != 0);
    bias[s] = real ? 0.0f : s < p.source ? kHidden : -INFINITY;
  }

  const int lane = threadIdx.x % kWarpSize, group = lane / 4, quad = lane % 4;
  const int first = (tile * (blockDim.x / kWarpSize) + threadIdx.x / kWarpSize) * kQueries;
  const int row0 = first + group, row1 = row0 + 8;
  const int64_t base = (sentence * p.length) * p.channels + head * kWidth;
  uint32_t a[kWidth / 16][4];
#pragma unroll
  for (int d = 0; d < kWidth / 16; ++d) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = d * 16 + half * 8 + quad * 2;
      a[d][half * 2] =
          row0 < p.length ? loadPair(query + base + int64_t(row0) * p.channels + column) : 0;
      a[d][half * 2 + 1] =
          row1 < p.length ? loadPair(query + base + int64_t(row1) * p.channels + column) : 0;
    }
  }
  __syncthreads();
  if (first >= p.length) return;

  float sums[kWidth / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
  for (int s = 0; s < rows; s += kKeys) {
    float scores[2][4] = {};
#pragma unroll
    for (int d = 0; d < kWidth / 16; ++d) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const T* key = sharedKeys + (s + n * 8 + group) * kRow + d * 16 + quad * 2;
        const uint32_t b[2] = {loadPair(key), loadPair(key + 8)};
        mma16816<T>(scores[n], a[d], b);
      }
    }
    float peak[2] = {largest[0], largest[1]};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float hidden = bias[s + n * 8 + quad * 2 + i % 2];
        // replaced, not added: hidden positions are all alike, whatever their scores
        scores[n][i] = hidden == 0.0f ? scores[n][i] : hidden;
        peak[i / 2] = fmaxf(peak[i / 2], scores[n][i]);
      }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      peak[row] = fmaxf(peak[row], __shfl_xor_sync(kFullWarp, peak[row], 1));
      peak[row] = fmaxf(peak[row], __shfl_xor_sync(kFullWarp, peak[row], 2));
      const float shrink = __expf(largest[row] - peak[row]);
      largest[row] = peak[row];
      total[row] *= shrink;
#pragma unroll
      for (int d = 0; d < kWidth / 8; ++d) {
        sums[d][row * 2] *= shrink;
        sums[d][row * 2 + 1] *= shrink;
      }
    }
    uint32_t weights[4];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const float w0 = __expf(scores[n][row * 2] - largest[row]);
        const float w1 = __expf(scores[n][row * 2 + 1] - largest[row]);
        total[row] += w0 + w1;
        weights[n * 2 + row] = packPair(fromFloat<T>(w0), fromFloat<T>(w1));
      }
    }
#pragma unroll
    for (int d = 0; d < kWidth / 16; ++d) {
      uint32_t tiles4[4];
      loadTransposed(tiles4, sharedValues + (s + lane % 16) * kRow + d * 16 + lane / 16 * 8);
      const uint32_t low[2] = {tiles4[0], tiles4[1]}, high[2] = {tiles4[2], tiles4[3]};
      mma16816<T>(sums[d * 2], weights, low);
      mma16816<T>(sums[d * 2 + 1], weights, high);
    }
  }

#pragma unroll
  for (int row = 0; row < 2; ++row) {
    total[row] += __shfl_xor_sync(kFullWarp, total[row], 1);
    total[row] += __shfl_xor_sync(kFullWarp, total[row], 2);
    const int t = row == 0 ? row0 : row1;
    if (t >= p.length) continue;
    const float scale = 1.0f / total[row];
    T* to = out + base + int64_t(t) * p.channels + quad * 2;
#pragma unroll
    for (int d = 0; d < kWidth / 8; ++d) {
      const float pair[2] = {sums[d][row * 2] * scale, sums[d][row * 2 + 1] * scale};
      storeVector(to + d * 8, pair);
    }
  }
}

constexpr int kFloatQueries = 4;  // of a warp
constexpr int kFloatTile = kMaxWarps * kFloatQueries;
constexpr int kFloatKeys = 64;                  // in shared memory at once
constexpr int kLaneChannels = 128 / kWarpSize;  // at most

__global__ void __launch_bounds__(kMaxWarps* kWarpSize)
    floatAttentionKernel(AttentionParams p, int tiles, const float* __restrict__ query,
                         const float* __restrict__ keys, const float* __restrict__ values,
                         const int32_t* __restrict__ mask, float* __restrict__ out) {
  admitNext();
  waitForPrevious();
  extern __shared__ __align__(16) float sharedFloats[];
  const int width = p.channels / p.heads, row = roundUp(width, 4) + 4;
  const int sources = roundUp(p.source, 4);
  float* queries = sharedFloats;             // [kFloatTile][row]
  float* rows = queries + kFloatTile * row;  // [kFloatKeys][row]
  float* weights = rows + kFloatKeys * row;  // [kFloatTile][sources]
  const int tile = blockIdx.x % tiles;
  const int head = blockIdx.x / tiles % p.heads;
  const int64_t sentence = blockIdx.x / tiles / p.heads;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int t0 = tile * kFloatTile;
  const int64_t base = sentence * p.length * p.channels + head * width;
  const int64_t offset = sentence * p.source * p.stride + head * width;

  // What is past the width is zero, so that sums may go over it.
  for (int i = threadIdx.x; i < kFloatTile * row; i += blockDim.x) {
    const int t = t0 + i / row, c = i % row;
    const bool inside = t < p.length && c < width;
    queries[i] = inside ? query[base + int64_t(t) * p.channels + c] : 0.0f;
  }
  const auto load = [&](const float* from, int first) {
    __syncthreads();  // the last rows' readers are done
    for (int i = threadIdx.x; i < kFloatKeys * row; i += blockDim.x) {
      const int s = first + i / row, c = i % row;
      rows[i] = s < p.source && c < width ? from[offset + s * p.stride + c] : 0.0f;
    }
    __syncthreads();
  };

  const float* mine = queries + warp * kFloatQueries * row;
  float* myWeights = weights + warp * kFloatQueries * sources;
  for (int first = 0; first < p.source; first += kFloatKeys) {
    load(keys, first);
    for (int s = lane; s < min(kFloatKeys, sources - first); s += kWarpSize) {
      float score[kFloatQueries] = {};
      for (int c = 0; c < width; c += 4) {
        const Vector<float, 4> key = loadVector<4>(rows + s * row + c);
#pragma unroll
        for (int q = 0; q < kFloatQueries; ++q) {
          const Vector<float, 4> mineAt = loadVector<4>(mine + q * row + c);
#pragma unroll
          for (int i = 0; i < 4; ++i) score[q] += mineAt.item[i] * key.item[i];
        }
      }
      const int at = first + s;
      const bool inside = at < p.source;
      const bool real = inside && (mask == nullptr || mask[sentence * p.source + at] != 0);
#pragma unroll
      for (int q = 0; q < kFloatQueries; ++q) {
        myWeights[q * sources + at] = real ? score[q] : inside ? kHidden : -INFINITY;
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int q = 0; q < kFloatQueries; ++q) {
    float* weight = myWeights + q * sources;
    float largest = -INFINITY;
    for (int s = lane; s < sources; s += kWarpSize) largest = fmaxf(largest, weight[s]);
    for (int step = kWarpSize / 2; step > 0; step /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, step));
    }
    float total = 0.0f;
    for (int s = lane; s < sources; s += kWarpSize) {
      weight[s] = expf(weight[s] - largest);
      total += weight[s];
    }
    const float scale = 1.0f / warpSum(total);
    for (int s = lane; s < sources; s += kWarpSize) weight[s] *= scale;
  }

  float sums[kFloatQueries][kLaneChannels] = {};
  for (int first = 0; first < p.source; first += kFloatKeys) {
    load(values, first);
    const int count = min(kFloatKeys, sources - first);
    for (int s = 0; s < count; s += 4) {
      Vector<float, 4> weight[kFloatQueries];
#pragma unroll
      for (int q = 0; q < kFloatQueries; ++q) {
        weight[q] = loadVector<4>(myWeights + q * sources + first + s);
      }
#pragma unroll
      for (int j = 0; j < kLaneChannels; ++j) {
        const int c = lane + j * kWarpSize;
        if (c >= width) break;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float value = rows[(s + i) * row + c];
#pragma unroll
          for (int q = 0; q < kFloatQueries; ++q) sums[q][j] += weight[q].item[i] * value;
        }
      }
    }
  }
#pragma unroll
  for (int q = 0; q < kFloatQueries; ++q) {
    const int t = t0 + warp * kFloatQueries + q;
    if (t >= p.length) continue;
#pragma unroll
    for (int j = 0; j < kLaneChannels; ++j) {
      const int c = lane + j * kWarpSize;
      if (c < width) out[base + int64_t(t) * p.channels + c] = sums[q][j];
    }
  }
}

cudaError_t runFloat(const AttentionParams& p, const float* query, const float* keys,
                     const float* values, const int32_t* mask, float* out, cudaStream_t stream) {
  const int width = p.channels / p.heads, tiles = ceilDiv(p.length, kFloatTile);
  const int row = roundUp(width, 4) + 4;
  const size_t sharedBytes =
      (kFloatTile * (row + roundUp(p.source, 4)) + kFloatKeys * row) * sizeof(float);
  return launchEarly(floatAttentionKernel, int64_t(p.batch) * p.heads * tiles,
                     dim3(kMaxWarps * kWarpSize), sharedBytes, stream, p, tiles, query, keys,
                     values, mask, out);
}

template <typename T, int kWidth>
cudaError_t run(const AttentionParams& p, const void* query, const void* keys, const void* values,
                const int32_t* mask, void* out, cudaStream_t stream) {
  constexpr int64_t kEnoughBlocks = 128;
  const int64_t heads = int64_t(p.batch) * p.heads;
  int warps = std::min(kMaxWarps, ceilDiv(p.length, kQueries));
  while (warps > 1 && heads * ceilDiv(p.length, warps * kQueries) < kEnoughBlocks) warps /= 2;
  const int tiles = ceilDiv(p.length, warps * kQueries);
  const int rows = roundUp(p.source, kKeys);
  const size_t sharedBytes = rows * (2 * (kWidth + kPad) * sizeof(T) + sizeof(float));
  return launchEarly(attentionKernel<T, kWidth>, heads * tiles, dim3(warps * kWarpSize),
                     sharedBytes, stream, p, tiles, static_cast<const T*>(query),
                     static_cast<const T*>(keys), static_cast<const T*>(values), mask,
                     static_cast<T*>(out));
}

template <typename T>
cudaError_t runOfWidth(const AttentionParams& p, const void* query, const void* keys,
                       const void* values, const int32_t* mask, void* out, cudaStream_t stream) {
  switch (p.channels / p.heads) {
#define LITE_WIDTH(width) \
  case width:             \
    return run<T, width>(p, query, keys, values, mask, out, stream);
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

}  // namespace

cudaError_t attention(const AttentionParams& p, const void* query, const void* keys,
                      const void* values, const int32_t* mask, void* out, cudaStream_t stream) {
  if (check(p) != nullptr || !aligned(16, {query, keys, values, out})) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  if (p.dtype == DataType::kFloat) {
    return runFloat(p, static_cast<const float*>(query), static_cast<const float*>(keys),
                    static_cast<const float*>(values), mask, static_cast<float*>(out), stream);
  }
  return p.dtype == DataType::kHalf
             ? runOfWidth<__half>(p, query, keys, values, mask, out, stream)
             : runOfWidth<__nv_bfloat16>(p, query, keys, values, mask, out, stream);
}

}  // namespace lite
