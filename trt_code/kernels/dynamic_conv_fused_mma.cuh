// The fused, channels-last DynamicConv in 16-bit types on the matrix units.
//
// As in dynamic_conv_mma.cuh, the taps of 16 neighbouring positions form a banded matrix over the
// inputs of their windows. Here y [16, channels] = band [16, s] * x [s, channels]. A block computes
// a tile of positions for up to kChannels channels of one head:
//
//   1. It loads logits and inputs together, and applies the mask to the inputs on their way into
//      shared memory.
//   2. Four threads per position turn its logits into taps and write them as a row of the band. The
//      logits of kernels up to kShortKernel stay in registers in between; longer ones are read
//      again.
//   3. Each warp multiplies 16 positions with a share of the channels and writes the result to
//      shared memory. From there it is stored in whole vectors.
//
// Taps are rounded to T, as they are when the softmax is a separate operator. A sum that is NaN is
// computed again over its window alone: see dynamic_conv_mma.cuh.
#pragma once

#include <type_traits>

#include "dynamic_conv.h"
#include "products.cuh"

namespace lite {
namespace conv_fused_mma {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kUnit = 16;      // positions in the result of a warp, depth of a matrix instruction
constexpr int kChannels = 64;  // per block
constexpr int kPad = 8;        // padding that makes a row an odd number of 16-byte vectors
constexpr int kStride = kChannels + kPad;  // of inputs and results
constexpr int kInputsAhead = 4;            // input vectors per thread that are loaded together
constexpr int kSoftmaxLanes = 4;           // threads that share one softmax
constexpr int kShortKernel = 16;
constexpr int kShortLogits = kShortKernel / kSoftmaxLanes;  // per lane

/// Blocks that should share a processor, limited by registers. bfloat16's conversions use more.
template <typename T>
constexpr int kResidentBlocks = std::is_same_v<T, __half> ? 6 : 4;

struct Tiling {
  int steps;       // matrix instructions along the inputs
  int bandStride;  // elements per row of the band
  int lanes;       // vectors of channels per block
  int slices;      // blocks over the channels of a head
  int tiles;       // blocks over the positions
  int64_t blocks;
  size_t shared;

  Tiling(const DynamicConvFusedParams& p, int vec, int tile) {
    steps = ceilDiv(p.kernelSize - 1 + kUnit, kUnit);
    bandStride = steps * kUnit + kPad;
    const int headChannels = p.channels / p.heads;
    lanes = std::min(headChannels, kChannels) / vec;
    slices = ceilDiv(headChannels, kChannels);
    tiles = ceilDiv(p.length, tile);
    blocks = int64_t(p.batch) * p.heads * slices * tiles;
    const int inputs = tile + (steps - 1) * kUnit;
    shared = 2 * (size_t(tile) * bandStride + size_t(inputs + tile) * kStride);
  }
};

// A block has kUnits units of positions. kWarps / kUnits warps share each unit and divide its
// channels.
template <typename T, int kVec, int kUnits>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T>)
    kernel(DynamicConvFusedParams p, Tiling tiling, const T* __restrict__ x,
           const T* __restrict__ logits, const int32_t* __restrict__ mask, T* __restrict__ y) {
  constexpr int kTile = kUnits * kUnit;
  extern __shared__ __align__(16) unsigned char shared[];
  T* band = reinterpret_cast<T*>(shared);         // [kTile][bandStride]
  T* results = band + kTile * tiling.bandStride;  // [kTile][kStride]
  T* inputs = results + kTile * kStride;          // [kTile + (steps - 1) * kUnit][kStride]

  int64_t block = blockIdx.x;
  const int t0 = int(block % tiling.tiles) * kTile;
  block /= tiling.tiles;
  const int headChannels = p.channels / p.heads;
  const int slice = int(block % tiling.slices) * kChannels;
  block /= tiling.slices;
  const int head = int(block % p.heads);
  const int64_t firstRow = block / p.heads * p.length;  // of this sentence
  const int positions = min(kTile, p.length - t0);
  const int channels = min(kChannels, headChannels - slice);
  const int c0 = head * headChannels + slice;

  //   1. Logits that stay in registers, and inputs. Rows past the last window are set to zero: the
  //      band is zero there, but uninitialised memory may hold NaN or infinity.
  constexpr int kRounds = (kTile * kSoftmaxLanes + kThreads - 1) / kThreads;
  constexpr int kPositionsPerRound = kThreads / kSoftmaxLanes;
  const int part = threadIdx.x % kSoftmaxLanes;
  const bool isShort = p.kernelSize <= kShortKernel;
  logits += ((firstRow + t0) * p.heads + head) * p.kernelSize;
  const auto logit = [&](int position, int k) {
    return toFloat(logits[int64_t(position) * p.heads * p.kernelSize + k]);
  };
  float held[kRounds][kShortLogits];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int position = round * kPositionsPerRound + threadIdx.x / kSoftmaxLanes;
#pragma unroll
    for (int j = 0; j < kShortLogits; ++j) {
      const int k = part + j * kSoftmaxLanes;
      const bool some = isShort && position < positions && k < p.kernelSize;
      held[round][j] = some ? logit(position, k) : -INFINITY;
    }
  }

