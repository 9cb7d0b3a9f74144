// One warp computes one hypothesis.
#include "common.cuh"
#include "embed_step.h"
#include "special_tokens.h"

namespace lite {
namespace {

constexpr int kWarpsPerBlock = 4;

template <typename T, int kVec>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarpSize)
    embedStepKernel(EmbedStepParams p, const int64_t* tokens, const int64_t* parents,
                    const int64_t* position, const T* __restrict__ embedding,
                    const T* __restrict__ positions, int32_t* ancestors, T* x) {
  admitNext();
  waitForPrevious();
  const int64_t rows = int64_t(p.batch) * p.beam;
  const int64_t row = int64_t(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarpSize;
  if (row >= rows) return;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t now = max(*position, int64_t{0});

  const int64_t given = tokens[row];
  const int64_t token = given >= 0 && given < p.vocab ? given : kUnk;
  const T* tokenRow = embedding + token * p.channels;
  const T* positionRow =
      p.positions == 0
          ? nullptr
          : positions + min(now + kFirstPosition, int64_t{p.positions} - 1) * p.channels;
  for (int c = lane * kVec; c < p.channels; c += kWarpSize * kVec) {
    const Vector<T, kVec> a = loadVector<kVec>(tokenRow + c);
    float sum[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i) sum[i] = p.scale * toFloat(a.item[i]);
    if (positionRow != nullptr) {
      const Vector<T, kVec> b = loadVector<kVec>(positionRow + c);
#pragma unroll
      for (int i = 0; i < kVec; ++i) sum[i] += toFloat(b.item[i]);
    }
    storeVector(x + row * p.channels + c, sum);
  }

  if (ancestors == nullptr) return;
  const int64_t parent = min(max(parents[row], int64_t{0}), int64_t{p.beam} - 1);
  const int64_t half = rows * p.capacity;
  const int32_t* before = ancestors + (now + 1) % 2 * half;
  int32_t* after = ancestors + now % 2 * half + row * p.capacity;
  before += (row - row % p.beam + parent) * p.capacity;
  const int last = int(min(now, int64_t{p.capacity} - 1));
  for (int j = lane; j < last; j += kWarpSize) after[j] = before[j];
  if (lane == 0) after[last] = int32_t(row);
}

}  // namespace

cudaError_t embedStep(const EmbedStepParams& p, const int64_t* tokens, const int64_t* parents,
                      const int64_t* position, const void* embedding, const void* positions,
                      int32_t* ancestors, void* x, cudaStream_t stream) {
  const int64_t rows = int64_t(p.batch) * p.beam;
  if (check(p) != nullptr || rows > std::numeric_limits<int32_t>::max()) {
    return cudaErrorInvalidValue;
  }
  if (rows == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const bool vectorised = p.channels % kWidest<T> == 0 && aligned(16, {embedding, positions, x});
    return launchEarly(vectorised ? embedStepKernel<T, kWidest<T>> : embedStepKernel<T, 1>,
                       ceilDiv<int64_t>(rows, kWarpsPerBlock), kWarpsPerBlock * kWarpSize, 0,
                       stream, p, tokens, parents, position, static_cast<const T*>(embedding),
                       static_cast<const T*>(positions), ancestors, static_cast<T*>(x));
  });
}

}  // namespace lite
