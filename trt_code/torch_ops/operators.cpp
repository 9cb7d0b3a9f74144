// The kernels as PyTorch operators, namespace `lite`.
//
// dynamic_conv, dynamic_conv_backward and crf_decode have their schemas, shapes and autograd in
// train_model/ops, which runs them in PyTorch on any device; here they get their CUDA form. The
// others exist on CUDA alone, for inference, and are defined here with their shapes (Meta), so that
// torch.compile and graph capture can pass through them.
//
// Bad arguments raise an error of one line before anything is launched. Tensors that are not
// contiguous are copied to be so.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "crf_decode.h"
#include "dynamic_conv.h"
#include "glu_mask.h"
#include "layer_norm.h"
#include "tensors.h"
#include "top_k.h"

namespace {

using at::Tensor;
using lite::torch_ops::checkParams;
using lite::torch_ops::dataType;
using lite::torch_ops::int32OrNull;
using lite::torch_ops::narrow;
using lite::torch_ops::requireTensor;
using lite::torch_ops::stream;
using lite::torch_ops::text;
using OptionalTensor = std::optional<Tensor>;

void requireRank(const char* op, const char* name, const Tensor& tensor, int64_t rank) {
  TORCH_CHECK(tensor.dim() == rank, "lite::", op, ": ", name, " must have ", std::to_string(rank),
              " dimensions, got ", text(tensor.sizes()));
}

OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor.has_value() ? OptionalTensor(tensor->contiguous()) : std::nullopt;
}

