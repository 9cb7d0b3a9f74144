// A block computes 128 x 256 of the result with two warpgroups, and walks over the tiles of its
// columns. A third warpgroup moves data through the bulk engine. One of its threads keeps a ring of
// stages filled, also while a tile is finished. Another one moves results, and the residual.
//
//   - Gate: a stage has the weights of 128 values and those of their gates, so a thread holds both
//     at the end.
//   - Norm: the blocks of a cluster share a row. Each computes mean and squared deviations of its
//     256 columns in registers, sends them to the others and combines all of them. The residual
//     arrives during the products, and every result takes the place of its residual.
//
// doc/kernels.md (What was tried) has the measurements.
#include "linear_hopper.cuh"
#include "linear_wide.h"
#include "ptx/cluster.cuh"

namespace lite {
namespace {

constexpr int kRows = 128, kOuts = 256;  // of a block's tile
constexpr int kConsumers = 2 * kWarpgroup;
constexpr int kThreads = kConsumers + kWarpgroup;  // registers move between whole warpgroups
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
constexpr uint32_t kStageBytes = (kRows + kOuts) * kRowBytes;
constexpr int kPairs = kOuts / 8, kSums = 4 * kPairs;  // of a lane
constexpr int kMostBlocks = 4;                         // of a row, with the norm
constexpr int kMostTiles = 32;                         // of a row, with the gate
constexpr uint32_t kBoxBytes = kRows * kRowBytes;      // of results: 128 rows of 128 bytes
constexpr int kFillWarp = kConsumers / kWarpSize, kMoveWarp = kFillWarp + 1;

/// Mean and squared deviations of a part of a row.
using Moments = float2;

// What a block has in shared memory. Boxes are aligned to kAlignment.
struct GateShared {
  static constexpr int kStages = 4;
  unsigned char ring[kStages * kStageBytes];
  unsigned char results[2 * kBoxBytes];
  float bias[kOuts];
  uint64_t full[kStages], empty[kStages], finished, stored;
};
struct NormShared {
  static constexpr int kStages = 3;
  unsigned char ring[kStages * kStageBytes];
  unsigned char results[4 * kBoxBytes];  // at first, the residual
  float bias[kOuts], scale[kOuts], shift[kOuts];
  Moments moments[2][kMostBlocks][kRows];  // of even and odd tiles, by the block that computed them
  uint64_t full[kStages], empty[kStages], residual, finished, exchanged[2];
};

struct WideMatrices {
  CUtensorMap x, weight, residual, y;
};

/// Where a block works: on the tiles `first`, `first + stride`, ... of rows and on part number
/// `part` of the columns.
struct Walk {
  int part, first, stride, tiles;

