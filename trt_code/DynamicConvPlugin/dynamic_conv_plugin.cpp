#include "DynamicConvPlugin/dynamic_conv_plugin.h"

namespace lite {

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

}  // namespace lite
