// AddScalar as a TensorRT plugin, in one file and without helpers, to show the way of an attribute:
//
//   ONNX node --parser--> PluginField --createPlugin--> members --getFieldsToSerialize--> plan
//                                                       members <-------createPlugin------'
//
//   y[.., i] = x[.., i] + sign * scalar * times + offsets[i % len(offsets)]
//
// Attributes: scalar FLOAT (0), times INT (1), offsets INTS (0), mode STRING "add" or "subtract"
// (the sign; "add"). x and y are FP32.
//
// Compiled with DECLARE_NO_FIELDS this is the faulty version: its creator declares nothing, so the
// parser passes nothing, every default holds, and the engine silently copies x to y.

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "add_scalar_kernel.h"

namespace {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

constexpr const char* kName = "AddScalar";
constexpr const char* kVersion = "1";
constexpr const char* kNamespace = "";

nvinfer1::ILoggerFinder* loggerFinder = nullptr;

int32_t refuse(const std::string& reason) noexcept {
  nvinfer1::ILogger* logger = loggerFinder != nullptr ? loggerFinder->findLogger() : nullptr;
  const std::string message = std::string(kName) + ": " + reason;
  if (logger != nullptr) logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
  return 1;
}

struct Attributes {
  float scalar = 0.0f;
  int32_t times = 1;
  std::vector<int32_t> offsets = {0};
  std::string mode = "add";
};

void require(bool holds, const std::string& name, const char* what) {
  if (!holds) throw std::invalid_argument("attribute '" + name + "' must be " + what);
}

// The fields' memory belongs to the caller and is gone after createPlugin: everything is copied.
Attributes readFields(const PluginFieldCollection& fields) {
  Attributes a;
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    const std::string name = field.name;
    if (name == "scalar") {
      require(field.type == PluginFieldType::kFLOAT32 && field.length == 1, name, "one FLOAT");
      std::memcpy(&a.scalar, field.data, sizeof(a.scalar));
    } else if (name == "times") {
      require(field.type == PluginFieldType::kINT32 && field.length == 1, name, "one INT");
      std::memcpy(&a.times, field.data, sizeof(a.times));
    } else if (name == "offsets") {  // INTS: the same type as INT, and a length
      require(
          field.type == PluginFieldType::kINT32 && field.length >= 1 && field.length <= kMaxOffsets,
          name, "1 to 16 INTS");
      a.offsets.resize(field.length);
      std::memcpy(a.offsets.data(), field.data, field.length * sizeof(int32_t));
    } else if (name == "mode") {  // STRING: its length may or may not count the NUL
      require(field.type == PluginFieldType::kCHAR && field.length >= 1, name, "a STRING");
      const auto* text = static_cast<const char*>(field.data);
      a.mode.assign(text, std::find(text, text + field.length, '\0'));
      require(a.mode == "add" || a.mode == "subtract", name, "\"add\" or \"subtract\"");
    } else {
      throw std::invalid_argument("unknown attribute '" + name + "'");
    }
  }
  return a;
}