  const int rowsPerRound = kThreads / tiling.lanes;
  const int lane = threadIdx.x % tiling.lanes;
  const int firstInput = t0 - p.paddingL;
  const int rows = kTile + (tiling.steps - 1) * kUnit;
  const int reached = positions + p.kernelSize - 1;
  const bool loads = threadIdx.x < rowsPerRound * tiling.lanes && lane * kVec < channels;
  for (int first = threadIdx.x / tiling.lanes; loads && first < rows;
       first += rowsPerRound * kInputsAhead) {
    // Masked inputs are loaded and discarded: waiting for the mask before loading would cost more.
    Vector<T, kVec> value[kInputsAhead];
    bool real[kInputsAhead];
#pragma unroll
    for (int j = 0; j < kInputsAhead; ++j) {
      const int row = first + j * rowsPerRound;
      const int t = firstInput + row;
      const bool inside = row < reached && t >= 0 && t < p.length;
      const int64_t at = firstRow + (inside ? t : 0);
      real[j] = inside && (mask == nullptr || mask[at] != 0);
      value[j] = loadVector<kVec>(x + at * p.channels + c0 + lane * kVec);
    }
#pragma unroll
    for (int j = 0; j < kInputsAhead; ++j) {
      const int row = first + j * rowsPerRound;
      if (row >= rows) break;
      Vector<T, kVec> input = value[j];
      if (!real[j]) input = {};
      *reinterpret_cast<Vector<T, kVec>*>(inputs + row * kStride + lane * kVec) = input;
    }
  }

  //   2. Softmax and band. Every lane takes part in the shuffles, even without a position.
  const auto largestOfLanes = [](float value) {
    value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, 1));
    return fmaxf(value, __shfl_xor_sync(kFullWarp, value, 2));
  };
  const auto sumOfLanes = [](float value) {
    value += __shfl_xor_sync(kFullWarp, value, 1);
    return value + __shfl_xor_sync(kFullWarp, value, 2);
  };
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int position = round * kPositionsPerRound + threadIdx.x / kSoftmaxLanes;
    const bool some = position < positions;
    T* row = band + position * tiling.bandStride;
    for (int v = part * kPad; some && v < tiling.bandStride; v += kSoftmaxLanes * kPad) {
      *reinterpret_cast<uint4*>(row + v) = uint4{};
    }
    __syncwarp();
    T* tap = row + position % kUnit + part;  // of this lane's first logit
    if (isShort) {
      float largest = held[round][0];
#pragma unroll
      for (int j = 1; j < kShortLogits; ++j) largest = fmaxf(largest, held[round][j]);
      largest = largestOfLanes(largest);
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < kShortLogits; ++j) {
        const bool real = part + j * kSoftmaxLanes < p.kernelSize;
        held[round][j] = real ? __expf(held[round][j] - largest) : 0.0f;
        sum += held[round][j];
      }
      const float scale = 1.0f / sumOfLanes(sum);
