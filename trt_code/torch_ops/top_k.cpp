// lite::top_k, which exists on CUDA only and has no gradient.
#include "top_k.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "tensors.h"

namespace {

using at::Tensor;
using namespace lite::torch_ops;

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
  // x [..., V]; values [..., k] and indices [..., k] int32, descending. See top_k.h.
  m.def("top_k(Tensor x, SymInt k) -> (Tensor values, Tensor indices)", kOperatorTags);
}

TORCH_LIBRARY_IMPL(lite, CUDA, m) { m.impl("top_k", &topK); }

TORCH_LIBRARY_IMPL(lite, Meta, m) { m.impl("top_k", &topKMeta); }
