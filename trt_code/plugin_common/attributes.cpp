#include "plugin_common/attributes.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace lite {
namespace {

constexpr size_t kValueBytes = 4;

const char* onnxType(nvinfer1::PluginFieldType type) {
  return type == nvinfer1::PluginFieldType::kINT32 ? "INT" : "FLOAT";
}

}  // namespace

std::string readAttributes(const nvinfer1::PluginFieldCollection& fields,
                           const Attributes& attributes, bool allRequired) {
  std::vector<bool> seen(attributes.size(), false);
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const nvinfer1::PluginField& field = fields.fields[i];
    const std::string name = field.name != nullptr ? field.name : "";
    const auto found = std::find_if(attributes.begin(), attributes.end(),
                                    [&](const Attribute& a) { return name == a.name; });
    if (found == attributes.end()) return "unknown attribute '" + name + "'";
    if (field.type != found->type || field.length != 1 || field.data == nullptr) {
      return "attribute '" + name + "' must be one " + onnxType(found->type);
    }
    std::memcpy(found->value, field.data, kValueBytes);
    seen[found - attributes.begin()] = true;
  }
  for (size_t i = 0; i < attributes.size(); ++i) {
    if (!seen[i] && (allRequired || attributes[i].required)) {
      return std::string("attribute '") + attributes[i].name + "' is missing";
    }
  }
  return "";
}

std::vector<nvinfer1::PluginField> declareAttributes(const Attributes& attributes) {
  std::vector<nvinfer1::PluginField> fields;
  for (const Attribute& a : attributes) fields.emplace_back(a.name, nullptr, a.type, 1);
  return fields;
}

std::vector<nvinfer1::PluginField> attributeFields(const Attributes& attributes) {
  std::vector<nvinfer1::PluginField> fields;
  for (const Attribute& a : attributes) fields.emplace_back(a.name, a.value, a.type, 1);
  return fields;
}

std::string describeAttributes(const Attributes& attributes) {
  std::string text;
  for (const Attribute& a : attributes) {
    char value[32];
    if (a.type == nvinfer1::PluginFieldType::kINT32) {
      std::snprintf(value, sizeof(value), "%d", *static_cast<const int32_t*>(a.value));
    } else {  // nine digits distinguish any two floats
      std::snprintf(value, sizeof(value), "%.9g", *static_cast<const float*>(a.value));
    }
    text += (text.empty() ? "" : " ") + std::string(a.name) + "=" + value;
  }
  return text;
}

}  // namespace lite
