// Handles FP32, product by product. 16-bit types run on the matrix units (dynamic_conv_mma.cuh).
//
// A block computes a tile of positions for some channels of one head, one slice of channels after
// another. It copies the taps of the tile to shared memory once, and the inputs slice by slice: the
// next slice is copied while the current one is computed. Every thread owns 4 neighbouring
// positions of kChannels channels and slides a window of 8 inputs along the taps. So a tap read
// from shared memory serves kChannels products, and an input serves the products of up to 4 taps.
// If there are few blocks, each takes fewer slices.
//
// Long kernels are processed in chunks of taps, and each chunk is summed separately, which keeps
// the rounding error of long sums small. To keep vector loads aligned for any padding_l, the tile's
// first input is rounded down to the start of a vector. The taps are counted from there, and the
// first `lead` of them do not exist and are skipped.
//
// Memory is the only limit if the copies never pause. doc/kernels.md (What was tried) has the
// measurements.
#include "dynamic_conv_mma.cuh"

namespace lite {
namespace {

constexpr int kThreads = 128;
constexpr int kPositions = 4;           // per thread
constexpr int kChannels = 4;            // per thread
constexpr int kMaxTaps = 32;            // per chunk
constexpr int kTapStep = 4;             // chunks are multiples of this, the widest vector
constexpr int kStages = 2;              // buffers: one is read while the other is filled
constexpr int kResidentBlocks = 6;      // per processor: limits the registers
constexpr int kBlocksPerProcessor = 8;  // needed before a block takes several slices

template <int kTile>
constexpr int kSliceChannels = kThreads / (kTile / kPositions) * kChannels;

struct Tiling {
  int lead;    // taps before the first one, which do not exist
  int taps;    // per chunk, a multiple of kTapStep
  int chunks;  // of the kernel's taps
  int slices;  // slices of kSliceChannels channels per head
  int slicesPerBlock;
  int sliceBlocks;  // blocks over the slices of a head
  int positionBlocks;
};

template <int kVec, int kTile>
__global__ void __launch_bounds__(kThreads, kResidentBlocks)
    dynamicConvKernel(DynamicConvParams p, Tiling tiling, const float* __restrict__ x,
                      const float* __restrict__ weight, float* __restrict__ y) {
  constexpr int kLanes = kTile / kPositions;  // threads along the positions
  constexpr int kRows = kThreads / kLanes;
  constexpr int kTileChannels = kSliceChannels<kTile>;
  static_assert(kTileChannels == kRows * kChannels);

  const int columns = kTile + tiling.taps;
  const int inputCount = kTileChannels * columns;
  const int tapCount = tiling.taps * kTile;
  extern __shared__ __align__(16) unsigned char shared[];
  float* inputs = reinterpret_cast<float*>(shared);  // [kStages][kTileChannels][columns]
  float* taps = inputs + kStages * inputCount;       // [kStages, or 1 for one chunk][taps][kTile]
  const auto inputsOf = [&](int step) { return inputs + step % kStages * inputCount; };
  const auto tapsOf = [&](int step) {
    return tiling.chunks > 1 ? taps + step % kStages * tapCount : taps;
  };

  int64_t block = blockIdx.x;
  const int t0 = int(block % tiling.positionBlocks) * kTile;
  block /= tiling.positionBlocks;
  const int firstSlice = int(block % tiling.sliceBlocks) * tiling.slicesPerBlock;
  const int slices = min(tiling.slicesPerBlock, tiling.slices - firstSlice);
  block /= tiling.sliceBlocks;
  // The rows of x and y that belong to the head from this block's first channel on, and its taps.
  const int headChannels = p.channels / p.heads - firstSlice * kTileChannels;
  const int64_t firstRow = (block + 1) * (p.channels / p.heads) - headChannels;
  x += firstRow * p.length;
  y += firstRow * p.length;
  weight += block * p.kernelSize * p.length;

  // A step is one chunk of taps for one slice of channels.
  const int steps = slices * tiling.chunks;
  const int inputVectors = columns / kVec;
  const int firstInput = t0 - p.paddingL - tiling.lead;
  const auto load = [&](int step) {
    const int chunk = step % tiling.chunks * tiling.taps;
    if (step == 0 || tiling.chunks > 1) {
      constexpr int kTapVectors = kTile / kVec;
      const int firstTap = chunk - tiling.lead;
      const int count = min(tiling.taps, p.kernelSize - firstTap);
      float* to = tapsOf(step);
      for (int i = threadIdx.x; i < count * kTapVectors; i += kThreads) {
        const int tap = firstTap + i / kTapVectors;
        const int t = t0 + i % kTapVectors * kVec;
        const bool inside = tap >= 0 && t < p.length;
        const int64_t at = int64_t(tap) * p.length + t;
        copyVector<float, kVec>(to + i * kVec, weight + (inside ? at : 0), inside);
      }
    }
    const int c0 = step / tiling.chunks * kTileChannels;
    const int rows = min(kTileChannels, headChannels - c0);
    const float* from = x + int64_t(c0) * p.length;
    float* to = inputsOf(step);
    int row = threadIdx.x / inputVectors;
    int column = threadIdx.x % inputVectors;
    for (int i = threadIdx.x; row < rows; i += kThreads) {
      const int t = firstInput + chunk + column * kVec;
      const bool inside = t >= 0 && t < p.length;
      const int64_t at = int64_t(row) * p.length + t;
      copyVector<float, kVec>(to + i * kVec, from + (inside ? at : 0), inside);
      row += kThreads / inputVectors;
      column += kThreads % inputVectors;
      if (column >= inputVectors) {
        column -= inputVectors;
        ++row;
      }
    }
    commitCopies();
  };

  const int lane = threadIdx.x % kLanes;
  const int row = threadIdx.x / kLanes;
  const int t = t0 + lane * kPositions;
  float sum[kChannels][kPositions] = {};
  load(0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      load(step + 1);
      waitForCopies<1>();
    } else {
      waitForCopies<0>();
    }
    __syncthreads();

    const int firstTap = step % tiling.chunks * tiling.taps - tiling.lead;
    const int count = min(tiling.taps, p.kernelSize - firstTap);
    const float* input = inputsOf(step) + row * columns + lane * kPositions;
    const float* tap = tapsOf(step) + lane * kPositions;
    float window[kChannels][2 * kPositions];
    const auto shift = [&](int column) {  // move the window 4 inputs on
#pragma unroll
      for (int r = 0; r < kChannels; ++r) {
        const auto next = loadVector<kPositions>(input + r * kRows * columns + column);
#pragma unroll
        for (int i = 0; i < kPositions; ++i) {
          window[r][i] = window[r][i + kPositions];
          window[r][i + kPositions] = next.item[i];
        }
      }
    };
    shift(0);
    float part[kChannels][kPositions] = {};
    for (int group = 0; group < count; group += kPositions) {
      shift(group + kPositions);
#pragma unroll
      for (int k = 0; k < kPositions; ++k) {
        if (firstTap + group + k < 0 || group + k >= count) continue;
        const auto w = loadVector<kPositions>(tap + (group + k) * kTile);
#pragma unroll
        for (int i = 0; i < kPositions; ++i) {
          const float factor = w.item[i];
#pragma unroll
          for (int r = 0; r < kChannels; ++r) part[r][i] += factor * window[r][k + i];
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kChannels; ++r) {
#pragma unroll
      for (int i = 0; i < kPositions; ++i) sum[r][i] += part[r][i];
    }
    if ((step + 1) % tiling.chunks == 0) {  // the slice is done
      const int c0 = step / tiling.chunks * kTileChannels;
#pragma unroll
      for (int r = 0; r < kChannels; ++r) {
        const int c = c0 + row + r * kRows;
        if (c < headChannels) {
          float* to = y + int64_t(c) * p.length + t;
          if (kVec > 1 && t < p.length) {  // the length is a multiple of a vector: all 4 are inside
            storeVector(to, sum[r]);
          } else {
#pragma unroll
            for (int i = 0; i < kPositions; ++i) {
              if (t + i < p.length) to[i] = sum[r][i];
            }
          }
        }
#pragma unroll
        for (int i = 0; i < kPositions; ++i) sum[r][i] = 0.0f;
      }
    }
    __syncthreads();  // the buffers may be refilled now
  }
}

template <int kVec, int kTile>
cudaError_t run(const DynamicConvParams& p, const float* x, const float* weight, float* y,
                cudaStream_t stream) {
  int processors = 0;
  const cudaError_t status = deviceAttribute(cudaDevAttrMultiProcessorCount, &processors);
  if (status != cudaSuccess) return status;
  Tiling tiling;
  tiling.lead = (kVec - p.paddingL % kVec) % kVec;
  tiling.taps = std::min(kMaxTaps, roundUp(p.kernelSize + tiling.lead, kTapStep));
  tiling.chunks = ceilDiv(p.kernelSize + tiling.lead, tiling.taps);
  tiling.slices = ceilDiv(p.channels / p.heads, kSliceChannels<kTile>);
  tiling.positionBlocks = ceilDiv(p.length, kTile);
  const int64_t tiles = int64_t(p.batch) * p.heads * tiling.positionBlocks;
  const auto blocks = [&] { return tiles * tiling.sliceBlocks; };
  tiling.slicesPerBlock = tiling.slices;
  tiling.sliceBlocks = 1;
  while (tiling.slicesPerBlock > 1 && blocks() < kBlocksPerProcessor * processors) {
    tiling.slicesPerBlock = ceilDiv(tiling.slicesPerBlock, 2);
    tiling.sliceBlocks = ceilDiv(tiling.slices, tiling.slicesPerBlock);
  }
  const size_t shared = sizeof(float) * (kStages * kSliceChannels<kTile> * (kTile + tiling.taps) +
                                         (tiling.chunks > 1 ? kStages : 1) * tiling.taps * kTile);
  return launch(dynamicConvKernel<kVec, kTile>, blocks(), kThreads, shared, stream, p, tiling, x,
                weight, y);
}

template <int kVec>
cudaError_t runFloat(const DynamicConvParams& p, const float* x, const float* weight, float* y,
                     cudaStream_t stream) {
  if (p.length <= 32) return run<kVec, 32>(p, x, weight, y, stream);
  if (p.length <= 64) return run<kVec, 64>(p, x, weight, y, stream);
  return run<kVec, 128>(p, x, weight, y, stream);
}

template <typename T, int kVec>
cudaError_t runAny(const DynamicConvParams& p, const T* x, const T* weight, T* y,
                   cudaStream_t stream) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return runFloat<kVec>(p, x, weight, y, stream);
  } else {
    return conv_mma::run<T, kVec>(p, x, weight, y, stream);
  }
}

}  // namespace

cudaError_t dynamicConv(const DynamicConvParams& p, const void* x, const void* weight, void* y,
                        cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* from = static_cast<const T*>(x);
    const T* taps = static_cast<const T*>(weight);
    T* to = static_cast<T*>(y);
    if (p.length % kWidest<T> == 0 && aligned(16, {x, weight, y})) {
      return runAny<T, kWidest<T>>(p, from, taps, to, stream);
    }
    return runAny<T, 1>(p, from, taps, to, stream);
  });
}

}  // namespace lite
