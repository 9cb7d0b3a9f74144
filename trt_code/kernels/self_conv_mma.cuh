// self_conv in 16-bit types. A block computes kTile neighbouring positions of one sentence, for all
// channels. Larger tiles read the weight and the neighbouring rows less often; small batches need
// more blocks.
//
//   1. It loads the rows that the windows reach into shared memory, through the gate if there is
//      one. The vectors of a row are permuted by its number, so that both products read them
//      without bank conflicts.
//   2. The matrix units compute the logits of the tile, [heads * K, channels] x [channels, kTile].
//   3. Four lanes per head and position turn logits into taps.
//   4. The taps of 16 neighbouring positions form a banded matrix over the inputs of their windows
//      (dynamic_conv_mma.cuh). Each warp multiplies it with the inputs of one head. For a result in
//      16 bits, a tap is the sum of two or three elements of T, which are multiplied separately.
//      So it has the precision of FP32. For FP8 it is rounded to one.
//
// Rows before and after the sentence are zero. Masked rows get zero taps. A sum that is NaN is
// computed again over its window alone, since a zero of the band times infinity gives NaN.
//
// A sum has the same order in tiles of every size, because they all begin at a multiple of 16
// positions. So the bits of a result depend on its sentence alone, not on the batch or the padding.
#pragma once

#include "products.cuh"
#include "self_conv.h"

namespace lite {
namespace self_conv_mma {

constexpr int kThreads = 512, kWarps = kThreads / kWarpSize;
constexpr int kUnit = 16;  // positions in the result of a warp, depth of a matrix instruction
constexpr int kVec = 8;    // elements per access
constexpr int kLanes = 4;  // per softmax
constexpr int64_t kManyBlocks = 256;  // nearly as many as the multiprocessors hold

template <int kTile>
struct Sizes {
  static constexpr int kLogitStride = kTile + 4;  // lanes that build the band use all banks
  int outputs;                                    // logits per position
  int steps;                                      // matrix instructions along the inputs of a unit
  int rows;                                       // inputs in shared memory
  int stride;                                     // elements from one of them to the next
  size_t inputs, logits;                          // bytes of shared memory

  __host__ __device__ explicit Sizes(const SelfConvParams& p)
      : outputs(p.heads * p.kernelSize),
        steps(ceilDiv(p.kernelSize - 1 + kUnit, kUnit)),
        rows(kTile + (steps - 1) * kUnit),
        stride(roundUp(p.channels, 8 * kVec)),
        inputs(size_t(rows) * stride * sizeof(__half)),
        logits(size_t(outputs) * kLogitStride * sizeof(float)) {}

  __host__ __device__ size_t bytes() const { return inputs + logits + rows * sizeof(float); }
};

/// The inputs in shared memory.
template <typename T>
struct Inputs {
  T* data;
  int stride;

