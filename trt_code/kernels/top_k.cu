// One block selects the k largest elements of one row, and reads the row from memory once:
//
//   1. Every thread finds the maximum of its elements, 16 bytes per load.
//   2. k of these maxima are k different elements. So a value that k maxima reach is a lower bound
//      of the k-th largest element. A first bound comes from the warps' own leading maxima.
//      Bisection raises it until at most 2k maxima reach it. Rows whose large entries lie close
//      together need some rounds, others few or none.
//   3. The threads whose maximum reaches the bound are at most 2k of 512. Their elements are read
//      again (from cache), one vector per thread of the block. Elements that are not below the
//      bound become candidates in shared memory. The rank of a candidate is the number of greater
//      candidates.
//
// Comparisons use integer keys in the order of PyTorch: NaN is the largest, -0 equals +0, and among
// equal values the lower index comes first. If the candidates do not fit (mostly when more than
// kMaxCandidates entries are equal), the block finds the k-th key by bisection over the row in
// global memory. This is slower and equally exact.
//
// Three blocks of 512 threads share a processor. doc/kernels.md (What was tried) has the
// measurements.
#include "common.cuh"
#include "top_k.h"

namespace lite {
namespace {

constexpr int kMaxCandidates = 2048;
constexpr int kLoadsAhead = 4;  // vectors that a thread loads at the same time
constexpr int kSmallThreads = 128;
constexpr int kLargeThreads = 512;
constexpr int kSmallRowBytes = 16 * 1024;  // rows up to this size use the small block

using Key = unsigned long long;  // upper half: the value's order; lower half: ~index

// ---- order --------------------------------------------------------------------------------------

constexpr uint32_t kLowest = 0;  // below the order of every value

/// Returns an integer that sorts as PyTorch sorts values: NaN is the largest, -0 equals +0.
__device__ __forceinline__ uint32_t orderOf(float value) {
  if (value != value) return 0xffffffffu;
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 + 0 is +0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// Returns whether only one value has this order, so that valueOf restores it: not NaN and not
/// zero.
__device__ __forceinline__ bool isOneValue(uint32_t order) {
  return order != 0xffffffffu && order != 0x80000000u;
}
__device__ __forceinline__ float valueOf(uint32_t order) {
  return __uint_as_float(order & 0x80000000u ? order ^ 0x80000000u : ~order);
}

__device__ __forceinline__ Key makeKey(uint32_t order, int index) {
  return Key(order) << 32 | (0xffffffffu - uint32_t(index));
}
__device__ __forceinline__ int indexOfKey(Key key) { return int(0xffffffffu - uint32_t(key)); }
__device__ __forceinline__ uint32_t orderOfKey(Key key) { return uint32_t(key >> 32); }

// ---- words: one float or two 16-bit values in 4 bytes ------------------------------------------

/// Returns the larger of two words, element by element. NaN is the largest.
template <typename T>
__device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b);
template <>
__device__ __forceinline__ uint32_t larger<float>(uint32_t a, uint32_t b) {
  return __float_as_uint(maxNan(__uint_as_float(a), __uint_as_float(b)));
}
template <>
__device__ __forceinline__ uint32_t larger<__half>(uint32_t a, uint32_t b) {
  return maxNanHalf2(a, b);
}
template <>
__device__ __forceinline__ uint32_t larger<__nv_bfloat16>(uint32_t a, uint32_t b) {
  return maxNanBFloat162(a, b);
}

/// Returns the largest elements of four words, as a word.
template <typename T>
__device__ __forceinline__ uint32_t largest(uint4 words) {
  return larger<T>(larger<T>(words.x, words.y), larger<T>(words.z, words.w));
}

/// Returns the order of the larger element of a word.
template <typename T>
__device__ __forceinline__ uint32_t orderOfWord(uint32_t word) {
  constexpr int kElements = 4 / int(sizeof(T));
  const auto values = *reinterpret_cast<const Vector<T, kElements>*>(&word);
  uint32_t order = orderOf(toFloat(values.item[0]));
  if constexpr (kElements == 2) order = max(order, orderOf(toFloat(values.item[1])));
  return order;
}

// ---- one row ------------------------------------------------------------------------------------

template <int kThreads>
struct Shared {
  Key candidates[kMaxCandidates];
  Key best[kTopKMaxK];
  int count;
  uint16_t reaching[kThreads];  // threads whose maximum reaches the bound
  int reachingCount;
  uint32_t warpBound[kThreads / kWarpSize];
  uint32_t warpLargest[kThreads / kWarpSize];
};

/// A row as vectors at multiples of 16 bytes in memory, plus the few elements before and after
/// them.
template <typename T>
struct Row {
  static constexpr int kVec = kWidest<T>;
  const T* data;
  int width;
  int head;  // elements before the first vector
  int vectors;

