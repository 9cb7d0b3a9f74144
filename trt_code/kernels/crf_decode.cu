// One block decodes one sentence, in a pipeline over its positions:
//
//   - kWorkers warps compute the transitions E1[i] . E2[j] of the next steps, beam x beam each, on
//     the matrix units. They store them in shared memory with the step's emissions and mask.
//     Products of 16-bit types are exact in the FP32 sums; FP32 operands are split (products.cuh).
//   - kSearchers warps run the recursion over the steps that are ready. The recursion is the
//     critical path, since each step depends on the previous one. For every target, each warp finds
//     the best source in its share. After a barrier among the searchers, all of them combine the
//     shares, so each searcher has the new scores without another barrier.
//
// All warps meet at one barrier per chunk of steps, which is the same instruction for searchers and
// workers. Two __syncthreads() in the two branches of an `if` also work on the hardware, but C++
// forbids them, and synccheck stops the kernel with a launch failure. Back pointers stay in shared
// memory. Prefix scores go to the workspace, since only the back-trace knows which of them are
// needed. The first warp wrote both, and follows the path back alone.
//
// doc/kernels.md (What was tried) has the measurements.
#include "crf_decode.h"
#include "products.cuh"

namespace lite {
namespace {

constexpr int kSearchers = 4;
constexpr int kWorkers = 8;
constexpr int kThreads = (kSearchers + kWorkers) * kWarpSize;
constexpr int kTile = 32;  // transitions are computed in tiles of kTile x kTile

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

/// The input of the recursion for one step: transitions [kBeam][kPitch], emissions [kBeam], the
/// mask. The pitch spreads the rows that one tensor-core result touches over all banks.
template <int kBeam>
struct StepLayout {
  static constexpr int kPitch = kBeam + 8;
  static constexpr int kEmissions = kBeam * kPitch;
  static constexpr int kMask = kEmissions + kBeam;
  static constexpr int kFloats = kMask + 4;
};

/// A candidate for the best way into a slot: its score and the slot it comes from.
struct Candidate {
  float score;
  int slot;
};

template <int kBeam>
size_t sharedBytes(int length, int chunk) {
  return sizeof(float) * 2 * chunk * StepLayout<kBeam>::kFloats +
         sizeof(Candidate) * 2 * kSearchers * kBeam + size_t(length) * (kBeam + 1);
}

// ---- transitions --------------------------------------------------------------------------------

/// The number of consecutive ranks of a row that one lane holds: 16 bytes. They are packed, because
/// each 16-bit element would otherwise take a register.
template <typename T>
struct RankSlice {
  static constexpr int kRanks = kWidest<T>;
  static constexpr int kWords = 4;
  uint32_t word[kWords];
};

/// Loads consecutive ranks of a row, starting at `first`, in one access. Returns zeros past the end
/// of the row. The row's length is a multiple of kRanks.
template <typename T>
__device__ __forceinline__ RankSlice<T> loadVector(const T* row, int rank, int first) {
  uint4 words{};
  if (first < rank) words = *reinterpret_cast<const uint4*>(row + first);
  return {{words.x, words.y, words.z, words.w}};
}

/// Loads the same elements one by one, for any rank and alignment.
template <typename T>
__device__ __forceinline__ RankSlice<T> loadElements(const T* row, int rank, int first) {
  RankSlice<T> slice;
#pragma unroll
  for (int w = 0; w < RankSlice<T>::kWords; ++w) {
    const auto element = [&](int i) {
      return first + i < rank ? row[first + i] : fromFloat<T>(0.0f);
    };
    if constexpr (sizeof(T) == sizeof(float)) {
      slice.word[w] = __float_as_uint(element(w));
    } else {
      slice.word[w] = packPair(element(2 * w), element(2 * w + 1));
    }
  }
  return slice;
}

/// Computes c += rows (16 x ranks) . columns (8 x ranks)^T over the ranks that the four lanes of a
/// row hold. The order of the ranks does not matter if both operands use the same one, so each lane
/// passes its own slice to the matrix unit.
template <typename T>
__device__ __forceinline__ void multiplyRanks(float (&c)[4], const RankSlice<T>& upper,
                                              const RankSlice<T>& lower,
                                              const RankSlice<T>& column) {
#pragma unroll
  for (int w = 0; w < RankSlice<T>::kWords; w += 2) {
    mmaWords<T, false>(c, {upper.word[w], lower.word[w], upper.word[w + 1], lower.word[w + 1]},
                       {column.word[w], column.word[w + 1]});
  }
}

/// One tile of a step's transitions, from slots i0.. at position t - 1 to slots j0.. at position t.
struct Tile {
  int t, i0, j0;
};

/// The tokens of the rows of E1 and E2 that this lane loads for a tile.
struct TileTokens {
  int32_t source[kTile / 8];
  int32_t target[kTile / 8];
};

/// Slots past the beam read the last slot. Their results are never used.
template <typename T>
__device__ __forceinline__ TileTokens loadTokens(const CrfDecodeParams& p,
                                                 const Tensors<T>& tensors, int64_t firstPosition,
                                                 const Tile& tile) {
  const int row = threadIdx.x % kWarpSize / 4;
  const auto load = [&](int t, int slot) {
    return tensors.targets[(firstPosition + t) * p.beam + min(slot, p.beam - 1)];
  };
  TileTokens tokens;
#pragma unroll
  for (int e = 0; e < kTile / 8; ++e) {
    tokens.source[e] = load(tile.t - 1, tile.i0 + e * 8 + row);
    tokens.target[e] = load(tile.t, tile.j0 + e * 8 + row);
  }
  return tokens;
}

/// Writes a tile's transitions into `step`, with one warp. The tiles with i0 == 0 also write the
/// emissions of their targets, and the tile with i0 == 0 and j0 == 0 also writes the step's mask.
template <typename T, int kBeam>
__device__ void prepareTile(const CrfDecodeParams& p, const Tensors<T>& tensors, bool vectorised,
                            int64_t firstPosition, const Tile& tile, const TileTokens& tokens,
                            float* step) {
  using Layout = StepLayout<kBeam>;
  const int lane = threadIdx.x % kWarpSize;
  const int row = lane / 4;     // of a matrix instruction's operands and result
  const int column = lane % 4;  // which slice of the ranks; which pair of columns of the result
  const int64_t position = firstPosition + tile.t;
  const int slot = tile.j0 + lane;
  const bool emits = tile.i0 == 0 && slot < p.beam;
  const float emission = emits ? toFloat(tensors.emissions[position * p.beam + slot]) : 0.0f;
  const bool marks = tile.i0 == 0 && tile.j0 == 0 && lane == 0;
  const bool real = marks && tensors.mask[position] != 0;

  constexpr int kEighths = kTile / 8;
  const auto rowOf = [&](const T* table, int32_t token) {
    return table + int64_t(min(max(token, 0), p.vocab - 1)) * p.rank;
  };
  float result[kEighths / 2][kEighths][4] = {};
  for (int ranks = 0; ranks < p.rank; ranks += 4 * RankSlice<T>::kRanks) {
    const int first = ranks + column * RankSlice<T>::kRanks;
    RankSlice<T> source[kEighths];
    RankSlice<T> target[kEighths];
    if (vectorised) {
#pragma unroll
      for (int e = 0; e < kEighths; ++e) {
        source[e] = loadVector(rowOf(tensors.E1, tokens.source[e]), p.rank, first);
        target[e] = loadVector(rowOf(tensors.E2, tokens.target[e]), p.rank, first);
      }
    } else {
#pragma unroll
      for (int e = 0; e < kEighths; ++e) {
        source[e] = loadElements(rowOf(tensors.E1, tokens.source[e]), p.rank, first);
        target[e] = loadElements(rowOf(tensors.E2, tokens.target[e]), p.rank, first);
      }
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
      float* to = step + (tile.i0 + m * 16 + row) * Layout::kPitch + tile.j0 + n * 8 + column * 2;
      *reinterpret_cast<float2*>(to) = make_float2(result[m][n][0], result[m][n][1]);
      to += 8 * Layout::kPitch;
      *reinterpret_cast<float2*>(to) = make_float2(result[m][n][2], result[m][n][3]);
    }
  }
  if (emits) step[Layout::kEmissions + slot] = emission;
  if (marks) step[Layout::kMask] = real ? 1.0f : 0.0f;
}

// ---- recursion ----------------------------------------------------------------------------------

/// Returns the better of two candidates. `second` has the higher slot, so `first` wins a tie.
__device__ __forceinline__ Candidate better(Candidate first, Candidate second) {
  return second.score > first.score ? second : first;
}

/// Returns the best of kCount candidates, given in the order of their slots. It reduces them as a
/// tree, to keep the chain of dependent comparisons short.
template <int kCount>
__device__ __forceinline__ Candidate bestOf(Candidate (&candidates)[kCount]) {
#pragma unroll
  for (int width = 1; width < kCount; width *= 2) {
#pragma unroll
    for (int i = 0; i + width < kCount; i += 2 * width) {
      candidates[i] = better(candidates[i], candidates[i + width]);
    }
  }
  return candidates[0];
}

/// Synchronises the searchers only.
__device__ __forceinline__ void meetSearchers() { syncThreads<1, kSearchers * kWarpSize>(); }

/// The recursion of one searching warp. Lane l holds the data of the target slots l, l + 32, ...
/// Slots past the beam have the score -inf, so they never win.
template <int kBeam>
struct Search {
  using Layout = StepLayout<kBeam>;
  static constexpr int kSlots = kBeam / kWarpSize;     // targets per lane
  static constexpr int kSources = kBeam / kSearchers;  // sources per warp

