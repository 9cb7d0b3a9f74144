// lite::crf_decode on CUDA; its schema is in train_model/ops.
#include "crf_decode.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <tuple>

#include "tensors.h"

namespace {

using at::Tensor;
using namespace lite::torch_ops;

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

}  // namespace

TORCH_LIBRARY_IMPL(lite, CUDA, m) { m.impl("crf_decode", &crfDecode); }
