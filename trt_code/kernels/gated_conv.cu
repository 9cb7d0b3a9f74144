// A block takes kTile neighbouring positions of one sentence and all channels:
//
//   1. the rows that the windows reach go through the gate into shared memory;
//   2. the logits of the tile, [heads * K, channels] x [channels, kTile], on the matrix units: the
//      weight's rows are split over the warps in tiles of 16, its columns over what warps are left,
//      and the parts are added in shared memory;
//   3. a thread a head and position turns logits into taps, stored by the input row that they meet,
//      zero where a window does not reach, so that the sum needs no conditions;
//   4. every thread owns channel pairs and walks over the rows once for all kTile positions.
//
// Rows before and after the sentence are zero; so are masked ones, in step 4 only.
#include "gated_conv.h"
#include "mma.cuh"

namespace lite {
namespace {

constexpr int kTile = 8;  // positions of a block: the matrix instruction's columns
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kPad = 8;  // elements after each row of shared memory, against bank conflicts
constexpr size_t kMaxSharedBytes = 96 * 1024;

struct Sizes {
  int rows;                   // inputs that the windows of a tile reach
  int outTiles;               // of 16 rows of the weight
  int splits;                 // of the channels, for each of them
  size_t gated, parts, taps;  // bytes of shared memory

  __host__ __device__ explicit Sizes(const GatedConvParams& p)
      : rows(kTile + p.kernelSize - 1),
        outTiles((p.heads * p.kernelSize + 15) / 16),
        splits(outTiles >= kWarps ? 1 : kWarps / outTiles),
        gated(size_t(rows) * (p.channels + kPad) * 2),
        parts(size_t(splits) * outTiles * 16 * kTile * sizeof(float)),
        taps(size_t(p.heads) * rows * kTile * sizeof(float)) {}

