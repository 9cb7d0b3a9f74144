// lite::linear, lite::linear_glu, lite::linear_norm and lite::linear_fp8: a linear layer with its
// bias, activation, residual and norm in the GEMM's epilogue, by cuBLASLt or our own kernels.
//
//   y = act(x @ weight^T + bias + residual)
//
// Operands that are FP8 numbers (e4m3) have a scale for their product:
//
//   y = act(alpha * x @ weight^T + bias + residual)
//
// Our own kernels are candidates where they apply (fastest.h chooses): for few rows, for FP32 and
// TF32 on Hopper, and for many rows of 16 bits or FP8 on Hopper with a gate or a norm.
//
// A weight is a constant: our kernels read it while the previous kernel may still run.

#include "linear.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <functional>
#include <optional>
#include <vector>

#include "cublaslt.h"
#include "fastest.h"
#include "glu_mask.h"
#include "linear_wide.h"
#include "norm_params.h"
#include "tensors.h"

namespace {

using at::Tensor;
using namespace lite::torch_ops;

// Up to here our kernel is a candidate. Beyond, it moves more bytes through L2 than cuBLASLt's
// kernels, which share tiles within a cluster (1,024 rows of 512 -> 512 on an H100: 11 us against
// 5).
constexpr int64_t kFewRows = 64;
// From here on, the kernels for many rows are candidates.
constexpr int64_t kManyRows = 1024;

lite::LinearParams paramsOf(const char* op, const Tensor& x, const Tensor& weight,
                            lite::Activation activation) {
  return {x.numel() / x.size(-1), narrow(op, weight.size(1)), narrow(op, weight.size(0)),
          activation, dataType(op, x)};
}

lite::LinearTensors tensorsOf(const char* op, const Tensor& x, const Tensor& weight,
                              const OptionalTensor& bias, const OptionalTensor& residual,
                              const OptionalTensor& mask, const Tensor& y) {
  return {x.data_ptr(),
          weight.data_ptr(),
          bias ? bias->data_ptr() : nullptr,
          residual ? residual->data_ptr() : nullptr,
          int32OrNull(op, "mask", mask, x.sizes().slice(0, x.dim() - 1), x),
          y.data_ptr()};
}

// Which of our own kernels support a product, and how they run it.
class OwnKernels {
 public:
  OwnKernels(const lite::LinearParams& params, const lite::LinearTensors& tensors, bool tf32)
      : params_(params), tensors_(tensors), tf32_(tf32) {}

  void addTo(std::vector<Choice>& choices) const {
    if (check(params_) == nullptr && params_.rows <= kFewRows) {
      add(choices, lite::linear, lite::kLinearVariants);
    }
    if (checkTf32(params_) == nullptr && lite::hasLinearTf32()) {
      if (tf32_) {
        add(choices, lite::linearTf32, lite::kTf32LinearVariants);
      } else {
        add(choices, lite::linearFp32, lite::kFp32LinearVariants);
      }
    }
  }

  bool run(const Choice& choice) const {
    return choice.kernel(params_, tensors_, choice.variant, stream()) == cudaSuccess;
  }

 private:
  static void add(std::vector<Choice>& choices, Kernel kernel, int variants) {
    for (int variant = 0; variant < variants; ++variant) {
      choices.push_back({std::nullopt, kernel, variant});
    }
  }

  lite::LinearParams params_;
  lite::LinearTensors tensors_;
  bool tf32_;
};

class LinearCandidates : public Candidates {
 public:
  /// Keeps a reference to `problem`. Without `own`, only cuBLASLt's algorithms are candidates.
  /// Without `all`, there are no candidates, because the choice is known.
  LinearCandidates(const Problem& problem, const std::optional<OwnKernels>& own, bool all)
      : problem_(problem), handle_(at::cuda::getCurrentCUDABlasLtHandle()), own_(own) {
    if (!all) return;
    for (const auto& algorithm : problem_.candidates(handle_)) choices.push_back({algorithm});
    if (own_) own_->addTo(choices);
  }

  bool run(const Choice& choice, void* scratch) const override {
    if (!choice.algorithm) return own_->run(choice);
    return problem_.run(handle_, *choice.algorithm, scratch, stream()) == CUBLAS_STATUS_SUCCESS;
  }

