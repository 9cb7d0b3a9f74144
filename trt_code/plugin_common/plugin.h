// The base class of the plugins. It implements IPluginV3's three interfaces from a short
// description that each plugin gives. A plugin adds its attributes, the types and ranks of its
// tensors, its output shapes, the limits of its kernel, and the launch.
//
// The only state besides the attributes is the number of inputs from the last onShapeChange:
// enqueue does not receive it, and some inputs are optional. Everything else is derived from the
// tensor descriptions at each call.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <new>
#include <string>
#include <vector>

#include "kernels/common.h"
#include "plugin_common/attributes.h"

namespace lite {

constexpr const char* kPluginVersion = "1";
constexpr const char* kPluginNamespace = "";

enum class TypeRule {
  kData,   // FP32, FP16 or BF16 for input 0; the type of input 0 for every other tensor
  kFloat,  // FP32 always
  kInt32,
};

struct TensorRule {
  const char* name;
  TypeRule type;
  int32_t rank = 0;       // of an input; 0 allows any rank from 1 on
  bool optional = false;  // only at the end of the inputs
};

struct Signature {
  std::vector<TensorRule> inputs;
  std::vector<TensorRule> outputs;
};

// The inputs of one call. Before the plugin's own code receives them, the base class has checked
// their number, types and ranks, and that every dimension is between 0 and 2^31 - 1.
struct Inputs {
  const nvinfer1::PluginTensorDesc* desc;
  int32_t count;

  int32_t dim(int32_t tensor, int32_t axis) const {
    return static_cast<int32_t>(desc[tensor].dims.d[axis]);
  }
  int32_t lastDim(int32_t tensor) const { return dim(tensor, desc[tensor].dims.nbDims - 1); }
  // The product of all dimensions except the last.
  int64_t rows(int32_t tensor) const;
  // The type of input 0.
  DataType dtype() const;
};

bool sameDims(const nvinfer1::Dims& a, const nvinfer1::Dims& b);

class PluginBase : public nvinfer1::IPluginV3,
                   public nvinfer1::IPluginV3OneCore,
                   public nvinfer1::IPluginV3OneBuild,
                   public nvinfer1::IPluginV3OneRuntime {
 public:
  PluginBase() = default;
  // The tables below point into their own plugin, so a copy creates new ones.
  PluginBase(const PluginBase& other)
      : IPluginV3(),
        IPluginV3OneCore(),
        IPluginV3OneBuild(),
        IPluginV3OneRuntime(),
        nbInputs_(other.nbInputs_) {}
  PluginBase& operator=(const PluginBase&) = delete;

  // Sets the attributes. Returns "" or the reason why the plugin cannot be created from them.
  std::string initialise(const nvinfer1::PluginFieldCollection& fields,
                         nvinfer1::TensorRTPhase phase);
  // Pointers to this plugin's own members.
  virtual Attributes attributes() = 0;

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;

  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  int32_t getNbOutputs() const noexcept override;
  bool supportsFormatCombination(int32_t pos, const nvinfer1::DynamicPluginTensorDesc* inOut,
                                 int32_t nbInputs, int32_t nbOutputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
                             const nvinfer1::DataType* inputTypes,
                             int32_t nbInputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t nbInputs,
                          const nvinfer1::DimsExprs* shapeInputs, int32_t nbShapeInputs,
                          nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t nbInputs,
                          const nvinfer1::DynamicPluginTensorDesc* out,
                          int32_t nbOutputs) noexcept override;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t nbInputs,
                          const nvinfer1::DynamicPluginTensorDesc* out,
                          int32_t nbOutputs) const noexcept override;
  const char* getTimingCacheID() noexcept override;

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t nbInputs,
                        const nvinfer1::PluginTensorDesc* out, int32_t nbOutputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* inputDesc,
                  const nvinfer1::PluginTensorDesc* outputDesc, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    return clone();
  }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 protected:
  virtual const Signature& signature() const = 0;
  // Returns nullptr if the attributes are valid on their own, otherwise the reason.
  virtual const char* checkAttributes() const { return nullptr; }
  // Returns nullptr if the plugin supports these shapes, otherwise the reason (mostly from the
  // kernel's check()).
  virtual const char* checkShapes(const Inputs& inputs) const = 0;
  virtual void outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                            nvinfer1::IExprBuilder& builder) const = 0;
  virtual size_t workspaceSize(const Inputs&) const { return 0; }
  virtual cudaError_t launch(const Inputs& shapes, const void* const* inputs, void* const* outputs,
                             void* workspace, cudaStream_t stream) const = 0;

 private:
  const char* checkCount(int32_t nbInputs) const;
  const char* checkTensors(const Inputs& inputs) const;
  // Logs "<plugin>: <reason> [<tensors and attributes>]" and returns 1, which means "refused" to
  // TensorRT.
  int32_t refuse(const std::string& reason) const noexcept;
  int32_t refuse(const char* reason, const Inputs& inputs) const noexcept;

  int32_t nbInputs_ = 0;
  std::string timingCacheId_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

// Adds the functions that need the plugin's own type.
template <typename Derived>
class Plugin : public PluginBase {
 public:
  const char* getPluginName() const noexcept override { return Derived::kName; }
  nvinfer1::IPluginV3* clone() noexcept override {
    return new (std::nothrow) Derived(static_cast<const Derived&>(*this));
  }
};

}  // namespace lite
