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
#include "linear_hopper.cuh"

namespace lite {
namespace {

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
  const Tile<C, kGlu> tile{p, tensors, int(blockIdx.x) % rowTiles * C::kRows,
                           int(blockIdx.x) / rowTiles * Tile<C, kGlu>::kBlockOuts};
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
        tile.loadInput(ring + stage * C::kStageBytes, full(stage), matrices, step);
      };
      const auto loadWeight = [&](int stage, int step) {
        const uint32_t to = ring + stage * C::kStageBytes + C::kRows * kRowBytes;
        tile.loadWeight(to, full(stage), matrices, step);
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

  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  waitForPrevious();
  // Loaded before the products if there are enough registers. The sums cannot start from these
  // values: the compiler would then make every product wait.
  constexpr bool kEarly = C::kOuts <= 64;
  using Sums = typename Tile<C, kGlu>::Sums;
  std::conditional_t<kEarly, Sums, float[1]> early = {};
  if constexpr (kEarly) tile.addBiasAndResidual(early);

  Sums sums = {};
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
    for (int i = 0; i < tile.kSums; ++i) sums[i] += early[i];
  } else {
    tile.addBiasAndResidual(sums);
  }
  tile.template store<true>(sums);
}

// ---- host ---------------------------------------------------------------------------------------

template <typename C, bool kGlu>
cudaError_t run(const LinearParams& p, const LinearTensors& tensors, cudaStream_t stream) {
  Matrices matrices;
  const cudaError_t status =
      describeOperands<C, kGlu>(p, tensors, CU_TENSOR_MAP_DATA_TYPE_TFLOAT32, &matrices);
  if (status != cudaSuccess) return status;
  const int64_t blocks = ceilDiv<int64_t>(p.rows, C::kRows) * outTiles<C, kGlu>(p);
  return launchEarly(linearTf32Kernel<C, kGlu>, blocks, dim3(C::kThreads), C::kSharedBytes, stream,
                     p, tensors, matrices);
}

using Cuts = std::tuple<Cut<64, 32>, Cut<64, 64>, Cut<64, 128>, Cut<128, 128>>;
static_assert(std::tuple_size_v<Cuts> == kTf32LinearVariants);

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
  return launchOnHopper<Cuts>(p, tensors, variant, [&](auto cut, auto glu) {
    return run<decltype(cut), decltype(glu)::value>(p, tensors, stream);
  });
}

}  // namespace lite