  __device__ Walk(int64_t rows, int parts)
      : part(int(blockIdx.x) % parts),
        first(int(blockIdx.x) / parts),
        stride(int(gridDim.x) / parts),
        tiles(int(ceilDiv<int64_t>(rows, kRows))) {}
};

/// The row of a lane's sums in its tile, at `half` of the pairs.
__device__ __forceinline__ int rowInTile(int half) {
  return threadIdx.x / kWarpSize * 16 + half * 8 + threadIdx.x % kWarpSize / 4;
}

/// The place of `bytes` bytes of a row in boxes as the bulk engine reads and writes them: 16-byte
/// chunks are swizzled by the row. `at` is the byte in the row, over all boxes.
__device__ __forceinline__ unsigned char* inBoxes(unsigned char* boxes, int row, int at) {
  const int chunk = at % kRowBytes / 16 ^ row % 8;
  return boxes + at / kRowBytes * kBoxBytes + row * kRowBytes + chunk * 16 + at % 16;
}

template <typename Shared>
__device__ __forceinline__ Shared& sharedOf(unsigned char* raw) {
  const uint32_t address = sharedAddress(raw);
  return *reinterpret_cast<Shared*>(raw + (roundUp(address, kAlignment) - address));
}

template <typename Shared>
__device__ __forceinline__ void initRing(Shared& shared) {
  for (int stage = 0; stage < Shared::kStages; ++stage) {
    initBarrier(sharedAddress(&shared.full[stage]), 1);
    initBarrier(sharedAddress(&shared.empty[stage]), kFillWarp);
  }
}

template <typename T>
__device__ __forceinline__ float valueOr0(const void* values, int at) {
  return values == nullptr ? 0.0f : toFloat(static_cast<const T*>(values)[at]);
}

/// Keeps the ring filled; loadWeight(to, barrier, input) loads the weights of a stage.
template <typename Shared, typename LoadWeight>
__device__ __forceinline__ void fillRing(Shared& shared, const Walk& walk, const CUtensorMap* x,
                                         int steps, int inputs, const LoadWeight& loadWeight) {
  RingPlace place;
  for (int tile = walk.first; tile < walk.tiles; tile += walk.stride) {
    for (int step = 0; step < steps; ++step) {
      const uint32_t to = sharedAddress(shared.ring) + place.stage * kStageBytes;
      const uint32_t barrier = sharedAddress(&shared.full[place.stage]);
      waitFor(sharedAddress(&shared.empty[place.stage]), place.parity ^ 1);
      arriveExpecting(barrier, kStageBytes);
      loadBox(to, x, step * inputs, tile * kRows, barrier);
      loadWeight(to + kRows * kRowBytes, barrier, step * inputs);
      place.advance(Shared::kStages);
    }
  }
}

/// Multiplies a tile. The ring goes on with the next tile.
template <typename In, typename Shared>
__device__ __forceinline__ void multiply(float (&sums)[kSums], int steps, Shared& shared,
                                         RingPlace& place) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) sums[i] = 0.0f;
  const uint32_t ring = sharedAddress(shared.ring);
  const uint32_t full = sharedAddress(shared.full), empty = sharedAddress(shared.empty);
  const uint32_t ownRows = threadIdx.x / kWarpgroup * 64 * kRowBytes;
  const bool speaker = threadIdx.x % kWarpSize == 0;
  int previous = 0;
  for (int step = 0; step < steps; ++step) {
    waitFor(full + place.stage * 8, place.parity);
    const uint32_t stage = ring + place.stage * kStageBytes;
    const uint64_t a = swizzledOperand(stage + ownRows);
    const uint64_t b = swizzledOperand(stage + kRows * kRowBytes);
    pinRegisters(sums);
    beginProducts();
#pragma unroll
    for (int k = 0; k < kRowBytes / 32; ++k) {
      warpgroupProduct<In, kOuts>(sums, further(a, k * 32), further(b, k * 32));
    }
    endProducts();
    pinRegisters(sums);
    if (step > 0) {
      awaitProducts<1>();
      if (speaker) arrive(empty + previous * 8);
    }
    previous = place.stage;
    place.advance(Shared::kStages);
  }
  awaitProducts<0>();
  pinRegisters(sums);
  if (speaker) arrive(empty + previous * 8);
}

/// Tells the thread that moves results that this thread's part of them is in shared memory.
__device__ __forceinline__ void announce(uint64_t& finished) {
  fenceShared();
  arrive(sharedAddress(&finished));
}

/// Waits for the results of a tile, and moves them to y; then shared memory is free again. kColumns
/// are the columns of y in a tile.
template <typename Out, int kColumns, typename Shared>
__device__ __forceinline__ void storeTile(Shared& shared, const CUtensorMap* y, int out0, int tile,
                                          uint32_t parity) {
  constexpr int kBoxColumns = kRowBytes / int(sizeof(Out));
  waitFor(sharedAddress(&shared.finished), parity);
  for (int box = 0; box < kColumns / kBoxColumns; ++box) {
    storeBox(y, out0 + box * kBoxColumns, tile * kRows,
             sharedAddress(shared.results) + box * kBoxBytes);
  }
  commitStores();
  waitForStores<false>();
}

