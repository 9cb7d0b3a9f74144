#include "life.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <set>

#include "device.h"
#include "expressions.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV3;
using nvinfer1::IPluginV3OneBuild;
using nvinfer1::IPluginV3OneCore;
using nvinfer1::IPluginV3OneRuntime;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

constexpr auto kNoType = static_cast<DataType>(-1);
constexpr unsigned char kScribble = 0xa5;
constexpr size_t kMaxCombinations = 4096;

struct Fault {
  std::string message;
};
struct Refusal {
  std::string message;
};

void expect(bool holds, const std::string& message) {
  if (!holds) throw Fault{message};
}

size_t fieldBytes(PluginFieldType type, int32_t length) {
  const auto count = static_cast<size_t>(length);
  switch (type) {
    case PluginFieldType::kFLOAT64:
    case PluginFieldType::kINT64:
      return 8 * count;
    case PluginFieldType::kFLOAT32:
    case PluginFieldType::kINT32:
      return 4 * count;
    case PluginFieldType::kFLOAT16:
    case PluginFieldType::kBF16:
    case PluginFieldType::kINT16:
      return 2 * count;
    case PluginFieldType::kDIMS:
      return sizeof(Dims) * count;
    default:
      return count;
  }
}

// Copies of fields, each in memory of exactly its size. They are passed to a plugin for one call
// and overwritten afterwards. So if the plugin keeps a pointer to them, it later reads invalid
// data.
class FieldCopies {
 public:
  explicit FieldCopies(const std::vector<NodeAttribute>& attributes) {
    for (const NodeAttribute& a : attributes) {
      names_.push_back(std::make_unique<std::string>(a.name));
      data_.push_back(std::make_unique<Bytes>(a.bytes));
      fields_.emplace_back(names_.back()->c_str(), data_.back()->data(), a.type, a.length);
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  }
  ~FieldCopies() {
    for (auto& name : names_) std::fill(name->begin(), name->end(), '?');
    for (auto& data : data_) std::fill(data->begin(), data->end(), kScribble);
    std::fill(fields_.begin(), fields_.end(), PluginField{});
  }
  FieldCopies(const FieldCopies&) = delete;
  FieldCopies& operator=(const FieldCopies&) = delete;

  const PluginFieldCollection* get() const { return &collection_; }

 private:
  std::vector<std::unique_ptr<std::string>> names_;
  std::vector<std::unique_ptr<Bytes>> data_;
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_{};
};

class Life {
 public:
  Life(const Library& library, Logger& logger, const Case& c, const Options& options,
       Outcome& outcome)
      : library_(library), logger_(logger), case_(c), options_(options), outcome_(outcome) {}

  void run() {
    logger_.takeErrors();
    creatorFields();
    build();
    execute();
    const std::string errors = logger_.takeErrors();
    expect(errors.empty(), "an error was logged although every call succeeded: " + errors);
  }

 private:
  using Plugin = std::unique_ptr<IPluginV3>;

  void enter(const char* stage) { outcome_.stage = stage; }

  // Makes a call that may refuse. If it does, it must have logged the reason.
  void accept(bool accepted, const std::string& what) {
    if (accepted) return;
    const std::string reason = logger_.takeErrors();
    expect(!reason.empty(), what + " refused without logging a reason");
    throw Refusal{reason};
  }

  template <typename Capability>
  static Capability* capability(const Plugin& plugin, PluginCapabilityType type) {
    nvinfer1::IPluginCapability* found = plugin->getCapabilityInterface(type);
    expect(found != nullptr, "getCapabilityInterface returned nullptr");
    const std::string kind = found->getInterfaceInfo().kind;
    const char* wanted = type == PluginCapabilityType::kCORE    ? "PLUGIN_V3ONE_CORE"
                         : type == PluginCapabilityType::kBUILD ? "PLUGIN_V3ONE_BUILD"
                                                                : "PLUGIN_V3ONE_RUNTIME";
    expect(kind == wanted, "getCapabilityInterface gave " + kind + " for " + wanted);
    return static_cast<Capability*>(found);
  }
  static IPluginV3OneBuild* buildOf(const Plugin& plugin) {
    return capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
  }
  static IPluginV3OneRuntime* runtimeOf(const Plugin& plugin) {
    return capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
  }

