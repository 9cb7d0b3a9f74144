// lite::conv_stack: all layers of the encoder or of the decoder in one launch, for PyTorch.

#include "conv_stack.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "tensors.h"

namespace {

using at::Tensor;
using namespace lite::torch_ops;

constexpr const char* kName = "conv_stack";

lite::ConvStackParams paramsOf(const Tensor& x, int64_t heads, int64_t ffn,
                               at::IntArrayRef kernelSizes, at::IntArrayRef paddings,
                               int64_t source, int64_t sourceStride) {
  TORCH_CHECK(x.dim() == 3, "lite::conv_stack: x must be [B, T, C], got ", text(x.sizes()));
  TORCH_CHECK(kernelSizes.size() == paddings.size(),
              "lite::conv_stack: a kernel size and a padding a layer expected");
  lite::ConvStackParams params{};
  params.batch = narrow(kName, x.size(0));
  params.length = narrow(kName, x.size(1));
  params.heads = narrow(kName, heads);
  params.ffn = narrow(kName, ffn);
  params.layers = narrow(kName, int64_t(kernelSizes.size()));
  const size_t most = std::min<size_t>(kernelSizes.size(), lite::kMaxStackLayers);
  for (size_t layer = 0; layer < most; ++layer) {
    params.kernelSizes[layer] = narrow(kName, kernelSizes[layer]);
    params.paddings[layer] = narrow(kName, paddings[layer]);
  }
  params.source = narrow(kName, source);
  params.sourceStride = sourceStride;
  params.dtype = dataType(kName, x);
  return params;
}

// The order in which the kernel reads a layer's matrices and constants, and the lengths of the
// constants.
std::tuple<std::vector<std::string>, std::vector<std::string>, std::vector<int64_t>> convStackOrder(
    int64_t heads, int64_t ffn, bool attends) {
  std::vector<std::string> matrices, constants;
  std::vector<int64_t> lengths;
  const int64_t channels = lite::kStackHeadWidth * heads;
  for (const lite::StackMatrix& matrix : lite::kStackMatrices) {
    if (attends || !matrix.attention) matrices.emplace_back(matrix.name);
  }
  for (const lite::StackConstantInfo& constant : lite::kStackConstants) {
    if (constant.attention && !attends) continue;
    constants.emplace_back(constant.name);
    lengths.push_back(constant.length.channels * channels + constant.length.inner * ffn);
  }
  return {matrices, constants, lengths};
}

// Returns whether the kernel supports this case and is the better choice.
bool convStackFits(const Tensor& x, int64_t heads, int64_t ffn, at::IntArrayRef kernelSizes,
                   at::IntArrayRef paddings, int64_t source, int64_t sourceStride) {
  const auto params = paramsOf(x, heads, ffn, kernelSizes, paddings, source, sourceStride);
  if (check(params) != nullptr || x.size(2) != lite::kStackHeadWidth * heads) return false;
  const c10::cuda::CUDAGuard guard(x.device());
  lite::ConvStackPlan plan{};
  const cudaError_t status = lite::planConvStack(params, &plan);
  if (status == cudaErrorNotSupported) return false;
  C10_CUDA_CHECK(status);
  return true;
}

Tensor convStack(const Tensor& x, const Tensor& weights, const Tensor& constants,
                 const OptionalTensor& mask, const OptionalTensor& keysValues,
                 const OptionalTensor& sourceMask, const OptionalTensor& positions, int64_t heads,
                 int64_t ffn, at::IntArrayRef kernelSizes, at::IntArrayRef paddings, bool maskConv,
                 double eps) {
  TORCH_CHECK(!keysValues || keysValues->dim() == 3,
              "lite::conv_stack: keys_values must be [B, S, 2 L C]");
  auto params = paramsOf(x, heads, ffn, kernelSizes, paddings, keysValues ? keysValues->size(1) : 0,
                         keysValues ? keysValues->size(2) : 0);
  params.maskConv = maskConv;
  params.eps = static_cast<float>(eps);
  checkParams(kName, params);
  const int64_t batch = x.size(0), length = x.size(1), channels = lite::kStackHeadWidth * heads;
  requireTensor(kName, "x", x, {batch, length, channels}, x);
  if (keysValues) {
    requireTensor(kName, "keys_values", *keysValues, {batch, params.source, params.sourceStride},
                  x);
  }
  if (positions) requireTensor(kName, "positions", *positions, {length, channels}, x);
  TORCH_CHECK(constants.scalar_type() == at::kFloat && constants.device() == x.device() &&
                  constants.is_contiguous() &&
                  constants.numel() == int64_t(lite::convStackConstantSize(params)),
              "lite::conv_stack: the constants do not fit");
  const c10::cuda::CUDAGuard guard(x.device());
  lite::ConvStackPlan plan{};
  C10_CUDA_CHECK(lite::planConvStack(params, &plan));
  TORCH_CHECK(weights.scalar_type() == x.scalar_type() && weights.device() == x.device() &&
                  weights.is_contiguous() &&
                  weights.numel() == int64_t(lite::convStackWeightSize(params)),
              "lite::conv_stack: the packed weights do not fit");
  Tensor y = at::empty_like(x);
  const Tensor scratch =
      at::empty({int64_t(lite::convStackScratchSize(params, plan))}, x.options().dtype(at::kByte));
  const lite::ConvStackTensors tensors{
      x.data_ptr(),
      weights.data_ptr(),
      constants.const_data_ptr<float>(),
      int32OrNull(kName, "mask", mask, {batch, length}, x),
      keysValues ? keysValues->data_ptr() : nullptr,
      int32OrNull(kName, "source_mask", sourceMask, {batch, params.source}, x),
      positions ? positions->data_ptr() : nullptr,
      y.data_ptr(),
      scratch.data_ptr()};
  C10_CUDA_CHECK(lite::convStack(params, plan, tensors, stream()));
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lite, library) {
  library.def(
      "conv_stack_order(int heads, int ffn, bool attends) -> (str[] matrices, str[] constants, "
      "int[] lengths)",
      &convStackOrder);
  library.def(
      "conv_stack_fits(Tensor x, int heads, int ffn, int[] kernel_sizes, int[] paddings, "
      "int source, int source_stride) -> bool");
  library.def(
      "conv_stack(Tensor x, Tensor weights, Tensor constants, Tensor? mask, Tensor? keys_values, "
      "Tensor? source_mask, Tensor? positions, int heads, int ffn, int[] kernel_sizes, "
      "int[] paddings, bool mask_conv, float eps) -> Tensor");
}

TORCH_LIBRARY_IMPL(lite, CUDA, library) {
  library.impl("conv_stack_fits", &convStackFits);
  library.impl("conv_stack", &convStack);
}