  int beam;
  int warp, lane;
  Candidate* shares;      // [2][kSearchers][kBeam] in shared memory
  uint8_t* backPointers;  // [length][kBeam] in shared memory
  float* prefix;          // [length][beam] of this sentence, in the workspace
  float score[kSlots];
  int turn;

  __device__ int slotOf(int s) const { return s * kWarpSize + lane; }

  __device__ void loadTransitions(const float* step, float (&into)[kSlots][kSources]) const {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
#pragma unroll
      for (int i = 0; i < kSources; ++i) {
        into[s][i] = step[(warp * kSources + i) * Layout::kPitch + slotOf(s)];
      }
    }
  }

  /// Starts at position 0, where the scores are the emissions.
  template <typename Emission>
  __device__ void start(const Emission& emission) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int j = slotOf(s);
      score[s] = -INFINITY;
      if (j >= beam) continue;
      score[s] = emission(j);
      if (warp == 0) prefix[j] = score[s];
    }
  }

  /// Returns the slot of the best score, to all lanes of a warp.
  __device__ int best() const {
    Candidate last{score[0], lane};
#pragma unroll
    for (int s = 1; s < kSlots; ++s) last = better(last, {score[s], slotOf(s)});
#pragma unroll
    for (int offset = 1; offset < kWarpSize; offset *= 2) {
      const Candidate other{__shfl_xor_sync(kFullWarp, last.score, offset),
                            __shfl_xor_sync(kFullWarp, last.slot, offset)};
      last = other.slot < last.slot ? better(other, last) : better(last, other);
    }
    return last.slot;
  }

  /// Runs steps start..end-1 from their buffer. The transitions of a step are read during the step
  /// before it.
  __device__ void run(const float* buffer, int start, int end) {
    float transitions[kSlots][kSources];
    loadTransitions(buffer, transitions);
    for (int t = start; t < end; ++t) {
      const float* step = buffer + (t - start) * Layout::kFloats;
      const bool real = step[Layout::kMask] != 0.0f;
      float emissions[kSlots];
#pragma unroll
      for (int s = 0; s < kSlots; ++s) emissions[s] = step[Layout::kEmissions + slotOf(s)];

      Candidate* share = shares + (turn * kSearchers + warp) * kBeam;
      float sources[kSources];
#pragma unroll
      for (int i = 0; i < kSources; ++i) {
        const int source = warp * kSources + i;
        float value = score[0];
#pragma unroll
        for (int s = 1; s < kSlots; ++s) value = source / kWarpSize == s ? score[s] : value;
        sources[i] = __shfl_sync(kFullWarp, value, source % kWarpSize);
      }
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        Candidate ways[kSources];
#pragma unroll
        for (int i = 0; i < kSources; ++i) {
          ways[i] = {sources[i] + transitions[s][i], warp * kSources + i};
        }
        share[slotOf(s)] = bestOf(ways);
      }
      if (t + 1 < end) loadTransitions(step + Layout::kFloats, transitions);
      meetSearchers();
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        const int j = slotOf(s);
        Candidate all[kSearchers];
#pragma unroll
        for (int w = 0; w < kSearchers; ++w) {
          all[w] = shares[(turn * kSearchers + w) * kBeam + j];
        }
        Candidate way = bestOf(all);
        way.score += emissions[s];
        if (!real) way = {score[s], j};
        if (j < beam) score[s] = way.score;
        if (warp == 0) {
          backPointers[t * kBeam + j] = uint8_t(way.slot);
          if (j < beam) prefix[t * beam + j] = way.score;
        }
      }
      turn ^= 1;
    }
  }
};