 private:
  const Problem& problem_;
  cublasLtHandle_t handle_;
  std::optional<OwnKernels> own_;
};

using Launch = std::function<cudaError_t()>;

// A product and something that cuBLASLt does not offer. With one of its algorithms, a separate
// kernel follows. Our own kernels have it in their epilogue.
class FollowedCandidates : public Candidates {
 public:
  /// `makeProblem` makes the product for cuBLASLt, and is called only if that may run. `wide` is
  /// the kernel for many rows, or empty. If `known` is given, it will run, and there are no
  /// candidates.
  FollowedCandidates(const std::function<void(std::optional<Problem>&)>& makeProblem,
                     const std::optional<OwnKernels>& own, Launch wide, Launch follow,
                     const Choice* known)
      : handle_(at::cuda::getCurrentCUDABlasLtHandle()),
        own_(own),
        wide_(std::move(wide)),
        follow_(std::move(follow)) {
    if (known == nullptr || known->algorithm) makeProblem(problem_);
    if (known != nullptr) return;
    for (const auto& algorithm : problem_->candidates(handle_)) choices.push_back({algorithm});
    if (own_) own_->addTo(choices);
    if (wide_) choices.push_back({});
  }

  bool run(const Choice& choice, void* scratch) const override {
    if (choice.kernel != nullptr) return own_->run(choice);
    if (!choice.algorithm) return wide_() == cudaSuccess;
    return problem_->run(handle_, *choice.algorithm, scratch, stream()) == CUBLAS_STATUS_SUCCESS &&
           follow_() == cudaSuccess;
  }

 private:
  cublasLtHandle_t handle_;
  std::optional<Problem> problem_;
  std::optional<OwnKernels> own_;
  Launch wide_, follow_;
};

std::vector<int64_t> checkedShape(const char* op, const Tensor& x, const Tensor& weight,
                                  const OptionalTensor& bias) {
  TORCH_CHECK(x.dim() >= 2 && weight.dim() == 2 && x.size(-1) == weight.size(1), "lite::", op,
              ": x [.., K] and weight [N, K] expected, got ", text(x.sizes()), " and ",
              text(weight.sizes()));
  TORCH_CHECK(x.numel() > 0 && weight.numel() > 0, "lite::", op, ": an input is empty");
  requireTensor(op, "x", x, x.sizes(), x);
  requireTensor(op, "weight", weight, weight.sizes(), x);
  if (bias) requireTensor(op, "bias", *bias, {weight.size(0)}, x);
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return shape;
}

Tensor linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
              const OptionalTensor& residual, bool relu, bool tf32) {
  const auto shape = checkedShape("linear", x, weight, bias);
  TORCH_CHECK(!relu || !residual, "lite::linear: relu and residual do not go together");
  if (residual) requireTensor("linear", "residual", *residual, shape, x);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty(shape, x.options());
  const int flags = relu + 2 * bias.has_value() + 4 * residual.has_value() + 8 * tf32;
  const Problem problem(x, weight, bias, residual, relu, tf32, y);
  const auto activation = relu ? lite::Activation::kRelu : lite::Activation::kNone;
  const OwnKernels own(paramsOf("linear", x, weight, activation),
                       tensorsOf("linear", x, weight, bias, residual, std::nullopt, y), tf32);
  runFastest("linear", x, weight, flags,
             [&](const Choice* known) { return LinearCandidates(problem, own, known == nullptr); });
  return y;
}

// Checks a linear layer of FP8 operands with 16-bit results, or with `dtype` those of e4m3. Returns
// the shape of its result.
std::vector<int64_t> checkedFp8Shape(const char* op, const Tensor& x, const Tensor& weight,
                                     const OptionalTensor& bias, at::ScalarType dtype) {
  TORCH_CHECK(x.scalar_type() == at::kFloat8_e4m3fn, "lite::", op, ": x must be e4m3, got ",
              c10::toString(x.scalar_type()));
  const bool is16Bit = dtype == at::kHalf || dtype == at::kBFloat16;
  TORCH_CHECK(is16Bit || dtype == at::kFloat8_e4m3fn, "lite::", op,
              ": the result must be float16, bfloat16 or e4m3, not ", c10::toString(dtype));
  const auto shape = checkedShape(op, x, weight, std::nullopt);
  TORCH_CHECK(weight.size(0) % 16 == 0 && weight.size(1) % 16 == 0, "lite::", op,
              ": the sizes of weight must be multiples of 16, got ", text(weight.sizes()));
  if (bias) {
    const auto kind = bias->scalar_type();
    TORCH_CHECK(is16Bit ? kind == dtype : kind == at::kHalf || kind == at::kBFloat16, "lite::", op,
                ": bias must have the result's type, or 16 bits for e4m3");
    TORCH_CHECK(bias->device() == x.device(), "lite::", op, ": bias must be on the device of x");
    requireTensor(op, "bias", *bias, {weight.size(0)}, *bias);
  }
  return shape;
}

