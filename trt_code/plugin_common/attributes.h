// The attributes of a plugin, told once: what the creator declares, reads, serialises and puts into
// the timing cache's key all comes from one table, so none of the four can forget an attribute.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace lite {

// One scalar attribute and the plugin's member that holds it. The table that a plugin returns
// points into that plugin, so it is made anew at each use and never copied with the plugin.
struct Attribute {
  Attribute(const char* name, int32_t& value, bool required = false)
      : name(name), type(nvinfer1::PluginFieldType::kINT32), value(&value), required(required) {}
  Attribute(const char* name, float& value, bool required = false)
      : name(name), type(nvinfer1::PluginFieldType::kFLOAT32), value(&value), required(required) {}

  const char* name;
  nvinfer1::PluginFieldType type;  // kINT32 or kFLOAT32: four bytes either way
  void* value;
  bool required;
};

using Attributes = std::vector<Attribute>;

// Copies the fields' values into the members. Returns "" or why they cannot be taken: a required
// one is missing (all of them are when `allRequired`), one has another type or length, one is
// unknown.
std::string readAttributes(const nvinfer1::PluginFieldCollection& fields,
                           const Attributes& attributes, bool allRequired);

// Names and types for the creator; the values' pointers are left null.
std::vector<nvinfer1::PluginField> declareAttributes(const Attributes& attributes);

// Fields that point at the members, for serialisation.
std::vector<nvinfer1::PluginField> attributeFields(const Attributes& attributes);

// "padding_l=1 fused=0", floats exactly.
std::string describeAttributes(const Attributes& attributes);

}  // namespace lite
