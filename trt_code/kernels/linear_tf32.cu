// A block computes kRows x kOuts of the result on the warpgroups' matrix units, 64 rows each. The
// bulk engine copies 32 inputs of all its rows at a time into a ring of stages in shared memory,
// and rounds them to TF32 on the way, to the nearest, with ties to even. One thread of a separate
// warp keeps the ring filled.
//
//   - The weights of the first stages are requested before the wait for the previous kernel, since
//     no earlier kernel writes them. Two blocks fit on a multiprocessor, so this happens while the
//     previous kernel still runs.
//   - Bias and residual are loaded together with the first inputs if there are enough registers.
//   - In a stage, the gate's weights follow those of their values, so the same thread holds both at
//     the end.
//
// The limit is the data that enters a multiprocessor. doc/kernels.md (What was tried) has the
// measurements.
#include "common.cuh"
#include "linear.h"
#include "ptx/bulk_copy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/wgmma.cuh"

namespace lite {
namespace {

constexpr int kWarpgroup = 4 * kWarpSize;
constexpr int kDepth = 32;  // inputs per stage, 128 bytes of a row
constexpr int kRowBytes = kDepth * int(sizeof(float));
constexpr uint32_t kAlignment = 1024;            // of eight rows, in bytes
constexpr uint32_t kMostRingBytes = 110 * 1024;  // two blocks fit on a multiprocessor

/// How a product is divided into blocks.
template <int kRows_, int kOuts_>
struct Cut {
  static constexpr int kRows = kRows_, kOuts = kOuts_;
  static constexpr int kConsumers = kRows / 64 * kWarpgroup;
  static constexpr int kThreads = kConsumers + kWarpSize;
  static constexpr uint32_t kStageBytes = (kRows + kOuts) * kRowBytes;
  static constexpr int kStages = int(kMostRingBytes / kStageBytes);
  static constexpr uint32_t kSharedBytes =
      kAlignment + kStages * kStageBytes + 2 * kStages * sizeof(uint64_t);
};

/// Descriptors of the matrices for the bulk engine.
struct Matrices {
  CUtensorMap x, weight;
};

template <typename C, bool kGlu>
__global__ void __launch_bounds__(C::kThreads, 2)
    linearTf32Kernel(LinearParams p, LinearTensors tensors,
                     const __grid_constant__ Matrices matrices) {
  extern __shared__ unsigned char shared[];
  const uint32_t ring = roundUp(sharedAddress(shared), kAlignment);
  const uint32_t barriers = ring + C::kStages * C::kStageBytes;
  const auto full = [&](int stage) { return barriers + stage * 8; };
  const auto empty = [&](int stage) { return barriers + (C::kStages + stage) * 8; };

  const int rowTiles = int(ceilDiv<int64_t>(p.rows, C::kRows));
  const int row0 = int(blockIdx.x) % rowTiles * C::kRows;
  const int outs = kGlu ? p.out / 2 : p.out;                  // columns of y
  constexpr int kBlockOuts = kGlu ? C::kOuts / 2 : C::kOuts;  // per block
  const int out0 = int(blockIdx.x) / rowTiles * kBlockOuts;
  const int steps = ceilDiv(p.in, kDepth);

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < C::kStages; ++stage) {
      initBarrier(full(stage), 1);
      initBarrier(empty(stage), C::kConsumers / kWarpSize);
    }
    publishBarriers();
  }
  __syncthreads();
  admitNext();

  if (threadIdx.x >= C::kConsumers) {
    if (threadIdx.x == C::kConsumers) {
      const auto loadInput = [&](int stage, int step) {
        loadBox(ring + stage * C::kStageBytes, &matrices.x, step * kDepth, row0, full(stage));
      };
      const auto loadWeight = [&](int stage, int step) {
        const uint32_t to = ring + stage * C::kStageBytes + C::kRows * kRowBytes;
        loadBox(to, &matrices.weight, step * kDepth, out0, full(stage));
        if constexpr (kGlu) {
          loadBox(to + kBlockOuts * kRowBytes, &matrices.weight, step * kDepth, outs + out0,
                  full(stage));
        }
      };
      const int first = min(C::kStages, steps);
      for (int step = 0; step < first; ++step) {
        arriveExpecting(full(step), C::kStageBytes);
        loadWeight(step, step);  // constant: no need to wait for the previous kernel
      }
      waitForPrevious();
      for (int step = 0; step < first; ++step) loadInput(step, step);
      RingPlace place;
      for (int step = first; step < steps; ++step) {
        waitFor(empty(place.stage), place.parity);
        arriveExpecting(full(place.stage), C::kStageBytes);
        loadInput(place.stage, step);
        loadWeight(place.stage, step);
        place.advance(C::kStages);
      }
    }
    return;
  }

