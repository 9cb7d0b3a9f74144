// LiteLayerNorm: normalises x, or x + residual, over its last axis, then scale and shift.
// Statistics are FP32 whatever the type of x.
//
//   x [..,C], scale [C] FP32, shift [C] FP32, optional residual like x  -> y like x
//
// Attribute: eps FLOAT (required). Types: FP32, FP16 or BF16 for x, residual and y.
#pragma once

#include "kernels/layer_norm.h"
#include "plugin_common/plugin.h"

namespace lite {

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

}  // namespace lite