  // --- the creator -------------------------------------------------------------------------------

  void creatorFields() {
    enter("fields");
    creator_ = library_.find(case_.plugin, case_.version, case_.pluginNamespace);
    if (creator_ == nullptr) {
      throw Refusal{"no creator of that name, version and namespace: " + case_.plugin};
    }
    const PluginFieldCollection* declared = creator_->getFieldNames();
    expect(declared != nullptr, "getFieldNames returned nullptr");
    std::set<std::string> names;
    for (int32_t i = 0; i < declared->nbFields; ++i) {
      expect(declared->fields[i].name != nullptr, "a declared field has no name");
      const std::string name = declared->fields[i].name;
      expect(names.insert(name).second, "field '" + name + "' is declared twice");
      for (const NodeAttribute& a : case_.attributes) {
        if (a.name != name) continue;
        expect(a.type == declared->fields[i].type, "field '" + name + "' is declared " +
                                                       text(declared->fields[i].type) +
                                                       ", but the parser passes " + text(a.type));
        passed_.push_back(a);  // in the declared order, as the parser does
      }
    }
    for (const NodeAttribute& a : case_.attributes) {
      expect(names.count(a.name) != 0 || options_.dropUndeclared,
             "attribute '" + a.name +
                 "' is not declared by getFieldNames: the ONNX parser drops it without a word");
    }
  }

  Plugin create(const std::vector<NodeAttribute>& fields, TensorRTPhase phase) {
    const FieldCopies copies(fields);
    const std::string node = "host/" + case_.name;
    return Plugin(creator_->createPlugin(node.c_str(), copies.get(), phase));
  }

  // --- the build phase ---------------------------------------------------------------------------

  void build() {
    enter("create");
    Plugin made = create(passed_, TensorRTPhase::kBUILD);
    accept(made != nullptr, "createPlugin");
    names(made);
    const std::vector<NodeAttribute> fields = serialised(made);

    enter("clone");  // the network keeps a clone; the caller destroys the original
    Plugin plugin = copy(made, made->clone(), "clone");
    made.reset();
    names(plugin);
    expect(serialised(plugin) == fields, "a clone has other fields once its original is destroyed");

    IPluginV3OneBuild* build = buildOf(plugin);
    types(build);
    shapes(build);
    describe();
    formats(build);
    configure(build);
    workspace(build);
    tactics(plugin);
    const char* id = build->getTimingCacheID();
    outcome_.timingCacheId = id != nullptr ? id : "";

    enter("serialise");
    plan_ = serialised(plugin);
    expect(plan_ == fields, "the build phase changed the serialised fields");
    expect(serialised(plugin) == plan_, "serialising twice gives two results");
    for (const NodeAttribute& a : passed_) {
      expect(std::find(plan_.begin(), plan_.end(), a) != plan_.end(),
             "attribute '" + a.name + "' is not serialised with the value that was given");
    }
  }

  // Checks before it takes ownership: the original would otherwise be destroyed twice.
  static Plugin copy(const Plugin& original, IPluginV3* made, const std::string& what) {
    expect(made != nullptr && made != original.get(), what + " gave no new plugin");
    return Plugin(made);
  }

  void names(const Plugin& plugin) const {
    auto* core = capability<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
    expect(case_.plugin == core->getPluginName() && case_.version == core->getPluginVersion() &&
               case_.pluginNamespace == core->getPluginNamespace(),
           "plugin and creator differ in name, version or namespace");
  }

  static std::vector<NodeAttribute> serialised(const Plugin& plugin) {
    const PluginFieldCollection* fields = runtimeOf(plugin)->getFieldsToSerialize();
    expect(fields != nullptr, "getFieldsToSerialize returned nullptr");
    std::vector<NodeAttribute> copies;
    std::set<std::string> names;
    for (int32_t i = 0; i < fields->nbFields; ++i) {
      const PluginField& field = fields->fields[i];
      expect(field.name != nullptr && field.length >= 0, "a serialised field is malformed");
      expect(names.insert(field.name).second, std::string(field.name) + " is serialised twice");
      const size_t bytes = fieldBytes(field.type, field.length);
      expect(field.data != nullptr || bytes == 0, std::string(field.name) + " has no data");
      const auto* data = static_cast<const unsigned char*>(field.data);
      copies.push_back({field.name, field.type, field.length, Bytes(data, data + bytes)});
    }
    return copies;
  }

