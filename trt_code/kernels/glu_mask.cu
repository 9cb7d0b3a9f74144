// One thread computes one vector; threads share nothing.
#include "common.cuh"
#include "glu_mask.h"

namespace lite {
namespace {

constexpr int kThreads = 256;

// threadIdx.x walks the channels of a row in vectors of kVec, threadIdx.y the rows of a block.
template <typename T, int kVec, typename Out>
__global__ void __launch_bounds__(kThreads)
    gluMaskKernel(int64_t rows, int channels, const T* __restrict__ x,
                  const int32_t* __restrict__ mask, Out* __restrict__ y, float fp8Factor) {
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  admitNext();
  waitForPrevious();
  const bool real = mask == nullptr || mask[row] != 0;
  const T* values = x + row * 2 * channels;
  const T* gates = values + channels;
  for (int c = threadIdx.x * kVec; c < channels; c += blockDim.x * kVec) {
    float result[kVec] = {};
    if (real) {
      const Vector<T, kVec> a = loadVector<kVec>(values + c);
      const Vector<T, kVec> b = loadVector<kVec>(gates + c);
#pragma unroll
      for (int i = 0; i < kVec; ++i) result[i] = glu(a.item[i], b.item[i]);
    }
    storeScaled(y + row * channels + c, result, fp8Factor);
  }
}

template <typename T, int kVec, typename Out>
cudaError_t run(const GluMaskParams& p, const T* x, const int32_t* mask, Out* y, float fp8Factor,
                cudaStream_t stream) {
  int lanes = 1;
  while (lanes < kThreads && lanes * kVec < p.channels) lanes *= 2;
  const dim3 threads(lanes, kThreads / lanes);
  return launchEarly(gluMaskKernel<T, kVec, Out>, ceilDiv<int64_t>(p.rows, threads.y), threads, 0,
                     stream, p.rows, p.channels, x, mask, y, fp8Factor);
}

template <typename T, typename Out>
cudaError_t run(const GluMaskParams& p, const void* x, const int32_t* mask, void* y,
                float fp8Factor, cudaStream_t stream) {
  const T* from = static_cast<const T*>(x);
  Out* to = static_cast<Out*>(y);
  if (p.channels % kWidest<T> == 0 && aligned(16, {x, y})) {
    return run<T, kWidest<T>>(p, from, mask, to, fp8Factor, stream);
  }
  return run<T, 1>(p, from, mask, to, fp8Factor, stream);
}

}  // namespace

cudaError_t gluMask(const GluMaskParams& p, const void* x, const int32_t* mask, void* y,
                    cudaStream_t stream, float fp8Factor) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.rows == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    return fp8Factor == 0.0f ? run<T, T>(p, x, mask, y, fp8Factor, stream)
                             : run<T, Fp8>(p, x, mask, y, fp8Factor, stream);
  });
}

}  // namespace lite