// ---- gate ---------------------------------------------------------------------------------------

template <typename T, typename In, typename Out>
__global__ void __launch_bounds__(kThreads, 1)
    linearGateKernel(WideParams p, WideGateTensors t,
                     const __grid_constant__ WideMatrices matrices) {
  extern __shared__ unsigned char raw[];
  GateShared& shared = sharedOf<GateShared>(raw);
  constexpr int kInputs = kRowBytes / int(sizeof(In));  // per stage
  constexpr int kValues = kOuts / 2;
  const int steps = ceilDiv(p.in, kInputs), outs = p.out / 2;
  const Walk walk(p.rows, outs / kValues);
  const int out0 = walk.part * kValues;

  if (threadIdx.x < kOuts) {
    const bool gate = threadIdx.x >= kValues;
    shared.bias[threadIdx.x] =
        valueOr0<T>(t.bias, out0 + int(threadIdx.x) + (gate ? outs - kValues : 0));
  }
  if (threadIdx.x == 0) {
    initRing(shared);
    initBarrier(sharedAddress(&shared.finished), kConsumers);
    initBarrier(sharedAddress(&shared.stored), 1);
    publishBarriers();
  }
  __syncthreads();
  admitNext();
  waitForPrevious();

  if (threadIdx.x >= kConsumers) {
    lowerRegisters<kProducerRegisters>();
    if (threadIdx.x == kFillWarp * kWarpSize) {
      fillRing(shared, walk, &matrices.x, steps, kInputs,
               [&](uint32_t to, uint32_t barrier, int input) {
                 loadBox(to, &matrices.weight, input, out0, barrier);
                 loadBox(to + kValues * kRowBytes, &matrices.weight, input, outs + out0, barrier);
               });
    } else if (threadIdx.x == kMoveWarp * kWarpSize) {
      uint32_t parity = 0;
      for (int tile = walk.first; tile < walk.tiles; tile += walk.stride, parity ^= 1) {
        storeTile<Out, kValues>(shared, &matrices.y, out0, tile, parity);
        arrive(sharedAddress(&shared.stored));
      }
      waitForStores<true>();
    }
    return;
  }

  raiseRegisters<kConsumerRegisters>();
  const int q = threadIdx.x % 4;
  RingPlace place;
  uint32_t parity = 1;
  for (int tile = walk.first; tile < walk.tiles; tile += walk.stride, parity ^= 1) {
    bool keep[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = int64_t(tile) * kRows + rowInTile(half);
      keep[half] = row < p.rows && (t.mask == nullptr || t.mask[row] != 0);
    }
    float sums[kSums];
    multiply<In>(sums, steps, shared, place);
    waitFor(sharedAddress(&shared.stored), parity);  // the results of the tile before
#pragma unroll
    for (int j = 0; j < kPairs / 2; ++j) {
      const int column = 8 * j + 2 * q;
      const float2 bias = *reinterpret_cast<const float2*>(&shared.bias[column]);
      const float2 gateBias = *reinterpret_cast<const float2*>(&shared.bias[kValues + column]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* value = &sums[4 * j + 2 * half];
        const float* gate = value + kSums / 2;
        float result[2] = {
            glu<float, true>(p.alpha * value[0] + bias.x, p.alpha * gate[0] + gateBias.x),
            glu<float, true>(p.alpha * value[1] + bias.y, p.alpha * gate[1] + gateBias.y)};
        if (!keep[half]) result[0] = result[1] = 0.0f;
        unsigned char* to = inBoxes(shared.results, rowInTile(half), column * int(sizeof(Out)));
        storeScaled(reinterpret_cast<Out*>(to), result, t.fp8Factor);
      }
    }
    announce(shared.finished);
  }
}

// ---- norm ---------------------------------------------------------------------------------------

