// LayerNorm over the last axis of a sum: y = (s - mean(s)) / sqrt(var(s) + eps) * scale + shift,
// s = x + residual. The sum, the statistics and the result are FP32 and are rounded once.
#pragma once

#include "common.h"

namespace lite {

/// x, residual and y are [rows, width].
struct LayerNormParams {
  int64_t rows;
  int32_t width;
  float eps;
  DataType dtype;
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
inline const char* check(const LayerNormParams& p) {
  if (!isKnown(p.dtype)) return kUnknownDataType;
  if (p.rows < 0) return "rows must not be negative";
  if (p.width < 1) return "the width must be at least 1";
  if (!(p.eps >= 0.0f)) return "eps must not be negative";
  return nullptr;
}

/// residual [rows, width] has the type of x and may be nullptr. scale and shift [width] are FP32.
/// The variance is biased, as in PyTorch and ONNX. If `after` [period, width], of the type of x, is
/// given, its row i % period is added last to row i of the result. If `fp8` [rows, width] is given,
/// the result times `fp8Factor` is also written there as e4m3; the rows of all tensors must then be
/// multiples of 16 bytes.
cudaError_t layerNorm(const LayerNormParams& params, const void* x, const void* residual,
                      const float* scale, const float* shift, void* y, cudaStream_t stream,
                      const void* after = nullptr, int64_t period = 1, void* fp8 = nullptr,
                      float fp8Factor = 0.0f);

}  // namespace lite
