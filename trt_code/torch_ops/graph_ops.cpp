// The operators of the CUDA-graph network without a counterpart in an ONNX graph, for PyTorch.

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "attention.h"
#include "copy_source.h"
#include "embed_source.h"
#include "norm_params.h"
#include "predict_length.h"
#include "self_conv.h"
#include "tensors.h"
#include "to_fp8.h"

namespace {

using at::Tensor;
using namespace lite::torch_ops;

Tensor selfConv(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& mask,
                int64_t heads, int64_t kernel_size, int64_t padding_l, bool glu, bool tf32,
                std::optional<double> fp8_factor) {
  constexpr const char* kName = "self_conv";
  TORCH_CHECK(x.dim() == 3 && x.size(2) % (1 + glu) == 0,
              "lite::self_conv: x must be [B, T, C], or [B, T, 2C] with the gate, got ",
              text(x.sizes()));
  const int64_t batch = x.size(0), length = x.size(1), channels = x.size(2) / (1 + glu);
  const lite::SelfConvParams params{narrow(kName, batch),
                                    narrow(kName, length),
                                    narrow(kName, channels),
                                    narrow(kName, heads),
                                    narrow(kName, kernel_size),
                                    narrow(kName, padding_l),
                                    glu,
                                    dataType(kName, x),
                                    tf32};
  checkParams(kName, params);
  requireTensor(kName, "x", x, x.sizes(), x);
  requireTensor(kName, "weight", weight, {heads * kernel_size, channels}, x);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y =
      at::empty({batch, length, channels}, x.options().dtype(resultType(kName, x, fp8_factor)));
  C10_CUDA_CHECK(lite::selfConv(params, x.data_ptr(), weight.data_ptr(),
                                int32OrNull(kName, "mask", mask, {batch, length}, x), y.data_ptr(),
                                stream(), static_cast<float>(fp8_factor.value_or(0))));
  return y;
}

// Returns whether self_conv supports this convolution in the given type.
bool selfConvFits(int64_t channels, int64_t heads, int64_t kernel_size, int64_t padding_l,
                  at::ScalarType dtype) {
  constexpr const char* kName = "self_conv_fits";
  lite::SelfConvParams params{};
  params.channels = narrow(kName, channels);
  params.heads = narrow(kName, heads);
  params.kernelSize = narrow(kName, kernel_size);
  params.paddingL = narrow(kName, padding_l);
  params.dtype = dataType(kName, dtype);
  return check(params) == nullptr;
}

// LayerNorm, then adds `after` [T, C] to every sentence of x [B, T, C].
Tensor layerNormAdd(const Tensor& x, const Tensor& scale, const Tensor& shift, double eps,
                    const Tensor& after) {
  const auto params = normParams("layer_norm_add", x, scale, shift, eps, after);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty_like(x);
  C10_CUDA_CHECK(lite::layerNorm(params, x.data_ptr(), nullptr, scale.const_data_ptr<float>(),
                                 shift.const_data_ptr<float>(), y.data_ptr(), stream(),
                                 after.data_ptr(), x.size(1)));
  return y;
}

// The same, with or without `after`. The result is returned twice, the second time in FP8.
std::tuple<Tensor, Tensor> layerNormFp8(const Tensor& x, const Tensor& scale, const Tensor& shift,
                                        double eps, const OptionalTensor& after,
                                        double fp8_factor) {
  constexpr const char* kName = "layer_norm_fp8";
  const auto params = normParams(kName, x, scale, shift, eps, after);
  TORCH_CHECK(x.size(2) % 16 == 0, "lite::layer_norm_fp8: the width must be a multiple of 16");
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty_like(x);
  Tensor fp8 = at::empty_like(x, x.options().dtype(resultType(kName, x, fp8_factor)));
  C10_CUDA_CHECK(lite::layerNorm(params, x.data_ptr(), nullptr, scale.const_data_ptr<float>(),
                                 shift.const_data_ptr<float>(), y.data_ptr(), stream(),
                                 after ? after->data_ptr() : nullptr, x.size(1), fp8.data_ptr(),
                                 static_cast<float>(fp8_factor)));
  return {y, fp8};
}

// Returns x * fp8_factor in FP8.
Tensor toFp8(const Tensor& x, double fp8_factor) {
  constexpr const char* kName = "to_fp8";
  requireTensor(kName, "x", x, x.sizes(), x);
  const lite::ToFp8Params params{x.numel(), dataType(kName, x), static_cast<float>(fp8_factor)};
  checkParams(kName, params);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty_like(x, x.options().dtype(resultType(kName, x, fp8_factor)));
  C10_CUDA_CHECK(lite::toFp8(params, x.data_ptr(), y.data_ptr(), stream()));
  return y;
}

// keys_values [B, S, 2 L C] holds the keys and values of L layers side by side.
Tensor attention(const Tensor& query, const Tensor& keys_values, const Tensor& mask, int64_t layer,
                 int64_t heads, bool tf32, std::optional<double> fp8_factor) {
  constexpr const char* kName = "attention";
  TORCH_CHECK(query.dim() == 3 && keys_values.dim() == 3,
              "lite::attention: query [B, T, C] and keys_values [B, S, 2 L C] expected");
  const int64_t batch = query.size(0), length = query.size(1), channels = query.size(2);
  const int64_t source = keys_values.size(1), stride = keys_values.size(2);
  requireTensor(kName, "query", query, query.sizes(), query);
  requireTensor(kName, "keys_values", keys_values, {batch, source, stride}, query);
  const lite::AttentionParams params{narrow(kName, batch),   narrow(kName, length),
                                     narrow(kName, source),  narrow(kName, channels),
                                     narrow(kName, heads),   stride,
                                     dataType(kName, query), tf32};
  checkParams(kName, params);
  TORCH_CHECK(layer >= 0 && layer < stride / (2 * channels), "lite::attention: layer ",
              std::to_string(layer), " is not within keys_values ", text(keys_values.sizes()));
  const c10::cuda::CUDAGuard guard(query.device());
  Tensor out = at::empty_like(query, query.options().dtype(resultType(kName, query, fp8_factor)));
  const char* keys = static_cast<const char*>(keys_values.data_ptr()) +
                     2 * layer * channels * keys_values.element_size();
  const char* values = keys + channels * keys_values.element_size();
  C10_CUDA_CHECK(lite::attention(params, query.data_ptr(), keys, values,
                                 int32OrNull(kName, "mask", mask, {batch, source}, query),
                                 out.data_ptr(), stream(),
                                 static_cast<float>(fp8_factor.value_or(0))));
  return out;
}

// Returns whether attention supports these sizes in the given type.
bool attentionFits(int64_t channels, int64_t heads, at::ScalarType dtype) {
  constexpr const char* kName = "attention_fits";
  lite::AttentionParams params{};
  params.source = 1;
  params.channels = narrow(kName, channels);
  params.heads = narrow(kName, heads);
  params.stride = 2 * channels;
  params.dtype = dataType(kName, dtype);
  return check(params) == nullptr;
}

std::tuple<Tensor, Tensor, Tensor> embedSource(const Tensor& tokens, const Tensor& embedding,
                                               const Tensor& positions) {
  constexpr const char* kName = "embed_source";
  TORCH_CHECK(tokens.dim() == 2 && embedding.dim() == 2 && positions.dim() == 2,
              "lite::embed_source: tokens [B, S], embedding [V, C], positions [P, C] expected");
  const int64_t channels = embedding.size(1);
  requireTensor(kName, "embedding", embedding, embedding.sizes(), embedding);
  requireTensor(kName, "positions", positions, {positions.size(0), channels}, embedding);
  const lite::EmbedSourceParams params{
      narrow(kName, tokens.size(0)),    narrow(kName, tokens.size(1)),
      narrow(kName, channels),          narrow(kName, embedding.size(0)),
      narrow(kName, positions.size(0)), dataType(kName, embedding)};
  checkParams(kName, params);
  const c10::cuda::CUDAGuard guard(embedding.device());
  Tensor x = at::empty({tokens.size(0), tokens.size(1), channels}, embedding.options());
  Tensor embedded = at::empty_like(x);
  Tensor mask = at::empty(tokens.sizes(), embedding.options().dtype(at::kInt));
  C10_CUDA_CHECK(
      lite::embedSource(params, dataOf<int64_t>(kName, "tokens", tokens, tokens.sizes(), embedding),
                        embedding.data_ptr(), positions.data_ptr(), x.data_ptr(),
                        embedded.data_ptr(), mask.data_ptr<int32_t>(), stream()));
  return {x, embedded, mask};
}

Tensor predictLength(const Tensor& x, const Tensor& mask, const Tensor& weight,
                     const Tensor& limits, int64_t offset, bool relative) {
  constexpr const char* kName = "predict_length";
  TORCH_CHECK(x.dim() == 3 && weight.dim() == 2,
              "lite::predict_length: x [B, S, C] and weight [classes, C] expected");
  requireTensor(kName, "x", x, x.sizes(), x);
  requireTensor(kName, "weight", weight, {weight.size(0), x.size(2)}, x);
  const lite::PredictLengthParams params{narrow(kName, x.size(0)), narrow(kName, x.size(1)),
                                         narrow(kName, x.size(2)), narrow(kName, weight.size(0)),
                                         narrow(kName, offset),    relative,
                                         dataType(kName, x)};
  checkParams(kName, params);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor lengths = at::empty({x.size(0)}, x.options().dtype(at::kLong));
  C10_CUDA_CHECK(lite::predictLength(
      params, x.data_ptr(), int32OrNull(kName, "mask", mask, {x.size(0), x.size(1)}, x),
      weight.data_ptr(), dataOf<int64_t>(kName, "limits", limits, {x.size(0)}, x),
      lengths.data_ptr<int64_t>(), stream()));
  return lengths;
}

std::tuple<Tensor, Tensor> copySource(const Tensor& lengths, int64_t width, const Tensor& queries,
                                      const Tensor& keys, const Tensor& embedded,
                                      const Tensor& source_mask, const Tensor& embedding,
                                      const Tensor& positions) {
  constexpr const char* kName = "copy_source";
  TORCH_CHECK(keys.dim() == 3 && embedding.dim() == 2 && positions.dim() == 2,
              "lite::copy_source: keys [B, S, C], embedding [V, C], positions [P, C] expected");
  const int64_t batch = keys.size(0), source = keys.size(1), channels = keys.size(2);
  requireTensor(kName, "keys", keys, keys.sizes(), keys);
  requireTensor(kName, "embedded", embedded, keys.sizes(), keys);
  requireTensor(kName, "embedding", embedding, {embedding.size(0), channels}, keys);
  requireTensor(kName, "positions", positions, {positions.size(0), channels}, keys);
  requireTensor(kName, "queries", queries, positions.sizes(), keys);
  const lite::CopySourceParams params{narrow(kName, batch),
                                      narrow(kName, width),
                                      narrow(kName, source),
                                      narrow(kName, channels),
                                      narrow(kName, embedding.size(0)),
                                      narrow(kName, positions.size(0)),
                                      dataType(kName, keys)};
  checkParams(kName, params);
  const c10::cuda::CUDAGuard guard(keys.device());
  Tensor x = at::empty({batch, width, channels}, keys.options());
  Tensor mask = at::empty({batch, width}, keys.options().dtype(at::kInt));
  const lite::CopySourceTensors tensors{
      dataOf<int64_t>(kName, "lengths", lengths, {batch}, keys),
      queries.data_ptr(),
      keys.data_ptr(),
      embedded.data_ptr(),
      int32OrNull(kName, "source_mask", source_mask, {batch, source}, keys),
      embedding.data_ptr(),
      positions.data_ptr(),
      x.data_ptr(),
      mask.data_ptr<int32_t>()};
  C10_CUDA_CHECK(lite::copySource(params, tensors, stream()));
  return {x, mask};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lite, library) {
  library.def(
      "self_conv(Tensor x, Tensor weight, Tensor? mask, int heads, int kernel_size, "
      "int padding_l, bool glu, bool tf32=False, float? fp8_factor=None) -> Tensor");
  library.def(
      "self_conv_fits(int channels, int heads, int kernel_size, int padding_l, ScalarType dtype) "
      "-> bool",
      &selfConvFits);
  library.def(
      "layer_norm_add(Tensor x, Tensor scale, Tensor shift, float eps, Tensor after) -> Tensor");
  library.def("to_fp8(Tensor x, float fp8_factor) -> Tensor");
  library.def(
      "layer_norm_fp8(Tensor x, Tensor scale, Tensor shift, float eps, Tensor? after, "
      "float fp8_factor) -> (Tensor, Tensor)");
  library.def(
      "attention(Tensor query, Tensor keys_values, Tensor mask, int layer, int heads, "
      "bool tf32=False, float? fp8_factor=None) -> Tensor");
  library.def("attention_fits(int channels, int heads, ScalarType dtype) -> bool", &attentionFits);
  library.def(
      "embed_source(Tensor tokens, Tensor embedding, Tensor positions) "
      "-> (Tensor, Tensor, Tensor)");
  library.def(
      "predict_length(Tensor x, Tensor mask, Tensor weight, Tensor limits, int offset, "
      "bool relative) -> Tensor");
  library.def(
      "copy_source(Tensor lengths, int width, Tensor queries, Tensor keys, Tensor embedded, "
      "Tensor source_mask, Tensor embedding, Tensor positions) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(lite, CUDA, library) {
  library.impl("self_conv", &selfConv);
  library.impl("layer_norm_add", &layerNormAdd);
  library.impl("to_fp8", &toFp8);
  library.impl("layer_norm_fp8", &layerNormFp8);
  library.impl("attention", &attention);
  library.impl("embed_source", &embedSource);
  library.impl("predict_length", &predictLength);
  library.impl("copy_source", &copySource);
}
