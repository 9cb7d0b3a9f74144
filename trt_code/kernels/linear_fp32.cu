// FP32 products on the warpgroups' matrix units, which read TF32: three TF32 products of split
// operands (Ootomo and Yokota, arXiv 2203.03341). Each operand is a high part, rounded to TF32, and
// a low part, the remainder. The product of two low parts is omitted, about 2^-22 relative.
// doc/kernels.md (What was tried) has the measurements.
//
//   - The matrix units truncate their sums. So they add up the products of one stage only, 32
//     inputs, the small ones first. The sums over stages are ordinary FP32 additions.
//   - The bulk engine copies both operands as they are. A warpgroup splits its inputs in registers.
//     Separate warps split the weights in shared memory, once for all warpgroups of a block.
//   - While one warpgroup adds and splits, the matrix units work for another one.
//   - A block computes several tiles, so that the next tile's operands arrive during the epilogue.
//   - Infinity times a low part of 0 is NaN, and a high part can overflow. So sums that are not
//     finite are computed again, in FP32.
//   - TF32's subnormal numbers are multiples of 2^-136, and the units compute with them. A part
//     loses what is smaller. So operands below 2^-113 have fewer bits than in FP32.
#include "linear_hopper.cuh"
#include "ptx/tiles.cuh"

namespace lite {
namespace {

constexpr uint32_t kMultiprocessorBytes = 224 * 1024;

/// How a product is divided into tiles. A multiprocessor runs two warpgroups that multiply, in one
/// block or in two. For each of them, its block has a warp that splits weights.
template <int kRows_, int kOuts_>
struct Cut {
  static constexpr int kRows = kRows_, kOuts = kOuts_;
  static constexpr int kWarpgroups = kRows / 64;
  static constexpr int kBlocks = 2 / kWarpgroups;  // per multiprocessor
  static constexpr int kConsumers = kWarpgroups * kWarpgroup;
  static constexpr int kSplitters = kWarpgroups * kWarpSize;
  static constexpr bool kManyRegisters = kOuts == 128;
  static constexpr int kThreads =
      kConsumers + (kManyRegisters ? kWarpgroup : kSplitters + kWarpSize);
  static constexpr uint32_t kInputBytes = kRows * kRowBytes, kWeightBytes = kOuts * kRowBytes;
  static constexpr uint32_t kStageBytes = kInputBytes + 2 * kWeightBytes;  // both parts
  static constexpr int kStages =
      std::min(8, int((kMultiprocessorBytes / kBlocks - 2 * kAlignment) / kStageBytes));
  static constexpr uint32_t kSharedBytes =
      kAlignment + kStages * kStageBytes + 3 * kStages * sizeof(uint64_t);
};

/// A float's high part, rounded to TF32, and the remainder. Of the remainder, the matrix units use
/// the bits of a TF32 number. For infinities, NaN and what rounds up to infinity, a part is not
/// finite.
struct Parts {
  float high, low;
};

__device__ __forceinline__ Parts split(float value) {
  constexpr uint32_t kUnused = 0x1fff, kHalf = 0x1000;
  const float high = __uint_as_float((__float_as_uint(value) + kHalf) & ~kUnused);
  return {high, value - high};
}

/// Splits the weights of a stage, in place and to `low`. They are in the order in which loadBox()
/// wrote them.
template <typename C>
__device__ __forceinline__ void splitWeights(float4* high, float4* low, int thread) {
  constexpr int kEach = int(C::kWeightBytes / sizeof(float4)) / C::kSplitters, kTogether = 8;
  static_assert(kEach % kTogether == 0);
#pragma unroll
  for (int first = 0; first < kEach; first += kTogether) {
    float4 weights[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) weights[i] = high[thread + (first + i) * C::kSplitters];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const Parts x = split(weights[i].x), y = split(weights[i].y);
      const Parts z = split(weights[i].z), w = split(weights[i].w);
      high[thread + (first + i) * C::kSplitters] = {x.high, y.high, z.high, w.high};
      low[thread + (first + i) * C::kSplitters] = {x.low, y.low, z.low, w.low};
    }
  }
}

/// Computes the sums that are not finite again, one product at a time.
template <typename C, bool kGlu>
__device__ __forceinline__ void repair(const Tile<C, kGlu>& tile,
                                       typename Tile<C, kGlu>::Sums& sums) {
  constexpr int kSums = Tile<C, kGlu>::kSums;
  float probe = 0.0f;  // NaN if a sum is not finite
#pragma unroll
  for (int i = 0; i < kSums; ++i) probe = fmaf(sums[i], 0.0f, probe);
  if (probe == 0.0f) return;
  uint64_t broken = 0;
#pragma unroll
  for (int i = 0; i < kSums; ++i) broken |= uint64_t(!isfinite(sums[i])) << i;
  const int in = tile.p.in;
  while (broken != 0) {
    const int i = __ffsll(int64_t(broken)) - 1;
    broken &= broken - 1;
    const int pair = i / 4, column = tile.outOf(pair) + i % 2;
    const int64_t row = tile.rowOf(i / 2 % 2);
    float sum = 0.0f;
    if (row < tile.p.rows && column < tile.outs()) {
      const int out = column + (kGlu && pair >= tile.kPairs / 2 ? tile.outs() : 0);
      const float* x = static_cast<const float*>(tile.tensors.x) + row * in;
      const float* weight = static_cast<const float*>(tile.tensors.weight) + int64_t(out) * in;
      for (int k = 0; k < in && !isnan(sum); ++k) sum = fmaf(x[k], weight[k], sum);
    }
#pragma unroll
    for (int at = 0; at < kSums; ++at) sums[at] = at == i ? sum : sums[at];
  }
}

template <typename C, bool kGlu>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    linearFp32Kernel(LinearParams p, LinearTensors tensors,
                     const __grid_constant__ Matrices matrices) {
  extern __shared__ unsigned char shared[];
  const uint32_t ring = roundUp(sharedAddress(shared), kAlignment);
  const uint32_t barriers = ring + C::kStages * C::kStageBytes;
  const auto full = [&](int stage) { return barriers + stage * 8; };
  const auto ready = [&](int stage) { return barriers + (C::kStages + stage) * 8; };
  const auto empty = [&](int stage) { return barriers + (2 * C::kStages + stage) * 8; };
  const auto inputs = [&](int stage) { return ring + stage * C::kStageBytes; };
  const auto high = [&](int stage) { return inputs(stage) + C::kInputBytes; };
  const auto low = [&](int stage) { return high(stage) + C::kWeightBytes; };

  const int steps = ceilDiv(p.in, kDepth);
  const int rowTiles = int(ceilDiv<int64_t>(p.rows, C::kRows)), across = outTiles<C, kGlu>(p);
  const int64_t tiles = int64_t(rowTiles) * across;
  // Tiles in bands of kBand rows of tiles, column by column, so that the operands of the tiles that
  // run at the same time fit into L2.
  constexpr int kBand = 16;
  const auto tileAt = [&](int64_t index) {
    const int band = int(index / (int64_t(kBand) * across));
    const int within = int(index - int64_t(band) * kBand * across);
    const int height = min(kBand, rowTiles - band * kBand);
    return Tile<C, kGlu>{p, tensors, (band * kBand + within % height) * C::kRows,
                         within / height * Tile<C, kGlu>::kBlockOuts};
  };

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < C::kStages; ++stage) {
      initBarrier(full(stage), 1);
      initBarrier(ready(stage), C::kSplitters);
      initBarrier(empty(stage), C::kConsumers / kWarpSize);
    }
    publishBarriers();
  }
  __syncthreads();
  admitNext();

  RingPlace place;
  if (threadIdx.x >= C::kConsumers) {
    if constexpr (C::kManyRegisters) lowerRegisters<72>();
    const int thread = int(threadIdx.x) - C::kConsumers;
    if (thread == C::kSplitters) {
      constexpr uint32_t kLoaded = C::kInputBytes + C::kWeightBytes;
      // The weights of the first stages are constant: no need to wait for the previous kernel.
      const Tile<C, kGlu> firstTile = tileAt(blockIdx.x);
      const int early = min(C::kStages, steps);
      for (int step = 0; step < early; ++step) {
        arriveExpecting(full(step), kLoaded);
        firstTile.loadWeight(high(step), full(step), matrices, step);
      }
      waitForPrevious();
      for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
        const Tile<C, kGlu> tile = tileAt(index);
        for (int step = 0; step < steps; ++step) {
          const int stage = place.stage;
          if (index != blockIdx.x || step >= early) {
            waitFor(empty(stage), place.parity ^ 1);
            arriveExpecting(full(stage), kLoaded);
            tile.loadWeight(high(stage), full(stage), matrices, step);
          }
          tile.loadInput(inputs(stage), full(stage), matrices, step);
          place.advance(C::kStages);
        }
      }
    } else if (thread < C::kSplitters) {
      for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
        for (int step = 0; step < steps; ++step) {
          waitFor(full(place.stage), place.parity);
          const auto pointer = [&](uint32_t address) {
            return reinterpret_cast<float4*>(shared + (address - sharedAddress(shared)));
          };
          splitWeights<C>(pointer(high(place.stage)), pointer(low(place.stage)), thread);
          fenceShared();
          arrive(ready(place.stage));
          place.advance(C::kStages);
        }
      }
    }
    return;
  }
  if constexpr (C::kManyRegisters) raiseRegisters<216>();

  // A lane of loadTiles() passes the address of row l % 8 of tile l / 8. The tiles of 8 x 4 inputs
  // are in the order of the operand: two below each other, then two to their right.
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int row = warp * 16 + lane % 16;
  const uint32_t ownInputs = row * kRowBytes + ((lane / 16 ^ row % 8) << 4);
  constexpr int kSteps = kRowBytes / 32;  // products per stage, of each pair of parts
  waitForPrevious();
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile<C, kGlu> tile = tileAt(index);
    typename Tile<C, kGlu>::Sums sums = {}, ofStage = {};
    __syncwarp();
    for (int step = 0; step < steps; ++step) {
      const int stage = place.stage;
      waitFor(full(stage), place.parity);
      float xHigh[4 * kSteps], xLow[4 * kSteps];
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        uint32_t words[4];
        loadTiles(words, inputs(stage) + (ownInputs ^ k << 5));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Parts parts = split(__uint_as_float(words[i]));
          xHigh[4 * k + i] = parts.high;
          xLow[4 * k + i] = parts.low;
        }
      }
      const uint64_t weightHigh = swizzledOperand(high(stage));
      const uint64_t weightLow = swizzledOperand(low(stage));
      waitFor(ready(stage), place.parity);
      pinRegisters(ofStage);
      pinRegisters(xHigh);
      pinRegisters(xLow);
      beginProducts();
      warpgroupProduct<C::kOuts, false>(ofStage, xLow, weightHigh);