  void types(IPluginV3OneBuild* build) {
    enter("types");
    const auto nbOutputs = static_cast<int32_t>(case_.outputTypes.size());
    expect(build->getNbOutputs() == nbOutputs, "getNbOutputs is " +
                                                   std::to_string(build->getNbOutputs()) +
                                                   ", the node has " + std::to_string(nbOutputs));
    std::vector<DataType> given(nbOutputs, kNoType);
    const int32_t status =
        build->getOutputDataTypes(given.data(), nbOutputs, case_.inputTypes.data(), nbInputs());
    accept(status == 0, "getOutputDataTypes");
    for (int32_t i = 0; i < nbOutputs; ++i) {
      expect(given[i] == case_.outputTypes[i], "output " + std::to_string(i) + " got type " +
                                                   text(given[i]) + " instead of " +
                                                   text(case_.outputTypes[i]));
    }
  }

  bool isDynamic(int32_t input, int32_t axis) const {
    for (const Run& run : case_.runs) {
      if (run.inputs[input].d[axis] != case_.runs[0].inputs[input].d[axis]) return true;
    }
    return false;
  }

  void shapes(IPluginV3OneBuild* build) {
    enter("shapes");
    for (const bool allDynamic : {false, true}) {
      Expressions expressions;
      std::vector<nvinfer1::DimsExprs> inputs(nbInputs());
      for (int32_t i = 0; i < nbInputs(); ++i) {
        const Dims& dims = case_.runs[0].inputs[i];
        inputs[i].nbDims = dims.nbDims;
        for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
          inputs[i].d[axis] = allDynamic || isDynamic(i, axis) ? expressions.dynamic({i, axis})
                                                               : expressions.constant(dims.d[axis]);
        }
      }
      std::vector<nvinfer1::DimsExprs> outputs(case_.outputTypes.size());
      for (auto& output : outputs) output.nbDims = -1;
      const int32_t status =
          build->getOutputShapes(inputs.data(), nbInputs(), nullptr, 0, outputs.data(), nbOutputs(),
                                 expressions.builder());
      accept(status == 0, "getOutputShapes");
      for (const Run& run : case_.runs) {
        for (int32_t i = 0; i < nbOutputs(); ++i) {
          const Dims given = evaluate(expressions, outputs[i], run.inputs);
          expect(same(given, run.outputs[i]), "output " + std::to_string(i) + " got shape " +
                                                  text(given) + " instead of " +
                                                  text(run.outputs[i]));
        }
      }
    }
  }

  static Dims evaluate(const Expressions& expressions, const nvinfer1::DimsExprs& shape,
                       const std::vector<Dims>& inputs) {
    expect(shape.nbDims >= 0 && shape.nbDims <= Dims::MAX_DIMS, "an output shape was not set");
    Dims dims{};
    dims.nbDims = shape.nbDims;
    for (int32_t axis = 0; axis < shape.nbDims; ++axis) {
      dims.d[axis] = expressions.evaluate(shape.d[axis], inputs);
    }
    return dims;
  }

  static PluginTensorDesc tensor(DataType type, const Dims& dims) {
    return {dims, type, TensorFormat::kLINEAR, 1.0f};
  }

  // The tensors as the builder describes them: -1 for dynamic dimensions, plus the profile.
  void describe() {
    const auto add = [&](DataType type, const std::function<const Dims&(const Run&)>& of) {
      DynamicPluginTensorDesc d{tensor(type, of(case_.runs[0])), of(case_.runs[0]),
                                of(case_.runs[0]), of(case_.runs[0])};
      for (const Run& run : case_.runs) {
        for (int32_t axis = 0; axis < d.min.nbDims; ++axis) {
          d.min.d[axis] = std::min(d.min.d[axis], of(run).d[axis]);
          d.max.d[axis] = std::max(d.max.d[axis], of(run).d[axis]);
          if (d.min.d[axis] != d.max.d[axis]) d.desc.dims.d[axis] = -1;
        }
      }
      tensors_.push_back(d);
    };
    for (int32_t i = 0; i < nbInputs(); ++i) {
      add(case_.inputTypes[i], [i](const Run& run) -> const Dims& { return run.inputs[i]; });
    }
    for (int32_t i = 0; i < nbOutputs(); ++i) {
      add(case_.outputTypes[i], [i](const Run& run) -> const Dims& { return run.outputs[i]; });
    }
  }

