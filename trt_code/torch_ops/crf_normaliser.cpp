// lite::crf_normaliser and its gradient on CUDA; their schemas are in train_model/ops.
#include "crf_normaliser.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <tuple>

#include "tensors.h"

namespace {

using at::Tensor;
using namespace lite::torch_ops;

lite::CrfNormaliserParams crfNormaliserParams(const char* op, const Tensor& emissions,
                                              const Tensor& transitions) {
  requireRank(op, "emissions", emissions, 3);
  const int64_t batch = emissions.size(0), length = emissions.size(1), beam = emissions.size(2);
  const lite::CrfNormaliserParams params{narrow(op, batch), narrow(op, length), narrow(op, beam),
                                         dataType(op, emissions)};
  checkParams(op, params);
  TORCH_CHECK(length > 0, "lite::", op, ": there are no positions in ", text(emissions.sizes()));
  requireTensor(op, "transitions", transitions, {batch, length - 1, beam, beam}, emissions);
  return params;
}

std::tuple<Tensor, Tensor> crfNormaliser(const Tensor& scores, const Tensor& steps,
                                         const Tensor& real) {
  constexpr const char* kOp = "crf_normaliser";
  const Tensor emissions = scores.contiguous(), transitions = steps.contiguous();
  const Tensor mask = real.contiguous();
  const lite::CrfNormaliserParams params = crfNormaliserParams(kOp, emissions, transitions);
  const int32_t* maskData =
      int32OrNull(kOp, "mask", mask, emissions.sizes().slice(0, 2), emissions);
  const c10::cuda::CUDAGuard guard(emissions.device());
  const auto options = emissions.options().dtype(at::kFloat);
  Tensor total = at::empty({emissions.size(0)}, options);
  Tensor prefixes = at::empty(emissions.sizes(), options);
  C10_CUDA_CHECK(
      lite::crfNormaliser(params, emissions.const_data_ptr(), transitions.const_data_ptr(),
                          maskData, total.data_ptr<float>(), prefixes.data_ptr<float>(), stream()));
  return {total, prefixes};
}

std::tuple<Tensor, Tensor> crfNormaliserBackward(const Tensor& gradient, const Tensor& scores,
                                                 const Tensor& steps, const Tensor& real,
                                                 const Tensor& sums, const Tensor& partial) {
  constexpr const char* kOp = "crf_normaliser_backward";
  const Tensor emissions = scores.contiguous(), transitions = steps.contiguous();
  const Tensor mask = real.contiguous(), grad = gradient.contiguous();
  const Tensor total = sums.contiguous(), prefixes = partial.contiguous();
  const lite::CrfNormaliserParams params = crfNormaliserParams(kOp, emissions, transitions);
  const at::IntArrayRef batch = emissions.sizes().slice(0, 1);
  const int32_t* maskData =
      int32OrNull(kOp, "mask", mask, emissions.sizes().slice(0, 2), emissions);
  const float* gradData = dataOf<float>(kOp, "grad", grad, batch, emissions);
  const float* totalData = dataOf<float>(kOp, "total", total, batch, emissions);
  const float* prefixData = dataOf<float>(kOp, "prefixes", prefixes, emissions.sizes(), emissions);
  const c10::cuda::CUDAGuard guard(emissions.device());
  Tensor gradEmissions = at::empty_like(emissions), gradTransitions = at::empty_like(transitions);
  C10_CUDA_CHECK(lite::crfNormaliserBackward(
      params, gradData, emissions.const_data_ptr(), transitions.const_data_ptr(), maskData,
      totalData, prefixData, gradEmissions.data_ptr(), gradTransitions.data_ptr(), stream()));
  return {gradEmissions, gradTransitions};
}

}  // namespace

TORCH_LIBRARY_IMPL(lite, CUDA, m) {
  m.impl("crf_normaliser", &crfNormaliser);
  m.impl("crf_normaliser_backward", &crfNormaliserBackward);
}