#pragma unroll
      for (int k = 1; k < kSteps; ++k) {
        warpgroupProduct<C::kOuts, true>(ofStage, xLow + 4 * k, further(weightHigh, k * 32));
      }
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        warpgroupProduct<C::kOuts, true>(ofStage, xHigh + 4 * k, further(weightLow, k * 32));
      }
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        warpgroupProduct<C::kOuts, true>(ofStage, xHigh + 4 * k, further(weightHigh, k * 32));
      }
      endProducts();
      awaitProducts<0>();
      pinRegisters(ofStage);
      pinRegisters(xHigh);
      pinRegisters(xLow);
      __syncwarp();
      if (lane == 0) arrive(empty(stage));
#pragma unroll
      for (int i = 0; i < tile.kSums; ++i) sums[i] += ofStage[i];
      place.advance(C::kStages);
    }
    repair<C, kGlu>(tile, sums);
    tile.addBiasAndResidual(sums);
    tile.template store<false>(sums);
  }
}

// ---- host ---------------------------------------------------------------------------------------

template <typename C, bool kGlu>
cudaError_t run(const LinearParams& p, const LinearTensors& tensors, cudaStream_t stream) {
  Matrices matrices;
  cudaError_t status =
      describeOperands<C, kGlu>(p, tensors, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, &matrices);
  if (status != cudaSuccess) return status;
  int multiprocessors = 0;
  status = deviceAttribute(cudaDevAttrMultiProcessorCount, &multiprocessors);
  if (status != cudaSuccess) return status;
  const int64_t tiles = ceilDiv<int64_t>(p.rows, C::kRows) * outTiles<C, kGlu>(p);
  const int64_t blocks = std::min<int64_t>(tiles, int64_t(multiprocessors) * C::kBlocks);
  return launchEarly(linearFp32Kernel<C, kGlu>, blocks, dim3(C::kThreads), C::kSharedBytes, stream,
                     p, tensors, matrices);
}

using Cuts = std::tuple<Cut<64, 32>, Cut<128, 64>, Cut<128, 128>>;
static_assert(std::tuple_size_v<Cuts> == kFp32LinearVariants);

}  // namespace

cudaError_t linearFp32(const LinearParams& p, const LinearTensors& tensors, int variant,
                       cudaStream_t stream) {
  return launchOnHopper<Cuts>(p, tensors, variant, [&](auto cut, auto glu) {
    return run<decltype(cut), decltype(glu)::value>(p, tensors, stream);
  });
}

}  // namespace lite