  const DynamicPluginTensorDesc* outputDescs() const { return tensors_.data() + nbInputs(); }

  // Visits every combination of types that the plugin accepts, position by position.
  void formats(IPluginV3OneBuild* build) {
    enter("formats");
    std::vector<DataType> own = case_.inputTypes;
    own.insert(own.end(), case_.outputTypes.begin(), case_.outputTypes.end());
    std::vector<std::vector<DataType>> accepted;
    std::vector<DynamicPluginTensorDesc> inOut = tensors_;
    std::vector<DataType> prefix;
    walk(build, inOut, prefix, accepted);
    expect(
        contains(accepted, own),
        "getOutputDataTypes takes these types, supportsFormatCombination does not: " + list(own));
    if (case_.acceptedTypes.empty()) return;
    for (const auto& types : accepted) {
      expect(contains(case_.acceptedTypes, types),
             "accepts types that it must refuse: " + list(types));
    }
    for (const auto& types : case_.acceptedTypes) {
      expect(contains(accepted, types), "refuses types that it must accept: " + list(types));
    }
  }

  void walk(IPluginV3OneBuild* build, std::vector<DynamicPluginTensorDesc>& inOut,
            std::vector<DataType>& prefix, std::vector<std::vector<DataType>>& accepted) {
    const auto pos = static_cast<int32_t>(prefix.size());
    if (pos == nbInputs() + nbOutputs()) {
      std::vector<DataType> outputs(nbOutputs(), kNoType);
      const int32_t status =
          build->getOutputDataTypes(outputs.data(), nbOutputs(), prefix.data(), nbInputs());
      expect(status == 0 && std::equal(outputs.begin(), outputs.end(), prefix.begin() + nbInputs()),
             "supportsFormatCombination and getOutputDataTypes disagree on " + list(prefix));
      accepted.push_back(prefix);
      expect(accepted.size() <= kMaxCombinations, "accepts thousands of type combinations");
      return;
    }
    for (int32_t type = 0; type < nvinfer1::EnumMax<DataType>(); ++type) {
      for (int32_t format = 0; format < nvinfer1::EnumMax<TensorFormat>(); ++format) {
        inOut[pos].desc.type = static_cast<DataType>(type);
        inOut[pos].desc.format = static_cast<TensorFormat>(format);
        if (!supports(build, pos, inOut)) continue;
        expect(format == 0, "accepts format " + std::to_string(format) + " at position " +
                                std::to_string(pos) + ", which is not linear");
        prefix.push_back(static_cast<DataType>(type));
        walk(build, inOut, prefix, accepted);
        prefix.pop_back();
      }
      inOut[pos].desc.format = TensorFormat::kLINEAR;
    }
  }

  // The answer may only depend on positions up to pos. The positions after it are filled with two
  // kinds of invalid data.
  bool supports(IPluginV3OneBuild* build, int32_t pos, std::vector<DynamicPluginTensorDesc> inOut) {
    bool answers[2];
    for (int32_t i = 0; i < 2; ++i) {
      for (size_t later = pos + 1; later < inOut.size(); ++later) {
        inOut[later].desc.type = i == 0 ? kNoType : inOut[0].desc.type;
        inOut[later].desc.format = static_cast<TensorFormat>(i == 0 ? -1 : 0);
      }
      answers[i] = build->supportsFormatCombination(pos, inOut.data(), nbInputs(), nbOutputs());
    }
    expect(answers[0] == answers[1],
           "supportsFormatCombination looks past position " + std::to_string(pos));
    return answers[0];
  }

