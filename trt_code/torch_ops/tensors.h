// Helpers shared by the bindings: checks of PyTorch's tensors and numbers before they reach a
// kernel.
//
// Each file registers its operators in the namespace `lite`. Operators with a PyTorch form in
// train_model/ops have their schema, shapes and autograd there, and get their CUDA form here. The
// others exist on CUDA only, for inference. They are defined here with their shapes (Meta), so that
// torch.compile and graph capture support them.
//
// Invalid arguments raise an error of one line before anything is launched. Tensors that are not
// contiguous are copied.
#pragma once

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "common.h"

namespace lite::torch_ops {

inline DataType dataType(const char* op, at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return DataType::kFloat;
    case at::kHalf:
      return DataType::kHalf;
    case at::kBFloat16:
      return DataType::kBFloat16;
    default:
      TORCH_CHECK(false, "lite::", op, ": float32, float16 or bfloat16 expected, got ",
                  c10::toString(type));
  }
}

inline DataType dataType(const char* op, const at::Tensor& tensor) {
  return dataType(op, tensor.scalar_type());
}

/// Returns sizes as text. It does not use a stream's operator <<: a compiler that links its own C++
/// library into this one cannot format numbers in PyTorch's streams.
inline std::string text(at::IntArrayRef sizes) {
  std::string list;
  for (const int64_t size : sizes) list += (list.empty() ? "" : ", ") + std::to_string(size);
  return "[" + list + "]";
}

/// Converts a size or setting to the kernel's 32-bit type. Raises an error if it does not fit.
inline int32_t narrow(const char* op, int64_t value) {
  using Limits = std::numeric_limits<int32_t>;
  TORCH_CHECK(value >= Limits::min() && value <= Limits::max(), "lite::", op, ": ",
              std::to_string(value), " is out of range, a kernel's sizes have 32 bits");
  return static_cast<int32_t>(value);
}

using OptionalTensor = std::optional<at::Tensor>;

/// The tags of an operator that torch.compile may trace.
inline const std::vector<at::Tag> kOperatorTags{at::Tag::pt2_compliant_tag};

inline void requireRank(const char* op, const char* name, const at::Tensor& tensor, int64_t rank) {
  TORCH_CHECK(tensor.dim() == rank, "lite::", op, ": ", name, " must have ", std::to_string(rank),
              " dimensions, got ", text(tensor.sizes()));
}

inline OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor.has_value() ? OptionalTensor(tensor->contiguous()) : std::nullopt;
}

inline const void* dataOrNull(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

/// Raises an error unless the tensor is dense and has these sizes and the device and dtype of
/// `like`.
inline void requireTensor(const char* op, const char* name, const at::Tensor& tensor,
                          at::IntArrayRef sizes, const at::Tensor& like) {
  TORCH_CHECK(tensor.sizes() == sizes, "lite::", op, ": ", name, " must be ", text(sizes), ", got ",
              text(tensor.sizes()));
  TORCH_CHECK(tensor.scalar_type() == like.scalar_type(), "lite::", op, ": ", name, " must be ",
              c10::toString(like.scalar_type()), ", got ", c10::toString(tensor.scalar_type()));
  TORCH_CHECK(tensor.device() == like.device(), "lite::", op, ": ", name, " must be on ",
              like.device().str(), ", got ", tensor.device().str());
  TORCH_CHECK(tensor.is_contiguous(), "lite::", op, ": ", name, " must be contiguous");
}

/// Returns the data of a tensor. Raises an error unless the tensor is dense and has this type,
/// these sizes and the device of `like`.
template <typename T>
T* dataOf(const char* op, const char* name, const at::Tensor& tensor, at::IntArrayRef sizes,
          const at::Tensor& like) {
  constexpr at::ScalarType kType = c10::CppTypeToScalarType<T>::value;
  TORCH_CHECK(tensor.scalar_type() == kType && tensor.sizes() == sizes && tensor.is_contiguous() &&
                  tensor.device() == like.device(),
              "lite::", op, ": ", name, " must be a contiguous ", c10::toString(kType), " ",
              text(sizes), " on ", like.device().str());
  return tensor.data_ptr<T>();
}

/// Returns the data of an optional int32 tensor like dataOf(), or nullptr if there is none.
inline const int32_t* int32OrNull(const char* op, const char* name, const OptionalTensor& tensor,
                                  at::IntArrayRef sizes, const at::Tensor& like) {
  return tensor ? dataOf<int32_t>(op, name, *tensor, sizes, like) : nullptr;
}

/// Raises the kernel's reason if it does not support the parameters.
template <typename Params>
void checkParams(const char* op, const Params& params) {
  const char* reason = check(params);
  TORCH_CHECK(reason == nullptr, "lite::", op, ": ", reason);
}

/// Returns the kernel's reason if it does not support the parameters, otherwise nothing.
template <typename Params>
std::optional<std::string> whyNot(const Params& params) {
  const char* reason = check(params);
  return reason == nullptr ? std::nullopt : std::optional<std::string>(reason);
}

/// Raises an error unless a factor that brings values into FP8's range is usable.
inline void requireFactor(const char* op, double fp8_factor) {
  TORCH_CHECK(fp8_factor > 0 && fp8_factor < std::numeric_limits<float>::infinity(), "lite::", op,
              ": the FP8 factor must be positive and finite");
}

/// Returns the type of a result: FP8 if a factor is given that brings it into FP8's range.
inline at::ScalarType resultType(const char* op, const at::Tensor& x,
                                 std::optional<double> fp8_factor) {
  if (!fp8_factor) return x.scalar_type();
  TORCH_CHECK(x.scalar_type() != at::kFloat, "lite::", op, ": FP8 is for 16-bit inputs");
  requireFactor(op, *fp8_factor);
  return at::kFloat8_e4m3fn;
}

inline cudaStream_t stream() { return at::cuda::getCurrentCUDAStream(); }

}  // namespace lite::torch_ops
