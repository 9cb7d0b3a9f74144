#include "case_file.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <utility>

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;

constexpr std::pair<DataType, const char*> kTypes[] = {
    {DataType::kFLOAT, "FLOAT"}, {DataType::kHALF, "HALF"},   {DataType::kBF16, "BF16"},
    {DataType::kINT32, "INT32"}, {DataType::kINT64, "INT64"}, {DataType::kINT8, "INT8"},
    {DataType::kBOOL, "BOOL"},   {DataType::kUINT8, "UINT8"}, {DataType::kFP8, "FP8"},
};

constexpr std::pair<PluginFieldType, const char*> kFieldTypes[] = {
    {PluginFieldType::kINT32, "INT32"},     {PluginFieldType::kFLOAT32, "FLOAT32"},
    {PluginFieldType::kCHAR, "CHAR"},       {PluginFieldType::kINT64, "INT64"},
    {PluginFieldType::kFLOAT64, "FLOAT64"}, {PluginFieldType::kFLOAT16, "FLOAT16"},
    {PluginFieldType::kBF16, "BF16"},       {PluginFieldType::kINT8, "INT8"},
    {PluginFieldType::kINT16, "INT16"},     {PluginFieldType::kDIMS, "DIMS"},
    {PluginFieldType::kUNKNOWN, "UNKNOWN"},
};

DataType readType(const std::string& word) {
  for (const auto& [type, name] : kTypes) {
    if (word == name) return type;
  }
  throw UsageError("unknown type '" + word + "'");
}

