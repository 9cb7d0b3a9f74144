// DynamicConv in 16-bit types on the matrix units.
//
// The taps of 16 neighbouring positions form the columns of a banded matrix over the inputs that
// their windows reach. The matrix is the same for all channels of a head: y [channels, 16] = x
// [channels, s] * band [s, 16]. This multiplies some zeros, but still needs several times fewer
// instructions than separate products. Memory is then the limit. Products are exact in the FP32
// sums.
//
// A zero of the band may meet an input outside of the position's window. If that input is infinite,
// the product is NaN. So a sum that is NaN is computed again over its window alone.
//
// doc/kernels.md (What was tried) has the measurements.
#pragma once

#include "dynamic_conv.h"
#include "products.cuh"
#include "ptx/async_copy.cuh"

namespace lite {

/// Copies one vector of a row to shared memory, or writes zeros if it is not `inside` the row.
template <typename T, int kVec>
__device__ __forceinline__ void copyVector(T* to, const T* from, bool inside) {
  if constexpr (kVec == kWidest<T>) {
    copyAsync(sharedAddress(to), from, inside);
  } else {
    *to = inside ? *from : fromFloat<T>(0.0f);
  }
}

namespace conv_mma {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kUnit = 16;      // positions in the result of a warp, depth of a matrix instruction
constexpr int kChannels = 64;  // per block
constexpr size_t kMaxSharedBytes = 96 * 1024;

struct Tiling {
  int lead;     // columns before the first window, which keep vectors aligned
  int steps;    // matrix instructions along the inputs
  int columns;  // inputs of the tile; an odd number of 16-byte vectors, to avoid bank conflicts
  int channelBlocks;
  int positionBlocks;
  size_t shared;

  Tiling(const DynamicConvParams& p, int vec, int tile) {
    lead = (vec - p.paddingL % vec) % vec;
    steps = ceilDiv(lead + p.kernelSize - 1 + kUnit, kUnit);
    columns = tile + (steps - 1) * kUnit + 8;
    channelBlocks = ceilDiv(p.channels / p.heads, kChannels);
    positionBlocks = ceilDiv(p.length, tile);
    shared = 2 * size_t(kChannels * columns + p.kernelSize * tile);
  }
};

// A block has kUnits units of positions. kWarps / kUnits warps share each unit and divide its
// channels.
template <typename T, int kVec, int kUnits>
__global__ void __launch_bounds__(kThreads)
    kernel(DynamicConvParams p, Tiling tiling, const T* __restrict__ x,
           const T* __restrict__ weight, T* __restrict__ y) {
  constexpr int kTile = kUnits * kUnit;
  constexpr int kRowTiles = kChannels / kUnit * kUnits / kWarps;  // per warp
  extern __shared__ __align__(16) unsigned char shared[];
  T* inputs = reinterpret_cast<T*>(shared);       // [kChannels][columns]
  T* taps = inputs + kChannels * tiling.columns;  // [kernelSize][kTile]

  int64_t block = blockIdx.x;
  const int t0 = int(block % tiling.positionBlocks) * kTile;
  block /= tiling.positionBlocks;
  const int headChannels = p.channels / p.heads;
  const int c0 = int(block % tiling.channelBlocks) * kChannels;
  block /= tiling.channelBlocks;
  const int64_t firstRow = block * headChannels + c0;
  const int channels = min(kChannels, headChannels - c0);
  x += firstRow * p.length;
  y += firstRow * p.length;
  weight += block * p.kernelSize * p.length;

  constexpr int kTapVectors = kTile / kVec;
  for (int i = threadIdx.x; i < p.kernelSize * kTapVectors; i += kThreads) {
    const int t = t0 + i % kTapVectors * kVec;
    const bool inside = t < p.length;
    const int64_t at = int64_t(i / kTapVectors) * p.length + t;
    copyVector<T, kVec>(taps + i * kVec, weight + (inside ? at : 0), inside);
  }
  const int firstInput = t0 - p.paddingL - tiling.lead;
  const int inputVectors = tiling.columns / kVec;
  for (int i = threadIdx.x; i < roundUp(channels, kUnit) * inputVectors; i += kThreads) {
    const int c = i / inputVectors;
    const int t = firstInput + i % inputVectors * kVec;
    const bool inside = c < channels && t >= 0 && t < p.length;
    const int64_t at = int64_t(c) * p.length + t;
    copyVector<T, kVec>(inputs + i * kVec, x + (inside ? at : 0), inside);
  }
  commitCopies();
  waitForCopies<0>();
  __syncthreads();

  const int lane = threadIdx.x % kWarpSize;
  const int group = lane / 4;
  const int quad = lane % 4;
  const int warp = threadIdx.x / kWarpSize;
  const int unit = warp % kUnits * kUnit;  // first position within the tile
  const int firstChannel = warp / kUnits * kRowTiles * kUnit;
  // The band's columns are ordered so that each lane's results are 4 neighbouring positions.
  const int bandColumn = unit + group / 2 * 4 + group % 2;
  const T zero = fromFloat<T>(0.0f);

  float sum[kRowTiles][2][4] = {};
  for (int step = 0; step < tiling.steps; ++step) {
    const int column = unit + step * kUnit;
    uint32_t band[2][2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int position = bandColumn + 2 * n;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int k = column + half * 8 + quad * 2 - tiling.lead - position;
        const bool low = k >= 0 && k < p.kernelSize;
        const bool high = k + 1 >= 0 && k + 1 < p.kernelSize;
        const T* tap = taps + k * kTile + position;
        band[n][half] = packPair(low ? tap[0] : zero, high ? tap[kTile] : zero);
      }
    }
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const int row = firstChannel + m * kUnit;
      if (row >= channels) break;
      uint32_t a[4];
      loadTiles(a, sharedAddress(inputs + (row + lane % kUnit) * tiling.columns + column +
                                 lane / kUnit * 8));
      mma16816<T>(sum[m][0], a, band[0]);
      mma16816<T>(sum[m][1], a, band[1]);
    }
  }

