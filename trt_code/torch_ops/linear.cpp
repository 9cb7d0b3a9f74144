// lite::linear, lite::linear_glu and lite::linear_fp8: a linear layer with its bias, activation and
// residual in the GEMM's epilogue, by cuBLASLt or our own kernels.
//
//   y = act(x @ weight^T + bias + residual)
//
// linear_fp8 multiplies FP8 numbers (e4m3) and scales their product:
//
//   y = act(alpha * x @ weight^T + bias + residual)
//
// cuBLASLt's own first choice is often not its fastest for a few hundred rows. So the first call
// with a shape times its candidates, and also our own kernels where they apply: for few rows, and
// for FP32 and TF32 on Hopper. The fastest is kept for the life of the process. Candidates are
// timed inside a CUDA graph, as they will run. A launch from the host takes longer than a small
// product, and would hide which candidate is faster. Nothing can be timed during stream capture. A
// new shape then uses cuBLASLt's first choice, and its next call outside a capture times the
// candidates.
//
// A weight is a constant: our kernels read it while the previous kernel may still run.

#include "linear.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cublasLt.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "glu_mask.h"
#include "tensors.h"

namespace {

using at::Tensor;
using lite::torch_ops::int32OrNull;
using lite::torch_ops::narrow;
using lite::torch_ops::OptionalTensor;
using lite::torch_ops::requireTensor;
using lite::torch_ops::stream;
using lite::torch_ops::text;

constexpr size_t kMaxWorkspaceBytes = size_t{32} << 20;
constexpr int kCandidates = 16;
constexpr int kTimedRuns = 8;     // per graph
constexpr int kTimedReplays = 4;  // the first one only warms up
// A candidate that takes this many times as long as the fastest so far is not replayed again.
constexpr float kFarBehind = 1.25f;
// Up to here our kernel is a candidate. Beyond, it moves more bytes through L2 than cuBLASLt's
// kernels, which share tiles within a cluster (1,024 rows of 512 -> 512 on an H100: 11 us against
// 5).
constexpr int64_t kFewRows = 64;

void check(cublasStatus_t status, const char* what) {
  TORCH_CHECK(status == CUBLAS_STATUS_SUCCESS, "lite::linear: ", what, ": ",
              cublasLtGetStatusString(status));
}

// A handle that is destroyed on every exit path.
template <typename Handle, auto Destroy>
struct Owned {
  Handle handle = nullptr;
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (handle != nullptr) Destroy(handle);
  }
};
using Event = Owned<cudaEvent_t, cudaEventDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using Executable = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;
using MatmulDescriptor = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <typename T>
void set(cublasLtMatmulDesc_t descriptor, cublasLtMatmulDescAttributes_t attribute,
         const T& value) {
  check(cublasLtMatmulDescSetAttribute(descriptor, attribute, &value, sizeof(value)), "attribute");
}

cudaDataType_t dataType(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return CUDA_R_32F;
    case at::kHalf:
      return CUDA_R_16F;
    case at::kBFloat16:
      return CUDA_R_16BF;
    case at::kFloat8_e4m3fn:
      return CUDA_R_8F_E4M3;
    default:
      TORCH_CHECK(false, "lite::linear: FP32, FP16, BF16 or FP8 expected, got ",
                  c10::toString(type));
  }
}

