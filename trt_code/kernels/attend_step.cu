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

/// The shared memory of a warp, in floats: its query, the weights, and partial sums of the lanes.
template <int kVec>
__host__ __device__ constexpr int sharedFloats(int headWidth, int positions) {
  return roundUp(headWidth + positions, 4) + kWarpSize * kVec;
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

/// Writes the weighted sum of `count` values to out [width]; `query` is in the warp's shared
/// memory.
template <typename T, int kVec, typename Positions>
__device__ void attendHead(const Positions& positions, int count, int width, const float* query,
                           float* weights, float* partial, T* out) {
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
  extern __shared__ __align__(16) float shared[];
  admitNext();
  waitForPrevious();
  const int64_t task = int64_t(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarpSize;
  if (task >= int64_t(p.rows) * p.heads) return;
  const int row = int(task / p.heads), head = int(task % p.heads);
  const int width = p.channels / p.heads, lane = threadIdx.x % kWarpSize;
  float* query = shared + threadIdx.x / kWarpSize * sharedFloats<kVec>(width, p.capacity);
  float* partial = query + roundUp(width + p.capacity, 4);

  const History history(row, p.rows, p.capacity, ancestors, position);
  const T* own = qkv + row * p.stride + head * width;
  const int64_t now = history.now() * p.channels + head * width;
  for (int c = lane; c < width; c += kWarpSize) {
    query[c] = toFloat(own[c]);
    keys[now + c] = own[p.channels + c];
    values[now + c] = own[2 * p.channels + c];
  }
  __syncwarp();
  const Past<T> past{keys + head * width, values + head * width, history, p.channels};
  attendHead<T, kVec>(past, history.position + 1, width, query, query + width, partial,
                      out + row * p.outStride + head * width);
}

template <typename T, int kVec>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarpSize)
    attendSourceKernel(AttendSourceParams p, const T* queries, const T* keys, const T* values,
                       const bool* mask, T* out) {
  extern __shared__ __align__(16) float shared[];
  admitNext();
  waitForPrevious();
  const int64_t task = int64_t(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarpSize;
  if (task >= int64_t(p.batch) * p.beam * p.heads) return;
  const int64_t row = task / p.heads, sentence = row / p.beam;
  const int head = int(task % p.heads);
  const int width = p.channels / p.heads, lane = threadIdx.x % kWarpSize;
  float* query = shared + threadIdx.x / kWarpSize * sharedFloats<kVec>(width, p.source);
  float* partial = query + roundUp(width + p.source, 4);

  const int64_t own = row * p.channels + head * width;
  for (int c = lane; c < width; c += kWarpSize) query[c] = toFloat(queries[own + c]);
  __syncwarp();
  const int64_t from = sentence * p.source * p.stride + head * width;
  const Sources<T> sources{keys + from, values + from, mask + sentence * p.source, p.stride};
  attendHead<T, kVec>(sources, p.source, width, query, query + width, partial, out + own);
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
  if (p.rows == 0) return cudaSuccess;
  const int width = p.channels / p.heads;
  const int64_t blocks = ceilDiv<int64_t>(int64_t(p.rows) * p.heads, kWarpsPerBlock);
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto run = [&](auto kernel, int floats) {
      return launchEarly(kernel, blocks, kWarpsPerBlock * kWarpSize,
                         kWarpsPerBlock * floats * sizeof(float), stream, p,
                         static_cast<const T*>(qkv), static_cast<T*>(keys), static_cast<T*>(values),
                         ancestors, position, static_cast<T*>(out));
    };
    constexpr int kVec = kWidest<T>;
    const bool vectorised =
        width % kVec == 0 && p.outStride % kVec == 0 && aligned(16, {keys, values, out});
    return vectorised ? run(attendPastKernel<T, kVec>, sharedFloats<kVec>(width, p.capacity))
                      : run(attendPastKernel<T, 1>, sharedFloats<1>(width, p.capacity));
  });
}

cudaError_t attendSource(const AttendSourceParams& p, const void* query, const void* keys,
                         const void* values, const bool* mask, void* out, cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  const int64_t rows = int64_t(p.batch) * p.beam;
  if (rows == 0) return cudaSuccess;
  const int width = p.channels / p.heads;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto run = [&](auto kernel, int floats) {
      return launchEarly(kernel, ceilDiv<int64_t>(rows * p.heads, kWarpsPerBlock),
                         kWarpsPerBlock * kWarpSize, kWarpsPerBlock * floats * sizeof(float),
                         stream, p, static_cast<const T*>(query), static_cast<const T*>(keys),
                         static_cast<const T*>(values), mask, static_cast<T*>(out));
    };
    constexpr int kVec = kWidest<T>;
    const bool vectorised =
        width % kVec == 0 && p.stride % kVec == 0 && aligned(16, {keys, values, out});
    return vectorised ? run(attendSourceKernel<T, kVec>, sharedFloats<kVec>(width, p.source))
                      : run(attendSourceKernel<T, 1>, sharedFloats<1>(width, p.source));
  });
}

}  // namespace lite
