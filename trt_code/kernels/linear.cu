// A block computes kRows x kOuts of the result with four warps, on the matrix units. Slices of 64
// inputs of both operands stream through kStages buffers in shared memory (cp.async). 16-byte
// chunks are swizzled by their row, so neither the copies nor ldmatrix have bank conflicts. The
// gate's columns are loaded next to the columns of their values, so the same thread holds both at
// the end. The first slices of the weight are loaded before the wait for the previous kernel, since
// no earlier kernel writes them.
//
// doc/kernels.md (What was tried) has the measurements.
#include "linear.h"
#include "products.cuh"
#include "ptx/async_copy.cuh"

namespace lite {
namespace {

constexpr int kThreads = 128;
constexpr int kDepth = 64;  // inputs per slice: 128 bytes of a row, eight chunks
constexpr int kStages = 4;

/// Returns the byte offset of a chunk in a slice.
__device__ __forceinline__ uint32_t chunkAt(int row, int chunk) {
  return row * kDepth * 2 + ((chunk ^ (row & 7)) << 4);
}

template <typename T, int kRows, int kOuts, bool kGlu>
__global__ void __launch_bounds__(kThreads) linearKernel(LinearParams p, LinearTensors tensors) {
  constexpr int kWarpRows = kRows >= 64 ? 4 : kRows / 16;  // warps over the rows
  constexpr int kWarpOuts = 4 / kWarpRows;
  constexpr int kRowTiles = kRows / 16 / kWarpRows;  // per warp
  constexpr int kOutTiles = kOuts / 8 / kWarpOuts;
  static_assert(kOutTiles % 2 == 0 && kRowTiles >= 1);
  constexpr uint32_t kSlice = (kRows + kOuts) * kDepth * 2;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t base = sharedAddress(shared);

  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int warpRow = warp % kWarpRows, warpOut = warp / kWarpRows;
  const int outs = kGlu ? p.out / 2 : p.out;            // columns of y
  constexpr int kBlockOuts = kGlu ? kOuts / 2 : kOuts;  // per block
  const int outBlocks = (outs + kBlockOuts - 1) / kBlockOuts;
  const int64_t row0 = int64_t(blockIdx.x / outBlocks) * kRows;
  const int out0 = blockIdx.x % outBlocks * kBlockOuts;
  const T* x = static_cast<const T*>(tensors.x);
  const T* weight = static_cast<const T*>(tensors.weight);

  const auto loadInputs = [&](int slice) {
    const uint32_t to = base + slice % kStages * kSlice;
    const int k = slice * kDepth;
#pragma unroll
    for (int i = threadIdx.x; i < kRows * 8; i += kThreads) {
      const int row = i / 8, chunk = i % 8;
      const bool inside = row0 + row < p.rows && k + chunk * 8 < p.in;
      const T* from = inside ? x + (row0 + row) * p.in + k + chunk * 8 : x;
      copyAsync(to + chunkAt(row, chunk), from, inside);
    }
  };
  const auto loadWeight = [&](int slice) {
    const uint32_t to = base + slice % kStages * kSlice;
    const int k = slice * kDepth;
#pragma unroll
    for (int i = threadIdx.x; i < kOuts * 8; i += kThreads) {
      const int row = i / 8, chunk = i % 8;
      const int out = out0 + row % kBlockOuts;
      const bool inside = out < outs && k + chunk * 8 < p.in;
      const int64_t weightRow = out + (row >= kBlockOuts ? outs : 0);  // a gate's row
      const T* from = inside ? weight + weightRow * p.in + k + chunk * 8 : weight;
      copyAsync(to + chunkAt(kRows + row, chunk), from, inside);
    }
  };

  const int slices = (p.in + kDepth - 1) / kDepth;
#pragma unroll
  for (int slice = 0; slice < kStages - 1; ++slice) {
    if (slice < slices) loadWeight(slice);  // constant: no need to wait for the previous kernel
  }
  admitNext();
  waitForPrevious();
#pragma unroll
  for (int slice = 0; slice < kStages - 1; ++slice) {
    if (slice < slices) loadInputs(slice);
    commitCopies();
  }

  // The first row of this warp's i-th tile of 8 outputs in the weight's slice. Tiles of values and
  // gates alternate.
  const auto outRow = [&](int i) {
    return kGlu ? (warpOut * kOutTiles / 2 + i / 2) * 8 + i % 2 * kBlockOuts
                : (warpOut * kOutTiles + i) * 8;
  };
  float sums[kRowTiles][kOutTiles][4] = {};
  for (int slice = 0; slice < slices; ++slice) {
    waitForCopies<kStages - 2>();
    __syncthreads();
    if (slice + kStages - 1 < slices) {
      loadInputs(slice + kStages - 1);
      loadWeight(slice + kStages - 1);
    }
    commitCopies();

    const uint32_t from = base + slice % kStages * kSlice;
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        const int row = (warpRow * kRowTiles + i) * 16 + lane % 16;
        loadTiles(a[i], from + chunkAt(row, step * 2 + lane / 16));
      }
#pragma unroll
      for (int j = 0; j < kOutTiles; j += 2) {
        uint32_t b[4];
        const int row = kRows + outRow(j + lane / 16) + lane % 8;
        loadTiles(b, from + chunkAt(row, step * 2 + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          mma16816<T>(sums[i][j], a[i], {b[0], b[1]});
          mma16816<T>(sums[i][j + 1], a[i], {b[2], b[3]});
        }
      }
    }
  }