const void* dataOrNull(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

// ---- dynamic_conv -------------------------------------------------------------------------------

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

// ---- dynamic_conv_fused -------------------------------------------------------------------------

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

// ---- glu_mask -----------------------------------------------------------------------------------

Tensor gluMask(const Tensor& input, const OptionalTensor& mask) {
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
  Tensor y = at::empty({x.size(0), x.size(1), x.size(2) / 2}, x.options());
  C10_CUDA_CHECK(lite::gluMask(params, x.const_data_ptr(), real, y.data_ptr(), stream()));
  return y;
}

Tensor gluMaskMeta(const Tensor& x, const OptionalTensor&) {
  return x.new_empty_symint({x.sym_size(0), x.sym_size(1), x.sym_size(2) / 2});
}

// ---- layer_norm ---------------------------------------------------------------------------------

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

// ---- crf_decode ---------------------------------------------------------------------------------

std::tuple<Tensor, Tensor> crfDecode(const Tensor& values, const Tensor& candidates,
                                     const Tensor& from, const Tensor& to, const Tensor& real) {
  constexpr const char* kOp = "crf_decode";
  const Tensor emissions = values.contiguous(), targets = candidates.contiguous();
  const Tensor E1 = from.contiguous(), E2 = to.contiguous(), mask = real.contiguous();
  requireRank(kOp, "emissions", emissions, 3);
  requireRank(kOp, "E1", E1, 2);
  const lite::CrfDecodeParams params{narrow(kOp, emissions.size(0)), narrow(kOp, emissions.size(1)),
                                     narrow(kOp, emissions.size(2)), narrow(kOp, E1.size(0)),
                                     narrow(kOp, E1.size(1)),        dataType(kOp, emissions)};
  checkParams(kOp, params);
  TORCH_CHECK(params.length > 0, "lite::crf_decode: there are no positions in ",
              text(emissions.sizes()));
  const at::IntArrayRef positions = emissions.sizes().slice(0, 2);
  requireTensor(kOp, "E1", E1, E1.sizes(), emissions);
  requireTensor(kOp, "E2", E2, E1.sizes(), emissions);
  const int32_t* targetData = int32OrNull(kOp, "targets", targets, emissions.sizes(), emissions);
  const int32_t* maskData = int32OrNull(kOp, "mask", mask, positions, emissions);
  const c10::cuda::CUDAGuard guard(emissions.device());
  Tensor tokens = at::empty(positions, mask.options());
  Tensor scores = at::empty(positions, emissions.options().dtype(at::kFloat));
  const auto bytes = static_cast<int64_t>(lite::crfDecodeWorkspaceSize(params));
  const Tensor workspace = at::empty({bytes}, emissions.options().dtype(at::kByte));
  C10_CUDA_CHECK(lite::crfDecode(params, emissions.const_data_ptr(), targetData,
                                 E1.const_data_ptr(), E2.const_data_ptr(), maskData,
                                 tokens.data_ptr<int32_t>(), scores.data_ptr<float>(),
                                 workspace.data_ptr(), stream()));
  return {tokens, scores};
}

// ---- top_k --------------------------------------------------------------------------------------

std::tuple<Tensor, Tensor> topK(const Tensor& input, int64_t k) {
  constexpr const char* kOp = "top_k";
  TORCH_CHECK(input.dim() >= 1, "lite::top_k: x must have a dimension to select from");
  const Tensor x = input.contiguous();
  const int64_t width = x.size(-1);
  const lite::TopKParams params{x.numel() / std::max<int64_t>(width, 1), narrow(kOp, width),
                                narrow(kOp, k), dataType(kOp, x)};
  checkParams(kOp, params);
  const c10::cuda::CUDAGuard guard(x.device());
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = k;
  Tensor values = at::empty(sizes, x.options());
  Tensor indices = at::empty(sizes, x.options().dtype(at::kInt));
  const auto bytes = static_cast<int64_t>(lite::topKWorkspaceSize(params));
  const Tensor workspace = at::empty({bytes}, x.options().dtype(at::kByte));
  C10_CUDA_CHECK(lite::topK(params, x.const_data_ptr(), values.data_ptr(),
                            indices.data_ptr<int32_t>(), workspace.data_ptr(), stream()));
  return {values, indices};
}

std::tuple<Tensor, Tensor> topKMeta(const Tensor& x, c10::SymInt k) {
  std::vector<c10::SymInt> sizes = x.sym_sizes().vec();
  sizes.back() = std::move(k);
  return {x.new_empty_symint(sizes), x.new_empty_symint(sizes, x.options().dtype(at::kInt))};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lite, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  // x [B, T, C], logits [B, T, heads * kernel_size], mask [B, T] int32;
  // [B, T, C]. See trt_code/kernels/dynamic_conv.h.
  m.def(
      "dynamic_conv_fused(Tensor x, Tensor logits, Tensor? mask, SymInt heads, "
      "SymInt kernel_size, SymInt padding_l) -> Tensor",
      tags);
  // x [B, T, 2C], mask [B, T] int32; [B, T, C]. See glu_mask.h.
  m.def("glu_mask(Tensor x, Tensor? mask) -> Tensor", tags);
  // x and residual [..., W], scale and shift [W] float32; like x. See layer_norm.h.
  m.def(
      "layer_norm(Tensor x, Tensor? residual, Tensor scale, Tensor shift, "
      "float eps) -> Tensor",
      tags);
  // x [..., V]; values [..., k] and indices [..., k] int32, descending. See top_k.h.
  m.def("top_k(Tensor x, SymInt k) -> (Tensor values, Tensor indices)", tags);
}

TORCH_LIBRARY_IMPL(lite, CUDA, m) {
  m.impl("dynamic_conv", &dynamicConv);
  m.impl("dynamic_conv_backward", &dynamicConvBackward);
  m.impl("crf_decode", &crfDecode);
  m.impl("dynamic_conv_fused", &dynamicConvFused);
  m.impl("glu_mask", &gluMask);
  m.impl("layer_norm", &layerNorm);
  m.impl("top_k", &topK);
}

TORCH_LIBRARY_IMPL(lite, Meta, m) {
  m.impl("dynamic_conv_fused", &dynamicConvFusedMeta);
  m.impl("glu_mask", &gluMaskMeta);
  m.impl("layer_norm", &layerNormMeta);
  m.impl("top_k", &topKMeta);
}
