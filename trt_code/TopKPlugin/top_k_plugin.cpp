// LiteTopK: the k largest entries of the last axis, in descending order. Among equal entries the
// lowest index comes first.
//
//   x [..,V]  -> values [..,k] of x's type, indices [..,k] INT32
//
// Attribute: k INT (required). Types: FP32, FP16 or BF16 for x and values.

#include "kernels/top_k.h"
#include "plugin_common/creator.h"
#include "plugin_common/plugin.h"

namespace lite {
namespace {

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

Attributes TopKPlugin::attributes() { return {{"k", k_, true}}; }

const Signature& TopKPlugin::signature() const {
  static const Signature rules{{{"x", TypeRule::kData}},
                               {{"values", TypeRule::kData}, {"indices", TypeRule::kInt32}}};
  return rules;
}

const char* TopKPlugin::checkAttributes() const {
  return k_ >= 1 ? nullptr : "k must be 1 or more";
}

const char* TopKPlugin::checkShapes(const Inputs& inputs) const { return check(params(inputs)); }

void TopKPlugin::outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                              nvinfer1::IExprBuilder& builder) const {
  outputs[0] = inputs[0];
  outputs[0].d[outputs[0].nbDims - 1] = builder.constant(k_);
  outputs[1] = outputs[0];
}

size_t TopKPlugin::workspaceSize(const Inputs& inputs) const {
  return topKWorkspaceSize(params(inputs));
}

cudaError_t TopKPlugin::launch(const Inputs& shapes, const void* const* inputs,
                               void* const* outputs, void* workspace, cudaStream_t stream) const {
  return topK(params(shapes), inputs[0], outputs[0], static_cast<int32_t*>(outputs[1]), workspace,
              stream);
}

TopKParams TopKPlugin::params(const Inputs& inputs) const {
  TopKParams p{};
  p.rows = inputs.rows(0);
  p.width = inputs.lastDim(0);
  p.k = k_;
  p.dtype = inputs.dtype();
  return p;
}

const Registered<TopKPlugin> kRegistered;

}  // namespace
}  // namespace lite
