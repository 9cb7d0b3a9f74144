// One thread per number.
#include "common.cuh"
#include "squared_relu.h"

namespace lite {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    squaredReluKernel(int64_t count, float limit, const T* __restrict__ x, T* __restrict__ y) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const float value = static_cast<float>(x[i]);
  const float positive = value < 0.0f ? 0.0f : value;  // NaN stays NaN, as in PyTorch
  const float square = positive * positive;
  y[i] = static_cast<T>(square > limit ? limit : square);
}

}  // namespace

cudaError_t squaredRelu(const SquaredReluParams& p, const void* x, void* y, cudaStream_t stream) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  if (p.count == 0) return cudaSuccess;
  return dispatch(p.dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto blocks = static_cast<unsigned>(ceilDiv<int64_t>(p.count, kThreads));
    squaredReluKernel<T><<<blocks, kThreads, 0, stream>>>(
        p.count, p.limit, static_cast<const T*>(x), static_cast<T*>(y));
    return cudaGetLastError();
  });
}

}  // namespace lite
