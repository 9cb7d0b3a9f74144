// One warp computes one head of one hypothesis. First each lane computes the scores of whole keys,
// then the lanes share the channels: a group of lanes reads one value in vectors, as many values at
// once as there are groups. There is only one query, so the matrix units would be nearly idle.
#include "attend_step.h"
#include "common.cuh"
#include "history.cuh"

namespace lite {
namespace {

constexpr int kWarpsPerBlock = 4;
constexpr float kLowest = -std::numeric_limits<float>::max();

/// The heads of all rows. Each warp computes one of them.
struct Heads {
  int64_t rows;
  int32_t heads, channels, positions;

  __host__ __device__ int width() const { return channels / heads; }

  /// Returns the shared memory of a warp before its partial sums, in floats: query and weights.
  __host__ __device__ int partialAt() const { return roundUp(width() + positions, 4); }

  /// Returns the shared memory of a warp in floats. Every lane has a partial sum of `vec` channels.
  __host__ __device__ int sharedFloats(int vec) const { return partialAt() + kWarpSize * vec; }
};

__host__ __device__ inline Heads headsOf(const AttendPastParams& p) {
  return {p.rows, p.heads, p.channels, p.capacity};
}

__host__ __device__ inline Heads headsOf(const AttendSourceParams& p) {
  return {int64_t(p.batch) * p.beam, p.heads, p.channels, p.source};
}

/// The head that a warp computes, and its shared memory.
struct Head {
  int64_t row;
  int first;  // of its channels
  float *query, *weights, *partial;
};

/// Calls compute(Head) in every warp that has a head, after the previous kernel.
template <int kVec, typename Compute>
__device__ __forceinline__ void forOwnHead(const Heads& all, const Compute& compute) {
  extern __shared__ __align__(16) float shared[];
  admitNext();
  waitForPrevious();
  const int warp = threadIdx.x / kWarpSize;
  const int64_t task = int64_t(blockIdx.x) * kWarpsPerBlock + warp;
  if (task >= all.rows * all.heads) return;
  float* query = shared + warp * all.sharedFloats(kVec);
  compute(Head{task / all.heads, int(task % all.heads) * all.width(), query, query + all.width(),
               query + all.partialAt()});
}

/// Keys and values of the past of one head.
template <typename T>
struct Past {
  const T *keys, *values;
  History history;
  int64_t channels;

  __device__ const T* key(int j) const { return keys + history.at(j) * channels; }
  __device__ const T* value(int j) const { return values + history.at(j) * channels; }
  __device__ bool hidden(int) const { return false; }
};

/// Keys and values of the source of one head.
template <typename T>
struct Sources {
  const T *keys, *values;
  const bool* mask;
  int64_t stride;

