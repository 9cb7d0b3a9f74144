// The channels-last DynamicConv, fused with the padding mask of the input and the softmax of the
// taps. Handles FP32, product by product; 16-bit types run on the matrix units
// (dynamic_conv_fused_mma.cuh). A block computes a tile of positions for a slice of one head's
// channels:
//
//   1. It loads the logits of the tile together with the inputs that its windows reach, and applies
//      the mask to the inputs on their way into shared memory.
//   2. Four threads per position turn the logits into taps, in place.
//   3. Every thread owns one vector of channels at kPositions neighbouring positions, and reads the
//      inputs of their windows once. Taps that meet the same input (tap k of position i where i + k
//      is equal) are stored side by side, so that one access reads them.
//
// Large grids use long tiles, which reduces the overlap of windows. Small grids use short tiles to
// have more blocks, and fewer positions per thread to have more threads.
#include "dynamic_conv_fused_mma.cuh"

namespace lite {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kMaxTile = 64;
constexpr int kSliceChannels = 64;  // at most, per block
constexpr int kLogitsAhead = 4;     // logits per thread that are loaded before the inputs
constexpr int kInputsAhead = 4;     // input vectors per thread that are loaded together
constexpr int kSoftmaxLanes = 4;    // threads that share one softmax
constexpr int kPartTerms = 16;  // terms per partial sum, to limit the rounding error of long sums
constexpr size_t kMaxSharedBytes = 96 * 1024;

struct Tiling {
  int tile;    // positions per block, a multiple of kPositions
  int lanes;   // vectors of channels per block
  int slices;  // blocks over the channels of a head
  int tiles;   // blocks over the positions
};

/// The row of taps of a group of kPositions positions: one entry per input of their joined window.
template <int kPositions>
__host__ __device__ constexpr int windowSize(int kernelSize) {
  return kernelSize + kPositions - 1;
}

template <int kVec, int kPositions>
__global__ void __launch_bounds__(kMaxThreads, 1)
    dynamicConvFusedKernel(DynamicConvFusedParams p, Tiling tiling, const float* __restrict__ x,
                           const float* __restrict__ logits, const int32_t* __restrict__ mask,
                           float* __restrict__ y) {
  const int window = windowSize<kPositions>(p.kernelSize);
  const int stride = tiling.lanes * kVec;  // of the rows of inputs
  extern __shared__ __align__(16) unsigned char shared[];
  float* taps = reinterpret_cast<float*>(shared);  // [tile/kPositions][window][kPositions]
  float* inputs = (taps + tiling.tile * window);   // [tile + kernelSize - 1][stride]
  const auto tapOf = [&](int position, int k) -> float& {
    const int i = position % kPositions;
    return taps[(position / kPositions * window + i + k) * kPositions + i];
  };

  int64_t block = blockIdx.x;
  const int t0 = int(block % tiling.tiles) * tiling.tile;
  block /= tiling.tiles;
  const int headChannels = p.channels / p.heads;
  const int slice = int(block % tiling.slices) * stride;
  block /= tiling.slices;
  const int head = int(block % p.heads);
  const int64_t firstRow = block / p.heads * p.length;  // of this sentence
  const int positions = min(tiling.tile, p.length - t0);
  const int channels = min(stride, headChannels - slice);
  const int c0 = head * headChannels + slice;

  // 1. Logits and inputs into shared memory.
  const int logitCount = positions * p.kernelSize;
  logits += (firstRow + t0) * p.heads * p.kernelSize + head * p.kernelSize;
  const auto loadLogit = [&](int i) {
    const int position = i / p.kernelSize;
    return logits[int64_t(position) * p.heads * p.kernelSize + i % p.kernelSize];
  };
  float ahead[kLogitsAhead];
#pragma unroll
  for (int j = 0; j < kLogitsAhead; ++j) {
    const int i = threadIdx.x + j * blockDim.x;
    if (i < logitCount) ahead[j] = loadLogit(i);
  }

  const int vectors = (positions + p.kernelSize - 1) * tiling.lanes;
  for (int base = threadIdx.x; base < vectors; base += blockDim.x * kInputsAhead) {
    // Masked inputs are loaded and discarded: waiting for the mask before loading would cost more.
    Vector<float, kVec> value[kInputsAhead];
    bool real[kInputsAhead];
#pragma unroll
    for (int j = 0; j < kInputsAhead; ++j) {
      const int i = base + j * blockDim.x;
      const int t = t0 - p.paddingL + i / tiling.lanes;
      const int c = i % tiling.lanes * kVec;
      const bool inside = i < vectors && t >= 0 && t < p.length && c < channels;
      const int64_t at = firstRow + (inside ? t : 0);
      real[j] = inside && (mask == nullptr || mask[at] != 0);
      value[j] = loadVector<kVec>(x + at * p.channels + c0 + (inside ? c : 0));
    }
#pragma unroll
    for (int j = 0; j < kInputsAhead; ++j) {
      const int i = base + j * blockDim.x;
      if (i >= vectors) continue;
      Vector<float, kVec> input = value[j];
      if (!real[j]) input = {};
      *reinterpret_cast<Vector<float, kVec>*>(inputs + i * kVec) = input;
    }
  }
#pragma unroll
  for (int j = 0; j < kLogitsAhead; ++j) {
    const int i = threadIdx.x + j * blockDim.x;
    if (i < logitCount) tapOf(i / p.kernelSize, i % p.kernelSize) = ahead[j];
  }
  for (int i = threadIdx.x + kLogitsAhead * blockDim.x; i < logitCount; i += blockDim.x) {
    tapOf(i / p.kernelSize, i % p.kernelSize) = loadLogit(i);
  }
  __syncthreads();

  //   2. Softmax. Every lane takes part in the shuffles, even without a position.
  for (int base = 0; base < positions; base += blockDim.x / kSoftmaxLanes) {
    const int position = base + threadIdx.x / kSoftmaxLanes;
    const int first = position < positions ? threadIdx.x % kSoftmaxLanes : p.kernelSize;
    float largest = -INFINITY;
    for (int k = first; k < p.kernelSize; k += kSoftmaxLanes) {
      largest = fmaxf(largest, tapOf(position, k));
    }
#pragma unroll
    for (int offset = kSoftmaxLanes / 2; offset > 0; offset /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, offset));
    }
    float sum = 0.0f;
    for (int start = first; start < p.kernelSize; start += kSoftmaxLanes * kPartTerms) {
      float part = 0.0f;
      const int end = min(start + kSoftmaxLanes * kPartTerms, p.kernelSize);
      for (int k = start; k < end; k += kSoftmaxLanes) {
        const float term = expf(tapOf(position, k) - largest);
        tapOf(position, k) = term;
        part += term;
      }
      sum += part;
    }
#pragma unroll
    for (int offset = kSoftmaxLanes / 2; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(kFullWarp, sum, offset);
    }
    for (int k = first; k < p.kernelSize; k += kSoftmaxLanes) tapOf(position, k) /= sum;
  }
  __syncthreads();

  // 3. The sums.
  const int lane = threadIdx.x % tiling.lanes;
  const int group = threadIdx.x / tiling.lanes;
  const int position = group * kPositions;
  if (position >= positions || lane * kVec >= channels) return;
  const float* input = inputs + position * stride + lane * kVec;
  const float* groupTaps = taps + group * window * kPositions;
  float sum[kPositions][kVec] = {};
  // The windows of the last positions of a sentence may be partly outside the rows that were
  // loaded.
  const int rows = min(window, positions + p.kernelSize - 1 - position);
  for (int start = 0; start < rows; start += kPartTerms) {
    float part[kPositions][kVec] = {};
    const int end = min(start + kPartTerms, rows);
    for (int r = start; r < end; ++r) {
      const Vector<float, kVec> value = loadVector<kVec>(input + r * stride);
      const Vector<float, kPositions> factor = loadVector<kPositions>(groupTaps + r * kPositions);
#pragma unroll
      for (int i = 0; i < kPositions; ++i) {
        if (r < i || r - i >= p.kernelSize) continue;
#pragma unroll
        for (int e = 0; e < kVec; ++e) part[i][e] += factor.item[i] * value.item[e];
      }
    }
#pragma unroll
    for (int i = 0; i < kPositions; ++i) {
#pragma unroll
      for (int e = 0; e < kVec; ++e) sum[i][e] += part[i][e];
    }
  }
  float* to = y + (firstRow + t0 + position) * p.channels + c0 + lane * kVec;
