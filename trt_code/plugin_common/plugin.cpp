#include "plugin_common/plugin.h"

#include <cstdint>
#include <limits>

#include "plugin_common/log.h"

namespace lite {
namespace {

constexpr int32_t kRefused = 1;
// Far above any memory size, and far below the point where sizes in bytes overflow.
constexpr int64_t kMaxElements = int64_t{1} << 40;

bool isData(nvinfer1::DataType type) {
  return type == nvinfer1::DataType::kFLOAT || type == nvinfer1::DataType::kHALF ||
         type == nvinfer1::DataType::kBF16;
}

bool obeys(const TensorRule& rule, nvinfer1::DataType type, nvinfer1::DataType typeOfInput0) {
  switch (rule.type) {
    case TypeRule::kData:
      return isData(type) && type == typeOfInput0;
    case TypeRule::kFloat:
      return type == nvinfer1::DataType::kFLOAT;
    case TypeRule::kInt32:
      return type == nvinfer1::DataType::kINT32;
  }
  return false;
}

nvinfer1::DataType typeOf(const TensorRule& rule, nvinfer1::DataType typeOfInput0) {
  switch (rule.type) {
    case TypeRule::kData:
      return typeOfInput0;
    case TypeRule::kFloat:
      return nvinfer1::DataType::kFLOAT;
    case TypeRule::kInt32:
      return nvinfer1::DataType::kINT32;
  }
  return nvinfer1::DataType::kFLOAT;
}

const char* demand(const TensorRule& rule) {
  switch (rule.type) {
    case TypeRule::kData:
      return "must be FP32, FP16 or BF16, the same for all data tensors";
    case TypeRule::kFloat:
      return "must be FP32";
    case TypeRule::kInt32:
      return "must be INT32";
  }
  return "has no rule";
}

const char* typeName(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return "FP32";
    case nvinfer1::DataType::kHALF:
      return "FP16";
    case nvinfer1::DataType::kBF16:
      return "BF16";
    case nvinfer1::DataType::kINT32:
      return "INT32";
    case nvinfer1::DataType::kINT64:
      return "INT64";
    case nvinfer1::DataType::kBOOL:
      return "BOOL";
    default:
      return "another type";
  }
}

std::vector<nvinfer1::PluginTensorDesc> at(
    const nvinfer1::DynamicPluginTensorDesc* in, int32_t nbInputs,
    nvinfer1::Dims nvinfer1::DynamicPluginTensorDesc::* end) {
  std::vector<nvinfer1::PluginTensorDesc> tensors;
  for (int32_t i = 0; i < nbInputs; ++i) {
    tensors.push_back(in[i].desc);
    tensors.back().dims = in[i].*end;
  }
  return tensors;
}

}  // namespace

int64_t Inputs::rows(int32_t tensor) const {
  int64_t rows = 1;
  for (int32_t i = 0; i + 1 < desc[tensor].dims.nbDims; ++i) rows *= desc[tensor].dims.d[i];
  return rows;
}

DataType Inputs::dtype() const {
  switch (desc[0].type) {
    case nvinfer1::DataType::kHALF:
      return DataType::kHalf;
    case nvinfer1::DataType::kBF16:
      return DataType::kBFloat16;
    default:
      return DataType::kFloat;
  }
}

bool sameDims(const nvinfer1::Dims& a, const nvinfer1::Dims& b) {
  if (a.nbDims != b.nbDims) return false;
  for (int32_t i = 0; i < a.nbDims; ++i) {
    if (a.d[i] != b.d[i]) return false;
  }
  return true;
}

std::string PluginBase::initialise(const nvinfer1::PluginFieldCollection& fields,
                                   nvinfer1::TensorRTPhase phase) {
  // A plan holds every attribute. If one is missing at run time, the plan is foreign or damaged.
  const bool allRequired = phase == nvinfer1::TensorRTPhase::kRUNTIME;
  const std::string problem = readAttributes(fields, attributes(), allRequired);
  if (!problem.empty()) return problem;
  const char* reason = checkAttributes();
  return reason != nullptr ? reason + (" [" + describeAttributes(attributes()) + "]") : "";
}