  const T* bias = static_cast<const T*>(tensors.bias);
  const T* residual = static_cast<const T*>(tensors.residual);
  T* y = static_cast<T*>(tensors.y);
  const auto biased = [&](float value, int out) {
    return bias == nullptr ? value : value + toFloat(bias[out]);
  };
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = row0 + (warpRow * kRowTiles + i) * 16 + half * 8 + lane / 4;
      if (row >= p.rows) continue;
      const bool keep = tensors.mask == nullptr || tensors.mask[row] != 0;
#pragma unroll
      for (int j = 0; j < kOutTiles; j += kGlu ? 2 : 1) {
        const int out = out0 + outRow(j) + lane % 4 * 2;
        if (out >= outs) continue;
        float result[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          result[e] = biased(sums[i][j][half * 2 + e], out + e);
          if constexpr (kGlu) {
            // rounded as it would be in memory, where both halves are usually stored first
            const T gate = fromFloat<T>(biased(sums[i][j + 1][half * 2 + e], outs + out + e));
            result[e] = glu(fromFloat<T>(result[e]), gate);
          } else if (p.activation == Activation::kRelu) {
            result[e] = relu(result[e]);
          }
        }
        const int64_t at = row * outs + out;
        if (residual != nullptr) {
          const Vector<T, 2> more = loadVector<2>(residual + at);
          result[0] += toFloat(more.item[0]);
          result[1] += toFloat(more.item[1]);
        }
        if (!keep) result[0] = result[1] = 0.0f;
        storeVector(y + at, result);
      }
    }
  }
}

/// How a product is divided into blocks.
template <int kRows_, int kOuts_>
struct Cut {
  static constexpr int kRows = kRows_, kOuts = kOuts_;
};

using Cuts = std::tuple<Cut<16, 64>, Cut<32, 64>, Cut<64, 32>, Cut<64, 64>, Cut<128, 64>>;
static_assert(std::tuple_size_v<Cuts> == kLinearVariants);

template <typename T, int kRows, int kOuts, bool kGlu>
cudaError_t run(const LinearParams& p, const LinearTensors& tensors, cudaStream_t stream) {
  const int blockOuts = kGlu ? kOuts / 2 : kOuts;
  const int outs = kGlu ? p.out / 2 : p.out;
  const int64_t blocks = ceilDiv<int64_t>(p.rows, kRows) * ceilDiv(outs, blockOuts);
  return launchEarly(linearKernel<T, kRows, kOuts, kGlu>, blocks, dim3(kThreads),
                     size_t(kStages) * (kRows + kOuts) * kDepth * 2, stream, p, tensors);
}

}  // namespace

cudaError_t linear(const LinearParams& p, const LinearTensors& tensors, int variant,
                   cudaStream_t stream) {
  if (check(p) != nullptr ||
      !aligned(16, {tensors.x, tensors.weight, tensors.bias, tensors.residual, tensors.y})) {
    return cudaErrorInvalidValue;
  }
  if (p.rows == 0) return cudaSuccess;
  const auto of = [&](auto tag) {
    using T = decltype(tag);
    return dispatchVariant<Cuts>(variant, [&](auto cut) {
      using C = decltype(cut);
      return p.activation == Activation::kGlu
                 ? run<T, C::kRows, C::kOuts, true>(p, tensors, stream)
                 : run<T, C::kRows, C::kOuts, false>(p, tensors, stream);
    });
  };
  return p.dtype == DataType::kHalf ? of(__half{}) : of(__nv_bfloat16{});
}

}  // namespace lite
