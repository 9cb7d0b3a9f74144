// One block takes one sentence through its positions, one after the other. A thread has a slot.
// The recursion is a chain of `length` steps, so what counts is the time of a step: all of its
// transitions are loaded before the first one is used.
#include <type_traits>

#include "common.cuh"
#include "crf_normaliser.h"

namespace lite {
namespace {

/// Returns the logarithm of the sum of exp(terms[i]), i < count.
template <int kMost>
__device__ __forceinline__ float logSumExp(const float (&terms)[kMost], int count) {
  float greatest = terms[0];
#pragma unroll
  for (int i = 1; i < kMost; ++i) {
    if (i < count) greatest = fmaxf(greatest, terms[i]);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    if (i < count) sum += expf(terms[i] - greatest);
  }
  return greatest + logf(sum);
}

/// kSlots is the beam rounded up to a multiple of the warp, and the number of threads.
template <typename T, int kSlots>
__global__ void __launch_bounds__(kSlots)
    forwardKernel(CrfNormaliserParams p, const T* __restrict__ emissions,
                  const T* __restrict__ transitions, const int32_t* __restrict__ mask,
                  float* __restrict__ total, float* __restrict__ prefixes) {
  __shared__ float before[kSlots];
  const int slot = threadIdx.x;
  const bool active = slot < p.beam;
  const int64_t first = int64_t(blockIdx.x) * p.length * p.beam;
  emissions += first;
  prefixes += first;
  transitions += int64_t(blockIdx.x) * (p.length - 1) * p.beam * p.beam;
  mask += int64_t(blockIdx.x) * p.length;

  float own = active ? toFloat(emissions[slot]) : 0.0f;
  if (active) prefixes[slot] = own;
  float terms[kSlots];
  for (int t = 1; t < p.length; ++t) {
    const T* step = transitions + int64_t(t - 1) * p.beam * p.beam;
    if (mask[t] != 0) {
      before[slot] = own;
      __syncthreads();
      if (active) {
#pragma unroll
        for (int i = 0; i < kSlots; ++i) {
          terms[i] = i < p.beam ? before[i] + toFloat(step[i * p.beam + slot]) : 0.0f;
        }
        own = logSumExp(terms, p.beam) + toFloat(emissions[int64_t(t) * p.beam + slot]);
      }
      __syncthreads();
    }
    if (active) prefixes[int64_t(t) * p.beam + slot] = own;
  }
  before[slot] = own;
  __syncthreads();
  if (slot == 0) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) terms[i] = before[i];
    total[blockIdx.x] = logSumExp(terms, p.beam);
  }
}

/// Goes backwards. `ends` is the gradient of the prefix of this thread's slot at t. A step's
/// transitions pass through shared memory, because they are read by rows and used by columns.
template <typename T, int kSlots>
__global__ void __launch_bounds__(kSlots)
    backwardKernel(CrfNormaliserParams p, const float* __restrict__ grad,
                   const T* __restrict__ emissions, const T* __restrict__ transitions,
                   const int32_t* __restrict__ mask, const float* __restrict__ total,
                   const float* __restrict__ prefixes, T* __restrict__ gradEmissions,
                   T* __restrict__ gradTransitions) {
  __shared__ float edges[kSlots][kSlots + 1];
  __shared__ float shares[kSlots];    // of a slot at t
  __shared__ float entering[kSlots];  // logarithm of the sum of what enters a slot at t
  const int slot = threadIdx.x;
  const bool active = slot < p.beam;
  const int64_t first = int64_t(blockIdx.x) * p.length * p.beam;
  emissions += first;
  prefixes += first;
  gradEmissions += first;
  const int64_t firstStep = int64_t(blockIdx.x) * (p.length - 1) * p.beam * p.beam;
  transitions += firstStep;
  gradTransitions += firstStep;
  mask += int64_t(blockIdx.x) * p.length;

  const int64_t last = int64_t(p.length - 1) * p.beam;
  float ends = active ? grad[blockIdx.x] * expf(prefixes[last + slot] - total[blockIdx.x]) : 0.0f;
  for (int t = p.length - 1; t > 0; --t) {
    const int64_t at = int64_t(t) * p.beam + slot;
    const int64_t step = int64_t(t - 1) * p.beam * p.beam + slot;
    const bool real = mask[t] != 0;
    if (active) gradEmissions[at] = fromFloat<T>(real ? ends : 0.0f);
    if (!real) {
      for (int i = 0; active && i < p.beam; ++i) {
        gradTransitions[step + i * p.beam] = fromFloat<T>(0.0f);
      }
      continue;  // as all threads of the block
    }
    float own = 0.0f;
    if (active) {
#pragma unroll 16
      for (int i = 0; i < p.beam; ++i) edges[i][slot] = toFloat(transitions[step + i * p.beam]);
      shares[slot] = ends;
      entering[slot] = prefixes[at] - toFloat(emissions[at]);
      own = prefixes[at - p.beam];
    }
    __syncthreads();
    if (active) {
      ends = 0.0f;
      for (int j = 0; j < p.beam; ++j) {
        const float edge = shares[j] * expf(own + edges[slot][j] - entering[j]);
        edges[slot][j] = edge;
        ends += edge;
      }
    }
    __syncthreads();
    if (active) {
#pragma unroll 16
      for (int i = 0; i < p.beam; ++i) {
        gradTransitions[step + i * p.beam] = fromFloat<T>(edges[i][slot]);
      }
    }
    __syncthreads();
  }
  if (active) gradEmissions[slot] = fromFloat<T>(ends);
}

/// Calls f with the element type and the number of threads that the parameters need.
template <typename F>
cudaError_t dispatchSlots(const CrfNormaliserParams& p, const F& f) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto element) {
    if (p.beam <= kWarpSize) return f(element, std::integral_constant<int, kWarpSize>{});
    return f(element, std::integral_constant<int, kCrfNormaliserMaxBeam>{});
  });
}

}  // namespace

cudaError_t crfNormaliser(const CrfNormaliserParams& params, const void* emissions,
                          const void* transitions, const int32_t* mask, float* total,
                          float* prefixes, cudaStream_t stream) {
  return dispatchSlots(params, [&](auto element, auto slots) {
    using T = decltype(element);
    constexpr int kSlots = decltype(slots)::value;
    return launch(forwardKernel<T, kSlots>, params.batch, kSlots, 0, stream, params,
                  static_cast<const T*>(emissions), static_cast<const T*>(transitions), mask, total,
                  prefixes);
  });
}

cudaError_t crfNormaliserBackward(const CrfNormaliserParams& params, const float* grad,
                                  const void* emissions, const void* transitions,
                                  const int32_t* mask, const float* total, const float* prefixes,
                                  void* gradEmissions, void* gradTransitions, cudaStream_t stream) {
  return dispatchSlots(params, [&](auto element, auto slots) {
    using T = decltype(element);
    constexpr int kSlots = decltype(slots)::value;
    return launch(backwardKernel<T, kSlots>, params.batch, kSlots, 0, stream, params, grad,
                  static_cast<const T*>(emissions), static_cast<const T*>(transitions), mask, total,
                  prefixes, static_cast<T*>(gradEmissions), static_cast<T*>(gradTransitions));
  });
}

}  // namespace lite