constexpr int kGluFlag = 16, kFp8Flag = 32, kNormFlag = 1 << 16;  // the types' numbers lie between

Tensor linearFp8(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                 const OptionalTensor& residual, bool relu, double alpha, at::ScalarType dtype) {
  constexpr const char* kOp = "linear_fp8";
  const auto shape = checkedFp8Shape(kOp, x, weight, bias, dtype);
  TORCH_CHECK(
      !residual || (dtype != at::kFloat8_e4m3fn && !relu && residual->device() == x.device()),
      "lite::linear_fp8: a residual needs a 16-bit result on its device, without relu");
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty(shape, x.options().dtype(dtype));
  if (residual) requireTensor(kOp, "residual", *residual, shape, y);
  const int flags = kFp8Flag * (1 + static_cast<int>(dtype)) + relu + 2 * bias.has_value() +
                    4 * residual.has_value();
  const Problem problem(x, weight, bias, residual, relu, /*tf32=*/false, y,
                        static_cast<float>(alpha));
  runFastest(kOp, x, weight, flags, [&](const Choice* known) {
    return LinearCandidates(problem, std::nullopt, known == nullptr);  // cuBLASLt alone has FP8
  });
  return y;
}

// The parameters of the kernels for many rows.
lite::WideParams wideParams(const char* op, const Tensor& x, const Tensor& weight,
                            at::ScalarType dtype, double alpha) {
  return {x.numel() / x.size(-1),
          narrow(op, weight.size(1)),
          narrow(op, weight.size(0)),
          dataType(op, dtype),
          x.scalar_type() == at::kFloat8_e4m3fn,
          static_cast<float>(alpha)};
}

// Returns whether a kernel for many rows is worth a try.
bool isWide(const lite::WideParams& params, const char* reasonAgainst) {
  return reasonAgainst == nullptr && params.rows >= kManyRows && lite::hasLinearTf32();
}

// Values and gates of `shape`, multiplied. `own` adds the kernels for the given tensors.
template <typename Own>
Tensor gatedProduct(const char* op, const Tensor& x, const Tensor& weight,
                    const OptionalTensor& bias, const OptionalTensor& mask, bool tf32,
                    const lite::WideParams* wide, at::ScalarType dtype,
                    std::optional<double> fp8_factor, std::vector<int64_t> shape, int flags,
                    const Own& own) {
  TORCH_CHECK(shape.back() % 2 == 0, "lite::", op, ": values and gates must be as many");
  const c10::cuda::CUDAGuard guard(x.device());
  const auto options = x.options().dtype(dtype);
  const auto bothShape = shape;
  shape.back() /= 2;
  const Tensor y = at::empty(shape, fp8_factor ? options.dtype(at::kFloat8_e4m3fn) : options);
  const float factor = static_cast<float>(fp8_factor.value_or(0));
  const int32_t* keep = int32OrNull(op, "mask", mask, x.sizes().slice(0, x.dim() - 1), x);
  Tensor both;  // values and gates, for cuBLASLt
  const auto makeProblem = [&](std::optional<Problem>& problem) {
    both = at::empty(bothShape, options);
    problem.emplace(x, weight, bias, std::nullopt, /*relu=*/false, tf32, both,
                    wide ? wide->alpha : 1.0f);
  };
  const lite::GluMaskParams gate{y.numel() / y.size(-1), narrow(op, y.size(-1)),
                                 dataType(op, dtype)};
  const Launch follow = [&] {
    return lite::gluMask(gate, both.data_ptr(), keep, y.data_ptr(), stream(), factor);
  };
  Launch fused;
  if (wide != nullptr && isWide(*wide, checkWideGate(*wide))) {
    fused = [&] {
      const lite::WideGateTensors tensors{
          x.data_ptr(), weight.data_ptr(), bias ? bias->data_ptr() : nullptr,
          keep,         y.data_ptr(),      factor};
      return lite::linearGate(*wide, tensors, stream());
    };
  }
  runFastest(op, x, weight, flags, [&](const Choice* known) {
    return FollowedCandidates(makeProblem, own(y), fused, follow, known);
  });
  return y;
}