  /// Eight neighbouring rows have their vectors of the same channels in different banks, and two
  /// neighbouring rows those of four neighbouring vectors.
  __device__ T* vector(int row, int index) const {
    const int mix = (row & 1) << 2 | (row >> 1 & 3);
    return data + row * stride + (index ^ mix) * kVec;
  }
  __device__ T* element(int row, int channel) const {
    return vector(row, channel / kVec) + channel % kVec;
  }
};

template <typename T, int kTile, bool kGlu, typename Out>
__global__ void __launch_bounds__(kThreads, 2)
    kernel(SelfConvParams p, const T* __restrict__ x, const T* __restrict__ weight,
           const int32_t* __restrict__ mask, Out* __restrict__ y, float fp8Factor) {
  constexpr int kLogitStride = Sizes<kTile>::kLogitStride;
  const Sizes<kTile> sizes(p);
  extern __shared__ __align__(128) unsigned char shared[];
  const Inputs<T> inputs{reinterpret_cast<T*>(shared), sizes.stride};
  // [outputs][kLogitStride]: logits, then taps
  float* logits = reinterpret_cast<float*>(shared + sizes.inputs);
  float* keep = logits + sizes.outputs * kLogitStride;  // [rows], 0 or 1

  const int tiles = ceilDiv(p.length, kTile);
  const int t0 = int(blockIdx.x) % tiles * kTile;
  const int64_t sentence = int64_t(blockIdx.x / tiles) * p.length;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  admitNext();
  waitForPrevious();

  // 1. The inputs.
  const int vectors = p.channels / kVec, rowElements = kGlu ? 2 * p.channels : p.channels;
  const int reached = kTile + p.kernelSize - 1;
  const auto positionOf = [&](int row) { return t0 - p.paddingL + row; };
  const auto isInside = [&](int row) {
    return row < reached && positionOf(row) >= 0 && positionOf(row) < p.length;
  };
  for (int row = warp; row < sizes.rows; row += kWarps) {
    const bool inside = isInside(row);
    const T* from = x + (sentence + (inside ? positionOf(row) : 0)) * rowElements;
#pragma unroll 2
    for (int index = lane; index < vectors; index += kWarpSize) {
      Vector<T, kVec> value{};
      if (inside) value = loadVector<kVec>(from + index * kVec);
      if constexpr (kGlu) {
        Vector<T, kVec> gate{};
        if (inside) gate = loadVector<kVec>(from + p.channels + index * kVec);
        float gated[kVec];
#pragma unroll
        for (int e = 0; e < kVec; ++e) gated[e] = glu(value.item[e], gate.item[e]);
        storeVector(inputs.vector(row, index), gated);
      } else {
        *reinterpret_cast<Vector<T, kVec>*>(inputs.vector(row, index)) = value;
      }
    }
  }
  for (int row = threadIdx.x; row < sizes.rows; row += kThreads) {
    const bool real = isInside(row) && (mask == nullptr || mask[sentence + positionOf(row)] != 0);
    keep[row] = real ? 1.0f : 0.0f;
  }
  __syncthreads();

  // 2. The logits. Position t of the tile is input row t + paddingL.
  multiplyRows<kTile, kWarps>(
      weight, sizes.outputs, p.channels,
      [&](int t, int index) { return inputs.vector(p.paddingL + t, index); }, 8 * inputs.stride,
      logits, kLogitStride);
  __syncthreads();

  // 3. The taps. A warp has eight jobs, or none.
  for (int job = threadIdx.x / kLanes; job < p.heads * kTile; job += kThreads / kLanes) {
    const int t = job % kTile, first = threadIdx.x % kLanes;
    float* column = logits + job / kTile * p.kernelSize * kLogitStride + t;
    float largest = -INFINITY;
    for (int k = first; k < p.kernelSize; k += kLanes) {
      largest = fmaxf(largest, column[k * kLogitStride]);
    }
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, offset));
    }
    float total = 0.0f;
    for (int k = first; k < p.kernelSize; k += kLanes) {
      const float term = exponential<T, false>(column[k * kLogitStride] - largest);
      column[k * kLogitStride] = term;
      total += term;
    }
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      total += __shfl_xor_sync(kFullWarp, total, offset);
    }
    const float scale = 1.0f / total;
    for (int k = first; k < p.kernelSize; k += kLanes) {
      column[k * kLogitStride] *= scale * keep[t + k];
    }
  }
  __syncthreads();

  // 4. The sums.
  constexpr int kParts = sizeof(Out) == 1 ? 1 : kFloatParts<T>;
  constexpr int kColumns = kTile == kUnit ? 32 : 64;  // channels in the result of a warp
  const int group = lane / 4, quad = lane % 4;
  const int headChannels = p.channels / p.heads;
  const int units = min(kTile, p.length - t0), slices = ceilDiv(headChannels, kColumns);
  const int unitCount = ceilDiv(units, kUnit);
  for (int job = warp; job < unitCount * p.heads * slices; job += kWarps) {
    const int unit = job % unitCount * kUnit, slice = job / unitCount % slices;
    const int head = job / unitCount / slices;
    const int c0 = head * headChannels + slice * kColumns;
    const int width = min(kColumns, headChannels - slice * kColumns);
    const float* taps = logits + head * p.kernelSize * kLogitStride + unit;
    float sum[kColumns / 8][4] = {};
    for (int step = 0; step < sizes.steps; ++step) {
      uint32_t a[kParts][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int t = i % 2 * 8 + group;
        const int k = step * kUnit + i / 2 * 8 + quad * 2 - t;
        const float* tap = taps + k * kLogitStride + t;
        float first = k >= 0 && k < p.kernelSize ? tap[0] : 0.0f;
        float second = k >= -1 && k + 1 < p.kernelSize ? tap[kLogitStride] : 0.0f;
#pragma unroll
        for (int part = 0; part < kParts; ++part) a[part][i] = takePart<T>(first, second);
      }
      const int row = unit + step * kUnit + lane % kUnit;
#pragma unroll
      for (int n = 0; n < kColumns / kUnit; ++n) {
        if (n * kUnit >= width) break;
        const int index = min((c0 + n * kUnit) / kVec + lane / kUnit, vectors - 1);
        uint32_t b[4];
        loadTransposed(b, sharedAddress(inputs.vector(row, index)));
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          mma16816<T>(sum[2 * n], a[part], {b[0], b[1]});
          mma16816<T>(sum[2 * n + 1], a[part], {b[2], b[3]});
        }
      }
    }
    float all = 0.0f;  // NaN if a sum is
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) all += sum[n][i];
    }
    if (isnan(all)) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int t = i / 2 * 8 + group, c = c0 + n * 8 + quad * 2 + i % 2;
          if (!isnan(sum[n][i]) || n * 8 >= width) continue;
          float own = 0.0f;