__device__ __forceinline__ float quadSum(float value) {
  value += __shfl_xor_sync(kFullWarp, value, 1);
  return value + __shfl_xor_sync(kFullWarp, value, 2);
}

/// Returns the moments of the part of a row that the four lanes of a quad hold.
__device__ __forceinline__ Moments momentsOf(const float (&sums)[kSums], int half) {
  float total[2] = {}, squares[2] = {};
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) total[e] += sums[4 * j + 2 * half + e];
  }
  const float mean = quadSum(total[0] + total[1]) / kOuts;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float deviation = sums[4 * j + 2 * half + e] - mean;
      squares[e] += deviation * deviation;
    }
  }
  return {mean, quadSum(squares[0] + squares[1])};
}

// Stores a lane's pairs of one row as FP8. Pair j of lane q has the columns 8 j + 2 q and the next
// one. The lanes of a quad exchange them, so that each stores eight neighbouring columns.
__device__ __forceinline__ void storeFp8(Fp8* row, const float (&sums)[kSums], int half,
                                         float factor, bool inside) {
  constexpr uint32_t kLower = 0x5410, kUpper = 0x7632;  // halves of both operands
  const bool high = threadIdx.x & 2, odd = threadIdx.x & 1;
  const auto items = [&](int j) {
    uint32_t both = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float* pair = &sums[4 * (j + i) + 2 * half];
      both |= uint32_t(__nv_cvt_float2_to_fp8x2(make_float2(pair[0] * factor, pair[1] * factor),
                                                __NV_SATFINITE, __NV_E4M3))
              << (16 * i);
    }
    return both;
  };
#pragma unroll
  for (int j = 0; j < kPairs; j += 4) {
    const uint32_t first = items(j), second = items(j + 2);
    const uint32_t far = __shfl_xor_sync(kFullWarp, high ? first : second, 2);
    const uint32_t low = high ? far : first, above = high ? second : far;
    const uint32_t keep = __byte_perm(low, above, odd ? kUpper : kLower);
    const uint32_t near =
        __shfl_xor_sync(kFullWarp, __byte_perm(low, above, odd ? kLower : kUpper), 1);
    const uint32_t even = odd ? near : keep, other = odd ? keep : near;
    const uint2 words = {__byte_perm(even, other, kLower), __byte_perm(even, other, kUpper)};
    if (inside) *reinterpret_cast<uint2*>(row + 8 * (j + threadIdx.x % 4)) = words;
  }
}

