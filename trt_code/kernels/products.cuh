// Products on the matrix units of a warp (sm_80 and later), of whole tiles and also of FP32
// operands.
#pragma once

#include <type_traits>

#include "common.cuh"
#include "ptx/mma.cuh"
#include "ptx/tiles.cuh"

namespace lite {

/// Packs two neighbouring 16-bit elements for the matrix instructions.
template <typename T>
__device__ __forceinline__ uint32_t loadPair(const T* from) {
  return *reinterpret_cast<const uint32_t*>(from);
}

__device__ __forceinline__ uint32_t packPair(__half a, __half b) {
  return uint32_t(__half_as_ushort(a)) | uint32_t(__half_as_ushort(b)) << 16;
}

__device__ __forceinline__ uint32_t packPair(__nv_bfloat16 a, __nv_bfloat16 b) {
  return uint32_t(__bfloat16_as_ushort(a)) | uint32_t(__bfloat16_as_ushort(b)) << 16;
}

/// Exchanges words among four neighbouring lanes: word i of lane q becomes word q of lane i. Lanes
/// that hold pairs of the same row in four results of mma then hold four neighbouring pairs.
__device__ __forceinline__ void transposeQuad(uint32_t (&word)[4]) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool upper = threadIdx.x & step;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      const uint32_t got = __shfl_xor_sync(kFullWarp, upper ? word[i] : word[i + step], step);
      (upper ? word[i] : word[i + step]) = got;
    }
  }
}

/// Stores a lane's part of one row of results of mma16816, times `scale`, as 16-bit elements or
/// FP8. The results are kTiles tiles of 8 columns. `half` is 0 for the lane's upper row and 1 for
/// the lower. `to` is the start of the row, 16-byte aligned, or nullptr if there is none. Only the
/// first `width` columns, a multiple of 8, are stored. All lanes of a warp call this together.
template <int kTiles, typename Out>
__device__ __forceinline__ void storeRow(Out* to, const float (&sums)[kTiles][4], int half,
                                         float scale, int width) {
  const int quad = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile + 4 <= kTiles; tile += 4) {
    if (tile * 8 + 32 > width) break;
    uint32_t word[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float a = sums[tile + j][half * 2] * scale, b = sums[tile + j][half * 2 + 1] * scale;
      if constexpr (sizeof(Out) == 1) {
        word[j] = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
      } else {
        word[j] = packFloats<Out>(a, b);
      }
    }
    transposeQuad(word);
    if (to == nullptr) continue;
    Out* at = to + tile * 8 + quad * 8;
    if constexpr (sizeof(Out) == 1) {
      *reinterpret_cast<uint2*>(at) = {word[0] | word[1] << 16, word[2] | word[3] << 16};
    } else {
      *reinterpret_cast<uint4*>(at) = {word[0], word[1], word[2], word[3]};
    }
  }
  if (to == nullptr) return;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {  // what is left over from groups of four tiles
    const bool grouped = tile / 4 * 4 + 4 <= kTiles && tile / 4 * 32 + 32 <= width;
    if (grouped || tile * 8 >= width) continue;
    const float pair[2] = {sums[tile][half * 2] * scale, sums[tile][half * 2 + 1] * scale};
    storeVector(to + tile * 8 + quad * 2, pair);
  }
}

// ---- FP32 operands ------------------------------------------------------------------------------

/// The number of elements of T that a float is split into. Two __half keep 22 bits, but nothing
/// below 2^-25; three __nv_bfloat16 keep 24 bits.
template <typename T>
constexpr int kFloatParts = std::is_same_v<T, __half> ? 2 : 3;

/// Rounds two floats to neighbouring elements of T, and leaves the remainders in them.
template <typename T>
__device__ __forceinline__ uint32_t takePart(float& a, float& b) {
  const uint32_t word = packFloats<T>(a, b);
  const Vector<T, 2> pair = *reinterpret_cast<const Vector<T, 2>*>(&word);
  a -= toFloat(pair.item[0]);
  b -= toFloat(pair.item[1]);
  return word;
}

/// Returns the TF32 part of a float, or with kLow the TF32 part of the remainder.
template <bool kLow>
__device__ __forceinline__ uint32_t tf32Part(uint32_t word) {
  const float value = __uint_as_float(word);
  const uint32_t high = toTf32(value);
  return kLow ? toTf32(value - __uint_as_float(high)) : high;
}