class AddScalarPlugin final : public nvinfer1::IPluginV3,
                              public nvinfer1::IPluginV3OneCore,
                              public nvinfer1::IPluginV3OneBuild,
                              public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit AddScalarPlugin(const Attributes& attributes) : attributes_(attributes) {}

  // --- IPluginV3 ---
  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {  // each cast picks one of three IPluginCapability bases
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  // Made from the attributes alone: fields_ points into this object and must not be copied.
  nvinfer1::IPluginV3* clone() noexcept override { return new AddScalarPlugin(attributes_); }

  // --- IPluginV3OneCore ---
  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // --- IPluginV3OneBuild ---
  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t getOutputDataTypes(DataType* outputTypes, int32_t nbOutputs, const DataType* inputTypes,
                             int32_t nbInputs) const noexcept override {
    if (nbInputs != 1 || nbOutputs != 1) return refuse("takes one input and gives one output");
    if (inputTypes[0] != DataType::kFLOAT) return refuse("x must be FP32");
    outputTypes[0] = DataType::kFLOAT;
    return 0;
  }
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t nbInputs,
                          const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                          int32_t nbOutputs, nvinfer1::IExprBuilder&) noexcept override {
    if (nbInputs != 1 || nbOutputs != 1) return refuse("takes one input and gives one output");
    if (inputs[0].nbDims < 1) return refuse("x must be of rank 1 or more");
    outputs[0] = inputs[0];
    return 0;
  }
  bool supportsFormatCombination(int32_t pos, const nvinfer1::DynamicPluginTensorDesc* inOut,
                                 int32_t nbInputs, int32_t nbOutputs) noexcept override {
    return nbInputs == 1 && nbOutputs == 1 && inOut[pos].desc.type == DataType::kFLOAT &&
           inOut[pos].desc.format == nvinfer1::TensorFormat::kLINEAR;
  }
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc*, int32_t,
                          const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
    return 0;
  }
  const char* getTimingCacheID() noexcept override {
    char scalar[32];
    std::snprintf(scalar, sizeof(scalar), "%.9g",
                  attributes_.scalar);  // nine digits distinguish any two floats
    timingCacheId_ = std::string("scalar=") + scalar +
                     " times=" + std::to_string(attributes_.times) + " mode=" + attributes_.mode +
                     " offsets=";
    for (const int32_t offset : attributes_.offsets) timingCacheId_ += std::to_string(offset) + ",";
    return timingCacheId_.c_str();
  }

  // --- IPluginV3OneRuntime ---
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc*, int32_t,
                        const nvinfer1::PluginTensorDesc*, int32_t) noexcept override {
    return 0;
  }
  int32_t enqueue(const nvinfer1::PluginTensorDesc* inputDesc, const nvinfer1::PluginTensorDesc*,
                  const void* const* inputs, void* const* outputs, void*,
                  cudaStream_t stream) noexcept override {
    if (inputDesc[0].type != DataType::kFLOAT) return refuse("x must be FP32");
    AddScalarParams params{};
    const nvinfer1::Dims& dims = inputDesc[0].dims;
    params.count = 1;
    for (int32_t i = 0; i < dims.nbDims; ++i) params.count *= dims.d[i];
    params.width = static_cast<int32_t>(dims.d[dims.nbDims - 1]);
    const float sign = attributes_.mode == "subtract" ? -1.0f : 1.0f;
    params.amount = sign * attributes_.scalar * static_cast<float>(attributes_.times);
    params.offsetCount = static_cast<int32_t>(attributes_.offsets.size());
    std::copy(attributes_.offsets.begin(), attributes_.offsets.end(), params.offsets);
    const cudaError_t status = addScalar(params, static_cast<const float*>(inputs[0]),
                                         static_cast<float*>(outputs[0]), stream);
    return status == cudaSuccess ? 0 : refuse(cudaGetErrorString(status));
  }
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    return clone();
  }
  // What is not listed here is lost between building the engine and running it.
  const PluginFieldCollection* getFieldsToSerialize() noexcept override {
    fields_ = {
        PluginField("scalar", &attributes_.scalar, PluginFieldType::kFLOAT32, 1),
        PluginField("times", &attributes_.times, PluginFieldType::kINT32, 1),
        PluginField("offsets", attributes_.offsets.data(), PluginFieldType::kINT32,
                    static_cast<int32_t>(attributes_.offsets.size())),
        PluginField("mode", attributes_.mode.c_str(), PluginFieldType::kCHAR,
                    static_cast<int32_t>(attributes_.mode.size() + 1)),
    };
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    return &collection_;
  }

 private:
  Attributes attributes_;
  std::string timingCacheId_;
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_{};
};

class AddScalarCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  AddScalarCreator() {
#ifndef DECLARE_NO_FIELDS
    // The fix. The parser asks for these names, and passes no other attribute of the node.
    fields_ = {
        PluginField("scalar", nullptr, PluginFieldType::kFLOAT32, 1),
        PluginField("times", nullptr, PluginFieldType::kINT32, 1),
        PluginField("offsets", nullptr, PluginFieldType::kINT32, kMaxOffsets),
        PluginField("mode", nullptr, PluginFieldType::kCHAR, 1),
    };
#endif
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  }

  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  const PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  // Called twice in a plugin's life: with the node's fields when the engine is built, and with the
  // serialised ones when a plan is loaded.
  nvinfer1::IPluginV3* createPlugin(const char*, const PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    try {
      return new AddScalarPlugin(readFields(*fields));
    } catch (const std::exception& error) {
      refuse(error.what());
      return nullptr;
    }
  }

 private:
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_{};
};

}  // namespace

// What TensorRT's loadLibrary looks for. Visible although the rest is hidden: TENSORRTAPI, which
// the samples write here, is empty outside TensorRT's own build.
extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const*
getCreators(int32_t& nbCreators) {
  static AddScalarCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  nbCreators = 1;
  return creators;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(
    nvinfer1::ILoggerFinder* finder) {
  loggerFinder = finder;
}