template <typename T, typename In>
__global__ void __launch_bounds__(kThreads, 1)
    linearNormKernel(WideParams p, WideNormTensors t,
                     const __grid_constant__ WideMatrices matrices) {
  extern __shared__ unsigned char raw[];
  NormShared& shared = sharedOf<NormShared>(raw);
  constexpr int kInputs = kRowBytes / int(sizeof(In));  // per stage
  const int steps = ceilDiv(p.in, kInputs), blocks = p.out / kOuts;
  const Walk walk(p.rows, blocks);
  const int out0 = walk.part * kOuts;

  if (threadIdx.x < kOuts) {
    const int column = out0 + threadIdx.x;
    shared.bias[threadIdx.x] = valueOr0<T>(t.bias, column);
    shared.scale[threadIdx.x] = t.scale[column];
    shared.shift[threadIdx.x] = t.shift[column];
  }
  if (threadIdx.x == 0) {
    initRing(shared);
    initBarrier(sharedAddress(&shared.residual), 1);
    initBarrier(sharedAddress(&shared.finished), kConsumers);
    for (uint64_t& exchanged : shared.exchanged) initBarrier(sharedAddress(&exchanged), 1);
    publishBarriers();
  }
  clusterSync();  // other blocks use the barriers, too
  admitNext();
  waitForPrevious();

  if (threadIdx.x >= kConsumers) {
    lowerRegisters<kProducerRegisters>();
    if (threadIdx.x == kFillWarp * kWarpSize) {
      fillRing(shared, walk, &matrices.x, steps, kInputs,
               [&](uint32_t to, uint32_t barrier, int input) {
                 loadBox(to, &matrices.weight, input, out0, barrier);
               });
    } else if (threadIdx.x == kMoveWarp * kWarpSize) {
      constexpr int kColumns = kRowBytes / int(sizeof(T)), kBoxes = kOuts / kColumns;
      const uint32_t results = sharedAddress(shared.results);
      const uint32_t residual = sharedAddress(&shared.residual);
      uint32_t parity = 0;
      for (int tile = walk.first; tile < walk.tiles; tile += walk.stride, parity ^= 1) {
        arriveExpecting(residual, kBoxes * kBoxBytes);
        for (int box = 0; box < kBoxes; ++box) {
          loadBox(results + box * kBoxBytes, &matrices.residual, out0 + box * kColumns,
                  tile * kRows, residual);
        }
        storeTile<T, kOuts>(shared, &matrices.y, out0, tile, parity);
      }
      waitForStores<true>();
    }
    __syncwarp();
    clusterSync();  // no block ends while another may still write to it
    return;
  }

  raiseRegisters<kConsumerRegisters>();
  const int q = threadIdx.x % 4;
  RingPlace place;
  int count = 0;  // tiles so far
  for (int tile = walk.first; tile < walk.tiles; tile += walk.stride, ++count) {
    float sums[kSums];
    multiply<In>(sums, steps, shared, place);

    waitFor(sharedAddress(&shared.residual), count % 2);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float2 bias = *reinterpret_cast<const float2*>(&shared.bias[8 * j + 2 * q]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const unsigned char* from =
            inBoxes(shared.results, rowInTile(half), (8 * j + 2 * q) * int(sizeof(T)));
        const Vector<T, 2> more = loadVector<2>(reinterpret_cast<const T*>(from));
        float* pair = &sums[4 * j + 2 * half];
        pair[0] = p.alpha * pair[0] + (bias.x + toFloat(more.item[0]));
        pair[1] = p.alpha * pair[1] + (bias.y + toFloat(more.item[1]));
      }
    }

    const Moments own[2] = {momentsOf(sums, 0), momentsOf(sums, 1)};
    const int buffer = count % 2;
    if (blocks > 1) {
      const uint32_t exchanged = sharedAddress(&shared.exchanged[buffer]);
      if (threadIdx.x == 0) arriveExpecting(exchanged, (blocks - 1) * kRows * sizeof(Moments));
      // each lane of a quad sends to another block
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t to = sharedAddress(&shared.moments[buffer][walk.part][rowInTile(half)]);
        if (q < blocks && q != walk.part) {
          storeRemote(remoteAddress(to, q), own[half], remoteAddress(exchanged, q));
        }
      }
      waitFor(exchanged, count / 2 % 2);
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Moments parts[kMostBlocks];
      float mean = 0.0f, squares = 0.0f;
#pragma unroll
      for (int part = 0; part < kMostBlocks; ++part) {
        if (part >= blocks) break;
        parts[part] = part == walk.part ? own[half] : shared.moments[buffer][part][rowInTile(half)];
        mean += parts[part].x;
      }
      mean /= blocks;
#pragma unroll
      for (int part = 0; part < kMostBlocks; ++part) {
        if (part >= blocks) break;
        const float away = parts[part].x - mean;
        squares += parts[part].y + kOuts * away * away;
      }
      const float inverse = rsqrtf(squares / p.out + t.eps), offset = -mean * inverse;
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const float2 scale = *reinterpret_cast<const float2*>(&shared.scale[8 * j + 2 * q]);
        const float2 shift = *reinterpret_cast<const float2*>(&shared.shift[8 * j + 2 * q]);
        float* pair = &sums[4 * j + 2 * half];
        pair[0] = (pair[0] * inverse + offset) * scale.x + shift.x;
        pair[1] = (pair[1] * inverse + offset) * scale.y + shift.y;
      }
      const int64_t row = int64_t(tile) * kRows + rowInTile(half);
      const bool inside = row < p.rows;
      if (t.after != nullptr && inside) {
        const T* after = static_cast<const T*>(t.after) + row % t.period * p.out + out0 + 2 * q;
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          const Vector<T, 2> more = loadVector<2>(after + 8 * j);
          sums[4 * j + 2 * half] += toFloat(more.item[0]);
          sums[4 * j + 2 * half + 1] += toFloat(more.item[1]);
        }
      }
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const float* pair = &sums[4 * j + 2 * half];
        unsigned char* to =
            inBoxes(shared.results, rowInTile(half), (8 * j + 2 * q) * int(sizeof(T)));
        *reinterpret_cast<uint32_t*>(to) = packFloats<T>(pair[0], pair[1]);
      }
      if (t.fp8 != nullptr) {
        storeFp8(static_cast<Fp8*>(t.fp8) + row * p.out + out0, sums, half, t.fp8Factor, inside);
      }
    }
    announce(shared.finished);
  }
  clusterSync();
}

