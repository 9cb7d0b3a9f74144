// One thread converts one vector.
#include "common.cuh"
#include "to_fp8.h"

namespace lite {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    toFp8Kernel(int64_t vectors, float factor, const T* __restrict__ x, Fp8* __restrict__ y) {
  constexpr int kVec = kWidest<T>;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  admitNext();
  waitForPrevious();
  const Vector<T, kVec> from = loadVector<kVec>(x + i * kVec);
  float value[kVec];
#pragma unroll
  for (int e = 0; e < kVec; ++e) value[e] = toFloat(from.item[e]);
  storeScaled(y + i * kVec, value, factor);
}

}  // namespace

cudaError_t toFp8(const ToFp8Params& p, const void* x, void* y, cudaStream_t stream) {
  if (check(p) != nullptr || !aligned(16, {x, y})) return cudaErrorInvalidValue;
  if (p.count == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t vectors = p.count / kWidest<T>;
    return launchEarly(toFp8Kernel<T>, ceilDiv<int64_t>(vectors, kThreads), kThreads, 0, stream,
                       vectors, p.factor, static_cast<const T*>(x), static_cast<Fp8*>(y));
  });
}

}  // namespace lite