#pragma unroll
  for (int i = 0; i < kPositions; ++i) {
    if (position + i < positions) storeVector(to + int64_t(i) * p.channels, sum[i]);
  }
}

template <int kVec, int kPositions>
struct Plan {
  Tiling tiling;
  int64_t blocks;
  int threads;
  size_t shared;

  Plan(const DynamicConvFusedParams& p, int tile) {
    const int headVectors = p.channels / p.heads / kVec;
    tiling.tile = tile;
    tiling.lanes = std::min({headVectors, kSliceChannels / kVec, kWarpSize});
    tiling.slices = ceilDiv(headVectors, tiling.lanes);
    tiling.tiles = ceilDiv(p.length, tile);
    blocks = int64_t(p.batch) * p.heads * tiling.slices * tiling.tiles;
    threads = roundUp(tiling.lanes * tile / kPositions, kWarpSize);
    shared = tile * windowSize<kPositions>(p.kernelSize) * sizeof(float) +
             (tile + p.kernelSize - 1) * tiling.lanes * kVec * sizeof(float);
  }

  bool fits() const { return threads <= kMaxThreads && shared <= kMaxSharedBytes; }

  cudaError_t run(const DynamicConvFusedParams& p, const float* x, const float* logits,
                  const int32_t* mask, float* y, cudaStream_t stream) const {
    return launch(dynamicConvFusedKernel<kVec, kPositions>, blocks, threads, shared, stream, p,
                  tiling, x, logits, mask, y);
  }
};