// ---- host ---------------------------------------------------------------------------------------

template <typename T>
constexpr CUtensorMapDataType kTensorType = CU_TENSOR_MAP_DATA_TYPE_UINT8;  // e4m3
template <>
constexpr CUtensorMapDataType kTensorType<__half> = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
template <>
constexpr CUtensorMapDataType kTensorType<__nv_bfloat16> = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;

/// Launches a kernel. The columns of a row are divided among `parts` blocks, which form a cluster
/// if `clustered`.
template <typename Tensors>
cudaError_t launchWide(void (*kernel)(WideParams, Tensors, WideMatrices), uint32_t sharedBytes,
                       int parts, bool clustered, const WideParams& p, const Tensors& tensors,
                       const WideMatrices& matrices, cudaStream_t stream) {
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {unsigned(parts), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(parts));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sharedBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = clustered ? 2 : 1;
  cudaError_t status = allowSharedBytes(kernel, sharedBytes);
  if (status != cudaSuccess) return status;
  int groups = 0;  // that fit on the GPU at once, with one block on a multiprocessor
  if (clustered) {
    status = cudaOccupancyMaxActiveClusters(&groups, kernel, &config);
  } else {
    status = deviceAttribute(cudaDevAttrMultiProcessorCount, &groups);
    groups /= parts;
  }
  if (status != cudaSuccess) return status;
  const int64_t tiles = ceilDiv<int64_t>(p.rows, kRows);
  config.gridDim = dim3(unsigned(std::clamp<int64_t>(groups, 1, tiles) * parts));
  return cudaLaunchKernelEx(&config, kernel, p, tensors, matrices);
}

constexpr uint32_t kGateBytes = kAlignment + sizeof(GateShared);
constexpr uint32_t kNormBytes = kAlignment + sizeof(NormShared);
constexpr uint32_t kMostSharedBytes = 227 * 1024;
static_assert(kGateBytes <= kMostSharedBytes && kNormBytes <= kMostSharedBytes);

const char* checkWide(const WideParams& p) {
  if (p.dtype != DataType::kHalf && p.dtype != DataType::kBFloat16) {
    return "the data type must be half or bfloat16";
  }
  if (p.rows < 0 || p.rows > 1 << 30) return "rows must be 0 to 2^30";
  const int step = p.fp8 ? 16 : 8;
  if (p.in < step || p.in % step != 0) return "the inputs must be a multiple of 16 bytes";
  return nullptr;
}

/// Calls f with values of the types of results and operands.
template <typename F>
cudaError_t dispatchWide(const WideParams& p, const F& f) {
  const auto of = [&](auto tag) { return p.fp8 ? f(tag, Fp8{}) : f(tag, tag); };
  return p.dtype == DataType::kHalf ? of(__half{}) : of(__nv_bfloat16{});
}

