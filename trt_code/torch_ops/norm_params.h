// The operands of LayerNorm in the operators that add something to its result.
#pragma once

#include "layer_norm.h"
#include "tensors.h"

namespace lite::torch_ops {

/// Checks LayerNorm's operands: x [B, T, C], scale and shift [C], after [T, C]. Returns its
/// parameters.
inline LayerNormParams normParams(const char* op, const at::Tensor& x, const at::Tensor& scale,
                                  const at::Tensor& shift, double eps,
                                  const OptionalTensor& after) {
  requireRank(op, "x", x, 3);
  requireTensor(op, "x", x, x.sizes(), x);
  if (after) requireTensor(op, "after", *after, {x.size(1), x.size(2)}, x);
  TORCH_CHECK(scale.scalar_type() == at::kFloat && scale.device() == x.device(), "lite::", op,
              ": scale must be float32 on the device of x");
  requireTensor(op, "scale", scale, {x.size(2)}, scale);
  requireTensor(op, "shift", shift, {x.size(2)}, scale);
  const LayerNormParams params{x.size(0) * x.size(1), narrow(op, x.size(2)),
                               static_cast<float>(eps), dataType(op, x)};
  checkParams(op, params);
  return params;
}

}  // namespace lite::torch_ops