Tensor linearGlu(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                 const OptionalTensor& mask, bool tf32) {
  constexpr const char* kOp = "linear_glu";
  const auto shape = checkedShape(kOp, x, weight, bias);
  const auto params = paramsOf(kOp, x, weight, lite::Activation::kGlu);
  const bool is16Bit = x.scalar_type() != at::kFloat;
  const auto wide = wideParams(kOp, x, weight, x.scalar_type(), 1.0);
  return gatedProduct(
      kOp, x, weight, bias, mask, tf32, is16Bit ? &wide : nullptr, x.scalar_type(), std::nullopt,
      shape, kGluFlag + 2 * bias.has_value() + 8 * tf32, [&](const Tensor& y) {
        return OwnKernels(params, tensorsOf(kOp, x, weight, bias, std::nullopt, mask, y), tf32);
      });
}

Tensor linearGluFp8(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                    const OptionalTensor& mask, double alpha, at::ScalarType dtype,
                    std::optional<double> fp8_factor) {
  constexpr const char* kOp = "linear_glu_fp8";
  TORCH_CHECK(dtype == at::kHalf || dtype == at::kBFloat16, "lite::", kOp,
              ": the type of values and gates must be float16 or bfloat16, not ",
              c10::toString(dtype));
  if (fp8_factor) requireFactor(kOp, *fp8_factor);
  const auto shape = checkedFp8Shape(kOp, x, weight, bias, dtype);
  const auto wide = wideParams(kOp, x, weight, dtype, alpha);
  const int flags = kFp8Flag * (1 + static_cast<int>(dtype)) + kGluFlag + 2 * bias.has_value() +
                    8 * fp8_factor.has_value();
  return gatedProduct(kOp, x, weight, bias, mask, false, &wide, dtype, fp8_factor, shape, flags,
                      [](const Tensor&) { return std::nullopt; });
}

