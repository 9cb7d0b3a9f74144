// LiteTopK: the k largest of the last axis in descending order, ties by lowest index.
//
//   x [..,V]  -> values [..,k] of x's type, indices [..,k] INT32
//
// Attribute: k INT (required). Types: FP32, FP16 or BF16 for x and values.
#pragma once

#include "kernels/top_k.h"
#include "plugin_common/plugin.h"

namespace lite {

class TopKPlugin final : public Plugin<TopKPlugin> {
 public:
  static constexpr const char* kName = "LiteTopK";

  Attributes attributes() override;

 private:
  const Signature& signature() const override;
  const char* checkAttributes() const override;
  const char* checkShapes(const Inputs& inputs) const override;
  void outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                    nvinfer1::IExprBuilder& builder) const override;
  size_t workspaceSize(const Inputs& inputs) const override;
  cudaError_t launch(const Inputs& shapes, const void* const* inputs, void* const* outputs,
                     void* workspace, cudaStream_t stream) const override;

  TopKParams params(const Inputs& inputs) const;

  int32_t k_ = 0;
};

}  // namespace lite