  static bool contains(const std::vector<std::vector<DataType>>& all,
                       const std::vector<DataType>& one) {
    return std::find(all.begin(), all.end(), one) != all.end();
  }

  static std::string list(const std::vector<DataType>& types) {
    std::string result;
    for (DataType type : types) result += (result.empty() ? "" : " ") + text(type);
    return result;
  }

  void configure(IPluginV3OneBuild* build) {
    enter("configure");
    for (int32_t time = 0; time < 2; ++time) {  // the builder may do so any number of times
      const int32_t status =
          build->configurePlugin(tensors_.data(), nbInputs(), outputDescs(), nbOutputs());
      accept(status == 0, "configurePlugin");
    }
  }

  void workspace(IPluginV3OneBuild* build) {
    enter("workspace");
    const auto size = [&](const std::vector<DynamicPluginTensorDesc>& tensors) {
      return build->getWorkspaceSize(tensors.data(), nbInputs(), tensors.data() + nbInputs(),
                                     nbOutputs());
    };
    workspaceBytes_ = size(tensors_);
    for (const Run& run : case_.runs) {
      std::vector<DynamicPluginTensorDesc> exact = tensors_;
      for (int32_t i = 0; i < nbInputs() + nbOutputs(); ++i) {
        const Dims& dims = i < nbInputs() ? run.inputs[i] : run.outputs[i - nbInputs()];
        exact[i].desc.dims = exact[i].min = exact[i].opt = exact[i].max = dims;
      }
      expect(size(exact) <= workspaceBytes_,
             "a smaller problem needs a larger workspace than the profile's largest");
    }
  }

  void tactics(const Plugin& plugin) {
    enter("tactics");
    IPluginV3OneBuild* build = buildOf(plugin);
    const int32_t count = build->getNbTactics();
    std::vector<int32_t> tactics(count, 0);
    expect(count == 0 || build->getValidTactics(tactics.data(), count) == 0, "no tactics given");
    const std::set<int32_t> different(tactics.begin(), tactics.end());
    expect(static_cast<int32_t>(different.size()) == count && different.count(0) == 0,
           "tactics must be different and not 0");
    expect(build->getFormatCombinationLimit() > 0, "no format combination may be tried");
    expect(runtimeOf(plugin)->setTactic(count == 0 ? 0 : tactics[0]) == 0, "setTactic failed");
  }

  // --- the execution phase -----------------------------------------------------------------------

  class Context final : public nvinfer1::IPluginResourceContext {
   public:
    nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
    nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  };

  void execute() {
    enter("runtime");
    damage();
    Plugin engine = create(plan_, TensorRTPhase::kRUNTIME);
    accept(engine != nullptr, "createPlugin at run time");
    names(engine);
    expect(serialised(engine) == plan_, "the fields differ after a round trip through the plan");

    enter("attach");
    Context contexts[2];
    const Plugin first = attach(engine, contexts[0]);
    const Plugin second = attach(engine, contexts[1]);

    // Two contexts with different shapes at the same time: neither may disturb the other.
    const bool enqueues = options_.device && !case_.dataPath.empty();
    std::ifstream data;
    std::ofstream result;
    if (enqueues) open(data, result);
    for (size_t i = 0; i < case_.runs.size(); ++i) {
      enter("onShapeChange");
      const std::vector<PluginTensorDesc> tensors = concrete(case_.runs[i]);
      shapeChange(first, tensors);
      shapeChange(second, concrete(case_.runs[(i + 1) % case_.runs.size()]));
      if (enqueues) enqueue(first, tensors, data, result);
    }
  }

  // The plugin may refuse a damaged plan or read its valid part, but must not read past its end.
  void damage() {
    for (size_t i = 0; i < plan_.size(); ++i) {
      std::vector<NodeAttribute> fields = plan_;
      fields[i].bytes.clear();
      fields[i].length = 0;
      create(fields, TensorRTPhase::kRUNTIME);
      fields[i].type = PluginFieldType::kUNKNOWN;
      fields[i].bytes = {1};
      fields[i].length = 1;
      create(fields, TensorRTPhase::kRUNTIME);
      fields.erase(fields.begin() + static_cast<std::ptrdiff_t>(i));
      create(fields, TensorRTPhase::kRUNTIME);
    }
    logger_.takeErrors();
  }

