// Two kernels. In the first, one block finds the best continuations of one hypothesis: it reads the
// logits once for the sum of the exponentials and once for the candidates; each thread then offers
// its best one, and the block takes the best offer, 2 x beam times. In the second, one warp merges
// the candidates of one sentence, whose lists are sorted, and updates the state of the search.
#include "choose_step.h"
#include "common.cuh"
#include "special_tokens.h"

namespace lite {
namespace {

constexpr int kFewThreads = 256, kManyThreads = 1024;
constexpr int kWideVocabulary = 8192;
constexpr int kSentencesPerBlock = 4;
constexpr int kNoIndex = std::numeric_limits<int>::max();

struct Candidate {
  float value;
  int index;

  __device__ bool isBefore(const Candidate& other) const {
    return value > other.value || (value == other.value && index < other.index);
  }
};

__device__ __forceinline__ Candidate bestOfWarp(Candidate best) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const Candidate other{__shfl_xor_sync(kFullWarp, best.value, offset),
                          __shfl_xor_sync(kFullWarp, best.index, offset)};
    if (other.isBefore(best)) best = other;
  }
  return best;
}

/// The largest logit so far, and the sum of exp(logit - largest).
struct Exponentials {
  float largest, sum;

  __device__ void add(const Exponentials& other) {
    const float most = maxNan(largest, other.largest);
    // a part without elements has the largest -infinity and the sum 0
    const float own = largest == most ? sum : sum * expf(largest - most);
    const float more = other.largest == most ? other.sum : other.sum * expf(other.largest - most);
    largest = most;
    sum = own + more;
  }
};

/// What turns a logit into the score of a candidate, in the order of PyTorch's operations.
template <typename T>
struct Scores {
  const T* logits;
  const float* forbidden;
  float largest, logSum, total;

  __device__ float at(int i) const {
    const float score = (toFloat(logits[i]) - largest - logSum + forbidden[i]) + total;
    return score == score ? score : -INFINITY;
  }

  /// The best of this thread's elements after `last` in the order of candidates.
  __device__ Candidate next(int vocab, const Candidate& last) const {
    Candidate best{-INFINITY, kNoIndex};
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
      const Candidate candidate{at(i), i};
      if (last.isBefore(candidate) && candidate.isBefore(best)) best = candidate;
    }
    return best;
  }
};

template <typename T>
__global__ void __launch_bounds__(kManyThreads)
    bestOfRowKernel(ChooseStepParams p, const T* logits, const float* __restrict__ forbidden,
                    const int64_t* kinds, const int64_t* step, const float* totals, float* values,
                    int32_t* indices) {
  __shared__ Exponentials parts[kManyThreads / kWarpSize];
  __shared__ Candidate offers[2][kManyThreads / kWarpSize];
  admitNext();
  waitForPrevious();
  const int64_t row = blockIdx.x;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int warps = blockDim.x / kWarpSize;
  const T* own = logits + row * p.vocab;

  Exponentials part{-INFINITY, 0.0f};
  for (int i = threadIdx.x; i < p.vocab; i += blockDim.x) part.add({toFloat(own[i]), 1.0f});
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    part.add({__shfl_xor_sync(kFullWarp, part.largest, offset),
              __shfl_xor_sync(kFullWarp, part.sum, offset)});
  }
  if (lane == 0) parts[warp] = part;
  __syncthreads();
  part = parts[0];
  for (int i = 1; i < warps; ++i) part.add(parts[i]);

  const int64_t now = min(max(*step, int64_t{0}), int64_t{p.steps} - 1);
  const int64_t kind = min(max(kinds[now], int64_t{0}), int64_t{2});
  const Scores<T> scores{own, forbidden + kind * p.vocab, part.largest, logf(part.sum),
                         totals[row]};
  Candidate last{INFINITY, -1};
  Candidate mine = scores.next(p.vocab, last);
  for (int k = 0; k < 2 * p.beam; ++k) {
    const Candidate offer = bestOfWarp(mine);
    if (lane == 0) offers[k % 2][warp] = offer;
    __syncthreads();
    last = bestOfWarp(lane < warps ? offers[k % 2][lane] : Candidate{-INFINITY, kNoIndex});
    if (threadIdx.x == 0) {
      values[row * 2 * p.beam + k] = last.value;
      indices[row * 2 * p.beam + k] = last.index;
    }
    if (mine.index == last.index) mine = scores.next(p.vocab, last);
  }
}

