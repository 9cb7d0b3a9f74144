// One block decodes one sentence, in a pipeline over its positions:
//
//   - kWorkers warps compute the transitions E1[i] . E2[j] of the steps ahead, beam x beam each,
//     on the matrix units, and leave them in shared memory with the step's emissions and mask.
//     Products of 16-bit types are exact in the FP32 sums; FP32 operands are split in two TF32
//     parts, of which the product of the low parts alone is left out (about 2^-22 relative);
//   - the first warp runs the recursion over the steps that are ready, a lane a target slot or
//     two: one step after another, with no barrier among warps inside a step.
//
// They meet at one barrier per chunk of steps. Back pointers stay in shared memory; prefix scores
// go to the workspace, since only the back-trace knows which of them count.
//
// Measured on an H100 (FP16, beam 32, rank 32), batch x length 16 x 64, 64 x 128 and 256 x 512: 26,
// 49 and 426 us. Tried: four warps that share the recursion, 25 us, since the workers' loads of
// rows are what takes the time (the compiler unpacks each row's elements before it loads the next
// row); with the rows kept packed as well, 21 against 30 us in a profile of the whole network. That
// form gave the same results in every test, but ended in a launch failure under memcheck in FP32
// before its rows were packed. That is not explained yet, and the form waits for it.
#include "crf_decode.h"
#include "mma.cuh"

