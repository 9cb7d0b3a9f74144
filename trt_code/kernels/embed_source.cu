// One warp computes one token. It counts the tokens before its own that are not padding, 32 at a
// time, and then copies one row of each table.
#include "common.cuh"
#include "embed_source.h"
#include "special_tokens.h"

namespace lite {
namespace {

constexpr int kWarpsPerBlock = 4;

template <typename T, int kVec>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarpSize)
    embedSourceKernel(EmbedSourceParams p, const int64_t* __restrict__ tokens,
                      const T* __restrict__ embedding, const T* __restrict__ positions,
                      T* __restrict__ x, T* __restrict__ embedded, int32_t* __restrict__ mask) {
  const int64_t row = int64_t(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarpSize;
  if (row >= int64_t(p.batch) * p.length) return;
  const int lane = threadIdx.x % kWarpSize;
  const int t = int(row % p.length);
  const int64_t* sentence = tokens + (row - t);

  int before = 0;
  for (int base = 0; base <= t; base += kWarpSize) {
    const bool real = base + lane <= t && sentence[base + lane] != kPad;
    before += __popc(__ballot_sync(kFullWarp, real));
  }
  const int64_t given = sentence[t];
  const int64_t token = given >= 0 && given < p.vocab ? given : kUnk;
  const int64_t position = token == kPad ? kPad : kPad + before;
  if (lane == 0) mask[row] = token != kPad;

  const T* tokenRow = embedding + token * p.channels;
  const T* positionRow = positions + position * p.channels;
  for (int c = lane * kVec; c < p.channels; c += kWarpSize * kVec) {
    const Vector<T, kVec> a = loadVector<kVec>(tokenRow + c);
    const Vector<T, kVec> b = loadVector<kVec>(positionRow + c);
    float sum[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i) sum[i] = toFloat(a.item[i]) + toFloat(b.item[i]);
    *reinterpret_cast<Vector<T, kVec>*>(embedded + row * p.channels + c) = a;
    storeVector(x + row * p.channels + c, sum);
  }
}

}  // namespace

cudaError_t embedSource(const EmbedSourceParams& p, const int64_t* tokens, const void* embedding,
                        const void* positions, void* x, void* embedded, int32_t* mask,
                        cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  const int64_t rows = int64_t(p.batch) * p.length;
  if (rows == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const bool vectorised =
        p.channels % kWidest<T> == 0 && aligned(16, {embedding, positions, x, embedded});
    return launch(vectorised ? embedSourceKernel<T, kWidest<T>> : embedSourceKernel<T, 1>,
                  ceilDiv<int64_t>(rows, kWarpsPerBlock), kWarpsPerBlock * kWarpSize, 0, stream, p,
                  tokens, static_cast<const T*>(embedding), static_cast<const T*>(positions),
                  static_cast<T*>(x), static_cast<T*>(embedded), mask);
  });
}

}  // namespace lite
