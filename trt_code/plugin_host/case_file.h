// What the host is told to do with a plugin: one node, as an ONNX graph would hold it, and the
// shapes to run it at. A case file is lines of words; `#` starts a comment:
//
//   case conv-fp16                        the name that the report carries
//   node LiteDynamicConv 1 -              op_type, plugin_version, plugin_namespace ("-" is empty)
//   attribute padding_l INT 1             INT, INTS, FLOAT, FLOATS or STRING (the rest of the line)
//   input HALF                            the inputs' types, in order ...
//   output HALF                           ... and the types that the outputs must get
//   types HALF HALF HALF                  a combination of all types that the plugin takes; with
//   one
//                                         such line given, all others must be refused (optional)
//   run 2,8,5 2,4,3,5 -> 2,8,5            shapes of inputs and expected outputs ("." is rank 0)
//   data in.bin                           the inputs' bytes, run after run (optional: random bytes)
//   result out.bin                        where the outputs' bytes go (optional)
//   end
//
// A dimension that differs between the runs is dynamic; the optimisation profile is the smallest
// and largest of each, with the first run as its optimum.
#pragma once

#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace host {

// A case file, a library or a command line that cannot be used.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An attribute in the form in which the ONNX parser passes it: INT(S) as kINT32, FLOAT(S) as
// kFLOAT32, STRING as kCHAR with its NUL counted.
struct NodeAttribute {
  std::string name;
  nvinfer1::PluginFieldType type;
  int32_t length;
  std::vector<unsigned char> bytes;
};
bool operator==(const NodeAttribute& a, const NodeAttribute& b);

struct Run {
  std::vector<nvinfer1::Dims> inputs;
  std::vector<nvinfer1::Dims> outputs;
};

struct Case {
  std::string name;
  std::string plugin;
  std::string version;
  std::string pluginNamespace;
  std::vector<NodeAttribute> attributes;
  std::vector<nvinfer1::DataType> inputTypes;
  std::vector<nvinfer1::DataType> outputTypes;
  std::vector<std::vector<nvinfer1::DataType>> acceptedTypes;
  std::vector<Run> runs;
  std::string dataPath;
  std::string resultPath;
};

// Reads all cases of a file. Throws UsageError with file and line.
std::vector<Case> readCases(const std::string& path);

std::string text(nvinfer1::DataType type);
std::string text(nvinfer1::PluginFieldType type);
std::string text(const nvinfer1::Dims& dims);
bool same(const nvinfer1::Dims& a, const nvinfer1::Dims& b);
// Bytes of a dense tensor. Throws UsageError for types that the host does not feed.
size_t tensorBytes(nvinfer1::DataType type, const nvinfer1::Dims& dims);

}  // namespace host