  // A lane's sums, in the layout of warpgroupProduct(): two rows, pairs of columns.
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  constexpr int kPairs = C::kOuts / 8;
  const auto rowOf = [&](int half) { return int64_t(row0) + warp * 16 + half * 8 + lane / 4; };
  const float* bias = static_cast<const float*>(tensors.bias);
  const float* residual = static_cast<const float*>(tensors.residual);
  const auto addBiasAndResidual = [&](float (&to)[4 * kPairs]) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const bool gate = kGlu && j >= kPairs / 2;
      const int out = out0 + (gate ? j - kPairs / 2 : j) * 8 + lane % 4 * 2;
      if (bias == nullptr || out >= outs) continue;
      const Vector<float, 2> pair = loadVector<2>(bias + out + (gate ? outs : 0));
#pragma unroll
      for (int i = 0; i < 4; ++i) to[4 * j + i] += pair.item[i % 2];
    }
    if constexpr (!kGlu) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (residual == nullptr || rowOf(half) >= p.rows) continue;
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          const int out = out0 + j * 8 + lane % 4 * 2;
          if (out >= outs) continue;
          const Vector<float, 2> pair = loadVector<2>(residual + rowOf(half) * outs + out);
          to[4 * j + 2 * half] += pair.item[0];
          to[4 * j + 2 * half + 1] += pair.item[1];
        }
      }
    }
  };
  waitForPrevious();
  // Loaded before the products if there are enough registers. The sums cannot start from these
  // values: the compiler would then make every product wait.
  constexpr bool kEarly = C::kOuts <= 64;
  float early[kEarly ? 4 * kPairs : 1] = {};
  if constexpr (kEarly) addBiasAndResidual(early);

  float sums[4 * kPairs] = {};
  const uint32_t ownRows = warp / 4 * 64 * kRowBytes;
  RingPlace place;
  int previous = 0;
  for (int step = 0; step < steps; ++step) {
    waitFor(full(place.stage), place.parity);
    const uint32_t stage = ring + place.stage * C::kStageBytes;
    const uint64_t a = swizzledOperand(stage + ownRows);
    const uint64_t b = swizzledOperand(stage + C::kRows * kRowBytes);
    pinRegisters(sums);
    beginProducts();
#pragma unroll
    for (int k = 0; k < kRowBytes / 32; ++k) {
      warpgroupProduct<float, C::kOuts>(sums, further(a, k * 32), further(b, k * 32));
    }
    endProducts();
    pinRegisters(sums);
    if (step > 0) {
      awaitProducts<1>();
      if (lane == 0) arrive(empty(previous));
    }
    previous = place.stage;
    place.advance(C::kStages);
  }
  awaitProducts<0>();
  pinRegisters(sums);

  if constexpr (kEarly) {
#pragma unroll
    for (int i = 0; i < 4 * kPairs; ++i) sums[i] += early[i];
  } else {
    addBiasAndResidual(sums);
  }

  float* y = static_cast<float*>(tensors.y);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = rowOf(half);
    if (row >= p.rows) continue;
    const bool keep = tensors.mask == nullptr || tensors.mask[row] != 0;
#pragma unroll
    for (int j = 0; j < kBlockOuts / 8; ++j) {
      const int out = out0 + j * 8 + lane % 4 * 2;
      if (out >= outs) continue;
      float result[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int at = 4 * j + 2 * half + e;
        result[e] = sums[at];
        if constexpr (kGlu) {
          constexpr int kGates = 2 * kPairs;  // gates follow their values
          result[e] = glu<float, true>(result[e], sums[kGates + at]);
        } else if (p.activation == Activation::kRelu) {
          result[e] = relu(result[e]);
        }
        if (!keep) result[e] = 0.0f;
      }
      storeVector(y + row * outs + out, result);
    }
  }
}

// ---- host ---------------------------------------------------------------------------------------

/// Describes a dense matrix, for boxes of `rows` rows and one stage's inputs.
cudaError_t describe(const void* matrix, int64_t rows, int columns, int boxRows,
                     CUtensorMap* description) {
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
  const cuuint64_t strides[] = {cuuint64_t(columns) * sizeof(float)};
  const cuuint32_t box[] = {kDepth, cuuint32_t(boxRows)}, steps[] = {1, 1};
  const CUresult result =
      encode(description, CU_TENSOR_MAP_DATA_TYPE_TFLOAT32, 2, const_cast<void*>(matrix), sizes,
             strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename C, bool kGlu>
cudaError_t run(const LinearParams& p, const LinearTensors& tensors, cudaStream_t stream) {
  constexpr int kBlockOuts = kGlu ? C::kOuts / 2 : C::kOuts;
  Matrices matrices;
  cudaError_t status = describe(tensors.x, p.rows, p.in, C::kRows, &matrices.x);
  if (status == cudaSuccess) {
    status = describe(tensors.weight, p.out, p.in, kBlockOuts, &matrices.weight);
  }
  if (status != cudaSuccess) return status;
  const int64_t blocks =
      ceilDiv<int64_t>(p.rows, C::kRows) * ceilDiv(kGlu ? p.out / 2 : p.out, kBlockOuts);
  return launchEarly(linearTf32Kernel<C, kGlu>, blocks, dim3(C::kThreads), C::kSharedBytes, stream,
                     p, tensors, matrices);
}

template <bool kGlu>
cudaError_t runVariant(const LinearParams& p, const LinearTensors& tensors, int variant,
                       cudaStream_t stream) {
  switch (variant) {
    case 0:
      return run<Cut<64, 32>, kGlu>(p, tensors, stream);
    case 1:
      return run<Cut<64, 64>, kGlu>(p, tensors, stream);
    case 2:
      return run<Cut<64, 128>, kGlu>(p, tensors, stream);
    case 3:
      return run<Cut<128, 128>, kGlu>(p, tensors, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

const char* checkTf32(const LinearParams& p) {
  if (p.dtype != DataType::kFloat) return "the data type must be float";
  if (p.rows < 0 || p.rows > 1 << 30) return "rows must be 0 to 2^30";
  if (p.in < 4 || p.in % 4 != 0) return "the inputs must be a multiple of 4";
  return checkOutputs(p);
}

bool hasLinearTf32() {
  bool hopper = false;
  return isHopper(&hopper) == cudaSuccess && hopper;
}

cudaError_t linearTf32(const LinearParams& p, const LinearTensors& tensors, int variant,
                       cudaStream_t stream) {
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
  return p.activation == Activation::kGlu ? runVariant<true>(p, tensors, variant, stream)
                                          : runVariant<false>(p, tensors, variant, stream);
}

}  // namespace lite
