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
#pragma once

#include "kernels/dynamic_conv.h"
#include "plugin_common/plugin.h"

namespace lite {

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

}  // namespace lite