  __device__ Row(const T* row, int width) : data(row), width(width) {
    const int past = int(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
    head = min((kVec - past) % kVec, width);
    vectors = (width - head) / kVec;
  }

  __device__ int edges() const { return width - vectors * kVec; }
  __device__ int indexOfEdge(int edge) const { return edge < head ? edge : edge + vectors * kVec; }
  __device__ int indexOfVector(int vector) const { return head + vector * kVec; }
};

/// Finds a bound that at least k of the threads' maxima reach, and at most 2k if the values allow
/// it. Returns kLowest if fewer than k threads have elements. Only the first `holders` threads have
/// elements.
template <int kThreads>
__device__ uint32_t findBound(uint32_t largest, int holders, int k, Shared<kThreads>& shared) {
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  const int fullWarps = min(holders, kThreads) / kWarpSize;
  const bool enough = fullWarps * kWarpSize >= k;
  if (enough && warp < fullWarps) {
    // The n-th largest maximum of the warp, where n is the warp's share of k.
    const int share = ceilDiv(k, fullWarps);
    uint32_t mine = largest;
    uint32_t bound = 0;
    for (int n = 0; n < share; ++n) {
      bound = __reduce_max_sync(kFullWarp, mine);
      if (n == 0 && lane == 0) shared.warpLargest[warp] = bound;
      const uint32_t equal = __ballot_sync(kFullWarp, mine == bound);
      if (lane == __ffs(int(equal)) - 1) mine = kLowest;
    }
    if (lane == 0) shared.warpBound[warp] = bound;
  }
  __syncthreads();
  if (!enough) return kLowest;
  uint32_t low = shared.warpBound[0];
  uint32_t high = shared.warpLargest[0];
  for (int w = 1; w < fullWarps; ++w) {
    low = min(low, shared.warpBound[w]);
    high = max(high, shared.warpLargest[w]);
  }
  // At least k maxima reach `low`; no maximum is above `high`.
  int reaching = __syncthreads_count(largest >= low);
  while (reaching > 2 * k && low < high) {
    const uint32_t middle = high - (high - low) / 2;
    const int count = __syncthreads_count(largest >= middle);
    if (count >= k) {
      low = middle;
      reaching = count;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

/// Writes the key of each rank below k among the `count` candidates to shared.best. All threads
/// call it.
template <int kThreads>
__device__ void rankCandidates(int count, int k, Shared<kThreads>& shared) {
  constexpr int kLanes = 4;  // lanes that share the comparisons of a candidate
  const int part = threadIdx.x % kLanes;
  for (int first = 0; first < count; first += kThreads / kLanes) {
    const int i = first + threadIdx.x / kLanes;
    const Key mine = i < count ? shared.candidates[i] : ~Key(0);
    int rank = 0;
#pragma unroll 4
    for (int j = part; j < count; j += kLanes) rank += shared.candidates[j] > mine;
    rank += __shfl_xor_sync(kFullWarp, rank, 1);
    rank += __shfl_xor_sync(kFullWarp, rank, 2);
    if (part == 0 && i < count && rank < k) shared.best[rank] = mine;
  }
  __syncthreads();
}

/// Collects the k largest elements as candidates, by bisection over the whole row. At least k
/// elements reach `bound`. All threads call it.
template <typename T, int kThreads>
__device__ void bisectRow(const Row<T>& row, uint32_t bound, int k, Shared<kThreads>& shared) {
  const auto count = [&](Key least) {
    int mine = 0;
    for (int i = threadIdx.x; i < row.width; i += kThreads) {
      mine += makeKey(orderOf(toFloat(row.data[i])), i) >= least;
    }
    mine = __reduce_add_sync(kFullWarp, mine);
    __syncthreads();
    if (threadIdx.x == 0) shared.count = 0;
    __syncthreads();
    if (threadIdx.x % kWarpSize == 0) atomicAdd(&shared.count, mine);
    __syncthreads();
    return shared.count;
  };
  Key low = makeKey(bound, row.width - 1);  // at least k keys reach it
  Key high = ~Key(0);                       // no key is above
  while (low < high) {
    const Key middle = high - (high - low) / 2;
    const int reaching = count(middle);
    if (reaching >= k) {
      low = middle;
      if (reaching == k) break;
    } else {
      high = middle - 1;
    }
  }
  __syncthreads();  // all threads have read the previous count
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < row.width; i += kThreads) {
    const Key key = makeKey(orderOf(toFloat(row.data[i])), i);
    if (key >= low) shared.candidates[atomicAdd(&shared.count, 1)] = key;
  }
  __syncthreads();
}

/// Returns the order of the largest element of this thread's vectors. Several loads are in flight.
template <int kThreads, typename T>
__device__ __forceinline__ uint32_t largestOrder(const Row<T>& row) {
  if (threadIdx.x >= row.vectors) return kLowest;
  const auto vectorAt = [&](int vector) {
    return *reinterpret_cast<const uint4*>(row.data + row.indexOfVector(vector));
  };
  uint32_t word = largest<T>(vectorAt(threadIdx.x));
  for (int first = threadIdx.x + kThreads; first < row.vectors; first += kThreads * kLoadsAhead) {
    uint4 held[kLoadsAhead];
#pragma unroll
    for (int v = 0; v < kLoadsAhead; ++v) {  // past the end, read the first vector again
      const int at = first + v * kThreads;
      held[v] = vectorAt(at < row.vectors ? at : first);
    }
#pragma unroll
    for (int v = 0; v < kLoadsAhead; ++v) word = larger<T>(word, largest<T>(held[v]));
  }
  return orderOfWord<T>(word);
}

template <typename T, int kThreads>
__global__ void __launch_bounds__(kThreads, 1536 / kThreads)
    topKKernel(int width, int k, const T* __restrict__ x, T* __restrict__ values,
               int32_t* __restrict__ indices) {
  __shared__ Shared<kThreads> shared;
  const Row<T> row(x + int64_t(blockIdx.x) * width, width);
  if (threadIdx.x == 0) shared.count = shared.reachingCount = 0;
  admitNext();
  waitForPrevious();

  uint32_t edge = kLowest;  // this thread's element of the row's ends, if it has one
  if (threadIdx.x < row.edges()) edge = orderOf(toFloat(row.data[row.indexOfEdge(threadIdx.x)]));
  const uint32_t inVectors = largestOrder<kThreads>(row);
  const int holders = max(row.vectors, row.edges());
  const uint32_t bound = findBound<kThreads>(max(inVectors, edge), holders, k, shared);

  const auto propose = [&](uint32_t order, int index) {
    if (order < bound) return;
    const int slot = atomicAdd(&shared.count, 1);
    if (slot < kMaxCandidates) shared.candidates[slot] = makeKey(order, index);
  };
  if (threadIdx.x < row.edges()) propose(edge, row.indexOfEdge(threadIdx.x));
  if (inVectors >= bound && threadIdx.x < row.vectors) {
    shared.reaching[atomicAdd(&shared.reachingCount, 1)] = uint16_t(threadIdx.x);
  }
  __syncthreads();
  const int reaching = shared.reachingCount;
  for (int i = threadIdx.x; i < reaching * ceilDiv(row.vectors, kThreads); i += kThreads) {
    const int vector = shared.reaching[i % reaching] + i / reaching * kThreads;
    if (vector >= row.vectors) continue;
    const int first = row.indexOfVector(vector);
    const uint4 words = *reinterpret_cast<const uint4*>(row.data + first);
    if (orderOfWord<T>(largest<T>(words)) < bound) continue;
    const auto elements = *reinterpret_cast<const Vector<T, Row<T>::kVec>*>(&words);
#pragma unroll
    for (int e = 0; e < Row<T>::kVec; ++e) propose(orderOf(toFloat(elements.item[e])), first + e);
  }
  __syncthreads();

  int count = shared.count;
  if (count > kMaxCandidates) {
    bisectRow<T, kThreads>(row, bound, k, shared);
    count = k;
  }
  rankCandidates<kThreads>(count, k, shared);

  if (threadIdx.x < k) {
    const Key key = shared.best[threadIdx.x];
    const int index = indexOfKey(key);
    const int64_t to = int64_t(blockIdx.x) * k + threadIdx.x;
    const uint32_t order = orderOfKey(key);
    values[to] = isOneValue(order) ? fromFloat<T>(valueOf(order)) : row.data[index];
    indices[to] = index;
  }
}

template <typename T, int kThreads>
cudaError_t run(const TopKParams& p, const T* x, T* values, int32_t* indices, cudaStream_t stream) {
  return launchEarly(topKKernel<T, kThreads>, p.rows, kThreads, 0, stream, p.width, p.k, x, values,
                     indices);
}

}  // namespace

size_t topKWorkspaceSize(const TopKParams&) { return 0; }

cudaError_t topK(const TopKParams& p, const void* x, void* values, int32_t* indices,
                 void* /*workspace*/, cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.rows == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(values);
    return p.width <= kSmallRowBytes / int(sizeof(T))
               ? run<T, kSmallThreads>(p, from, to, indices, stream)
               : run<T, kLargeThreads>(p, from, to, indices, stream);
  });
}

}  // namespace lite
