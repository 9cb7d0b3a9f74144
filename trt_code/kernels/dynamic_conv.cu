// 16-bit types run on the matrix units (dynamic_conv_mma.cuh); FP32 here, product by product.
//
// A block computes a tile of positions for some channels of one head. The taps and the inputs of
// the tile pass through shared memory; every thread owns 4 neighbouring positions of kChannels
// channels and slides a window of 8 inputs along the taps, so that a tap read from shared memory
// serves kChannels products and an input those of up to 4 taps.
//
// Long kernels are taken in chunks of taps, each summed by itself: that keeps the rounding of long
// sums small. To keep vector loads aligned, whatever padding_l, the tile's first input is rounded
// down to a vector's start and the taps are counted from there: the first `lead` of them do not
// exist and are skipped.
//
// Measured on an H100 (FP32, 512 channels, 8 heads, K 15, batch x length 256 x 512): 390 us, half
// of the bandwidth of a copy, when loads went through registers. They are asynchronous since: not
// timed yet.
#include "dynamic_conv_mma.cuh"

namespace lite {
namespace {

constexpr int kThreads = 128;
constexpr int kPositions = 4;  // of a thread
constexpr int kChannels = 4;   // of a thread
constexpr int kMaxTaps = 32;   // of a chunk
constexpr int kTapStep = 4;    // chunks are multiples of this, the widest vector

struct Tiling {
  int taps;           // of a chunk, a multiple of kTapStep
  int lead;           // taps that do not exist before the first
  int channelBlocks;  // blocks over the channels of a head
  int positionBlocks;
};

template <int kTile>
constexpr int kBlockChannels = kThreads / (kTile / kPositions) * kChannels;

template <int kVec, int kTile>
__global__ void __launch_bounds__(kThreads)
    dynamicConvKernel(DynamicConvParams p, Tiling tiling, const float* __restrict__ x,
                      const float* __restrict__ weight, float* __restrict__ y) {
  constexpr int kLanes = kTile / kPositions;  // threads along the positions
  constexpr int kRows = kThreads / kLanes;
  constexpr int kTileChannels = kBlockChannels<kTile>;
  static_assert(kTileChannels == kRows * kChannels);

  const int columns = kTile + tiling.taps;
  extern __shared__ __align__(16) unsigned char shared[];
  float* inputs = reinterpret_cast<float*>(shared);  // [kTileChannels][columns]
  float* taps = inputs + kTileChannels * columns;    // [tiling.taps][kTile]

  int64_t block = blockIdx.x;
  const int t0 = int(block % tiling.positionBlocks) * kTile;
  block /= tiling.positionBlocks;
  const int headChannels = p.channels / p.heads;
  const int c0 = int(block % tiling.channelBlocks) * kTileChannels;
  block /= tiling.channelBlocks;
  // The rows of x and y that belong to this block's channels, and the head's taps.
  const int64_t firstRow = block * headChannels + c0;
  const int channels = min(kTileChannels, headChannels - c0);
  x += firstRow * p.length;
  y += firstRow * p.length;
  weight += block * p.kernelSize * p.length;

  const int lane = threadIdx.x % kLanes;
  const int row = threadIdx.x / kLanes;
  const int firstInput = t0 - p.paddingL - tiling.lead;
  float sum[kChannels][kPositions] = {};

  for (int chunk = 0; chunk < p.kernelSize + tiling.lead; chunk += tiling.taps) {
    const int firstTap = chunk - tiling.lead;
    const int tapCount = min(tiling.taps, p.kernelSize - firstTap);
    if (chunk > 0) __syncthreads();

    constexpr int kTapVectors = kTile / kVec;
    for (int i = threadIdx.x; i < tapCount * kTapVectors; i += kThreads) {
      const int tap = firstTap + i / kTapVectors;
      const int t = t0 + i % kTapVectors * kVec;
      const bool inside = tap >= 0 && t < p.length;
      const int64_t at = int64_t(tap) * p.length + t;
      copyVector<float, kVec>(taps + i * kVec, weight + (inside ? at : 0), inside);
    }
    const int inputVectors = columns / kVec;
    for (int i = threadIdx.x; i < channels * inputVectors; i += kThreads) {
      const int t = firstInput + chunk + i % inputVectors * kVec;
      const bool inside = t >= 0 && t < p.length;
      const int64_t at = int64_t(i / inputVectors) * p.length + t;
      copyVector<float, kVec>(inputs + i * kVec, x + (inside ? at : 0), inside);
    }
    waitForCopies();
    __syncthreads();

    const float* input = inputs + row * columns + lane * kPositions;
    float window[kChannels][2 * kPositions];
    const auto shift = [&](int column) {  // let the window start 4 inputs later
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
    for (int group = 0; group < tapCount; group += kPositions) {
      shift(group + kPositions);
#pragma unroll
      for (int k = 0; k < kPositions; ++k) {
        const int tap = firstTap + group + k;
        if (tap < 0 || tap >= p.kernelSize) continue;
        const auto w = loadVector<kPositions>(taps + (group + k) * kTile + lane * kPositions);
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
  }

  const int t = t0 + lane * kPositions;
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    const int c = row + r * kRows;
    if (c >= channels) continue;
    float* to = y + int64_t(c) * p.length + t;
    if (kVec > 1 && t < p.length) {  // the length is a multiple of a vector, so all 4 are inside
      storeVector(to, sum[r]);
    } else {
#pragma unroll
      for (int i = 0; i < kPositions; ++i) {
        if (t + i < p.length) to[i] = sum[r][i];
      }
    }
  }
}

template <int kVec, int kTile>
cudaError_t run(const DynamicConvParams& p, const float* x, const float* weight, float* y,
                cudaStream_t stream) {
  Tiling tiling;
  tiling.lead = (kVec - p.paddingL % kVec) % kVec;
  tiling.taps = std::min(kMaxTaps, roundUp(p.kernelSize + tiling.lead, kTapStep));
  tiling.channelBlocks = ceilDiv(p.channels / p.heads, kBlockChannels<kTile>);
  tiling.positionBlocks = ceilDiv(p.length, kTile);
  const size_t shared =
      sizeof(float) * (kBlockChannels<kTile> * (kTile + tiling.taps) + tiling.taps * kTile);
  const int64_t blocks = int64_t(p.batch) * p.heads * tiling.channelBlocks * tiling.positionBlocks;
  return launch(dynamicConvKernel<kVec, kTile>, blocks, kThreads, shared, stream, p, tiling, x,
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
