// LiteDynamicConv: y[b,c,t] = sum_k weight[b,h(c),k,t] * x[b,c,t+k-padding_l], zero padded,
// h(c) = c // (C / heads). The attribute `fused` selects one of two forms:
//
//   fused=0  x [B,C,T], weight [B,H,K,T] (softmaxed)                  -> y [B,C,T]
//   fused=1  x [B,T,C], logits [B,T,H*K], optional mask [B,T] INT32   -> y [B,T,C]
//            the softmax over K is inside; where mask is 0 the convolution's input is 0
//
// Attributes: padding_l INT (required); fused, heads, kernel_size INT (0 when absent). fused=1
// needs heads and kernel_size; fused=0 reads them from the weight's shape, and compares them if
// they are given.
// Types: FP32, FP16 or BF16 for x, the weights and y.

#include "kernels/dynamic_conv.h"
#include "plugin_common/creator.h"
#include "plugin_common/plugin.h"

namespace lite {
namespace {

class DynamicConvPlugin final : public Plugin<DynamicConvPlugin> {
 public:
  static constexpr const char* kName = "LiteDynamicConv";

  Attributes attributes() override;

 private:
  const Signature& signature() const override;
  const char* checkAttributes() const override;
  const char* checkShapes(const Inputs& inputs) const override;
  void outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                    nvinfer1::IExprBuilder& builder) const override;
  cudaError_t launch(const Inputs& shapes, const void* const* inputs, void* const* outputs,
                     void* workspace, cudaStream_t stream) const override;

  DynamicConvParams params(const Inputs& inputs) const;
  DynamicConvFusedParams fusedParams(const Inputs& inputs) const;

  int32_t paddingL_ = 0;
  int32_t fused_ = 0;
  int32_t heads_ = 0;
  int32_t kernelSize_ = 0;
};

Attributes DynamicConvPlugin::attributes() {
  return {{"padding_l", paddingL_, true},
          {"fused", fused_},
          {"heads", heads_},
          {"kernel_size", kernelSize_}};
}

const Signature& DynamicConvPlugin::signature() const {
  static const Signature plain{{{"x", TypeRule::kData, 3}, {"weight", TypeRule::kData, 4}},
                               {{"y", TypeRule::kData}}};
  static const Signature fused{{{"x", TypeRule::kData, 3},
                                {"logits", TypeRule::kData, 3},
                                {"mask", TypeRule::kInt32, 2, true}},
                               {{"y", TypeRule::kData}}};
  return fused_ != 0 ? fused : plain;
}

const char* DynamicConvPlugin::checkAttributes() const {
  if (fused_ != 0 && fused_ != 1) return "fused must be 0 or 1";
  if (paddingL_ < 0) return "padding_l must not be negative";
  if (fused_ == 1 && (heads_ < 1 || kernelSize_ < 1)) {
    return "fused=1 needs heads and kernel_size, both 1 or more";
  }
  return nullptr;
}

const char* DynamicConvPlugin::checkShapes(const Inputs& inputs) const {
  const auto differ = [&](int32_t tensor, int32_t axis, int32_t axisOfX) {
    return inputs.dim(tensor, axis) != inputs.dim(0, axisOfX);
  };
  if (fused_ == 0) {
    if (differ(1, 0, 0) || differ(1, 3, 2)) return "x [B,C,T] and weight [B,H,K,T] disagree";
    if ((heads_ != 0 && heads_ != inputs.dim(1, 1)) ||
        (kernelSize_ != 0 && kernelSize_ != inputs.dim(1, 2))) {
      return "heads or kernel_size differ from the weight's [B,H,K,T]";
    }
    return check(params(inputs));
  }
  if (differ(1, 0, 0) || differ(1, 1, 1)) return "x [B,T,C] and logits [B,T,H*K] disagree";
  if (inputs.dim(1, 2) != int64_t{heads_} * kernelSize_) {
    return "logits' last dimension is not heads * kernel_size";
  }
  if (inputs.count == 3 && (differ(2, 0, 0) || differ(2, 1, 1))) {
    return "x [B,T,C] and mask [B,T] disagree";
  }
  return check(fusedParams(inputs));
}

void DynamicConvPlugin::outputShapes(const nvinfer1::DimsExprs* inputs,
                                     nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder&) const {
  outputs[0] = inputs[0];
}

cudaError_t DynamicConvPlugin::launch(const Inputs& shapes, const void* const* inputs,
                                      void* const* outputs, void*, cudaStream_t stream) const {
  if (fused_ == 0) return dynamicConv(params(shapes), inputs[0], inputs[1], outputs[0], stream);
  const auto* mask = shapes.count == 3 ? static_cast<const int32_t*>(inputs[2]) : nullptr;
  return dynamicConvFused(fusedParams(shapes), inputs[0], inputs[1], mask, outputs[0], stream);
}

DynamicConvParams DynamicConvPlugin::params(const Inputs& inputs) const {
  DynamicConvParams p{};
  p.batch = inputs.dim(0, 0);
  p.channels = inputs.dim(0, 1);
  p.length = inputs.dim(0, 2);
  p.heads = inputs.dim(1, 1);
  p.kernelSize = inputs.dim(1, 2);
  p.paddingL = paddingL_;
  p.dtype = inputs.dtype();
  return p;
}

DynamicConvFusedParams DynamicConvPlugin::fusedParams(const Inputs& inputs) const {
  DynamicConvFusedParams p{};
  p.batch = inputs.dim(0, 0);
  p.length = inputs.dim(0, 1);
  p.channels = inputs.dim(0, 2);
  p.heads = heads_;
  p.kernelSize = kernelSize_;
  p.paddingL = paddingL_;
  p.dtype = inputs.dtype();
  return p;
}

const Registered<DynamicConvPlugin> kRegistered;

}  // namespace
}  // namespace lite
