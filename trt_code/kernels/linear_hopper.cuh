// What the kernels for linear layers on Hopper share: the descriptors of the operands and, for FP32
// tensors, the loads into a stage and what follows the products. linear_tf32.cu, linear_fp32.cu and
// linear_wide.cu have the rest.
#pragma once

#include <type_traits>

#include "common.cuh"
#include "linear.h"
#include "ptx/bulk_copy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/wgmma.cuh"

namespace lite {

constexpr int kWarpgroup = 4 * kWarpSize;
constexpr int kDepth = 32;  // inputs per stage, 128 bytes of a row
constexpr int kRowBytes = kDepth * int(sizeof(float));
constexpr uint32_t kAlignment = 1024;  // of eight rows, in bytes

/// Descriptors of the matrices for the bulk engine.
struct Matrices {
  CUtensorMap x, weight;
};

/// A tile of C::kRows x C::kOuts of the result. With the gate, the tile has half as many columns
/// of y. The weights of their gates follow the weights of their values.
template <typename C, bool kGlu>
struct Tile {
  static constexpr int kBlockOuts = kGlu ? C::kOuts / 2 : C::kOuts;  // columns of y
  static constexpr int kPairs = C::kOuts / 8, kSums = 4 * kPairs;
  /// A lane's sums, in the layout of warpgroupProduct(): two rows, pairs of columns.
  using Sums = float[kSums];

  const LinearParams& p;
  const LinearTensors& tensors;
  int row0, out0;

  __device__ __forceinline__ int outs() const { return kGlu ? p.out / 2 : p.out; }

  __device__ __forceinline__ void loadInput(uint32_t to, uint32_t barrier, const Matrices& matrices,
                                            int step) const {
    loadBox(to, &matrices.x, step * kDepth, row0, barrier);
  }

  __device__ __forceinline__ void loadWeight(uint32_t to, uint32_t barrier,
                                             const Matrices& matrices, int step) const {
    loadBox(to, &matrices.weight, step * kDepth, out0, barrier);
    if constexpr (kGlu) {
      loadBox(to + kBlockOuts * kRowBytes, &matrices.weight, step * kDepth, outs() + out0, barrier);
    }
  }

  /// The row of a lane's sums at `half` of the pairs.
  __device__ __forceinline__ int64_t rowOf(int half) const {
    return int64_t(row0) + threadIdx.x / kWarpSize * 16 + half * 8 + threadIdx.x % kWarpSize / 4;
  }

  /// The column of y to which the first sum of pair j belongs.
  __device__ __forceinline__ int outOf(int j) const {
    const bool gate = kGlu && j >= kPairs / 2;
    return out0 + (gate ? j - kPairs / 2 : j) * 8 + threadIdx.x % 4 * 2;
  }

  __device__ __forceinline__ void addBiasAndResidual(Sums& to) const {
    const float* bias = static_cast<const float*>(tensors.bias);
    const float* residual = static_cast<const float*>(tensors.residual);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const bool gate = kGlu && j >= kPairs / 2;
      const int out = outOf(j);
      if (bias == nullptr || out >= outs()) continue;
      const Vector<float, 2> pair = loadVector<2>(bias + out + (gate ? outs() : 0));
#pragma unroll
      for (int i = 0; i < 4; ++i) to[4 * j + i] += pair.item[i % 2];
    }
    if constexpr (!kGlu) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (residual == nullptr || rowOf(half) >= p.rows) continue;
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          const int out = outOf(j);
          if (out >= outs()) continue;
          const Vector<float, 2> pair = loadVector<2>(residual + rowOf(half) * outs() + out);
          to[4 * j + 2 * half] += pair.item[0];
          to[4 * j + 2 * half + 1] += pair.item[1];
        }
      }
    }
  }

  /// Applies activation and mask, and writes y. With kFast, the gate is as accurate as TF32.
  template <bool kFast>
  __device__ __forceinline__ void store(const Sums& sums) const {
    float* y = static_cast<float*>(tensors.y);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = rowOf(half);
      if (row >= p.rows) continue;
      const bool keep = tensors.mask == nullptr || tensors.mask[row] != 0;
#pragma unroll
      for (int j = 0; j < kBlockOuts / 8; ++j) {
        const int out = outOf(j);
        if (out >= outs()) continue;
        float result[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int at = 4 * j + 2 * half + e;
          result[e] = sums[at];
          if constexpr (kGlu) {
            constexpr int kGates = 2 * kPairs;  // gates follow their values
            result[e] = glu<float, kFast>(result[e], sums[kGates + at]);
          } else if (p.activation == Activation::kRelu) {
            result[e] = relu(result[e]);
          }
          if (!keep) result[e] = 0.0f;
        }
        storeVector(y + row * outs() + out, result);
      }
    }
  }
};

// ---- host ---------------------------------------------------------------------------------------

/// Describes a dense matrix of elements of `bytes` bytes, for boxes of `boxRows` rows of 128 bytes.
/// TFLOAT32 as the type rounds FP32 on the way.
inline cudaError_t describe(const void* matrix, int64_t rows, int columns, int boxRows,
                            CUtensorMapDataType type, int bytes, CUtensorMap* description) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                                12000, cudaEnableDefault, &found);
    const bool good = status == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return good ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function) : nullptr;
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[] = {cuuint64_t(columns), cuuint64_t(rows)};
  const cuuint64_t strides[] = {cuuint64_t(columns) * bytes};
  const cuuint32_t box[] = {cuuint32_t(kRowBytes / bytes), cuuint32_t(boxRows)}, steps[] = {1, 1};
  const CUresult result =
      encode(description, type, 2, const_cast<void*>(matrix), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/// Describes both operands for the tiles of C.
template <typename C, bool kGlu>
cudaError_t describeOperands(const LinearParams& p, const LinearTensors& tensors,
                             CUtensorMapDataType type, Matrices* matrices) {
  const cudaError_t status =
      describe(tensors.x, p.rows, p.in, C::kRows, type, sizeof(float), &matrices->x);
  if (status != cudaSuccess) return status;
  return describe(tensors.weight, p.out, p.in, Tile<C, kGlu>::kBlockOuts, type, sizeof(float),
                  &matrices->weight);
}

/// The number of tiles across y.
template <typename C, bool kGlu>
__host__ __device__ inline int outTiles(const LinearParams& p) {
  return ceilDiv(kGlu ? p.out / 2 : p.out, Tile<C, kGlu>::kBlockOuts);
}

/// Calls run(cut, glu) with an object of the variant's type in Cuts and with std::bool_constant
/// glu, if the two kernels support the call.
template <typename Cuts, typename Run>
cudaError_t launchOnHopper(const LinearParams& p, const LinearTensors& tensors, int variant,
                           const Run& run) {
  const bool bare = p.activation == Activation::kNone || tensors.residual == nullptr;
  if (checkTf32(p) != nullptr || !bare ||
      !aligned(16, {tensors.x, tensors.weight, tensors.bias, tensors.residual, tensors.y})) {
    return cudaErrorInvalidValue;
  }
  bool hopper = false;
  const cudaError_t status = isHopper(&hopper);
  if (status != cudaSuccess) return status;
  if (!hopper) return cudaErrorNotSupported;
  if (p.rows == 0) return cudaSuccess;
  return dispatchVariant<Cuts>(variant, [&](auto cut) {
    return p.activation == Activation::kGlu ? run(cut, std::true_type{})
                                            : run(cut, std::false_type{});
  });
}

}  // namespace lite