/// Describes a matrix for boxes of the rows of a tile.
template <typename T>
cudaError_t describeRows(const void* matrix, int64_t rows, int columns, CUtensorMap* description) {
  return describe(matrix, rows, columns, kRows, kTensorType<T>, sizeof(T), description);
}

/// Checks the GPU, and describes both operands; weights come in boxes of `boxRows` rows.
template <typename In>
cudaError_t describeWide(const WideParams& p, const void* x, const void* weight, int boxRows,
                         WideMatrices* matrices) {
  bool hopper = false;
  cudaError_t status = isHopper(&hopper);
  if (status != cudaSuccess) return status;
  if (!hopper) return cudaErrorNotSupported;
  status = describeRows<In>(x, p.rows, p.in, &matrices->x);
  if (status != cudaSuccess) return status;
  return describe(weight, p.out, p.in, boxRows, kTensorType<In>, sizeof(In), &matrices->weight);
}

}  // namespace

const char* checkWideGate(const WideParams& p) {
  const bool good = p.out >= kOuts && p.out % kOuts == 0 && p.out <= kMostTiles * kOuts;
  return good ? checkWide(p) : "values and gates must be multiples of 128, up to 4096";
}

const char* checkWideNorm(const WideParams& p) {
  const int blocks = p.out / kOuts;
  const bool good = p.out % kOuts == 0 && (blocks == 1 || blocks == 2 || blocks == kMostBlocks);
  return good ? checkWide(p) : "the outputs must be 256, 512 or 1024";
}

cudaError_t linearGate(const WideParams& p, const WideGateTensors& t, cudaStream_t stream) {
  if (checkWideGate(p) != nullptr || !aligned(16, {t.x, t.weight, t.bias, t.y})) {
    return cudaErrorInvalidValue;
  }
  if (p.rows == 0) return cudaSuccess;
  return dispatchWide(p, [&](auto type, auto operand) {
    using T = decltype(type);
    using In = decltype(operand);
    const auto to = [&](auto result) {
      using Out = decltype(result);
      WideMatrices matrices{};
      cudaError_t status = describeWide<In>(p, t.x, t.weight, kOuts / 2, &matrices);
      if (status == cudaSuccess) status = describeRows<Out>(t.y, p.rows, p.out / 2, &matrices.y);
      if (status != cudaSuccess) return status;
      return launchWide(linearGateKernel<T, In, Out>, kGateBytes, p.out / kOuts, false, p, t,
                        matrices, stream);
    };
    return t.fp8Factor == 0.0f ? to(T{}) : to(Fp8{});
  });
}

cudaError_t linearNorm(const WideParams& p, const WideNormTensors& t, cudaStream_t stream) {
  if (checkWideNorm(p) != nullptr || t.residual == nullptr || t.period < 1 || !(t.eps >= 0.0f) ||
      !aligned(16, {t.x, t.weight, t.bias, t.residual, t.scale, t.shift, t.after, t.y, t.fp8})) {
    return cudaErrorInvalidValue;
  }
  if (p.rows == 0) return cudaSuccess;
  return dispatchWide(p, [&](auto type, auto operand) {
    using T = decltype(type);
    using In = decltype(operand);
    WideMatrices matrices{};
    cudaError_t status = describeWide<In>(p, t.x, t.weight, kOuts, &matrices);
    if (status == cudaSuccess)
      status = describeRows<T>(t.residual, p.rows, p.out, &matrices.residual);
    if (status == cudaSuccess) status = describeRows<T>(t.y, p.rows, p.out, &matrices.y);
    if (status != cudaSuccess) return status;
    return launchWide(linearNormKernel<T, In>, kNormBytes, p.out / kOuts, true, p, t, matrices,
                      stream);
  });
}

}  // namespace lite