nvinfer1::IPluginCapability* PluginBase::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {  // the casts select one of three IPluginCapability bases
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

int32_t PluginBase::getNbOutputs() const noexcept {
  return static_cast<int32_t>(signature().outputs.size());
}

bool PluginBase::supportsFormatCombination(int32_t pos,
                                           const nvinfer1::DynamicPluginTensorDesc* inOut,
                                           int32_t nbInputs, int32_t nbOutputs) noexcept {
  if (checkCount(nbInputs) != nullptr || nbOutputs != getNbOutputs()) return false;
  if (pos < 0 || pos >= nbInputs + nbOutputs) return false;
  const Signature& rules = signature();
  const TensorRule& rule = pos < nbInputs ? rules.inputs[pos] : rules.outputs[pos - nbInputs];
  const nvinfer1::PluginTensorDesc& tensor = inOut[pos].desc;  // those after pos are unset
  return tensor.format == nvinfer1::TensorFormat::kLINEAR &&
         obeys(rule, tensor.type, inOut[0].desc.type);
}

int32_t PluginBase::getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
                                       const nvinfer1::DataType* inputTypes,
                                       int32_t nbInputs) const noexcept {
  const char* reason = checkCount(nbInputs);
  if (reason != nullptr) return refuse(std::string(reason));
  const Signature& rules = signature();
  for (int32_t i = 0; i < nbInputs; ++i) {
    const TensorRule& rule = rules.inputs[i];
    if (!obeys(rule, inputTypes[i], inputTypes[0])) {
      return refuse(std::string(rule.name) + " " + demand(rule) + ", but it is " +
                    typeName(inputTypes[i]) + " and " + rules.inputs[0].name + " is " +
                    typeName(inputTypes[0]));
    }
  }
  for (int32_t i = 0; i < nbOutputs && i < getNbOutputs(); ++i) {
    outputTypes[i] = typeOf(rules.outputs[i], inputTypes[0]);
  }
  return nbOutputs == getNbOutputs() ? 0 : refuse(std::string("wrong number of outputs"));
}

int32_t PluginBase::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t nbInputs,
                                    const nvinfer1::DimsExprs*, int32_t nbShapeInputs,
                                    nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
                                    nvinfer1::IExprBuilder& builder) noexcept {
  const char* reason = checkCount(nbInputs);
  if (reason != nullptr) return refuse(std::string(reason));
  if (nbShapeInputs != 0) return refuse(std::string("takes no shape inputs"));
  if (nbOutputs != getNbOutputs()) return refuse(std::string("wrong number of outputs"));
  for (int32_t i = 0; i < nbInputs; ++i) {
    const TensorRule& rule = signature().inputs[i];
    const int32_t rank = inputs[i].nbDims;
    if (rule.rank != 0 ? rank != rule.rank : rank < 1) {
      return refuse(std::string(rule.name) + " must be of rank " +
                    (rule.rank != 0 ? std::to_string(rule.rank) : "1 or more") + ", not " +
                    std::to_string(rank));
    }
  }
  outputShapes(inputs, outputs, builder);
  return 0;
}

int32_t PluginBase::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t nbInputs,
                                    const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept {
  // If the kernels' limits hold at both ends of the profile, they hold everywhere in it.
  for (auto end : {&nvinfer1::DynamicPluginTensorDesc::min, &nvinfer1::DynamicPluginTensorDesc::opt,
                   &nvinfer1::DynamicPluginTensorDesc::max}) {
    const std::vector<nvinfer1::PluginTensorDesc> tensors = at(in, nbInputs, end);
    const Inputs inputs{tensors.data(), nbInputs};
    const char* reason = checkTensors(inputs);
    if (reason != nullptr) return refuse(reason, inputs);
  }
  return 0;
}

size_t PluginBase::getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t nbInputs,
                                    const nvinfer1::DynamicPluginTensorDesc*,
                                    int32_t) const noexcept {
  const std::vector<nvinfer1::PluginTensorDesc> tensors =
      at(in, nbInputs, &nvinfer1::DynamicPluginTensorDesc::max);
  const Inputs inputs{tensors.data(), nbInputs};
  return checkTensors(inputs) == nullptr ? workspaceSize(inputs) : 0;
}