  const int position = unit + quad * 4;
  const int t = t0 + position;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int c = firstChannel + m * kUnit + half * 8 + group;
      if (c >= channels || t >= p.length) continue;
      float result[4] = {sum[m][0][2 * half], sum[m][0][2 * half + 1], sum[m][1][2 * half],
                         sum[m][1][2 * half + 1]};
      if (isnan(result[0] + result[1] + result[2] + result[3])) {
#pragma unroll 1
        for (int i = 0; i < 4; ++i) {
          const T* input = inputs + c * tiling.columns + tiling.lead + position + i;
          float exact = 0.0f;
          for (int k = 0; k < p.kernelSize; ++k) {
            exact += toFloat(taps[k * kTile + position + i]) * toFloat(input[k]);
          }
          if (t + i < p.length) y[int64_t(c) * p.length + t + i] = fromFloat<T>(exact);
        }
      } else if (kVec > 1) {  // the length is a multiple of a vector, so all 4 are inside
        storeVector(y + int64_t(c) * p.length + t, result);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (t + i < p.length) y[int64_t(c) * p.length + t + i] = fromFloat<T>(result[i]);
        }
      }
    }
  }
}

template <typename T, int kVec, int kUnits>
cudaError_t run(const DynamicConvParams& p, const Tiling& tiling, const T* x, const T* weight, T* y,
                cudaStream_t stream) {
  const int64_t blocks = int64_t(p.batch) * p.heads * tiling.channelBlocks * tiling.positionBlocks;
  return launch(kernel<T, kVec, kUnits>, blocks, kThreads, tiling.shared, stream, p, tiling, x,
                weight, y);
}

template <typename T, int kVec>
cudaError_t run(const DynamicConvParams& p, const T* x, const T* weight, T* y,
                cudaStream_t stream) {
  const Tiling large(p, kVec, 8 * kUnit);
  if (p.length > 4 * kUnit && large.shared <= kMaxSharedBytes) {
    return run<T, kVec, 8>(p, large, x, weight, y, stream);
  }
  const Tiling medium(p, kVec, 4 * kUnit);
  if (p.length > 2 * kUnit && medium.shared <= kMaxSharedBytes) {
    return run<T, kVec, 4>(p, medium, x, weight, y, stream);
  }
  return run<T, kVec, 2>(p, Tiling(p, kVec, 2 * kUnit), x, weight, y, stream);
}

}  // namespace conv_mma
}  // namespace lite
