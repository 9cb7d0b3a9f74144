// FP32, and 16-bit types where self_conv_mma.cuh does not support the sizes. A block computes kTile
// neighbouring positions of one sentence, for all channels:
//
//   1. It loads the rows that the windows reach into shared memory, through the gate if there is
//      one.
//   2. The matrix units compute the logits of the tile, [heads * K, channels] x [channels, kTile].
//   3. Four lanes per head and position turn logits into taps. A tap is stored by the input row
//      that it meets, and is zero where a window does not reach, so the sum needs no conditions.
//   4. Every thread owns a pair of channels at half of the positions, and reads the rows once.
//
// Rows before and after the sentence are zero. Masked rows get zero taps.
//
// doc/kernels.md (What was tried) has the measurements.
#include "self_conv_mma.cuh"

namespace lite {
namespace {

constexpr int kThreads = 512;
constexpr int kLanes = 4;                      // per softmax
constexpr int64_t kManyTiles = 256;            // more than there are multiprocessors
constexpr size_t kMaxSharedBytes = 99 * 1024;  // every GPU from sm_80 on has this much

template <typename T, int kTile>
struct Sizes {
  using Product = TileProduct<T, kTile>;
  int rows;    // inputs that the windows of a tile reach
  int stride;  // elements from one of them to the next
  Product logits;
  size_t inputs, parts, taps;  // bytes of shared memory

  __host__ __device__ explicit Sizes(const SelfConvParams& p)
      : rows(kTile + p.kernelSize - 1),
        stride(Product::columnStride(p.channels)),
        logits(p.heads * p.kernelSize, kThreads / kWarpSize),
        inputs(size_t(rows) * stride * sizeof(T)),
        parts(logits.bytes()),
        taps(size_t(p.heads) * rows * kTile * sizeof(float)) {}

