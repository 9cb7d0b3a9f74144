// lite::dynamic_conv and its gradient, whose schemas are in train_model/ops, and
// lite::dynamic_conv_fused, which exists on CUDA only.
#include "dynamic_conv.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <tuple>

#include "tensors.h"

namespace {

using at::Tensor;
using namespace lite::torch_ops;

lite::DynamicConvParams dynamicConvParams(const char* op, const Tensor& x, const Tensor& weight,
                                          int64_t paddingL) {
  requireRank(op, "x", x, 3);
  requireRank(op, "weight", weight, 4);
  const lite::DynamicConvParams params{narrow(op, x.size(0)),
                                       narrow(op, x.size(1)),
                                       narrow(op, x.size(2)),
                                       narrow(op, weight.size(1)),
                                       narrow(op, weight.size(2)),
                                       narrow(op, paddingL),
                                       dataType(op, x)};
  checkParams(op, params);
  requireTensor(op, "weight", weight, {x.size(0), weight.size(1), weight.size(2), x.size(2)}, x);
  return params;
}

Tensor dynamicConv(const Tensor& input, const Tensor& taps, int64_t paddingL) {
  constexpr const char* kOp = "dynamic_conv";
  const Tensor x = input.contiguous(), weight = taps.contiguous();
  const lite::DynamicConvParams params = dynamicConvParams(kOp, x, weight, paddingL);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty_like(x);
  C10_CUDA_CHECK(lite::dynamicConv(params, x.const_data_ptr(), weight.const_data_ptr(),
                                   y.data_ptr(), stream()));
  return y;
}

std::tuple<Tensor, Tensor> dynamicConvBackward(const Tensor& gradient, const Tensor& input,
                                               const Tensor& taps, int64_t paddingL) {
  constexpr const char* kOp = "dynamic_conv_backward";
  const Tensor grad = gradient.contiguous(), x = input.contiguous(), weight = taps.contiguous();
  const lite::DynamicConvParams params = dynamicConvParams(kOp, x, weight, paddingL);
  requireTensor(kOp, "grad", grad, x.sizes(), x);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor gradX = at::empty_like(x), gradWeight = at::empty_like(weight);
  C10_CUDA_CHECK(lite::dynamicConvBackward(params, grad.const_data_ptr(), x.const_data_ptr(),
                                           weight.const_data_ptr(), gradX.data_ptr(),
                                           gradWeight.data_ptr(), stream()));
  return {gradX, gradWeight};
}

Tensor dynamicConvFused(const Tensor& input, const Tensor& taps, const OptionalTensor& mask,
                        int64_t heads, int64_t kernelSize, int64_t paddingL) {
  constexpr const char* kOp = "dynamic_conv_fused";
  const Tensor x = input.contiguous(), logits = taps.contiguous();
  requireRank(kOp, "x", x, 3);
  const lite::DynamicConvFusedParams params{
      narrow(kOp, x.size(0)),  narrow(kOp, x.size(1)), narrow(kOp, x.size(2)), narrow(kOp, heads),
      narrow(kOp, kernelSize), narrow(kOp, paddingL),  dataType(kOp, x)};
  checkParams(kOp, params);
  requireTensor(kOp, "logits", logits, {x.size(0), x.size(1), heads * kernelSize}, x);
  const OptionalTensor dense = contiguous(mask);
  const int32_t* real = int32OrNull(kOp, "mask", dense, {x.size(0), x.size(1)}, x);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty_like(x);
  C10_CUDA_CHECK(lite::dynamicConvFused(params, x.const_data_ptr(), logits.const_data_ptr(), real,
                                        y.data_ptr(), stream()));
  return y;
}

Tensor dynamicConvFusedMeta(const Tensor& x, const Tensor&, const OptionalTensor&, c10::SymInt,
                            c10::SymInt, c10::SymInt) {
  return x.new_empty_symint(x.sym_sizes());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lite, m) {
  // x [B, T, C], logits [B, T, heads * kernel_size], mask [B, T] int32;
  // [B, T, C]. See trt_code/kernels/dynamic_conv.h.
  m.def(
      "dynamic_conv_fused(Tensor x, Tensor logits, Tensor? mask, SymInt heads, "
      "SymInt kernel_size, SymInt padding_l) -> Tensor",
      kOperatorTags);
}

TORCH_LIBRARY_IMPL(lite, CUDA, m) {
  m.impl("dynamic_conv", &dynamicConv);
  m.impl("dynamic_conv_backward", &dynamicConvBackward);
  m.impl("dynamic_conv_fused", &dynamicConvFused);
}

TORCH_LIBRARY_IMPL(lite, Meta, m) { m.impl("dynamic_conv_fused", &dynamicConvFusedMeta); }