namespace lite {
namespace {

constexpr int kWorkers = 8;
constexpr int kThreads = (1 + kWorkers) * kWarpSize;
constexpr int kTile = 32;        // transitions are computed in tiles of kTile x kTile
constexpr int kRankSlice = 8;    // consecutive ranks of a row that one lane holds
constexpr int kChainLength = 8;  // candidates of one chain of comparisons

template <typename T>
struct Tensors {
  const T* emissions;
  const int32_t* targets;
  const T* E1;
  const T* E2;
  const int32_t* mask;
  int32_t* tokens;
  float* scores;
  float* prefix;  // workspace [batch, length, beam]
};

// ---- shared memory ------------------------------------------------------------------------------

/// What the recursion needs for one step: transitions [kBeam][kPitch], emissions [kBeam], the mask.
/// The pitch spreads the rows that a tensor core's result touches together over all banks.
template <int kBeam>
struct StepLayout {
  static constexpr int kPitch = kBeam + 8;
  static constexpr int kEmissions = kBeam * kPitch;
  static constexpr int kMask = kEmissions + kBeam;
  static constexpr int kFloats = kMask + 4;
};

template <int kBeam>
size_t sharedBytes(int length, int chunk) {
  return sizeof(float) * (2 * chunk * StepLayout<kBeam>::kFloats + 2 * kBeam) +
         size_t(length) * (kBeam + 1);
}

// ---- transitions --------------------------------------------------------------------------------

template <typename T>
struct RankSlice {
  T item[kRankSlice];
};

template <typename T>
__device__ __forceinline__ RankSlice<T> loadRanks(const T* row, int rank, int first,
                                                  bool vectorised) {
  RankSlice<T> slice;
  if (vectorised && first + kRankSlice <= rank) {
    constexpr int kVec = kWidest<T>;
#pragma unroll
    for (int v = 0; v < kRankSlice; v += kVec) {
      const Vector<T, kVec> part = loadVector<kVec>(row + first + v);
#pragma unroll
      for (int i = 0; i < kVec; ++i) slice.item[v + i] = part.item[i];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kRankSlice; ++i) {
      slice.item[i] = first + i < rank ? row[first + i] : fromFloat<T>(0.0f);
    }
  }
  return slice;
}

__device__ __forceinline__ void multiplyTf32(float (&c)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t toTf32(float value) {
  uint32_t result;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
  return result;
}

/// The part of `value` that TF32 holds, and with kLow the part that this leaves.
template <bool kLow>
__device__ __forceinline__ uint32_t tf32Part(float value) {
  const uint32_t high = toTf32(value);
  return kLow ? toTf32(value - __uint_as_float(high)) : high;
}

/// c += rows (16 x ranks) . columns (8 x ranks)^T over the 32 ranks that the four lanes of a row
/// hold. The order of the ranks does not matter as long as both sides agree on it, so each lane
/// feeds the tensor core from its own eight.
template <typename T>
__device__ __forceinline__ void multiplyRanks(float (&c)[4], const RankSlice<T>& upper,
                                              const RankSlice<T>& lower,
                                              const RankSlice<T>& column) {
#pragma unroll
  for (int i = 0; i < kRankSlice; i += 4) {
    const uint32_t a[4] = {packPair(upper.item[i], upper.item[i + 1]),
                           packPair(lower.item[i], lower.item[i + 1]),
                           packPair(upper.item[i + 2], upper.item[i + 3]),
                           packPair(lower.item[i + 2], lower.item[i + 3])};
    const uint32_t b[2] = {packPair(column.item[i], column.item[i + 1]),
                           packPair(column.item[i + 2], column.item[i + 3])};
    mma16816<T>(c, a, b);
  }
}

template <bool kLowRows, bool kLowColumns>
__device__ __forceinline__ void multiplyParts(float (&c)[4], const RankSlice<float>& upper,
                                              const RankSlice<float>& lower,
                                              const RankSlice<float>& column) {
#pragma unroll
  for (int i = 0; i < kRankSlice; i += 2) {
    const uint32_t a[4] = {tf32Part<kLowRows>(upper.item[i]), tf32Part<kLowRows>(lower.item[i]),
                           tf32Part<kLowRows>(upper.item[i + 1]),
                           tf32Part<kLowRows>(lower.item[i + 1])};
    const uint32_t b[2] = {tf32Part<kLowColumns>(column.item[i]),
                           tf32Part<kLowColumns>(column.item[i + 1])};
    multiplyTf32(c, a, b);
  }
}

template <>
__device__ __forceinline__ void multiplyRanks<float>(float (&c)[4], const RankSlice<float>& upper,
                                                     const RankSlice<float>& lower,
                                                     const RankSlice<float>& column) {
  multiplyParts<true, false>(c, upper, lower, column);
  multiplyParts<false, true>(c, upper, lower, column);
  multiplyParts<false, false>(c, upper, lower, column);
}

/// One warp: the transitions from slots i0.. at position t - 1 to slots j0.. at position t, and
/// with i0 == 0 the emissions of those, and with j0 == 0 too the mask. Slots past the beam are
/// computed from the last one's row and never looked at.
template <typename T, int kBeam>
__device__ void prepareTile(const CrfDecodeParams& p, const Tensors<T>& tensors, bool vectorised,
                            int64_t sentence, int t, int i0, int j0, float* step) {
  using Layout = StepLayout<kBeam>;
  const int lane = threadIdx.x % kWarpSize;
  const int row = lane / 4;     // of a tensor core's operands and result
  const int column = lane % 4;  // which eight ranks; which pair of columns of the result
  const int64_t position = sentence * p.length + t;

  const auto rowOf = [&](const T* table, int64_t at, int slot) {
    const int32_t token = tensors.targets[at * p.beam + min(slot, p.beam - 1)];
    return table + int64_t(min(max(token, 0), p.vocab - 1)) * p.rank;
  };
  constexpr int kEighths = kTile / 8;
  const T* rows[kEighths];
  const T* columns[kEighths];
#pragma unroll
  for (int e = 0; e < kEighths; ++e) {
    rows[e] = rowOf(tensors.E1, position - 1, i0 + e * 8 + row);
    columns[e] = rowOf(tensors.E2, position, j0 + e * 8 + row);
  }

  float result[kEighths / 2][kEighths][4] = {};
  for (int ranks = 0; ranks < p.rank; ranks += 4 * kRankSlice) {
    const int first = ranks + column * kRankSlice;
    RankSlice<T> source[kEighths];
    RankSlice<T> target[kEighths];
#pragma unroll
    for (int e = 0; e < kEighths; ++e) {
      source[e] = loadRanks(rows[e], p.rank, first, vectorised);
      target[e] = loadRanks(columns[e], p.rank, first, vectorised);
    }
#pragma unroll
    for (int m = 0; m < kEighths / 2; ++m) {
#pragma unroll
      for (int n = 0; n < kEighths; ++n) {
        multiplyRanks(result[m][n], source[2 * m], source[2 * m + 1], target[n]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kEighths / 2; ++m) {
#pragma unroll
    for (int n = 0; n < kEighths; ++n) {
      float* to = step + (i0 + m * 16 + row) * Layout::kPitch + j0 + n * 8 + column * 2;
      *reinterpret_cast<float2*>(to) = make_float2(result[m][n][0], result[m][n][1]);
      to += 8 * Layout::kPitch;
      *reinterpret_cast<float2*>(to) = make_float2(result[m][n][2], result[m][n][3]);
    }
  }
  if (i0 == 0) {
    const int slot = j0 + lane;
    if (slot < p.beam) {
      step[Layout::kEmissions + slot] = toFloat(tensors.emissions[position * p.beam + slot]);
    }
    if (j0 == 0 && lane == 0) step[Layout::kMask] = tensors.mask[position] != 0 ? 1.0f : 0.0f;
  }
}

// ---- recursion ----------------------------------------------------------------------------------

struct Candidate {
  float score;
  int slot;
};

/// The better of two, where `second` has the higher slot: on ties the first stays.
__device__ __forceinline__ Candidate better(Candidate first, Candidate second) {
  return second.score > first.score ? second : first;
}

/// The best way into slot j. Independent chains over runs of slots keep the latency of a comparison
/// from adding up kBeam times. Slots past the beam have score -inf and so never win.
template <int kBeam>
__device__ __forceinline__ Candidate bestSource(const float* score, const float* step, int j) {
  constexpr int kChains = kBeam / kChainLength;
  Candidate best[kChains];
#pragma unroll
  for (int chain = 0; chain < kChains; ++chain) {
#pragma unroll
    for (int i = 0; i < kChainLength; i += 4) {
      const int slot = chain * kChainLength + i;
      const float4 four = *reinterpret_cast<const float4*>(score + slot);
      const float* from = step + slot * StepLayout<kBeam>::kPitch + j;
      const float sums[4] = {four.x + from[0], four.y + from[StepLayout<kBeam>::kPitch],
                             four.z + from[2 * StepLayout<kBeam>::kPitch],
                             four.w + from[3 * StepLayout<kBeam>::kPitch]};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const Candidate next{sums[e], slot + e};
        best[chain] = i + e == 0 ? next : better(best[chain], next);
      }
    }
  }
#pragma unroll
  for (int width = 1; width < kChains; width *= 2) {
#pragma unroll
    for (int chain = 0; chain + width < kChains; chain += 2 * width) {
      best[chain] = better(best[chain], best[chain + width]);
    }
  }
  return best[0];
}

template <typename T, int kBeam>
__global__ void __launch_bounds__(kThreads, 1)
    crfDecodeKernel(CrfDecodeParams p, Tensors<T> tensors, int chunk, bool vectorised) {
  using Layout = StepLayout<kBeam>;
  extern __shared__ __align__(16) unsigned char shared[];
  float* steps = reinterpret_cast<float*>(shared);     // [2][chunk] of Layout
  float* score = steps + 2 * chunk * Layout::kFloats;  // [2][kBeam], the current one by turns
  auto* backPointers = reinterpret_cast<uint8_t*>(score + 2 * kBeam);  // [length][kBeam]
  uint8_t* path = backPointers + p.length * kBeam;                     // [length]

  const int64_t sentence = blockIdx.x;
  const int64_t firstPosition = sentence * p.length;
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  constexpr int kSlots = kBeam / kWarpSize;  // of a lane of the recursion
  float* prefix = tensors.prefix + firstPosition * p.beam;

  int turn = 0;
  if (warp == 0) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int j = s * kWarpSize + lane;
      float first = -INFINITY;
      if (j < p.beam) {
        first = toFloat(tensors.emissions[firstPosition * p.beam + j]);
        prefix[j] = first;
      }
      score[j] = first;
      score[kBeam + j] = -INFINITY;
    }
    __syncwarp();
  }

  const int chunks = ceilDiv(p.length - 1, chunk);  // of the steps 1..length-1
  for (int c = 0; c <= chunks; ++c) {
    if (warp > 0 && c < chunks) {
      float* buffer = steps + (c % 2) * chunk * Layout::kFloats;
      const int count = min(chunk, p.length - 1 - c * chunk);
      constexpr int kTiles = kBeam / kTile;
      for (int unit = warp - 1; unit < count * kTiles * kTiles; unit += kWorkers) {
        const int step = unit / (kTiles * kTiles);
        const int i0 = unit / kTiles % kTiles * kTile;
        const int j0 = unit % kTiles * kTile;
        prepareTile<T, kBeam>(p, tensors, vectorised, sentence, 1 + c * chunk + step, i0, j0,
                              buffer + step * Layout::kFloats);
      }
    }
    if (warp == 0 && c > 0) {
      const float* buffer = steps + ((c - 1) % 2) * chunk * Layout::kFloats;
      const int start = 1 + (c - 1) * chunk;
      const int end = min(start + chunk, p.length);
      for (int t = start; t < end; ++t) {
        const float* step = buffer + (t - start) * Layout::kFloats;
        const float* now = score + turn * kBeam;
        turn ^= 1;
        const bool real = step[Layout::kMask] != 0.0f;
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
          const int j = s * kWarpSize + lane;
          Candidate best = bestSource<kBeam>(now, step, j);
          best.score += step[Layout::kEmissions + j];
          if (!real) best = {now[j], j};
          backPointers[t * kBeam + j] = uint8_t(best.slot);
          if (j < p.beam) {
            score[turn * kBeam + j] = best.score;
            prefix[t * p.beam + j] = best.score;
          }
        }
        __syncwarp();
      }
    }
    __syncthreads();
  }

  if (threadIdx.x == 0) {
    const float* last = score + turn * kBeam;
    Candidate best{last[0], 0};
    for (int j = 1; j < p.beam; ++j) best = better(best, {last[j], j});
    int slot = best.slot;
    for (int t = p.length - 1; t > 0; --t) {
      path[t] = uint8_t(slot);
      slot = backPointers[t * kBeam + slot];
    }
    path[0] = uint8_t(slot);
  }
  __syncthreads();

  for (int t = threadIdx.x; t < p.length; t += kThreads) {
    const auto prefixAt = [&](int at) {  // through the slot of the next position, as fairseq does
      return prefix[at * p.beam + path[min(at + 1, p.length - 1)]];
    };
    const int64_t position = firstPosition + t;
    tensors.tokens[position] = tensors.targets[position * p.beam + path[t]];
    tensors.scores[position] = t == 0 ? prefixAt(0) : prefixAt(t) - prefixAt(t - 1);
  }
}

template <typename T, int kBeam>
cudaError_t run(const CrfDecodeParams& p, const Tensors<T>& tensors, cudaStream_t stream) {
  int limit = 0;
  const cudaError_t status = deviceAttribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &limit);
  if (status != cudaSuccess) return status;
  int chunk = kWorkers;
  while (chunk > 1 && sharedBytes<kBeam>(p.length, chunk) > size_t(limit)) --chunk;
  const bool vectorised = p.rank % kRankSlice == 0 && aligned(16, {tensors.E1, tensors.E2});
  return launch(crfDecodeKernel<T, kBeam>, p.batch, kThreads, sharedBytes<kBeam>(p.length, chunk),
                stream, p, tensors, chunk, vectorised);
}

}  // namespace

size_t crfDecodeWorkspaceSize(const CrfDecodeParams& p) {
  return sizeof(float) * size_t(p.batch) * p.length * p.beam;
}

cudaError_t crfDecode(const CrfDecodeParams& p, const void* emissions, const int32_t* targets,
                      const void* E1, const void* E2, const int32_t* mask, int32_t* tokens,
                      float* scores, void* workspace, cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const Tensors<T> tensors{static_cast<const T*>(emissions),
                             targets,
                             static_cast<const T*>(E1),
                             static_cast<const T*>(E2),
                             mask,
                             tokens,
                             scores,
                             static_cast<float*>(workspace)};
    return p.beam <= 32 ? run<T, 32>(p, tensors, stream) : run<T, 64>(p, tensors, stream);
  });
}

}  // namespace lite