nvinfer1::Dims readDims(const std::string& word) {
  nvinfer1::Dims dims{};
  if (word == ".") return dims;
  std::istringstream in(word);
  std::string number;
  while (std::getline(in, number, ',')) {
    if (dims.nbDims == nvinfer1::Dims::MAX_DIMS) throw UsageError("too many dimensions: " + word);
    size_t used = 0;
    try {
      dims.d[dims.nbDims++] = std::stoll(number, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    if (used == 0 || used != number.size()) throw UsageError("bad shape '" + word + "'");
  }
  return dims;
}

void readNumber(const char* word, char** end, int32_t& value) {
  const long wide = std::strtol(word, end, 10);
  value = static_cast<int32_t>(wide);
  if (value != wide) throw UsageError("an INT attribute is not a 32-bit integer");
}

void readNumber(const char* word, char** end, float& value) { value = std::strtof(word, end); }

template <typename T>
NodeAttribute numbers(std::istringstream& words, PluginFieldType type, bool single) {
  std::vector<T> values;
  for (std::string word; words >> word;) {
    char* end = nullptr;
    readNumber(word.c_str(), &end, values.emplace_back());
    if (*end != '\0') throw UsageError("bad attribute value '" + word + "'");
  }
  if (single && values.size() != 1) throw UsageError("an attribute needs one value");
  NodeAttribute attribute{"", type, static_cast<int32_t>(values.size()), {}};
  attribute.bytes.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(attribute.bytes.data(), values.data(), attribute.bytes.size());
  return attribute;
}

NodeAttribute readAttribute(std::istringstream& words) {
  std::string name;
  std::string kind;
  words >> name >> kind;
  NodeAttribute attribute;
  if (kind == "INT" || kind == "INTS") {
    attribute = numbers<int32_t>(words, PluginFieldType::kINT32, kind == "INT");
  } else if (kind == "FLOAT" || kind == "FLOATS") {
    attribute = numbers<float>(words, PluginFieldType::kFLOAT32, kind == "FLOAT");
  } else if (kind == "STRING") {
    words.get();  // the one space before the text
    std::string value{std::istreambuf_iterator<char>(words), {}};
    attribute = {"", PluginFieldType::kCHAR, static_cast<int32_t>(value.size() + 1), {}};
    attribute.bytes.assign(value.c_str(), value.c_str() + value.size() + 1);
  } else {
    throw UsageError("unknown attribute type '" + kind + "'");
  }
  attribute.name = name;
  return attribute;
}

Run readRun(std::istringstream& words, const Case& c) {
  Run run;
  bool afterArrow = false;
  for (std::string word; words >> word;) {
    if (word == "->") {
      afterArrow = true;
    } else {
      (afterArrow ? run.outputs : run.inputs).push_back(readDims(word));
    }
  }
  if (run.inputs.size() != c.inputTypes.size() || run.outputs.size() != c.outputTypes.size()) {
    throw UsageError("a run needs a shape for every input and output");
  }
  return run;
}

void readLine(const std::string& directive, std::istringstream& words, Case& c) {
  std::string word;
  if (directive == "node") {
    words >> c.plugin >> c.version >> c.pluginNamespace;
    if (c.pluginNamespace == "-") c.pluginNamespace.clear();
  } else if (directive == "attribute") {
    c.attributes.push_back(readAttribute(words));
  } else if (directive == "input" || directive == "output") {
    words >> word;
    (directive == "input" ? c.inputTypes : c.outputTypes).push_back(readType(word));
  } else if (directive == "types") {
    c.acceptedTypes.emplace_back();
    while (words >> word) c.acceptedTypes.back().push_back(readType(word));
  } else if (directive == "run") {
    c.runs.push_back(readRun(words, c));
  } else if (directive == "data") {
    words >> c.dataPath;
  } else if (directive == "result") {
    words >> c.resultPath;
  } else {
    throw UsageError("unknown line '" + directive + "'");
  }
}

void checkCase(const Case& c) {
  if (c.plugin.empty() || c.version.empty()) throw UsageError("a case needs a node line");
  if (c.runs.empty()) throw UsageError("a case needs a run line");
  for (const auto& types : c.acceptedTypes) {
    if (types.size() != c.inputTypes.size() + c.outputTypes.size()) {
      throw UsageError("a types line needs a type for every input and output");
    }
  }
  for (const Run& run : c.runs) {
    for (size_t i = 0; i < run.inputs.size(); ++i) {
      if (run.inputs[i].nbDims != c.runs[0].inputs[i].nbDims) {
        throw UsageError("an input's rank must be the same in every run");
      }
    }
  }
}

}  // namespace

bool operator==(const NodeAttribute& a, const NodeAttribute& b) {
  return a.name == b.name && a.type == b.type && a.length == b.length && a.bytes == b.bytes;
}

std::vector<Case> readCases(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw UsageError("cannot read " + path);
  std::vector<Case> cases;
  bool open = false;
  int number = 0;
  try {
    for (std::string line; std::getline(file, line);) {
      ++number;
      std::istringstream words(line);
      std::string directive;
      if (!(words >> directive) || directive[0] == '#') continue;
      if (directive == "case") {
        if (open) throw UsageError("the case before has no end");
        cases.emplace_back();
        words >> cases.back().name;
        open = true;
      } else if (!open) {
        throw UsageError("'" + directive + "' outside a case");
      } else if (directive == "end") {
        checkCase(cases.back());
        open = false;
      } else {
        readLine(directive, words, cases.back());
      }
    }
    if (open) throw UsageError("the last case has no end");
  } catch (const UsageError& error) {
    throw UsageError(path + ":" + std::to_string(number) + ": " + error.what());
  }
  return cases;
}

std::string text(DataType type) {
  for (const auto& [known, name] : kTypes) {
    if (type == known) return name;
  }
  return "type " + std::to_string(static_cast<int32_t>(type));
}

std::string text(PluginFieldType type) {
  for (const auto& [known, name] : kFieldTypes) {
    if (type == known) return name;
  }
  return "type " + std::to_string(static_cast<int32_t>(type));
}

std::string text(const nvinfer1::Dims& dims) {
  std::string result;
  for (int32_t i = 0; i < dims.nbDims; ++i) {
    result += (i == 0 ? "" : ",") + std::to_string(dims.d[i]);
  }
  return "[" + result + "]";
}

bool same(const nvinfer1::Dims& a, const nvinfer1::Dims& b) { return text(a) == text(b); }

size_t tensorBytes(DataType type, const nvinfer1::Dims& dims) {
  size_t bytes = 0;
  switch (type) {
    case DataType::kINT64:
      bytes = 8;
      break;
    case DataType::kFLOAT:
    case DataType::kINT32:
      bytes = 4;
      break;
    case DataType::kHALF:
    case DataType::kBF16:
      bytes = 2;
      break;
    case DataType::kINT8:
    case DataType::kBOOL:
    case DataType::kUINT8:
      bytes = 1;
      break;
    default:
      throw UsageError("the host does not feed tensors of " + text(type));
  }
  for (int32_t i = 0; i < dims.nbDims; ++i) bytes *= static_cast<size_t>(dims.d[i]);
  return bytes;
}

}  // namespace host