__global__ void __launch_bounds__(kSentencesPerBlock* kWarpSize)
    advanceKernel(ChooseStepParams p, const float* values, const int32_t* indices,
                  SearchState state, int32_t* counters) {
  admitNext();
  waitForPrevious();
  const int lane = threadIdx.x % kWarpSize;
  const int64_t sentence = int64_t(blockIdx.x) * kSentencesPerBlock + threadIdx.x / kWarpSize;
  const int64_t step = *state.step;
  if (sentence < p.batch && step >= 0 && step < p.steps) {
    // Lane b has the list of beam b, and its first candidate that is not taken yet. Lane k keeps
    // the candidate that was taken as number k.
    const int width = 2 * p.beam;
    const int64_t list = (sentence * p.beam + lane) * width;
    int at = 0;
    float value = -INFINITY;
    int64_t token = 0;
    int origin = 0;
    for (int k = 0; k < width; ++k) {
      const bool some = lane < p.beam && at < width;
      const Candidate head{some ? values[list + at] : -INFINITY, some ? lane : kNoIndex};
      const Candidate best = bestOfWarp(head);
      const int32_t index = __shfl_sync(kFullWarp, some ? indices[list + at] : 0, best.index);
      if (lane == k) {
        value = best.value;
        origin = best.index;
        token = index;
      }
      if (lane == best.index) ++at;
    }
    const bool ends = lane < width && token == kEos && value > -INFINITY;
    const unsigned all = __ballot_sync(kFullWarp, ends);
    const int ended = __popc(all & (kFullWarp >> (kWarpSize - 1 - lane)));  // up to this lane
    const int64_t count = state.count[sentence];
    if (lane < p.beam && ends && ended + count <= p.beam) {
      const int64_t slot = sentence * (p.beam + 1) + ended + count - 1;
      state.endAt[slot] = origin + step * p.beam;
      state.endTotal[slot] = value;
    }
    const int slot = lane - ended;
    if (lane < width && !ends && slot < p.beam) {
      const int64_t to = sentence * p.beam + slot;
      const int64_t past = (step * p.batch + sentence) * p.beam + slot;
      state.tokens[to] = state.pastTokens[past] = token;
      state.parents[to] = state.pastParents[past] = origin;
      state.totals[to] = state.pastTotals[past] = value;
    }
    if (lane == 0) {
      const int finished = __popc(all & (kFullWarp >> (kWarpSize - p.beam)));
      const int64_t now = min(count + finished, int64_t{p.beam});
      state.count[sentence] = now;
      if (now < p.beam) atomicAdd(&counters[1], 1);
    }
  }
  // the last block to come here knows of all sentences
  __threadfence();
  __syncthreads();
  if (threadIdx.x != 0 || atomicAdd(&counters[0], 1) != int(gridDim.x) - 1) return;
  __threadfence();
  *state.done = atomicAdd(&counters[1], 0) == 0;
  *state.step = step + 1;
  counters[0] = counters[1] = 0;
}

}  // namespace

const char* check(const ChooseStepParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.steps < 1) return "batch must not be negative, and steps at least 1";
  if (p.beam < 1 || p.beam > kMostBeams) return "the beam must be 1 to 16";
  if (p.vocab <= 2 * p.beam) return "the vocabulary must be larger than twice the beam";
  return nullptr;
}

cudaError_t chooseStep(const ChooseStepParams& p, const void* logits, const float* forbidden,
                       const int64_t* kinds, const SearchState& state, float* values,
                       int32_t* indices, int32_t* counters, cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.batch == 0) return cudaSuccess;
  const cudaError_t status = dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int threads = p.vocab < kWideVocabulary ? kFewThreads : kManyThreads;
    return launchEarly(bestOfRowKernel<T>, int64_t(p.batch) * p.beam, threads, 0, stream, p,
                       static_cast<const T*>(logits), forbidden, kinds, state.step, state.totals,
                       values, indices);
  });
  if (status != cudaSuccess) return status;
  return launchEarly(advanceKernel, ceilDiv<int64_t>(p.batch, kSentencesPerBlock),
                     kSentencesPerBlock * kWarpSize, 0, stream, p, values, indices, state,
                     counters);
}

}  // namespace lite