// One matrix product with its epilogue. cuBLASLt is column-major: y^T [N, M] = weight [N, K] x^T.
class Problem {
 public:
  Problem(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
          const OptionalTensor& residual, bool relu, bool tf32, Tensor& y, float alpha = 1.0f)
      : rows_(x.numel() / weight.size(1)),
        alpha_(alpha),
        x_(x.data_ptr()),
        weight_(weight.data_ptr()),
        // cuBLASLt refuses to write FP8 over the residual, since their types differ
        residual_(residual                                ? residual->data_ptr()
                  : y.scalar_type() == at::kFloat8_e4m3fn ? nullptr
                                                          : y.data_ptr()),
        y_(y.data_ptr()),
        beta_(residual ? 1.0f : 0.0f) {
    const cudaDataType_t type = dataType(x.scalar_type());
    const bool fast = tf32 && type == CUDA_R_32F;
    check(
        cublasLtMatmulDescCreate(
            &matmul_.handle, fast ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "descriptor");
    set(matmul_.handle, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (bias) {
      set(matmul_.handle, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias->data_ptr());
    }
    set(matmul_.handle, CUBLASLT_MATMUL_DESC_EPILOGUE,
        bias ? (relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS)
             : (relu ? CUBLASLT_EPILOGUE_RELU : CUBLASLT_EPILOGUE_DEFAULT));
    const int64_t in = weight.size(1), out = weight.size(0);
    check(cublasLtMatrixLayoutCreate(&weight_layout_.handle, type, in, out, in), "weight layout");
    check(cublasLtMatrixLayoutCreate(&x_layout_.handle, type, in, rows_, in), "input layout");
    const cudaDataType_t result = dataType(y.scalar_type());
    check(cublasLtMatrixLayoutCreate(&y_layout_.handle, result, out, rows_, out), "output layout");
    // an FP8 result has 16-bit biases and residuals
    const cudaDataType_t added = result != CUDA_R_8F_E4M3 ? result
                                 : bias                   ? dataType(bias->scalar_type())
                                                          : CUDA_R_16F;
    check(cublasLtMatrixLayoutCreate(&residual_layout_.handle, added, out, rows_, out),
          "residual layout");
    if (type == CUDA_R_8F_E4M3) {
      set(matmul_.handle, CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
      if (bias) set(matmul_.handle, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, added);
    }
  }

  /// Returns cuBLASLt's proposals, with and without scratch memory, each once. Those with scratch
  /// memory may first clear it, which is one more launch.
  std::vector<cublasLtMatmulHeuristicResult_t> candidates(cublasLtHandle_t handle) const {
    std::vector<cublasLtMatmulHeuristicResult_t> found;
    for (const size_t workspace : {kMaxWorkspaceBytes, size_t{0}}) {
      Preference preference;
      check(cublasLtMatmulPreferenceCreate(&preference.handle), "preference");
      check(cublasLtMatmulPreferenceSetAttribute(preference.handle,
                                                 CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &workspace, sizeof(workspace)),
            "workspace preference");
      std::vector<cublasLtMatmulHeuristicResult_t> proposed(kCandidates);
      int count = 0;
      const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
          handle, matmul_.handle, weight_layout_.handle, x_layout_.handle, residual_layout_.handle,
          y_layout_.handle, preference.handle, kCandidates, proposed.data(), &count);
      if (status != CUBLAS_STATUS_SUCCESS) count = 0;
      for (int i = 0; i < count; ++i) {
        const bool isKnown = std::any_of(found.begin(), found.end(), [&](const auto& other) {
          return proposed[i].workspaceSize == other.workspaceSize &&
                 std::memcmp(&proposed[i].algo, &other.algo, sizeof(other.algo)) == 0;
        });
        if (proposed[i].state == CUBLAS_STATUS_SUCCESS && !isKnown) found.push_back(proposed[i]);
      }
    }
    TORCH_CHECK(!found.empty(), "lite::linear: cuBLASLt has no algorithm for this shape");
    return found;
  }

  cublasStatus_t run(cublasLtHandle_t handle, const cublasLtMatmulHeuristicResult_t& choice,
                     void* workspace, cudaStream_t stream) const {
    return cublasLtMatmul(handle, matmul_.handle, &alpha_, weight_, weight_layout_.handle, x_,
                          x_layout_.handle, &beta_, residual_, residual_layout_.handle, y_,
                          y_layout_.handle, &choice.algo, workspace, choice.workspaceSize, stream);
  }

 private:
  int64_t rows_;
  float alpha_;
  const void *x_, *weight_, *residual_;
  void* y_;
  float beta_;
  MatmulDescriptor matmul_;
  Layout weight_layout_, x_layout_, residual_layout_, y_layout_;
};

Tensor workspace(size_t bytes, const Tensor& like) {
  return at::empty({static_cast<int64_t>(std::max<size_t>(bytes, 1))},
                   like.options().dtype(at::kByte));
}

using Kernel = decltype(lite::linear)*;

// One way to compute a product: an algorithm of cuBLASLt, or a variant of one of our kernels.
struct Choice {
  std::optional<cublasLtMatmulHeuristicResult_t> algorithm;
  Kernel kernel = nullptr;
  int variant = 0;
};

// A product that can run in any of its ways. Returns false if a way does not work.
class Candidates {
 public:
  std::vector<Choice> choices;

  virtual ~Candidates() = default;
  virtual bool run(const Choice& choice, void* scratch) const = 0;
};

// Returns the milliseconds of kTimedRuns runs in a graph on the current stream, which is not the
// default stream. Returns nothing if this way does not work, and clears the error that it left
// behind. Gives up on a way that takes far longer than `toBeat`, the time of another.
std::optional<float> timeOf(const Candidates& candidates, const Choice& choice, void* scratch,
                            float toBeat) {
  if (!candidates.run(choice, scratch)) {  // also loads the code
    cudaGetLastError();
    return std::nullopt;
  }
  Graph graph;
  C10_CUDA_CHECK(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal));
  bool good = true;
  for (int run = 0; run < kTimedRuns; ++run) good = candidates.run(choice, scratch) && good;
  C10_CUDA_CHECK(cudaStreamEndCapture(stream(), &graph.handle));
  if (!good) return std::nullopt;
  Executable executable;
  C10_CUDA_CHECK(cudaGraphInstantiate(&executable.handle, graph.handle, 0));

  Event start, stop;
  C10_CUDA_CHECK(cudaEventCreate(&start.handle));
  C10_CUDA_CHECK(cudaEventCreate(&stop.handle));
  float best = std::numeric_limits<float>::infinity();
  for (int replay = 0; replay < kTimedReplays; ++replay) {
    C10_CUDA_CHECK(cudaEventRecord(start.handle, stream()));
    C10_CUDA_CHECK(cudaGraphLaunch(executable.handle, stream()));
    C10_CUDA_CHECK(cudaEventRecord(stop.handle, stream()));
    C10_CUDA_CHECK(cudaEventSynchronize(stop.handle));
    float milliseconds = 0;
    C10_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start.handle, stop.handle));
    if (replay > 0) best = std::min(best, milliseconds);
    if (replay > 0 && best > kFarBehind * toBeat) break;
  }
  return best;
}