  __host__ __device__ size_t bytes() const { return gated + parts + taps + rows * sizeof(float); }
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    gatedConvKernel(GatedConvParams p, const T* __restrict__ x, const T* __restrict__ weight,
                    const int32_t* __restrict__ mask, T* __restrict__ y) {
  const Sizes sizes(p);
  const int stride = p.channels + kPad;
  extern __shared__ __align__(16) unsigned char shared[];
  T* gated = reinterpret_cast<T*>(shared);
  float* parts = reinterpret_cast<float*>(shared + sizes.gated);  // [splits][outputs][kTile]
  float* taps =
      reinterpret_cast<float*>(shared + sizes.gated + sizes.parts);  // [heads][rows][kTile]
  float* keep = taps + p.heads * sizes.rows * kTile;                 // [rows]

  const int tiles = (p.length + kTile - 1) / kTile;
  const int t0 = blockIdx.x % tiles * kTile;
  const int64_t sentence = int64_t(blockIdx.x / tiles) * p.length;

  // 1. The gate.
  const int vectors = p.channels / 8;
  for (int i = threadIdx.x; i < sizes.rows * vectors; i += kThreads) {
    const int row = i / vectors, column = i % vectors * 8;
    const int t = t0 - p.paddingL + row;
    Vector<T, 8> g{};
    if (t >= 0 && t < p.length) {
      const T* from = x + (sentence + t) * 2 * p.channels + column;
      const Vector<T, 8> a = loadVector<8>(from), b = loadVector<8>(from + p.channels);
#pragma unroll
      for (int e = 0; e < 8; ++e) g.item[e] = fromFloat<T>(glu(a.item[e], b.item[e]));
    }
    *reinterpret_cast<Vector<T, 8>*>(gated + row * stride + column) = g;
  }
  for (int row = threadIdx.x; row < sizes.rows; row += kThreads) {
    const int t = t0 - p.paddingL + row;
    const bool inside = t >= 0 && t < p.length;
    keep[row] = inside && (mask == nullptr || mask[sentence + t] != 0) ? 1.0f : 0.0f;
  }
  __syncthreads();

  // 2. The logits. Row t of the tile is input row t + paddingL.
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int group = lane / 4, quad = lane % 4;
  const int outputs = p.heads * p.kernelSize;
  const int steps = p.channels / 16, stepsEach = (steps + sizes.splits - 1) / sizes.splits;
  const T* column = gated + (group + p.paddingL) * stride + quad * 2;
  for (int job = warp; job < sizes.outTiles * sizes.splits; job += kWarps) {
    const int out0 = job % sizes.outTiles * 16 + group, split = job / sizes.outTiles;
    const T* row0 = weight + int64_t(min(out0, outputs - 1)) * p.channels + quad * 2;
    const T* row1 = weight + int64_t(min(out0 + 8, outputs - 1)) * p.channels + quad * 2;
    float c[4] = {};
    const int last = min(steps, (split + 1) * stepsEach);
#pragma unroll 4
    for (int step = split * stepsEach; step < last; ++step) {
      const int k = step * 16;
      const uint32_t a[4] = {loadPair(row0 + k), loadPair(row1 + k), loadPair(row0 + k + 8),
                             loadPair(row1 + k + 8)};
      const uint32_t b[2] = {loadPair(column + k), loadPair(column + k + 8)};
      mma16816<T>(c, a, b);
    }
    float* to = parts + (split * sizes.outTiles * 16 + out0) * kTile + quad * 2;
    *reinterpret_cast<float2*>(to) = make_float2(c[0], c[1]);
    *reinterpret_cast<float2*>(to + 8 * kTile) = make_float2(c[2], c[3]);
  }
  __syncthreads();

  // 3. The taps.
  for (int i = threadIdx.x; i < p.heads * sizes.rows * kTile; i += kThreads) taps[i] = 0.0f;
  __syncthreads();
  for (int i = threadIdx.x; i < p.heads * kTile; i += kThreads) {
    const int head = i / kTile, t = i % kTile;
    const int partStride = sizes.outTiles * 16 * kTile;
    float* logits = parts + head * p.kernelSize * kTile + t;
    float largest = -INFINITY;
    for (int k = 0; k < p.kernelSize; ++k) {
      float logit = logits[k * kTile];
      for (int split = 1; split < sizes.splits; ++split) {
        logit += logits[split * partStride + k * kTile];
      }
      logits[k * kTile] = logit;
      largest = fmaxf(largest, logit);
    }
    float total = 0.0f;
    for (int k = 0; k < p.kernelSize; ++k) {
      const float term = __expf(logits[k * kTile] - largest);
      logits[k * kTile] = term;
      total += term;
    }
    const float scale = 1.0f / total;
    for (int k = 0; k < p.kernelSize; ++k) {
      taps[(head * sizes.rows + t + k) * kTile + t] = logits[k * kTile] * scale * keep[t + k];
    }
  }
  __syncthreads();

  // 4. The sum.
  const int headChannels = p.channels / p.heads;
  for (int c = threadIdx.x * 2; c < p.channels; c += kThreads * 2) {
    const float* rowTaps = taps + c / headChannels * sizes.rows * kTile;
    float sum[kTile][2] = {};
    for (int row = 0; row < sizes.rows; ++row) {
      const Vector<T, 2> pair = loadVector<2>(gated + row * stride + c);
      const float v0 = toFloat(pair.item[0]), v1 = toFloat(pair.item[1]);
      const Vector<float, 4> low = loadVector<4>(rowTaps + row * kTile);
      const Vector<float, 4> high = loadVector<4>(rowTaps + row * kTile + 4);
#pragma unroll
      for (int t = 0; t < kTile; ++t) {
        const float tap = t < 4 ? low.item[t % 4] : high.item[t % 4];
        sum[t][0] += tap * v0;
        sum[t][1] += tap * v1;
      }
    }
    T* to = y + (sentence + t0) * p.channels + c;
#pragma unroll
    for (int t = 0; t < kTile; ++t) {
      if (t0 + t < p.length) storeVector(to + int64_t(t) * p.channels, sum[t]);
    }
  }
}

template <typename T>
cudaError_t run(const GatedConvParams& p, const void* x, const void* weight, const int32_t* mask,
                void* y, cudaStream_t stream) {
  const int64_t blocks = int64_t(p.batch) * ceilDiv(p.length, kTile);
  return launch(gatedConvKernel<T>, blocks, dim3(kThreads), Sizes(p).bytes(), stream, p,
                static_cast<const T*>(x), static_cast<const T*>(weight), mask, static_cast<T*>(y));
}

}  // namespace

const char* check(const GatedConvParams& p) {
  if (p.dtype != DataType::kHalf && p.dtype != DataType::kBFloat16) {
    return "the data type must be half or bfloat16";
  }
  if (p.batch < 0 || p.length < 0) return "batch and length must not be negative";
  if (p.channels < 16 || p.channels % 16 != 0) return "the channels must be a multiple of 16";
  if (p.heads < 1 || p.channels % (2 * p.heads) != 0) {
    return "the channels must divide into heads of an even width";
  }
  if (p.kernelSize < 1 || p.kernelSize > 255) return "the kernel size must be 1 to 255";
  if (p.paddingL < 0 || p.paddingL >= p.kernelSize) return "padding_l must be 0 to kernel size - 1";
  if (Sizes(p).bytes() > kMaxSharedBytes) return "channels and kernel size are too large together";
  return nullptr;
}

cudaError_t gatedConv(const GatedConvParams& p, const void* x, const void* weight,
                      const int32_t* mask, void* y, cudaStream_t stream) {
  if (check(p) != nullptr || !aligned(16, {x, weight, y})) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  return p.dtype == DataType::kHalf ? run<__half>(p, x, weight, mask, y, stream)
                                    : run<__nv_bfloat16>(p, x, weight, mask, y, stream);
}

}  // namespace lite
