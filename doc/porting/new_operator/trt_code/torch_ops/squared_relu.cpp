// lite::squared_relu on CUDA; its schema is in train_model/ops.
#include "squared_relu.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "tensors.h"

namespace {

using at::Tensor;
using lite::torch_ops::checkParams;
using lite::torch_ops::dataType;
using lite::torch_ops::stream;

Tensor squaredRelu(const Tensor& input, double limit) {
  constexpr const char* kOp = "squared_relu";
  const Tensor x = input.contiguous();
  const lite::SquaredReluParams params{x.numel(), static_cast<float>(limit), dataType(kOp, x)};
  checkParams(kOp, params);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty_like(x);
  C10_CUDA_CHECK(lite::squaredRelu(params, x.const_data_ptr(), y.data_ptr(), stream()));
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(lite, CUDA, m) { m.impl("squared_relu", &squaredRelu); }