template <bool kLowA, bool kLowB>
__device__ __forceinline__ void mmaParts(float (&c)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  mma1688(
      c,
      {tf32Part<kLowA>(a[0]), tf32Part<kLowA>(a[1]), tf32Part<kLowA>(a[2]), tf32Part<kLowA>(a[3])},
      {tf32Part<kLowB>(b[0]), tf32Part<kLowB>(b[1])});
}

/// Computes c += a * b. Each word is a float (m16n8k8) or two 16-bit elements (m16n8k16). Floats
/// are split into two TF32 parts. Only the product of the two low parts is omitted (about 2^-22
/// relative). With kTf32, floats are rounded to TF32 instead.
template <typename T, bool kTf32>
__device__ __forceinline__ void mmaWords(float (&c)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  if constexpr (sizeof(T) == 2) {
    mma16816<T>(c, a, b);
  } else {
    if constexpr (!kTf32) {
      mmaParts<true, false>(c, a, b);
      mmaParts<false, true>(c, a, b);
    }
    mmaParts<false, false>(c, a, b);
  }
}

// ---- tiles --------------------------------------------------------------------------------------

/// Multiplies rows of global memory with a tile of kColumns (8 or 16) columns: [outputs, depth] x
/// [depth, kColumns]. The rows are divided among the block's warps in tiles of 16, and the depth
/// among the warps that remain. The partial sums are stored in shared memory as parts
/// [splits][outTiles * 16][kColumns], and the caller adds them up. The order of the depth does not
/// change a sum. So every lane loads 8 neighbouring elements in one access, although the
/// instruction's own order has pairs.
template <typename T, int kColumns>
struct TileProduct {
  static constexpr int kVec = kWidest<T>;
  static constexpr int kStep = 4 * kVec;  // elements of the depth per step
  int outputs, outTiles, splits;

  __host__ __device__ TileProduct(int outputs, int warps)
      : outputs(outputs),
        outTiles((outputs + 15) / 16),
        splits(outTiles >= warps ? 1 : warps / outTiles) {}

  __host__ __device__ int partStride() const { return outTiles * 16 * kColumns; }
  __host__ __device__ size_t bytes() const { return size_t(splits) * partStride() * sizeof(float); }

  /// The stride between columns of the tile in shared memory, in elements: an odd number of 64-byte
  /// steps, so that the accesses of eight columns use all banks. Elements past the depth are not
  /// read.
  __host__ __device__ static int columnStride(int depth) {
    return ((depth + kStep - 1) / kStep | 1) * kStep;
  }

  template <bool kTf32>
  __device__ void run(const T* rows, int64_t rowStride, int depth, const T* columns,
                      float* parts) const {
    constexpr int kGroups = kColumns / 8;
    const int warps = blockDim.x / kWarpSize;
    const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
    const int group = lane / 4, quad = lane % 4;
    const int steps = (depth + kStep - 1) / kStep, stepsEach = (steps + splits - 1) / splits;
    const int stride = columnStride(depth);
    const T* column = columns + group * stride + quad * kVec;
    for (int job = warp; job < outTiles * splits; job += warps) {
      const int out0 = job % outTiles * 16 + group, split = job / outTiles;
      const T* row0 = rows + min(out0, outputs - 1) * rowStride + quad * kVec;
      const T* row1 = rows + min(out0 + 8, outputs - 1) * rowStride + quad * kVec;
      float c[kGroups][4] = {};
      const int last = min(steps, (split + 1) * stepsEach);
#pragma unroll 8
      for (int step = split * stepsEach; step < last; ++step) {
        const int k = step * kStep;
        const bool inside = k + quad * kVec < depth;
        uint4 w0{}, w1{};
        if (inside) {
          w0 = *reinterpret_cast<const uint4*>(row0 + k);
          w1 = *reinterpret_cast<const uint4*>(row1 + k);
        }
#pragma unroll
        for (int n = 0; n < kGroups; ++n) {
          uint4 b{};
          if (inside) b = *reinterpret_cast<const uint4*>(column + n * 8 * stride + k);
          mmaWords<T, kTf32>(c[n], {w0.x, w1.x, w0.y, w1.y}, {b.x, b.y});
          mmaWords<T, kTf32>(c[n], {w0.z, w1.z, w0.w, w1.w}, {b.z, b.w});
        }
      }
      float* to = parts + split * partStride() + out0 * kColumns + quad * 2;
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        *reinterpret_cast<float2*>(to + n * 8) = make_float2(c[n][0], c[n][1]);
        *reinterpret_cast<float2*>(to + n * 8 + 8 * kColumns) = make_float2(c[n][2], c[n][3]);
      }
    }
  }
};