const char* PluginBase::getTimingCacheID() noexcept {
  timingCacheId_ = describeAttributes(attributes());
  return timingCacheId_.c_str();
}

int32_t PluginBase::onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t nbInputs,
                                  const nvinfer1::PluginTensorDesc*, int32_t) noexcept {
  const Inputs inputs{in, nbInputs};
  const char* reason = checkTensors(inputs);
  nbInputs_ = reason == nullptr ? nbInputs : 0;
  return reason == nullptr ? 0 : refuse(reason, inputs);
}

int32_t PluginBase::enqueue(const nvinfer1::PluginTensorDesc* inputDesc,
                            const nvinfer1::PluginTensorDesc*, const void* const* inputs,
                            void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  const Inputs shapes{inputDesc, nbInputs_};
  const char* reason = checkTensors(shapes);
  if (reason != nullptr) return refuse(reason, shapes);
  if (workspace == nullptr && workspaceSize(shapes) > 0) return refuse("no workspace", shapes);
  const cudaError_t status = launch(shapes, inputs, outputs, workspace, stream);
  return status == cudaSuccess ? 0 : refuse(cudaGetErrorString(status), shapes);
}

const nvinfer1::PluginFieldCollection* PluginBase::getFieldsToSerialize() noexcept {
  fields_ = attributeFields(attributes());
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  return &collection_;
}

const char* PluginBase::checkCount(int32_t nbInputs) const {
  const std::vector<TensorRule>& rules = signature().inputs;
  const bool tooMany = nbInputs > static_cast<int32_t>(rules.size());
  const bool tooFew = nbInputs < 1 || (!tooMany && nbInputs < static_cast<int32_t>(rules.size()) &&
                                       !rules[nbInputs].optional);
  return tooMany ? "too many inputs" : tooFew ? "too few inputs" : nullptr;
}

const char* PluginBase::checkTensors(const Inputs& inputs) const {
  const char* reason = checkCount(inputs.count);
  if (reason != nullptr) return reason;
  for (int32_t i = 0; i < inputs.count; ++i) {
    const TensorRule& rule = signature().inputs[i];
    const nvinfer1::PluginTensorDesc& tensor = inputs.desc[i];
    if (!obeys(rule, tensor.type, inputs.desc[0].type)) return "an input has the wrong type";
    if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return "tensors must be linear";
    if (rule.rank != 0 ? tensor.dims.nbDims != rule.rank : tensor.dims.nbDims < 1) {
      return "an input has the wrong rank";
    }
    int64_t elements = 1;
    for (int32_t axis = 0; axis < tensor.dims.nbDims; ++axis) {
      const int64_t dim = tensor.dims.d[axis];
      if (dim < 0 || dim > std::numeric_limits<int32_t>::max()) {
        return "a dimension is not within 0 to 2^31 - 1";
      }
      if (dim > 0 && elements > kMaxElements / dim) return "a tensor has over 2^40 elements";
      elements *= dim;
    }
  }
  return checkShapes(inputs);
}

int32_t PluginBase::refuse(const std::string& reason) const noexcept {
  logError(std::string(getPluginName()) + ": " + reason);
  return kRefused;
}

int32_t PluginBase::refuse(const char* reason, const Inputs& inputs) const noexcept {
  // attributes() returns pointers to members, so it is not const. Reading through them is.
  std::string details = describeAttributes(const_cast<PluginBase*>(this)->attributes());
  const std::vector<TensorRule>& rules = signature().inputs;
  for (int32_t i = 0; i < inputs.count; ++i) {
    const nvinfer1::PluginTensorDesc& tensor = inputs.desc[i];
    details += details.empty() ? "" : ", ";
    details += i < static_cast<int32_t>(rules.size()) ? rules[i].name : "input";
    details += std::string(" ") + typeName(tensor.type) + " ";
    for (int32_t axis = 0; axis < tensor.dims.nbDims; ++axis) {
      details += (axis == 0 ? "" : "x") + std::to_string(tensor.dims.d[axis]);
    }
  }
  return refuse(std::string(reason) + " [" + details + "]");
}

}  // namespace lite