// Returns LayerNorm of a linear layer's result and a residual, plus `after` [T, C] for every
// sentence of x [B, T, C]. With `fp8_factor` the result is returned a second time, in FP8.
std::vector<Tensor> linearNorm(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                               double alpha, const Tensor& residual, const Tensor& scale,
                               const Tensor& shift, double eps, const OptionalTensor& after,
                               std::optional<double> fp8_factor) {
  constexpr const char* kOp = "linear_norm";
  requireRank(kOp, "x", x, 3);
  const bool fp8 = x.scalar_type() == at::kFloat8_e4m3fn;
  const auto dtype = residual.scalar_type();
  TORCH_CHECK(dtype == at::kHalf || dtype == at::kBFloat16,
              "lite::linear_norm: residual must be float16 or bfloat16, got ",
              c10::toString(dtype));
  TORCH_CHECK(fp8 || x.scalar_type() == dtype,
              "lite::linear_norm: x must be e4m3 or have the residual's type");
  const auto shape =
      fp8 ? checkedFp8Shape(kOp, x, weight, bias, dtype) : checkedShape(kOp, x, weight, bias);
  TORCH_CHECK(residual.device() == x.device(), "lite::linear_norm: residual must be on ",
              x.device().str());
  requireTensor(kOp, "residual", residual, shape, residual);
  const auto norm = normParams(kOp, residual, scale, shift, eps, after);
  if (fp8_factor) {
    requireFactor(kOp, *fp8_factor);
    TORCH_CHECK(weight.size(0) % 16 == 0,
                "lite::linear_norm: FP8 needs outputs in multiples of 16");
  }
  const c10::cuda::CUDAGuard guard(x.device());
  std::vector<Tensor> results{at::empty_like(residual)};
  if (fp8_factor) {
    results.push_back(at::empty_like(residual, residual.options().dtype(at::kFloat8_e4m3fn)));
  }
  void* second = fp8_factor ? results[1].data_ptr() : nullptr;
  const void* added = after ? after->data_ptr() : nullptr;
  const float factor = static_cast<float>(fp8_factor.value_or(0));
  const auto wide = wideParams(kOp, x, weight, dtype, alpha);
  Tensor sum;  // with the residual, for cuBLASLt
  const auto makeProblem = [&](std::optional<Problem>& problem) {
    sum = at::empty_like(residual);
    problem.emplace(x, weight, bias, residual, /*relu=*/false, /*tf32=*/false, sum,
                    static_cast<float>(alpha));
  };
  const Launch follow = [&] {
    return lite::layerNorm(norm, sum.data_ptr(), nullptr, scale.const_data_ptr<float>(),
                           shift.const_data_ptr<float>(), results[0].data_ptr(), stream(), added,
                           x.size(1), second, factor);
  };
  Launch fused;
  if (isWide(wide, checkWideNorm(wide))) {
    fused = [&] {
      const lite::WideNormTensors tensors{x.data_ptr(),
                                          weight.data_ptr(),
                                          bias ? bias->data_ptr() : nullptr,
                                          residual.data_ptr(),
                                          scale.const_data_ptr<float>(),
                                          shift.const_data_ptr<float>(),
                                          static_cast<float>(eps),
                                          added,
                                          x.size(1),
                                          results[0].data_ptr(),
                                          second,
                                          factor};
      return lite::linearNorm(wide, tensors, stream());
    };
  }
  const int flags = kNormFlag + kFp8Flag * fp8 + kGluFlag * fp8_factor.has_value() +
                    2 * bias.has_value() + 4 * after.has_value() + 8 * (dtype == at::kHalf);
  runFastest(kOp, x, weight, flags, [&](const Choice* known) {
    return FollowedCandidates(makeProblem, std::nullopt, fused, follow, known);
  });
  return results;
}

// Returns whether the gate is fastest in the product's epilogue, rather than where its result is
// read.
bool gatesInProduct(const Tensor& x) {
  const c10::cuda::CUDAGuard guard(x.device());
  if (x.scalar_type() == at::kFloat) return lite::hasLinearTf32();
  return x.scalar_type() != at::kFloat8_e4m3fn && x.numel() / x.size(-1) <= kFewRows;
}

// Returns whether linear_norm may be faster than a linear layer and LayerNorm one after the other.
bool normsInProduct(const Tensor& x, const Tensor& weight, at::ScalarType dtype) {
  const c10::cuda::CUDAGuard guard(x.device());
  if (x.scalar_type() == at::kFloat) return false;
  const auto wide = wideParams("norms_in_product", x, weight, dtype, 1.0);
  return isWide(wide, checkWideNorm(wide));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lite, library) {
  library.def(
      "linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, bool relu, bool tf32) -> "
      "Tensor");
  library.def(
      "linear_glu(Tensor x, Tensor weight, Tensor? bias, Tensor? mask, bool tf32) -> Tensor");
  library.def(
      "linear_fp8(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, bool relu, "
      "float alpha, ScalarType dtype) -> Tensor");
  library.def(
      "linear_glu_fp8(Tensor x, Tensor weight, Tensor? bias, Tensor? mask, float alpha, "
      "ScalarType dtype, float? fp8_factor) -> Tensor");
  library.def(
      "linear_norm(Tensor x, Tensor weight, Tensor? bias, float alpha, Tensor residual, "
      "Tensor scale, Tensor shift, float eps, Tensor? after, float? fp8_factor) -> Tensor[]");
  library.def("gates_in_product(Tensor x) -> bool");
  library.def("norms_in_product(Tensor x, Tensor weight, ScalarType dtype) -> bool");
}

TORCH_LIBRARY_IMPL(lite, CUDA, library) {
  library.impl("linear", &linear);
  library.impl("linear_glu", &linearGlu);
  library.impl("linear_fp8", &linearFp8);
  library.impl("linear_glu_fp8", &linearGluFp8);
  library.impl("linear_norm", &linearNorm);
  library.impl("gates_in_product", &gatesInProduct);
  library.impl("norms_in_product", &normsInProduct);
}