/// Multiplies 16-bit rows of global memory, [outputs, depth], with kColumns columns in shared
/// memory, for a block of kWarps warps. The FP32 results are stored in shared memory as
/// [outputs][resultStride]. All threads of the block call this together, and synchronise before
/// they read results.
///
/// Two warps share the depth of a result. The order of its sum depends on the depth alone. So the
/// bits of a result do not depend on kColumns.
///
/// column(i, v) is the address of vector v, of 8 elements, of column i. Columns that are 8 apart
/// lie `groupStride` elements apart.
template <int kColumns, int kWarps, typename T, typename Column>
__device__ __forceinline__ void multiplyRows(const T* __restrict__ rows, int outputs, int depth,
                                             const Column& column, int groupStride, float* results,
                                             int resultStride) {
  constexpr int kGroups = kColumns / 8, kSplits = 2, kSlots = kWarps / kSplits;
  constexpr int kVec = 8, kStep = 4 * kVec;      // elements of the depth per access and per step
  constexpr int kAhead = kColumns < 64 ? 4 : 2;  // steps whose rows are loaded together
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int group = lane / 4, quad = lane % 4;
  const int outTiles = ceilDiv(outputs, 16);
  int parts = 1;  // of the columns, if there are too few outputs for all warps
  while (parts < kGroups && 2 * parts * outTiles <= kSlots) parts *= 2;
  const int groups = kGroups / parts, jobs = outTiles * parts;
  const int allSteps = ceilDiv(depth, kStep), steps = ceilDiv(allSteps, kSplits);
  const int split = warp / kSlots;
  for (int base = 0; base < jobs; base += kSlots) {
    const int job = base + warp % kSlots;
    const int out0 = job / parts * 16 + group, firstGroup = job % parts * groups;
    float sum[kGroups][4] = {};
    if (job < jobs) {
      // Every lane loads 8 neighbouring elements of both operands in one access, although the
      // instruction's own order has pairs.
      const T* row0 = rows + int64_t(min(out0, outputs - 1)) * depth;
      const T* row1 = rows + int64_t(min(out0 + 8, outputs - 1)) * depth;
      const int last = min(allSteps, (split + 1) * steps);
      for (int first = split * steps; first < last; first += kAhead) {
        uint4 weights[kAhead][2];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          const int k = (first + i) * kStep + quad * kVec;
          const bool inside = first + i < last && k < depth;
          weights[i][0] = inside ? *reinterpret_cast<const uint4*>(row0 + k) : uint4{};
          weights[i][1] = inside ? *reinterpret_cast<const uint4*>(row1 + k) : uint4{};
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (first + i >= last) break;
          const uint4 w0 = weights[i][0], w1 = weights[i][1];
          const int k = (first + i) * kStep + quad * kVec;
          const T* from = column(firstGroup * 8 + group, k / kVec);
#pragma unroll
          for (int n = 0; n < kGroups; ++n) {
            if (n >= groups) break;
            uint4 b{};
            if (k < depth) b = *reinterpret_cast<const uint4*>(from + n * groupStride);
            mma16816<T>(sum[n], {w0.x, w1.x, w0.y, w1.y}, {b.x, b.y});
            mma16816<T>(sum[n], {w0.z, w1.z, w0.w, w1.w}, {b.z, b.w});
          }
        }
      }
    }
    const auto put = [&](bool add) {
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        if (n >= groups) break;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int out = out0 + half * 8;
          if (out >= outputs) continue;
          auto* to = reinterpret_cast<float2*>(results + out * resultStride + (firstGroup + n) * 8 +
                                               quad * 2);
          float2 pair = make_float2(sum[n][half * 2], sum[n][half * 2 + 1]);
          if (add) pair = make_float2(pair.x + to->x, pair.y + to->y);
          *to = pair;
        }
      }
    };
    if (split != 0 && job < jobs) put(false);
    __syncthreads();
    if (split == 0 && job < jobs) put(true);
  }
}

}  // namespace lite
