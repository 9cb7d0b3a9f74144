// LiteSquaredRelu: y = min(max(x, 0)^2, limit).
//
//   x [..,C]  -> y like x
//
// Attribute: limit FLOAT (required). Types: FP32, FP16 or BF16 for x and y.

#include "kernels/squared_relu.h"
#include "plugin_common/creator.h"
#include "plugin_common/plugin.h"

namespace lite {
namespace {

class SquaredReluPlugin final : public Plugin<SquaredReluPlugin> {
 public:
  static constexpr const char* kName = "LiteSquaredRelu";

  Attributes attributes() override { return {{"limit", limit_, true}}; }

 private:
  const Signature& signature() const override {
    static const Signature rules{{{"x", TypeRule::kData}}, {{"y", TypeRule::kData}}};
    return rules;
  }

  const char* checkAttributes() const override {
    return limit_ > 0.0f ? nullptr : "limit must be positive";
  }

  const char* checkShapes(const Inputs& inputs) const override { return check(params(inputs)); }

  void outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                    nvinfer1::IExprBuilder&) const override {
    outputs[0] = inputs[0];
  }

  cudaError_t launch(const Inputs& shapes, const void* const* inputs, void* const* outputs, void*,
                     cudaStream_t stream) const override {
    return squaredRelu(params(shapes), inputs[0], outputs[0], stream);
  }

  SquaredReluParams params(const Inputs& inputs) const {
    SquaredReluParams p{};
    p.count = inputs.rows(0) * inputs.lastDim(0);
    p.limit = limit_;
    p.dtype = inputs.dtype();
    return p;
  }

  float limit_ = 0.0f;
};

const Registered<SquaredReluPlugin> kRegistered;

}  // namespace
}  // namespace lite