  Plugin attach(const Plugin& engine, Context& context) {
    Plugin attached = copy(engine, runtimeOf(engine)->attachToContext(&context), "attachToContext");
    expect(serialised(attached) == plan_, "attachToContext changed the fields");
    return attached;
  }

  std::vector<PluginTensorDesc> concrete(const Run& run) const {
    std::vector<PluginTensorDesc> tensors;
    for (int32_t i = 0; i < nbInputs(); ++i) {
      tensors.push_back(tensor(case_.inputTypes[i], run.inputs[i]));
    }
    for (int32_t i = 0; i < nbOutputs(); ++i) {
      tensors.push_back(tensor(case_.outputTypes[i], run.outputs[i]));
    }
    return tensors;
  }

  void shapeChange(const Plugin& plugin, const std::vector<PluginTensorDesc>& tensors) {
    const int32_t status = runtimeOf(plugin)->onShapeChange(
        tensors.data(), nbInputs(), tensors.data() + nbInputs(), nbOutputs());
    accept(status == 0, "onShapeChange");
  }

  void open(std::ifstream& data, std::ofstream& result) const {
    data.open(case_.dataPath, std::ios::binary);
    if (!data) throw UsageError("cannot read " + case_.dataPath);
    if (case_.resultPath.empty()) return;
    result.open(case_.resultPath, std::ios::binary | std::ios::trunc);
    if (!result) throw UsageError("cannot write " + case_.resultPath);
  }

  void enqueue(const Plugin& plugin, const std::vector<PluginTensorDesc>& tensors,
               std::ifstream& data, std::ofstream& result) {
    enter("enqueue");
    Execution execution{runtimeOf(plugin), {}, {}, {}, workspaceBytes_, options_.times};
    execution.inputs.assign(tensors.begin(), tensors.begin() + nbInputs());
    execution.outputs.assign(tensors.begin() + nbInputs(), tensors.end());
    for (const PluginTensorDesc& input : execution.inputs) {
      Bytes bytes(tensorBytes(input.type, input.dims));
      data.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
      if (!data) throw UsageError(case_.dataPath + " is too short for its shapes");
      execution.inputData.push_back(std::move(bytes));
    }
    try {
      for (const Bytes& bytes : host::execute(execution)) {
        result.write(reinterpret_cast<const char*>(bytes.data()),
                     static_cast<std::streamsize>(bytes.size()));
      }
    } catch (const UsageError&) {
      throw;
    } catch (const std::runtime_error& error) {
      const std::string reason = logger_.takeErrors();
      throw Fault{error.what() + (reason.empty() ? "" : ": " + reason)};
    }
    logger_.takeErrors();  // discard the refusal that execute() provoked
    outcome_.enqueued = true;
  }

  int32_t nbInputs() const { return static_cast<int32_t>(case_.inputTypes.size()); }
  int32_t nbOutputs() const { return static_cast<int32_t>(case_.outputTypes.size()); }

  const Library& library_;
  Logger& logger_;
  const Case& case_;
  const Options& options_;
  Outcome& outcome_;
  nvinfer1::IPluginCreatorV3One* creator_ = nullptr;
  std::vector<NodeAttribute> passed_;
  std::vector<DynamicPluginTensorDesc> tensors_;  // inputs, then outputs
  size_t workspaceBytes_ = 0;
  std::vector<NodeAttribute> plan_;
};

}  // namespace

Outcome live(const Library& library, Logger& logger, const Case& c, const Options& options) {
  Outcome outcome;
  try {
    Life(library, logger, c, options, outcome).run();
  } catch (const Refusal& refusal) {
    outcome.result = Result::kRefused;
    outcome.message = refusal.message;
  } catch (const Fault& fault) {
    outcome.result = Result::kFault;
    outcome.message = fault.message;
  } catch (const UsageError&) {
    throw;
  } catch (const std::exception& error) {  // thrown for an output shape, or by the plugin itself
    outcome.result = Result::kFault;
    outcome.message = error.what();
  }
  return outcome;
}

}  // namespace host