bool isCapturing() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  C10_CUDA_CHECK(cudaStreamIsCapturing(stream(), &status));
  return status != cudaStreamCaptureStatusNone;
}

// Returns the stream for timing on a device. It is not one of PyTorch's pool: these are 32 streams
// that the pool hands out in turn, so it may also be the stream of a network in another thread,
// which cannot replay its graphs during a capture there. The caller holds the mutex of runFastest.
c10::cuda::CUDAStream timingStream(c10::DeviceIndex device) {
  static std::map<c10::DeviceIndex, cudaStream_t> streams;
  cudaStream_t& own = streams[device];
  if (own == nullptr) C10_CUDA_CHECK(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking));
  return c10::cuda::getStreamFromExternal(own, device);
}

Choice fastest(const char* op, const Candidates& candidates, const Tensor& like) {
  C10_CUDA_CHECK(cudaStreamSynchronize(stream()));  // the operands are ready
  const c10::cuda::CUDAStreamGuard guard(timingStream(like.device().index()));
  const Tensor scratch = workspace(kMaxWorkspaceBytes, like);
  Choice best = candidates.choices.front();
  float bestTime = std::numeric_limits<float>::infinity();
  for (const Choice& choice : candidates.choices) {
    const float time = timeOf(candidates, choice, scratch.data_ptr(), bestTime)
                           .value_or(std::numeric_limits<float>::infinity());
    if (time < bestTime) {
      best = choice;
      bestTime = time;
    }
  }
  C10_CUDA_CHECK(cudaStreamSynchronize(stream()));
  TORCH_CHECK(bestTime < std::numeric_limits<float>::infinity(), "lite::", op, ": none of the ",
              std::to_string(candidates.choices.size()), " ways to compute this product works");
  return best;
}