  __host__ __device__ size_t bytes() const { return inputs + parts + taps + rows * sizeof(float); }
};

template <typename T, int kTile, bool kGlu, bool kTf32, typename Out>
__global__ void __launch_bounds__(kThreads)
    selfConvKernel(SelfConvParams p, const T* __restrict__ x, const T* __restrict__ weight,
                   const int32_t* __restrict__ mask, Out* __restrict__ y, float fp8Factor) {
  const Sizes<T, kTile> sizes(p);
  const int stride = sizes.stride;
  extern __shared__ __align__(32) unsigned char shared[];
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

  // 1. The inputs.
  constexpr int kVec = kWidest<T>;
  const int vectors = p.channels / kVec, rowElements = kGlu ? 2 * p.channels : p.channels;
#pragma unroll 2
  for (int i = threadIdx.x; i < sizes.rows * vectors; i += kThreads) {
    const int row = i / vectors, column = i % vectors * kVec;
    const int t = t0 - p.paddingL + row;
    Vector<T, kVec> value{};
    if (t >= 0 && t < p.length) {
      const T* from = x + (sentence + t) * rowElements + column;
      value = loadVector<kVec>(from);
      if constexpr (kGlu) {
        const Vector<T, kVec> gate = loadVector<kVec>(from + p.channels);
#pragma unroll
        for (int e = 0; e < kVec; ++e) {
          value.item[e] = fromFloat<T>(glu<T, kTf32>(value.item[e], gate.item[e]));
        }
      }
    }
    *reinterpret_cast<Vector<T, kVec>*>(inputs + row * stride + column) = value;
  }
  for (int row = threadIdx.x; row < sizes.rows; row += kThreads) {
    const int t = t0 - p.paddingL + row;
    const bool inside = t >= 0 && t < p.length;
    keep[row] = inside && (mask == nullptr || mask[sentence + t] != 0) ? 1.0f : 0.0f;
  }
  __syncthreads();

  // 2. The logits. Position t of the tile is input row t + paddingL.
  sizes.logits.template run<kTf32>(weight, p.channels, p.channels, inputs + p.paddingL * stride,
                                   parts);
  __syncthreads();

  //   3. The taps. Every lane takes part in the shuffles, even without a position.
  const int jobs = p.heads * kTile, partStride = sizes.logits.partStride();
  for (int base = 0; base < jobs; base += kThreads / kLanes) {
    const int job = base + threadIdx.x / kLanes;
    const int head = job / kTile, t = job % kTile;
    const int first = job < jobs ? threadIdx.x % kLanes : p.kernelSize;
    float* logits = parts + head * p.kernelSize * kTile + t;
    float largest = -INFINITY;
    for (int k = first; k < p.kernelSize; k += kLanes) {
      float logit = logits[k * kTile];
      for (int split = 1; split < sizes.logits.splits; ++split) {
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
      const float term = exponential<T, kTf32>(logits[k * kTile] - largest);
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
  constexpr int kEach = kTile / 2;  // positions per thread
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
    Out* to = y + (sentence + t0 + t1) * p.channels + c;
    unsigned again = 0;  // one bit per position
#pragma unroll
    for (int t = 0; t < kEach; ++t) {
      if (t0 + t1 + t >= p.length) continue;
      if (isnan(sum[t][0] + sum[t][1])) again |= 1u << t;
      storeScaled(to + int64_t(t) * p.channels, sum[t], fp8Factor);
    }
    // A zero tap times a neighbour's infinity or NaN gives NaN: sum again, over the window alone.
    for (; again != 0; again &= again - 1) {
      const int t = __ffs(again) - 1;
      float own[2] = {};
      for (int row = t1 + t; row < t1 + t + p.kernelSize; ++row) {
        const Vector<T, 2> pair = loadVector<2>(inputs + row * stride + c);
        const float tap = rowTaps[row * kTile + t];
        own[0] += tap * toFloat(pair.item[0]);
        own[1] += tap * toFloat(pair.item[1]);
      }
      storeScaled(to + int64_t(t) * p.channels, own, fp8Factor);
    }
  }
}

template <typename T, int kTile, bool kTf32, typename Out>
cudaError_t runTiles(const SelfConvParams& p, const T* x, const T* weight, const int32_t* mask,
                     Out* y, float fp8Factor, cudaStream_t stream) {
  const int64_t blocks = int64_t(p.batch) * ceilDiv(p.length, kTile);
  return launchEarly(p.glu ? selfConvKernel<T, kTile, true, kTf32, Out>
                           : selfConvKernel<T, kTile, false, kTf32, Out>,
                     blocks, dim3(kThreads), Sizes<T, kTile>(p).bytes(), stream, p, x, weight, mask,
                     y, fp8Factor);
}

template <typename T, bool kTf32, typename Out = T>
cudaError_t run(const SelfConvParams& p, const void* input, const void* logits, const int32_t* mask,
                void* output, float fp8Factor, cudaStream_t stream) {
  const T *x = static_cast<const T*>(input), *weight = static_cast<const T*>(logits);
  Out* y = static_cast<Out*>(output);
  if constexpr (sizeof(T) == 2) {
    int maxShared = 0;
    const cudaError_t status = deviceAttribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &maxShared);
    if (status != cudaSuccess) return status;
    if (self_conv_mma::supports(p, maxShared)) {
      return self_conv_mma::run(p, x, weight, mask, y, fp8Factor, maxShared, stream);
    }
  }
  // Larger tiles read the weight and the neighbouring rows less often.
  const bool large = int64_t(p.batch) * ceilDiv(p.length, 16) >= kManyTiles &&
                     Sizes<T, 16>(p).bytes() <= kMaxSharedBytes;
  return large ? runTiles<T, 16, kTf32>(p, x, weight, mask, y, fp8Factor, stream)
               : runTiles<T, 8, kTf32>(p, x, weight, mask, y, fp8Factor, stream);
}

template <typename T>
cudaError_t runHalf(const SelfConvParams& p, const void* x, const void* weight, const int32_t* mask,
                    void* y, float fp8Factor, cudaStream_t stream) {
  return fp8Factor == 0.0f ? run<T, false>(p, x, weight, mask, y, fp8Factor, stream)
                           : run<T, false, Fp8>(p, x, weight, mask, y, fp8Factor, stream);
}

}  // namespace

const char* check(const SelfConvParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.length < 0) return "batch and length must not be negative";
  if (p.channels < 8 || p.channels % 8 != 0) return "the channels must be a multiple of 8";
  if (p.heads < 1 || p.channels % (2 * p.heads) != 0) {
    return "the channels must divide into heads of an even width";
  }
  if (p.kernelSize < 1 || p.kernelSize > 255) return "the kernel size must be 1 to 255";
  if (p.paddingL < 0 || p.paddingL >= p.kernelSize) return "padding_l must be 0 to kernel size - 1";
  // beyond this limit, the sizes below would not fit into 32 bits
  const bool bounded = p.channels <= int32_t(kMaxSharedBytes);
  const auto bytes = [&] {
    return p.dtype == DataType::kFloat ? Sizes<float, 8>(p).bytes() : Sizes<__half, 8>(p).bytes();
  };
  if (!bounded || bytes() > kMaxSharedBytes) {
    return "channels and kernel size are too large together";
  }
  return nullptr;
}

cudaError_t selfConv(const SelfConvParams& p, const void* x, const void* weight,
                     const int32_t* mask, void* y, cudaStream_t stream, float fp8Factor) {
  const bool placed = aligned(16, {x, weight, y});
  if (check(p) != nullptr || !placed || (p.dtype == DataType::kFloat && fp8Factor != 0.0f)) {
    return cudaErrorInvalidValue;
  }
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  switch (p.dtype) {
    case DataType::kFloat:
      return p.tf32 ? run<float, true>(p, x, weight, mask, y, fp8Factor, stream)
                    : run<float, false>(p, x, weight, mask, y, fp8Factor, stream);
    case DataType::kHalf:
      return runHalf<__half>(p, x, weight, mask, y, fp8Factor, stream);
    default:
      return runHalf<__nv_bfloat16>(p, x, weight, mask, y, fp8Factor, stream);
  }
}

}  // namespace lite
