// A block takes kTile neighbouring positions of one sentence and all channels:
//
//   1. the rows that the windows reach come to shared memory;
//   2. the logits of the tile, [heads * K, channels] x [channels, kTile], on the matrix units: the
//      weight's rows are split over the warps in tiles of 16, its columns over what warps are left,
//      and the parts are added in shared memory. The order of the columns does not matter to a sum,
//      so every lane takes 8 neighbours in one access where the instruction's own order has pairs;
//   3. four lanes a head and position turn logits into taps, stored by the input row that they
//   meet,
//      zero where a window does not reach, so that the sum needs no conditions;
//   4. every thread owns a channel pair at half of the positions and walks over the rows once.
//
// Rows before and after the sentence are zero; masked ones get zero taps.
//
// Measured on an H100 (16 x 64, 512 channels, 8 heads, K 3 to 15, FP16): a first version with 256
// threads, 4-byte loads of the weight and the gate inside took 11.8 us a layer.
#include "mma.cuh"
#include "self_conv.h"

namespace lite {
namespace {

constexpr int kTile = 8;  // positions of a block: the matrix instruction's columns
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kLanes = 4;  // of a softmax
constexpr int kStep = 32;  // columns of the weight that a warp takes at once
constexpr size_t kMaxSharedBytes = 96 * 1024;

struct Sizes {
  int rows;                    // inputs that the windows of a tile reach
  int stride;                  // elements from one of them to the next
  int outTiles;                // of 16 rows of the weight
  int splits;                  // of the columns, for each of them
  size_t inputs, parts, taps;  // bytes of shared memory

  __host__ __device__ explicit Sizes(const SelfConvParams& p)
      : rows(kTile + p.kernelSize - 1),
        // whole 64-byte steps, an odd number of them, so that eight rows' accesses meet all banks
        stride(((p.channels + 31) / 32 | 1) * 32),
        outTiles((p.heads * p.kernelSize + 15) / 16),
        splits(outTiles >= kWarps ? 1 : kWarps / outTiles),
        inputs(size_t(rows) * stride * 2),
        parts(size_t(splits) * outTiles * 16 * kTile * sizeof(float)),
        taps(size_t(p.heads) * rows * kTile * sizeof(float)) {}