  __device__ const T* key(int j) const { return keys + j * stride; }
  __device__ const T* value(int j) const { return values + j * stride; }
  __device__ bool hidden(int j) const { return mask[j]; }
};

/// Writes the weighted sum of `count` values to out [width].
template <typename T, int kVec, typename Positions>
__device__ void attendHead(const Positions& positions, int count, int width, const Head& head,
                           T* out) {
  const float* query = head.query;
  float *weights = head.weights, *partial = head.partial;
  const int lane = threadIdx.x % kWarpSize;
  float largest = kLowest;
  for (int j = lane; j < count; j += kWarpSize) {
    const T* key = positions.key(j);
    float score = 0.0f;
#pragma unroll 4
    for (int c = 0; c < width; c += kVec) {
      const Vector<T, kVec> part = loadVector<kVec>(key + c);
#pragma unroll
      for (int i = 0; i < kVec; ++i) score += toFloat(part.item[i]) * query[c + i];
    }
    if (positions.hidden(j)) score = kLowest;
    weights[j] = score;
    largest = maxNan(largest, score);
  }
  largest = warpMax(largest);
  float sum = 0.0f;
  for (int j = lane; j < count; j += kWarpSize) {
    const float weight = exponential<T, false>(weights[j] - largest);
    weights[j] = weight;
    sum += weight;
  }
  const float scale = 1.0f / warpSum(sum);
  __syncwarp();

  // one lane per vector of a value; very wide heads take several turns
  const int lanes = min(width / kVec, kWarpSize);
  const int groups = kWarpSize / lanes, group = lane / lanes;
  for (int first = 0; first < width; first += lanes * kVec) {
    const int c = first + lane % lanes * kVec;
    float total[kVec] = {};
    if (group < groups && c < width) {
#pragma unroll 4
      for (int j = group; j < count; j += groups) {
        const Vector<T, kVec> part = loadVector<kVec>(positions.value(j) + c);
#pragma unroll
        for (int i = 0; i < kVec; ++i) total[i] += weights[j] * toFloat(part.item[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kVec; ++i) partial[lane * kVec + i] = total[i];
    __syncwarp();
    if (lane < lanes && c < width) {
      for (int other = 1; other < groups; ++other) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) total[i] += partial[(other * lanes + lane) * kVec + i];
      }
#pragma unroll
      for (int i = 0; i < kVec; ++i) total[i] *= scale;
      storeVector(out + c, total);
    }
    __syncwarp();
  }
}

template <typename T, int kVec>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarpSize)
    attendPastKernel(AttendPastParams p, const T* qkv, T* keys, T* values, const int32_t* ancestors,
                     const int64_t* position, T* out) {
  const Heads all = headsOf(p);
  forOwnHead<kVec>(all, [&](const Head& head) {
    const int width = all.width();
    const History history(int(head.row), p.rows, p.capacity, ancestors, position);
    const T* own = qkv + head.row * p.stride + head.first;
    const int64_t now = history.now() * p.channels + head.first;
    for (int c = threadIdx.x % kWarpSize; c < width; c += kWarpSize) {
      head.query[c] = toFloat(own[c]);
      keys[now + c] = own[p.channels + c];
      values[now + c] = own[2 * p.channels + c];
    }
    __syncwarp();
    const Past<T> past{keys + head.first, values + head.first, history, p.channels};
    attendHead<T, kVec>(past, history.position + 1, width, head,
                        out + head.row * p.outStride + head.first);
  });
}

template <typename T, int kVec>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarpSize)
    attendSourceKernel(AttendSourceParams p, const T* queries, const T* keys, const T* values,
                       const bool* mask, T* out) {
  const Heads all = headsOf(p);
  forOwnHead<kVec>(all, [&](const Head& head) {
    const int64_t own = head.row * p.channels + head.first, sentence = head.row / p.beam;
    const int width = all.width();
    for (int c = threadIdx.x % kWarpSize; c < width; c += kWarpSize) {
      head.query[c] = toFloat(queries[own + c]);
    }
    __syncwarp();
    const int64_t from = sentence * p.source * p.stride + head.first;
    const Sources<T> sources{keys + from, values + from, mask + sentence * p.source, p.stride};
    attendHead<T, kVec>(sources, p.source, width, head, out + own);
  });
}

// ---- host ---------------------------------------------------------------------------------------

/// Launches `vectorised` if rows `stride` elements apart allow 16-byte accesses to `pointers`,
/// otherwise `scalar`.
template <typename T, typename... Parameters, typename... Arguments>
cudaError_t launchHeads(const Heads& all, int64_t stride,
                        std::initializer_list<const void*> pointers,
                        void (*vectorised)(Parameters...), void (*scalar)(Parameters...),
                        cudaStream_t stream, const Arguments&... arguments) {
  if (all.rows == 0) return cudaSuccess;
  constexpr int kVec = kWidest<T>;
  const bool wide = all.width() % kVec == 0 && stride % kVec == 0 && aligned(16, pointers);
  return launchEarly(
      wide ? vectorised : scalar, ceilDiv<int64_t>(all.rows * all.heads, kWarpsPerBlock),
      kWarpsPerBlock * kWarpSize,
      kWarpsPerBlock * all.sharedFloats(wide ? kVec : 1) * sizeof(float), stream, arguments...);
}

const char* checkHeads(int32_t channels, int32_t heads, int32_t positions) {
  if (heads < 1 || channels < 1 || channels % heads != 0) {
    return "channels must be a positive multiple of heads";
  }
  if (channels / heads > 1024) return "a head must have at most 1,024 channels";
  if (positions < 1 || positions > kMostAttended) return "positions must be 1 to 4,096";
  return nullptr;
}

}  // namespace

const char* check(const AttendPastParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.rows < 0) return "rows must not be negative";
  if (p.stride < 3 * int64_t(p.channels) || p.outStride < p.channels) {
    return "the rows must not overlap";
  }
  return checkHeads(p.channels, p.heads, p.capacity);
}

const char* check(const AttendSourceParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.batch < 0 || p.beam < 1) return "batch must not be negative, and beam at least 1";
  if (p.stride < p.channels) return "the rows must not overlap";
  return checkHeads(p.channels, p.heads, p.source);
}

cudaError_t attendPast(const AttendPastParams& p, const void* qkv, void* keys, void* values,
                       const int32_t* ancestors, const int64_t* position, void* out,
                       cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    return launchHeads<T>(headsOf(p), p.outStride, {keys, values, out},
                          attendPastKernel<T, kWidest<T>>, attendPastKernel<T, 1>, stream, p,
                          static_cast<const T*>(qkv), static_cast<T*>(keys),
                          static_cast<T*>(values), ancestors, position, static_cast<T*>(out));
  });
}

cudaError_t attendSource(const AttendSourceParams& p, const void* query, const void* keys,
                         const void* values, const bool* mask, void* out, cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    return launchHeads<T>(headsOf(p), p.stride, {keys, values, out},
                          attendSourceKernel<T, kWidest<T>>, attendSourceKernel<T, 1>, stream, p,
                          static_cast<const T*>(query), static_cast<const T*>(keys),
                          static_cast<const T*>(values), mask, static_cast<T*>(out));
  });
}

}  // namespace lite
