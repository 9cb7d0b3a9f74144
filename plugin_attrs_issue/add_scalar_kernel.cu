#include "add_scalar_kernel.h"

namespace {

constexpr int32_t kThreads = 256;

__global__ void addScalarKernel(AddScalarParams p, const float* x, float* y) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < p.count) y[i] = x[i] + p.amount + p.offsets[i % p.width % p.offsetCount];
}

}  // namespace

cudaError_t addScalar(const AddScalarParams& params, const float* x, float* y,
                      cudaStream_t stream) {
  if (params.count == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((params.count + kThreads - 1) / kThreads);
  addScalarKernel<<<blocks, kThreads, 0, stream>>>(params, x, y);
  return cudaGetLastError();
}
