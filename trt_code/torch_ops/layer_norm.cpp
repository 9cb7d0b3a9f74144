// lite::layer_norm, which exists on CUDA only, for inference.
#include "layer_norm.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "tensors.h"

namespace {

using at::Tensor;
using namespace lite::torch_ops;

Tensor layerNorm(const Tensor& input, const OptionalTensor& skip, const Tensor& gain,
                 const Tensor& base, double eps) {
  constexpr const char* kOp = "layer_norm";
  TORCH_CHECK(input.dim() >= 1, "lite::layer_norm: x must have a dimension to normalise over");
  const Tensor x = input.contiguous(), scale = gain.contiguous(), shift = base.contiguous();
  const OptionalTensor residual = contiguous(skip);
  const int64_t width = x.size(-1);
  const lite::LayerNormParams params{x.numel() / std::max<int64_t>(width, 1), narrow(kOp, width),
                                     static_cast<float>(eps), dataType(kOp, x)};
  checkParams(kOp, params);
  if (residual) requireTensor(kOp, "residual", *residual, x.sizes(), x);
  TORCH_CHECK(scale.scalar_type() == at::kFloat, "lite::layer_norm: scale must be float32, got ",
              c10::toString(scale.scalar_type()));
  TORCH_CHECK(scale.device() == x.device(), "lite::layer_norm: scale must be on ",
              x.device().str());
  requireTensor(kOp, "scale", scale, {width}, scale);
  requireTensor(kOp, "shift", shift, {width}, scale);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty_like(x);
  C10_CUDA_CHECK(lite::layerNorm(params, x.const_data_ptr(), dataOrNull(residual),
                                 scale.const_data_ptr<float>(), shift.const_data_ptr<float>(),
                                 y.data_ptr(), stream()));
  return y;
}

Tensor layerNormMeta(const Tensor& x, const OptionalTensor&, const Tensor&, const Tensor&, double) {
  return x.new_empty_symint(x.sym_sizes());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lite, m) {
  // x and residual [..., W], scale and shift [W] float32; like x. See layer_norm.h.
  m.def(
      "layer_norm(Tensor x, Tensor? residual, Tensor scale, Tensor shift, "
      "float eps) -> Tensor",
      kOperatorTags);
}

TORCH_LIBRARY_IMPL(lite, CUDA, m) { m.impl("layer_norm", &layerNorm); }

TORCH_LIBRARY_IMPL(lite, Meta, m) { m.impl("layer_norm", &layerNormMeta); }
