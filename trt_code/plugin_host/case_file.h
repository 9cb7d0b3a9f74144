// Describes a test case of the plugin host: one node, as in an ONNX graph, and the shapes to run it
// with. A case file consists of lines of words; `#` starts a comment:
//
//   case conv-fp16                        the name in the report
//   node LiteDynamicConv 1 -              op_type, plugin_version, plugin_namespace ("-" is empty)
//   attribute padding_l INT 1             INT, INTS, FLOAT, FLOATS or STRING (the rest of the line)
//   input HALF                            the types of the inputs, in order ...
//   output HALF                           ... and the types that the outputs must have
//   types HALF HALF HALF                  a combination of all types that the plugin accepts;
//                                         if such lines are given, it must refuse all others
//                                         (optional)
//   run 2,8,5 2,4,3,5 -> 2,8,5            shapes of inputs and expected outputs ("." is rank 0)
//   data in.bin                           the bytes of the inputs, run after run (default: random)
//   result out.bin                        file for the bytes of the outputs (optional)
//   end
//
// A dimension that differs between the runs is dynamic. The optimisation profile has the smallest
// and the largest value of each dimension, and the first run as its optimum.
#pragma once

#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace host {

// An error: a case file, a library or a command line that cannot be used.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An attribute in the form that the ONNX parser passes: INT(S) as kINT32, FLOAT(S) as kFLOAT32,
// STRING as kCHAR with its NUL counted.
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
// Returns the size of a dense tensor in bytes. Throws UsageError for types that the host does not
// support.
size_t tensorBytes(nvinfer1::DataType type, const nvinfer1::Dims& dims);

}  // namespace host
