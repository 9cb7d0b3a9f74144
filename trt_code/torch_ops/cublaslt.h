// A matrix product by cuBLASLt, with its bias, ReLU or residual.
#pragma once

#include <ATen/ATen.h>
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "tensors.h"

namespace lite::torch_ops {

constexpr size_t kMaxWorkspaceBytes = size_t{32} << 20;
constexpr int kCandidates = 16;

inline void check(cublasStatus_t status, const char* what) {
  TORCH_CHECK(status == CUBLAS_STATUS_SUCCESS, "lite::linear: ", what, ": ",
              cublasLtGetStatusString(status));
}

/// A handle that is destroyed on every exit path.
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

inline cudaDataType_t cudaType(at::ScalarType type) {
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

/// One matrix product with its epilogue. cuBLASLt is column-major: y^T [N, M] = weight [N, K] x^T.
class Problem {
 public:
  Problem(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias,
          const OptionalTensor& residual, bool relu, bool tf32, at::Tensor& y, float alpha = 1.0f)
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
    const cudaDataType_t type = cudaType(x.scalar_type());
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
    const cudaDataType_t result = cudaType(y.scalar_type());
    check(cublasLtMatrixLayoutCreate(&y_layout_.handle, result, out, rows_, out), "output layout");
    // an FP8 result has 16-bit biases and residuals
    const cudaDataType_t added = result != CUDA_R_8F_E4M3 ? result
                                 : bias                   ? cudaType(bias->scalar_type())
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

}  // namespace lite::torch_ops