template <int kVec>
cudaError_t runFloat(const DynamicConvFusedParams& p, int processors, const float* x,
                     const float* logits, const int32_t* mask, float* y, cudaStream_t stream) {
  const Plan<kVec, 4> large(p, kMaxTile);
  if (large.blocks >= 4 * processors && large.fits()) {
    return large.run(p, x, logits, mask, y, stream);
  }
  const Plan<kVec, 2> medium(p, kMaxTile / 2);
  if (medium.blocks >= processors / 2 && medium.fits()) {
    return medium.run(p, x, logits, mask, y, stream);
  }
  return Plan<kVec, 2>(p, kMaxTile / 4).run(p, x, logits, mask, y, stream);
}

template <typename T, int kVec>
cudaError_t run(const DynamicConvFusedParams& p, const T* x, const T* logits, const int32_t* mask,
                T* y, cudaStream_t stream) {
  int processors = 0;
  const cudaError_t status = deviceAttribute(cudaDevAttrMultiProcessorCount, &processors);
  if (status != cudaSuccess) return status;
  if constexpr (sizeof(T) == sizeof(float)) {
    return runFloat<kVec>(p, processors, x, logits, mask, y, stream);
  } else {
    return conv_fused_mma::run<T, kVec>(p, processors, kMaxSharedBytes, x, logits, mask, y, stream);
  }
}

}  // namespace

cudaError_t dynamicConvFused(const DynamicConvFusedParams& p, const void* x, const void* logits,
                             const int32_t* mask, void* y, cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* from = static_cast<const T*>(x);
    const T* taps = static_cast<const T*>(logits);
    T* to = static_cast<T*>(y);
    const int headChannels = p.channels / p.heads;
    if (headChannels % kWidest<T> == 0 && aligned(16, {x, y})) {
      return run<T, kWidest<T>>(p, from, taps, mask, to, stream);
    }
    if (headChannels % 2 == 0 && aligned(2 * sizeof(T), {x, y})) {
      return run<T, 2>(p, from, taps, mask, to, stream);
    }
    return run<T, 1>(p, from, taps, mask, to, stream);
  });
}

}  // namespace lite