#pragma unroll 1
          for (int k = 0; k < p.kernelSize; ++k) {
            own += taps[k * kLogitStride + t] * toFloat(*inputs.element(unit + t + k, c));
          }
          sum[n][i] = own;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int t = t0 + unit + half * 8 + group;
      Out* to = t < p.length ? y + (sentence + t) * p.channels + c0 : nullptr;
      storeRow(to, sum, half, sizeof(Out) == 1 ? fp8Factor : 1.0f, width);
    }
  }
}

/// Returns whether the kernel supports these parameters on a GPU whose blocks have `maxShared`
/// bytes of shared memory. The batch and the length do not matter.
inline bool supports(const SelfConvParams& p, size_t maxShared) {
  return p.channels / p.heads % kVec == 0 && Sizes<kUnit>(p).bytes() <= maxShared;
}

/// Returns whether tiles of this size fit into shared memory, keep the multiprocessors busy and are
/// mostly full.
template <int kTile>
bool suits(const SelfConvParams& p, int64_t leastBlocks, size_t maxShared) {
  const int64_t tiles = ceilDiv(p.length, kTile);
  return Sizes<kTile>(p).bytes() <= maxShared && p.batch * tiles >= leastBlocks &&
         4 * (tiles * kTile - p.length) <= p.length;
}

template <typename T, int kTile, typename Out>
cudaError_t runTiles(const SelfConvParams& p, const T* x, const T* weight, const int32_t* mask,
                     Out* y, float fp8Factor, cudaStream_t stream) {
  const int64_t blocks = int64_t(p.batch) * ceilDiv(p.length, kTile);
  return launchEarly(p.glu ? kernel<T, kTile, true, Out> : kernel<T, kTile, false, Out>, blocks,
                     dim3(kThreads), Sizes<kTile>(p).bytes(), stream, p, x, weight, mask, y,
                     fp8Factor);
}

/// Runs parameters that are supported.
template <typename T, typename Out>
cudaError_t run(const SelfConvParams& p, const T* x, const T* weight, const int32_t* mask, Out* y,
                float fp8Factor, size_t maxShared, cudaStream_t stream) {
  if (suits<64>(p, kManyBlocks, maxShared)) {
    return runTiles<T, 64>(p, x, weight, mask, y, fp8Factor, stream);
  }
  if (suits<32>(p, kManyBlocks / 2, maxShared)) {
    return runTiles<T, 32>(p, x, weight, mask, y, fp8Factor, stream);
  }
  return runTiles<T, kUnit>(p, x, weight, mask, y, fp8Factor, stream);
}

}  // namespace self_conv_mma
}  // namespace lite