// Device, rows, outputs, inputs, dtype, and what is in the epilogue.
using Shape = std::tuple<int, int64_t, int64_t, int64_t, int, int>;

template <typename MakeCandidates>
void runFastest(const char* op, const Tensor& x, const Tensor& weight, int flags,
                const MakeCandidates& make) {
  static std::mutex mutex;
  static std::map<Shape, Choice> chosen;
  const Shape shape{static_cast<int>(x.device().index()),
                    x.numel() / x.size(-1),
                    weight.size(0),
                    weight.size(1),
                    static_cast<int>(x.scalar_type()),
                    flags};
  std::unique_lock<std::mutex> lock(mutex);  // one thread times at a time
  const auto known = chosen.find(shape);
  const bool met = known != chosen.end();
  const auto candidates = make(met ? &known->second : nullptr);
  Choice choice;
  if (met) {
    choice = known->second;
  } else if (isCapturing()) {
    choice = candidates.choices.front();  // not kept, since it was not timed
  } else {
    choice = chosen[shape] = fastest(op, candidates, x);
  }
  lock.unlock();
  const size_t bytes = choice.algorithm ? choice.algorithm->workspaceSize : 0;
  const Tensor scratch = workspace(bytes, x);
  TORCH_CHECK(candidates.run(choice, scratch.data_ptr()), "lite::", op, ": the product failed");
}

