// A warp takes kQueries neighbouring positions of one sentence, so that a key or an embedding that
// it reads serves all of them: one where the grid is small, four where it fills the machine. Scores
// are FP32 in shared memory; the softmax is exact, in two passes.
#include "common.cuh"
#include "copy_source.h"

namespace lite {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kBegin = 0, kPadding = 1, kEnd = 2;
constexpr int kFirstPosition = 2;
constexpr float kHidden = -1e30f;

template <typename T, int kVec, int kQueries>
__global__ void __launch_bounds__(kWarps* kWarpSize)
    copySourceKernel(CopySourceParams p, CopySourceTensors tensors, int groups) {
  extern __shared__ __align__(16) float weights[];  // [kWarps][kQueries][source]
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t job = int64_t(blockIdx.x) * kWarps + warp;
  if (job >= int64_t(p.batch) * groups) return;
  const int64_t sentence = job / groups;
  const int t0 = int(job % groups) * kQueries;
  const int last = int(tensors.lengths[sentence]) - 1;
  float* scores = weights + warp * kQueries * p.source;
  const T* keys = static_cast<const T*>(tensors.keys) + sentence * p.source * p.channels;
  const T* embedded = static_cast<const T*>(tensors.embedded) + sentence * p.source * p.channels;
  const T* queries =
      static_cast<const T*>(tensors.queries) + int64_t(t0 + kFirstPosition) * p.channels;
  const int32_t* real = tensors.sourceMask + sentence * p.source;
  // Positions past the canvas read the row of the last one and write nothing.
  const auto queryRow = [&](int q) { return min(q, p.length - 1 - t0); };

  if (t0 < last) {  // some of them are unknown
#pragma unroll 2
    for (int s = 0; s < p.source; ++s) {
      float score[kQueries] = {};
      for (int c = lane * kVec; c < p.channels; c += kWarpSize * kVec) {
        const Vector<T, kVec> key = loadVector<kVec>(keys + int64_t(s) * p.channels + c);
#pragma unroll
        for (int q = 0; q < kQueries; ++q) {
          const Vector<T, kVec> query =
              loadVector<kVec>(queries + int64_t(queryRow(q)) * p.channels + c);
#pragma unroll
          for (int i = 0; i < kVec; ++i) score[q] += toFloat(key.item[i]) * toFloat(query.item[i]);
        }
      }
#pragma unroll
      for (int q = 0; q < kQueries; ++q) {
        score[q] = warpSum(score[q]);
        if (lane == 0) scores[q * p.source + s] = real[s] != 0 ? score[q] : kHidden;
      }
    }
    __syncwarp();
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      float* row = scores + q * p.source;
      float largest = -INFINITY;
      for (int s = lane; s < p.source; s += kWarpSize) largest = fmaxf(largest, row[s]);
      for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, offset));
      }
      float total = 0.0f;
      for (int s = lane; s < p.source; s += kWarpSize) {
        row[s] = expf(row[s] - largest);
        total += row[s];
      }
      const float scale = 1.0f / warpSum(total);
      for (int s = lane; s < p.source; s += kWarpSize) row[s] *= scale;
    }
    __syncwarp();
  }

  for (int c = lane * kVec; c < p.channels; c += kWarpSize * kVec) {
    float copied[kQueries][kVec] = {};
    if (t0 < last) {
#pragma unroll 4
      for (int s = 0; s < p.source; ++s) {
        const Vector<T, kVec> value = loadVector<kVec>(embedded + int64_t(s) * p.channels + c);
#pragma unroll
        for (int q = 0; q < kQueries; ++q) {
          const float weight = scores[q * p.source + s];
#pragma unroll
          for (int i = 0; i < kVec; ++i) copied[q][i] += weight * toFloat(value.item[i]);
        }
      }
    }
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      const int t = t0 + q;
      if (t >= p.length) continue;
      if (t == 0 || t >= last) {
        const int token = t == 0 ? kBegin : t == last ? kEnd : kPadding;
        const Vector<T, kVec> own = loadVector<kVec>(static_cast<const T*>(tensors.embedding) +
                                                     int64_t(token) * p.channels + c);
#pragma unroll
        for (int i = 0; i < kVec; ++i) copied[q][i] = toFloat(own.item[i]);
      }
      const int64_t position = t <= last ? t + kFirstPosition : kPadding;
      const Vector<T, kVec> at =
          loadVector<kVec>(static_cast<const T*>(tensors.positionRows) + position * p.channels + c);
#pragma unroll
      for (int i = 0; i < kVec; ++i) copied[q][i] += toFloat(at.item[i]);
      storeVector(static_cast<T*>(tensors.x) + (sentence * p.length + t) * p.channels + c,
                  copied[q]);
    }
  }
  if (lane < kQueries && t0 + lane < p.length) {
    tensors.mask[sentence * p.length + t0 + lane] = t0 + lane <= last;
  }
}

template <typename T, int kVec, int kQueries>
cudaError_t run(const CopySourceParams& p, const CopySourceTensors& tensors, cudaStream_t stream) {
  const int groups = ceilDiv(p.length, kQueries);
  return launch(copySourceKernel<T, kVec, kQueries>,
                ceilDiv<int64_t>(int64_t(p.batch) * groups, kWarps), kWarps * kWarpSize,
                kWarps * kQueries * p.source * sizeof(float), stream, p, tensors, groups);
}

}  // namespace

cudaError_t copySource(const CopySourceParams& p, const CopySourceTensors& tensors,
                       cudaStream_t stream) {
  constexpr int64_t kManyPositions = 8192;  // more than this fill the machine four at a time
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.length == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kVec = kWidest<T>;
    const bool vectorised =
        p.channels % kVec == 0 && aligned(16, {tensors.queries, tensors.keys, tensors.embedded,
                                               tensors.embedding, tensors.positionRows, tensors.x});
    const bool many = int64_t(p.batch) * p.length >= kManyPositions;
    if (!vectorised) return run<T, 1, 1>(p, tensors, stream);
    return many ? run<T, kVec, 4>(p, tensors, stream) : run<T, kVec, 1>(p, tensors, stream);
  });
}

}  // namespace lite
