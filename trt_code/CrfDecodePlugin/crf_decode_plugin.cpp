// LiteCrfDecode: Viterbi decoding and back-trace of fairseq's DynamicCRF over the K best tokens of
// each position.
//
//   emissions [B,T,K], targets [B,T,K] INT32 (their token ids), E1 and E2 [V,R] (transitions are
//   E1[i] . E2[j]), mask [B,T] INT32 (1 = real)  -> tokens [B,T] INT32, scores [B,T] FP32
//
// No attributes. Types: FP32, FP16 or BF16 for emissions, E1 and E2.

#include "kernels/crf_decode.h"
#include "plugin_common/creator.h"
#include "plugin_common/plugin.h"

namespace lite {
namespace {

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

const Signature& CrfDecodePlugin::signature() const {
  static const Signature rules{{{"emissions", TypeRule::kData, 3},
                                {"targets", TypeRule::kInt32, 3},
                                {"E1", TypeRule::kData, 2},
                                {"E2", TypeRule::kData, 2},
                                {"mask", TypeRule::kInt32, 2}},
                               {{"tokens", TypeRule::kInt32}, {"scores", TypeRule::kFloat}}};
  return rules;
}

const char* CrfDecodePlugin::checkShapes(const Inputs& inputs) const {
  if (!sameDims(inputs.desc[0].dims, inputs.desc[1].dims)) {
    return "emissions and targets must have the same shape";
  }
  if (!sameDims(inputs.desc[2].dims, inputs.desc[3].dims)) {
    return "E1 and E2 must have the same shape";
  }
  if (inputs.dim(4, 0) != inputs.dim(0, 0) || inputs.dim(4, 1) != inputs.dim(0, 1)) {
    return "emissions [B,T,K] and mask [B,T] disagree";
  }
  return check(params(inputs));
}

void CrfDecodePlugin::outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                                   nvinfer1::IExprBuilder&) const {
  outputs[0].nbDims = 2;
  outputs[0].d[0] = inputs[0].d[0];
  outputs[0].d[1] = inputs[0].d[1];
  outputs[1] = outputs[0];
}

size_t CrfDecodePlugin::workspaceSize(const Inputs& inputs) const {
  return crfDecodeWorkspaceSize(params(inputs));
}

cudaError_t CrfDecodePlugin::launch(const Inputs& shapes, const void* const* inputs,
                                    void* const* outputs, void* workspace,
                                    cudaStream_t stream) const {
  return crfDecode(params(shapes), inputs[0], static_cast<const int32_t*>(inputs[1]), inputs[2],
                   inputs[3], static_cast<const int32_t*>(inputs[4]),
                   static_cast<int32_t*>(outputs[0]), static_cast<float*>(outputs[1]), workspace,
                   stream);
}

CrfDecodeParams CrfDecodePlugin::params(const Inputs& inputs) const {
  CrfDecodeParams p{};
  p.batch = inputs.dim(0, 0);
  p.length = inputs.dim(0, 1);
  p.beam = inputs.dim(0, 2);
  p.vocab = inputs.dim(2, 0);
  p.rank = inputs.dim(2, 1);
  p.dtype = inputs.dtype();
  return p;
}

const Registered<CrfDecodePlugin> kRegistered;

}  // namespace
}  // namespace lite