lite::LinearParams paramsOf(const char* op, const Tensor& x, const Tensor& weight,
                            lite::Activation activation) {
  return {x.numel() / x.size(-1), narrow(op, weight.size(1)), narrow(op, weight.size(0)),
          activation, lite::torch_ops::dataType(op, x)};
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

// cuBLASLt has no gate. With one of its algorithms, a separate kernel computes the gate after the
// product.
class GluCandidates : public Candidates {
 public:
  GluCandidates(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                const lite::LinearParams& params, const lite::LinearTensors& tensors, bool tf32,
                const Choice* known)
      : handle_(at::cuda::getCurrentCUDABlasLtHandle()),
        own_(params, tensors, tf32),
        gate_{params.rows, params.out / 2, params.dtype},
        mask_(tensors.mask),
        y_(tensors.y) {
    if (known == nullptr || known->algorithm) {
      both_ = at::empty({params.rows, params.out}, x.options());
      problem_.emplace(x, weight, bias, std::nullopt, /*relu=*/false, tf32, both_);
    }
    if (known != nullptr) return;
    for (const auto& algorithm : problem_->candidates(handle_)) choices.push_back({algorithm});
    own_.addTo(choices);
  }

  bool run(const Choice& choice, void* scratch) const override {
    if (!choice.algorithm) return own_.run(choice);
    return problem_->run(handle_, *choice.algorithm, scratch, stream()) == CUBLAS_STATUS_SUCCESS &&
           lite::gluMask(gate_, both_.data_ptr(), mask_, y_, stream()) == cudaSuccess;
  }

 private:
  Tensor both_;  // values and gates
  std::optional<Problem> problem_;
  cublasLtHandle_t handle_;
  OwnKernels own_;
  lite::GluMaskParams gate_;
  const int32_t* mask_;
  void* y_;
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

Tensor linearFp8(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                 const OptionalTensor& residual, bool relu, double alpha, at::ScalarType dtype) {
  constexpr const char* kOp = "linear_fp8";
  TORCH_CHECK(x.scalar_type() == at::kFloat8_e4m3fn, "lite::linear_fp8: x must be e4m3, got ",
              c10::toString(x.scalar_type()));
  const bool is16Bit = dtype == at::kHalf || dtype == at::kBFloat16;
  TORCH_CHECK(is16Bit || dtype == at::kFloat8_e4m3fn,
              "lite::linear_fp8: the result must be float16, bfloat16 or e4m3, not ",
              c10::toString(dtype));
  const auto shape = checkedShape(kOp, x, weight, std::nullopt);
  TORCH_CHECK(weight.size(0) % 16 == 0 && weight.size(1) % 16 == 0,
              "lite::linear_fp8: the sizes of weight must be multiples of 16, got ",
              text(weight.sizes()));
  if (bias) {
    const auto kind = bias->scalar_type();
    TORCH_CHECK(is16Bit ? kind == dtype : kind == at::kHalf || kind == at::kBFloat16,
                "lite::linear_fp8: bias must have the result's type, or 16 bits for e4m3");
    TORCH_CHECK(bias->device() == x.device(), "lite::linear_fp8: bias must be on the device of x");
    requireTensor(kOp, "bias", *bias, {weight.size(0)}, *bias);
  }
  TORCH_CHECK(!residual || (is16Bit && !relu && residual->device() == x.device()),
              "lite::linear_fp8: a residual needs a 16-bit result on its device, without relu");
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty(shape, x.options().dtype(dtype));
  if (residual) requireTensor(kOp, "residual", *residual, shape, y);
  constexpr int kFp8Flag = 32;
  const int flags = kFp8Flag * (1 + static_cast<int>(dtype)) + relu + 2 * bias.has_value() +
                    4 * residual.has_value();
  const Problem problem(x, weight, bias, residual, relu, /*tf32=*/false, y,
                        static_cast<float>(alpha));
  runFastest(kOp, x, weight, flags, [&](const Choice* known) {
    return LinearCandidates(problem, std::nullopt, known == nullptr);  // cuBLASLt alone has FP8
  });
  return y;
}

Tensor linearGlu(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                 const OptionalTensor& mask, bool tf32) {
  constexpr const char* kOp = "linear_glu";
  auto shape = checkedShape(kOp, x, weight, bias);
  TORCH_CHECK(shape.back() % 2 == 0, "lite::", kOp, ": values and gates must be as many");
  shape.back() /= 2;
  const auto params = paramsOf(kOp, x, weight, lite::Activation::kGlu);
  const c10::cuda::CUDAGuard guard(x.device());
  Tensor y = at::empty(shape, x.options());
  const auto tensors = tensorsOf(kOp, x, weight, bias, std::nullopt, mask, y);
  constexpr int kGluFlag = 16;
  runFastest(kOp, x, weight, kGluFlag + 2 * bias.has_value() + 8 * tf32, [&](const Choice* known) {
    return GluCandidates(x, weight, bias, params, tensors, tf32, known);
  });
  return y;
}

// Returns whether the gate is fastest in the product's epilogue, rather than where its result is
// read.
bool gatesInProduct(const Tensor& x) {
  const c10::cuda::CUDAGuard guard(x.device());
  if (x.scalar_type() == at::kFloat) return lite::hasLinearTf32();
  return x.numel() / x.size(-1) <= kFewRows;
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
  library.def("gates_in_product(Tensor x) -> bool");
}

TORCH_LIBRARY_IMPL(lite, CUDA, library) {
  library.impl("linear", &linear);
  library.impl("linear_glu", &linearGlu);
  library.impl("linear_fp8", &linearFp8);
  library.impl("gates_in_product", &gatesInProduct);
}
