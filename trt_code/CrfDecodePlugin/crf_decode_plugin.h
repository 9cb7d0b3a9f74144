// LiteCrfDecode: Viterbi and back-trace of fairseq's DynamicCRF over the K best tokens a position.
//
//   emissions [B,T,K], targets [B,T,K] INT32 (their token ids), E1 and E2 [V,R] (transitions are
//   E1[i] . E2[j]), mask [B,T] INT32 (1 = real)  -> tokens [B,T] INT32, scores [B,T] FP32
//
// No attributes. Types: FP32, FP16 or BF16 for emissions, E1 and E2.
#pragma once

#include "kernels/crf_decode.h"
#include "plugin_common/plugin.h"

namespace lite {

class CrfDecodePlugin final : public Plugin<CrfDecodePlugin> {
 public:
  static constexpr const char* kName = "LiteCrfDecode";

  Attributes attributes() override { return {}; }

 private:
  const Signature& signature() const override;
  const char* checkShapes(const Inputs& inputs) const override;
  void outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                    nvinfer1::IExprBuilder& builder) const override;
  size_t workspaceSize(const Inputs& inputs) const override;
  cudaError_t launch(const Inputs& shapes, const void* const* inputs, void* const* outputs,
                     void* workspace, cudaStream_t stream) const override;

  CrfDecodeParams params(const Inputs& inputs) const;
};

}  // namespace lite