  __host__ __device__ size_t bytes() const { return inputs + parts + taps + rows * sizeof(float); }
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    selfConvKernel(SelfConvParams p, const T* __restrict__ x, const T* __restrict__ weight,
                   const int32_t* __restrict__ mask, T* __restrict__ y) {
  const Sizes sizes(p);
  const int stride = sizes.stride;
  extern __shared__ __align__(16) unsigned char shared[];
  T* inputs = reinterpret_cast<T*>(shared);
  float* parts = reinterpret_cast<float*>(shared + sizes.inputs);  // [splits][outputs][kTile]
  float* taps =
      reinterpret_cast<float*>(shared + sizes.inputs + sizes.parts);  // [heads][rows][kTile]
  float* keep = taps + p.heads * sizes.rows * kTile;                  // [rows]

  const int tiles = (p.length + kTile - 1) / kTile;
  const int t0 = blockIdx.x % tiles * kTile;
  const int64_t sentence = int64_t(blockIdx.x / tiles) * p.length;

  admitNext();
  for (int i = threadIdx.x; i < p.heads * sizes.rows * kTile; i += kThreads) taps[i] = 0.0f;
  waitForPrevious();

  // 1. The inputs; columns past the channels are zero.
  const int vectors = stride / 8;
#pragma unroll 4
  for (int i = threadIdx.x; i < sizes.rows * vectors; i += kThreads) {
    const int row = i / vectors, column = i % vectors * 8;
    const int t = t0 - p.paddingL + row;
    Vector<T, 8> value{};
    if (t >= 0 && t < p.length && column < p.channels) {
      value = loadVector<8>(x + (sentence + t) * p.channels + column);
    }
    *reinterpret_cast<Vector<T, 8>*>(inputs + row * stride + column) = value;
  }
  for (int row = threadIdx.x; row < sizes.rows; row += kThreads) {
    const int t = t0 - p.paddingL + row;
    const bool inside = t >= 0 && t < p.length;
    keep[row] = inside && (mask == nullptr || mask[sentence + t] != 0) ? 1.0f : 0.0f;
  }
  __syncthreads();

  // 2. The logits. Position t of the tile is input row t + paddingL.
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int group = lane / 4, quad = lane % 4;
  const int outputs = p.heads * p.kernelSize;
  const int steps = (p.channels + kStep - 1) / kStep;
  const int stepsEach = (steps + sizes.splits - 1) / sizes.splits;
  const T* column = inputs + (group + p.paddingL) * stride + quad * 8;
  for (int job = warp; job < sizes.outTiles * sizes.splits; job += kWarps) {
    const int out0 = job % sizes.outTiles * 16 + group, split = job / sizes.outTiles;
    const T* row0 = weight + int64_t(min(out0, outputs - 1)) * p.channels + quad * 8;
    const T* row1 = weight + int64_t(min(out0 + 8, outputs - 1)) * p.channels + quad * 8;
    float c[4] = {};
    const int last = min(steps, (split + 1) * stepsEach);
#pragma unroll 8
    for (int step = split * stepsEach; step < last; ++step) {
      const int k = step * kStep;
      uint4 w0{}, w1{};
      if (k + quad * 8 < p.channels) {
        w0 = *reinterpret_cast<const uint4*>(row0 + k);
        w1 = *reinterpret_cast<const uint4*>(row1 + k);
      }
      const uint4 b = *reinterpret_cast<const uint4*>(column + k);
      mma16816<T>(c, {w0.x, w1.x, w0.y, w1.y}, {b.x, b.y});
      mma16816<T>(c, {w0.z, w1.z, w0.w, w1.w}, {b.z, b.w});
    }
    float* to = parts + (split * sizes.outTiles * 16 + out0) * kTile + quad * 2;
    *reinterpret_cast<float2*>(to) = make_float2(c[0], c[1]);
    *reinterpret_cast<float2*>(to + 8 * kTile) = make_float2(c[2], c[3]);
  }
  __syncthreads();

  // 3. The taps. Every lane takes part in the shuffles, with a position or without.
  const int jobs = p.heads * kTile, partStride = sizes.outTiles * 16 * kTile;
  for (int base = 0; base < jobs; base += kThreads / kLanes) {
    const int job = base + threadIdx.x / kLanes;
    const int head = job / kTile, t = job % kTile;
    const int first = job < jobs ? threadIdx.x % kLanes : p.kernelSize;
    float* logits = parts + head * p.kernelSize * kTile + t;
    float largest = -INFINITY;
    for (int k = first; k < p.kernelSize; k += kLanes) {
      float logit = logits[k * kTile];
      for (int split = 1; split < sizes.splits; ++split) {
        logit += logits[split * partStride + k * kTile];
      }
      logits[k * kTile] = logit;
      largest = fmaxf(largest, logit);
    }
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, offset));
    }
    float total = 0.0f;
    for (int k = first; k < p.kernelSize; k += kLanes) {
      const float term = __expf(logits[k * kTile] - largest);
      logits[k * kTile] = term;
      total += term;
    }
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      total += __shfl_xor_sync(kFullWarp, total, offset);
    }
    const float scale = 1.0f / total;
    for (int k = first; k < p.kernelSize; k += kLanes) {
      taps[(head * sizes.rows + t + k) * kTile + t] = logits[k * kTile] * scale * keep[t + k];
    }
  }
  __syncthreads();

  // 4. The sum.
  constexpr int kEach = kTile / 2;  // positions of a thread
  const int headChannels = p.channels / p.heads, pairs = p.channels / 2;
  for (int i = threadIdx.x; i < 2 * pairs; i += kThreads) {
    const int c = i % pairs * 2, t1 = i / pairs * kEach;
    const float* rowTaps = taps + c / headChannels * sizes.rows * kTile + t1;
    float sum[kEach][2] = {};
    // the windows of these positions reach rows t1 to t1 + kEach + kernelSize - 2
#pragma unroll 4
    for (int row = t1; row < t1 + kEach + p.kernelSize - 1; ++row) {
      const Vector<T, 2> pair = loadVector<2>(inputs + row * stride + c);
      const Vector<float, kEach> tap = loadVector<kEach>(rowTaps + row * kTile);
      const float v0 = toFloat(pair.item[0]), v1 = toFloat(pair.item[1]);
#pragma unroll
      for (int t = 0; t < kEach; ++t) {
        sum[t][0] += tap.item[t] * v0;
        sum[t][1] += tap.item[t] * v1;
      }
    }
    T* to = y + (sentence + t0 + t1) * p.channels + c;
#pragma unroll
    for (int t = 0; t < kEach; ++t) {
      if (t0 + t1 + t < p.length) storeVector(to + int64_t(t) * p.channels, sum[t]);
    }
  }
}

template <typename T>
cudaError_t run(const SelfConvParams& p, const void* x, const void* weight, const int32_t* mask,
                void* y, cudaStream_t stream) {
  const int64_t blocks = int64_t(p.batch) * ceilDiv(p.length, kTile);
  return launchAt(startsEarly(), selfConvKernel<T>, blocks, dim3(kThreads), Sizes(p).bytes(),
                  stream, p, static_cast<const T*>(x), static_cast<const T*>(weight), mask,
                  static_cast<T*>(y));
}

}  // namespace

const char* check(const SelfConvParams& p) {
  if (p.dtype != DataType::kHalf && p.dtype != DataType::kBFloat16) {
    return "the data type must be half or bfloat16";
  }
  if (p.batch < 0 || p.length < 0) return "batch and length must not be negative";
  if (p.channels < 8 || p.channels % 8 != 0) return "the channels must be a multiple of 8";
  if (p.heads < 1 || p.channels % (2 * p.heads) != 0) {
    return "the channels must divide into heads of an even width";
  }
  if (p.kernelSize < 1 || p.kernelSize > 255) return "the kernel size must be 1 to 255";
  if (p.paddingL < 0 || p.paddingL >= p.kernelSize) return "padding_l must be 0 to kernel size - 1";
  if (Sizes(p).bytes() > kMaxSharedBytes) return "channels and kernel size are too large together";
  return nullptr;
}

cudaError_t selfConv(const SelfConvParams& p, const void* x, const void* weight,
                     const int32_t* mask, void* y, cudaStream_t stream) {
  if (check(p) != nullptr || !aligned(16, {x, weight, y})) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  return p.dtype == DataType::kHalf ? run<__half>(p, x, weight, mask, y, stream)
                                    : run<__nv_bfloat16>(p, x, weight, mask, y, stream);
}

}  // namespace lite
