// The attributes of a plugin, defined once. The creator declares, reads and serialises them, and
// puts them into the timing cache's key, from one table. So none of these four can miss an
// attribute.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace lite {

// One scalar attribute, and the plugin's member that holds it. A plugin's table points into that
// plugin, so it is created at each use and never copied with the plugin.
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

// Copies the fields' values into the members. Returns "" or the reason for an error: a required
// attribute is missing (with `allRequired`, all are required), one has the wrong type or length, or
// one is unknown.
std::string readAttributes(const nvinfer1::PluginFieldCollection& fields,
                           const Attributes& attributes, bool allRequired);

// Names and types for the creator. The pointers to values are null.
std::vector<nvinfer1::PluginField> declareAttributes(const Attributes& attributes);

// Fields that point to the members, for serialisation.
std::vector<nvinfer1::PluginField> attributeFields(const Attributes& attributes);

// Returns a text such as "padding_l=1 fused=0". Floats are exact.
std::string describeAttributes(const Attributes& attributes);

}  // namespace lite
