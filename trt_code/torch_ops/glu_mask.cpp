// lite::glu_mask, which exists on CUDA only, for inference.
#include "glu_mask.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "tensors.h"

namespace {

using at::Tensor;
using namespace lite::torch_ops;

Tensor gluMask(const Tensor& input, const OptionalTensor& mask, std::optional<double> fp8_factor) {
  constexpr const char* kOp = "glu_mask";
  const Tensor x = input.contiguous();
  requireRank(kOp, "x", x, 3);
  TORCH_CHECK(x.size(2) % 2 == 0, "lite::", kOp, ": the last dimension of x must be even, got ",
              text(x.sizes()));
  const lite::GluMaskParams params{x.size(0) * x.size(1), narrow(kOp, x.size(2) / 2),
                                   dataType(kOp, x)};
  checkParams(kOp, params);
  const OptionalTensor dense = contiguous(mask);
  const int32_t* real = int32OrNull(kOp, "mask", dense, {x.size(0), x.size(1)}, x);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty({x.size(0), x.size(1), x.size(2) / 2},
                       x.options().dtype(resultType(kOp, x, fp8_factor)));
  C10_CUDA_CHECK(lite::gluMask(params, x.const_data_ptr(), real, y.data_ptr(), stream(),
                               static_cast<float>(fp8_factor.value_or(0))));
  return y;
}

Tensor gluMaskMeta(const Tensor& x, const OptionalTensor&, std::optional<double> fp8_factor) {
  return x.new_empty_symint({x.sym_size(0), x.sym_size(1), x.sym_size(2) / 2},
                            x.options().dtype(resultType("glu_mask", x, fp8_factor)));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lite, m) {
  // x [B, T, 2C], mask [B, T] int32; [B, T, C]. See glu_mask.h.
  m.def("glu_mask(Tensor x, Tensor? mask, float? fp8_factor=None) -> Tensor", kOperatorTags);
}

TORCH_LIBRARY_IMPL(lite, CUDA, m) { m.impl("glu_mask", &gluMask); }

TORCH_LIBRARY_IMPL(lite, Meta, m) { m.impl("glu_mask", &gluMaskMeta); }
