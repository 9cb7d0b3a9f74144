// LiteLayerNorm: normalises x, or x + residual, over its last axis, then applies scale and shift.
// Statistics are FP32 for every type of x.
//
//   x [..,C], scale [C] FP32, shift [C] FP32, optional residual like x  -> y like x
//
// Attribute: eps FLOAT (required). Types: FP32, FP16 or BF16 for x, residual and y.

#include <cmath>

#include "kernels/layer_norm.h"
#include "plugin_common/creator.h"
#include "plugin_common/plugin.h"

namespace lite {
namespace {

class LayerNormPlugin final : public Plugin<LayerNormPlugin> {
 public:
  static constexpr const char* kName = "LiteLayerNorm";

  Attributes attributes() override;

 private:
  const Signature& signature() const override;
  const char* checkAttributes() const override;
  const char* checkShapes(const Inputs& inputs) const override;
  void outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                    nvinfer1::IExprBuilder& builder) const override;
  cudaError_t launch(const Inputs& shapes, const void* const* inputs, void* const* outputs,
                     void* workspace, cudaStream_t stream) const override;

  LayerNormParams params(const Inputs& inputs) const;

  float eps_ = 0.0f;
};

Attributes LayerNormPlugin::attributes() { return {{"eps", eps_, true}}; }

const Signature& LayerNormPlugin::signature() const {
  static const Signature rules{{{"x", TypeRule::kData},
                                {"scale", TypeRule::kFloat, 1},
                                {"shift", TypeRule::kFloat, 1},
                                {"residual", TypeRule::kData, 0, true}},
                               {{"y", TypeRule::kData}}};
  return rules;
}

const char* LayerNormPlugin::checkAttributes() const {
  return std::isfinite(eps_) && eps_ >= 0.0f ? nullptr : "eps must be finite and not negative";
}

const char* LayerNormPlugin::checkShapes(const Inputs& inputs) const {
  if (inputs.dim(1, 0) != inputs.lastDim(0) || inputs.dim(2, 0) != inputs.lastDim(0)) {
    return "scale and shift must be as long as x's last dimension";
  }
  if (inputs.count == 4 && !sameDims(inputs.desc[0].dims, inputs.desc[3].dims)) {
    return "x and residual must have the same shape";
  }
  return check(params(inputs));
}

void LayerNormPlugin::outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                                   nvinfer1::IExprBuilder&) const {
  outputs[0] = inputs[0];
}

cudaError_t LayerNormPlugin::launch(const Inputs& shapes, const void* const* inputs,
                                    void* const* outputs, void*, cudaStream_t stream) const {
  const void* residual = shapes.count == 4 ? inputs[3] : nullptr;
  return layerNorm(params(shapes), inputs[0], residual, static_cast<const float*>(inputs[1]),
                   static_cast<const float*>(inputs[2]), outputs[0], stream);
}

LayerNormParams LayerNormPlugin::params(const Inputs& inputs) const {
  LayerNormParams p{};
  p.rows = inputs.rows(0);
  p.width = inputs.lastDim(0);
  p.eps = eps_;
  p.dtype = inputs.dtype();
  return p;
}

const Registered<LayerNormPlugin> kRegistered;

}  // namespace
}  // namespace lite