template <typename T, int kBeam>
__global__ void __launch_bounds__(kThreads, 1)
    crfDecodeKernel(CrfDecodeParams p, Tensors<T> tensors, int chunk, bool vectorised) {
  using Layout = StepLayout<kBeam>;
  extern __shared__ __align__(16) unsigned char shared[];
  float* steps = reinterpret_cast<float*>(shared);  // [2][chunk] of Layout
  auto* shares = reinterpret_cast<Candidate*>(steps + 2 * chunk * Layout::kFloats);
  auto* backPointers = reinterpret_cast<uint8_t*>(shares + 2 * kSearchers * kBeam);
  uint8_t* path = backPointers + p.length * kBeam;  // [length]

  const int64_t firstPosition = int64_t(blockIdx.x) * p.length;
  float* prefix = tensors.prefix + firstPosition * p.beam;
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  const int chunks = ceilDiv(p.length - 1, chunk);  // of the steps 1..length-1

  // The state that a warp keeps between chunks: the scores for a searcher, the tokens of the next
  // tile for a worker. A worker computes the tiles worker, worker + kWorkers, ... of each chunk.
  const bool searches = warp < kSearchers;
  constexpr int kTiles = kBeam / kTile;
  const int worker = warp - kSearchers;
  const auto tilesOf = [&](int c) {
    return min(chunk, p.length - 1 - c * chunk) * kTiles * kTiles;
  };
  const auto tileOf = [&](int c, int i) {
    return Tile{1 + c * chunk + i / (kTiles * kTiles), i / kTiles % kTiles * kTile,
                i % kTiles * kTile};
  };
  Search<kBeam> search{p.beam, warp, lane, shares, backPointers, prefix, {}, 0};
  TileTokens tokens;
  waitForPrevious();
  if (searches) {
    search.start([&](int j) { return toFloat(tensors.emissions[firstPosition * p.beam + j]); });
  } else if (chunks > 0 && worker < tilesOf(0)) {
    tokens = loadTokens(p, tensors, firstPosition, tileOf(0, worker));
  }

  // Workers prepare chunk c while searchers run over chunk c - 1.
  for (int c = 0; c <= chunks; ++c) {
    if (searches) {
      const int start = 1 + (c - 1) * chunk;
      const float* buffer = steps + (c + 1) % 2 * chunk * Layout::kFloats;
      if (c > 0) search.run(buffer, start, min(start + chunk, p.length));
    } else if (c < chunks) {
      float* buffer = steps + c % 2 * chunk * Layout::kFloats;
      for (int i = worker; i < tilesOf(c); i += kWorkers) {
        const Tile tile = tileOf(c, i);
        const TileTokens now = tokens;
        if (i + kWorkers < tilesOf(c)) {
          tokens = loadTokens(p, tensors, firstPosition, tileOf(c, i + kWorkers));
        } else if (c + 1 < chunks && worker < tilesOf(c + 1)) {
          tokens = loadTokens(p, tensors, firstPosition, tileOf(c + 1, worker));
        }
        prepareTile<T, kBeam>(p, tensors, vectorised, firstPosition, tile, now,
                              buffer + (tile.t - 1 - c * chunk) * Layout::kFloats);
      }
    }
    __syncthreads();
  }

  // The first warp, which wrote the back pointers and the prefix scores, finishes alone.
  if (warp > 0) return;
  int slot = search.best();
  if (lane == 0) {
    for (int t = p.length - 1; t > 0; --t) {
      path[t] = uint8_t(slot);
      slot = backPointers[t * kBeam + slot];
    }
    path[0] = uint8_t(slot);
  }
  __syncwarp();
#pragma unroll 4
  for (int t = lane; t < p.length; t += kWarpSize) {
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
  const bool vectorised =
      p.rank % RankSlice<T>::kRanks == 0 && aligned(16, {tensors.E1, tensors.E2});
  return launchEarly(crfDecodeKernel<T, kBeam>, p.batch, kThreads,
                     sharedBytes<kBeam>(p.length, chunk), stream, p, tensors, chunk, vectorised);
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