#pragma unroll
      for (int j = 0; j < kShortLogits; ++j) {
        const bool real = some && part + j * kSoftmaxLanes < p.kernelSize;
        if (real) tap[j * kSoftmaxLanes] = fromFloat<T>(held[round][j] * scale);
      }
    } else {
      const int end = some ? p.kernelSize : 0;
      float largest = -INFINITY;
      for (int k = part; k < end; k += kSoftmaxLanes) largest = fmaxf(largest, logit(position, k));
      largest = largestOfLanes(largest);
      float sum = 0.0f;
      for (int k = part; k < end; k += kSoftmaxLanes) sum += __expf(logit(position, k) - largest);
      const float scale = 1.0f / sumOfLanes(sum);
      for (int k = part; k < end; k += kSoftmaxLanes) {
        tap[k - part] = fromFloat<T>(__expf(logit(position, k) - largest) * scale);
      }
    }
  }
  __syncthreads();

  // 3. The products.
  constexpr int kColumnTiles = kChannels / kUnit * kUnits / kWarps;  // of 16 channels, of a warp
  const int warp = threadIdx.x / kWarpSize;
  const int warpLane = threadIdx.x % kWarpSize;
  const int unit = warp % kUnits * kUnit;
  const int firstChannel = warp / kUnits * kColumnTiles * kUnit;
  // The address that this lane passes for a 16 x 16 tile.
  const int tileRow = warpLane % kUnit;
  const int tileColumn = warpLane / kUnit * 8;
  float sum[kColumnTiles][2][4] = {};
  for (int step = 0; step < tiling.steps; ++step) {
    uint32_t a[4];
    loadTiles(
        a, sharedAddress(band + (unit + tileRow) * tiling.bandStride + step * kUnit + tileColumn));
    const T* row = inputs + (unit + step * kUnit + tileRow) * kStride + firstChannel + tileColumn;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      uint32_t b[4];
      loadTransposed(b, sharedAddress(row + n * kUnit));
      mma16816<T>(sum[n][0], a, {b[0], b[1]});
      mma16816<T>(sum[n][1], a, {b[2], b[3]});
    }
  }
#pragma unroll
  for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // a pair of neighbouring channels at one position
      const int c = firstChannel + n * kUnit + i / 2 * 8 + warpLane % 4 * 2;
      const int position = unit + i % 2 * 8 + warpLane / 4;
      float result[2] = {sum[n][i / 2][i % 2 * 2], sum[n][i / 2][i % 2 * 2 + 1]};
      if (isnan(result[0] + result[1]) && position < positions && c < channels) {
        const T* tap = band + position * tiling.bandStride + position % kUnit;
        result[0] = result[1] = 0.0f;
        for (int k = 0; k < p.kernelSize; ++k) {
          const auto pair = loadVector<2>(inputs + (position + k) * kStride + c);
          result[0] += toFloat(tap[k]) * toFloat(pair.item[0]);
          result[1] += toFloat(tap[k]) * toFloat(pair.item[1]);
        }
      }
      storeVector(results + position * kStride + c, result);
    }
  }
  __syncthreads();

  for (int row = threadIdx.x / tiling.lanes; loads && row < positions; row += rowsPerRound) {
    *reinterpret_cast<Vector<T, kVec>*>(y + (firstRow + t0 + row) * p.channels + c0 + lane * kVec) =
        loadVector<kVec>(results + row * kStride + lane * kVec);
  }
}

template <typename T, int kVec, int kUnits>
cudaError_t run(const DynamicConvFusedParams& p, const Tiling& tiling, const T* x, const T* logits,
                const int32_t* mask, T* y, cudaStream_t stream) {
  return launch(kernel<T, kVec, kUnits>, tiling.blocks, kThreads, tiling.shared, stream, p, tiling,
                x, logits, mask, y);
}

/// Uses long tiles if they give enough blocks, otherwise short tiles, which give more.
template <typename T, int kVec>
cudaError_t run(const DynamicConvFusedParams& p, int processors, size_t maxShared, const T* x,
                const T* logits, const int32_t* mask, T* y, cudaStream_t stream) {
  const Tiling large(p, kVec, 4 * kUnit);
  if (large.blocks >= 4 * processors && large.shared <= maxShared) {
    return run<T, kVec, 4>(p, large, x, logits, mask, y, stream);
  }
  const Tiling medium(p, kVec, 2 * kUnit);
  if (medium.blocks >= processors && medium.shared <= maxShared) {
    return run<T, kVec, 2>(p, medium, x, logits, mask, y, stream);
  }
  return run<T, kVec, 1>(p, Tiling(p, kVec, kUnit), x, logits, mask, y, stream);
}

}  // namespace conv_fused_mma
}  // namespace lite
