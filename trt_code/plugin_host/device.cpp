#include "device.h"

#include <cuda.h>
#include <dlfcn.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>

#include "case_file.h"

namespace host {
namespace {

// Two patterns: bytes that enqueue leaves unwritten differ between two runs. As floats, the first
// is NaN in every format, so reading it shows.
constexpr unsigned char kPoison = 0xff;
constexpr unsigned char kOtherPoison = 0x5a;
constexpr size_t kAlignment = 16;

void require(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

template <typename Function>
Function driver(const char* name) {
  static void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  void* address = library != nullptr ? dlsym(library, name) : nullptr;
  if (address == nullptr) throw std::runtime_error(std::string("the driver has no ") + name);
  return reinterpret_cast<Function>(address);
}

#define LITE_DRIVER(name, ...)                                       \
  if (driver<decltype(&name)>(#name)(__VA_ARGS__) != CUDA_SUCCESS) { \
    throw std::runtime_error(#name " failed");                       \
  }

CUmemAllocationProp allocationProperties() {
  int device = 0;
  require(cudaGetDevice(&device), "cudaGetDevice");
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, {device}};
  return properties;
}

size_t granularity() {
  const CUmemAllocationProp properties = allocationProperties();
  size_t bytes = 0;
  LITE_DRIVER(cuMemGetAllocationGranularity, &bytes, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
  return bytes;
}

CUdeviceptr devicePointer(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

size_t roundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

class Stream {
 public:
  // Non-blocking: work on the default stream does not wait for it, nor it for that work.
  Stream() { require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void finish() const { require(cudaStreamSynchronize(stream_), "after enqueue"); }

 private:
  cudaStream_t stream_ = nullptr;
};

struct PinnedBytes {
  explicit PinnedBytes(const Bytes& bytes) {
    require(cudaMallocHost(&data, bytes.size() + 1), "cudaMallocHost");
    std::copy(bytes.begin(), bytes.end(), static_cast<unsigned char*>(data));
  }
  ~PinnedBytes() { cudaFreeHost(data); }
  PinnedBytes(const PinnedBytes&) = delete;
  PinnedBytes& operator=(const PinnedBytes&) = delete;
  void* data = nullptr;
};

void CUDART_CB pause(void*) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); }

// The buffers of one execution and the ways to run it.
class Session {
 public:
  explicit Session(const Execution& e) : execution_(e), workspace_(e.workspaceBytes) {
    for (const Bytes& bytes : e.inputData) {
      inputs_.push_back(std::make_unique<GuardedBuffer>(bytes.size()));
      inputPointers_.push_back(inputs_.back()->get());
    }
    for (const nvinfer1::PluginTensorDesc& output : e.outputs) {
      const size_t bytes = tensorBytes(output.type, output.dims);
      outputs_.push_back(std::make_unique<GuardedBuffer>(bytes));
      outputPointers_.push_back(outputs_.back()->get());
      outputBytes_ += bytes;
    }
  }

  // The inputs arrive late on the given stream: work on any other stream reads poison.
  std::vector<Bytes> plain() {
    poison(kPoison);
    for (const auto& input : inputs_) input->fill(kPoison);
    std::vector<std::unique_ptr<PinnedBytes>> sources;
    require(cudaLaunchHostFunc(stream_.get(), pause, nullptr), "cudaLaunchHostFunc");
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const Bytes& bytes = execution_.inputData[i];
      sources.push_back(std::make_unique<PinnedBytes>(bytes));
      require(cudaMemcpyAsync(inputs_[i]->get(), sources.back()->data, bytes.size(),
                              cudaMemcpyHostToDevice, stream_.get()),
              "copy of an input");
    }
    if (enqueue() != 0) throw std::runtime_error("enqueue failed");
    stream_.finish();
    return look();
  }

  std::vector<Bytes> replayed() {
    require(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capture");
    const int32_t status = enqueue();
    cudaGraph_t graph = nullptr;
    const cudaError_t captured = cudaStreamEndCapture(stream_.get(), &graph);
    if (status != 0) throw std::runtime_error("enqueue failed while its stream was captured");
    require(captured, "enqueue broke the capture of its stream");
    size_t nodes = 0;
    require(cudaGraphGetNodes(graph, nullptr, &nodes), "cudaGraphGetNodes");
    if (nodes == 0 && outputBytes_ > 0) {
      throw std::runtime_error("enqueue put nothing into the stream that it was given");
    }
    cudaGraphExec_t executable = nullptr;
    require(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    poison(kOtherPoison);
    require(cudaGraphLaunch(executable, stream_.get()), "cudaGraphLaunch");
    stream_.finish();
    std::vector<Bytes> outputs = look();
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    return outputs;
  }

  // A type that no plugin of this kind takes must be refused before anything is launched.
  void misfed() {
    std::vector<nvinfer1::PluginTensorDesc> inputs = execution_.inputs;
    inputs[0].type = nvinfer1::DataType::kINT8;
    if (enqueue(inputs) == 0) {
      throw std::runtime_error("enqueue returned success for an INT8 input that it cannot handle");
    }
    stream_.finish();
  }

 private:
  int32_t enqueue() { return enqueue(execution_.inputs); }
  int32_t enqueue(const std::vector<nvinfer1::PluginTensorDesc>& inputs) {
    return execution_.plugin->enqueue(
        inputs.data(), execution_.outputs.data(), inputPointers_.data(), outputPointers_.data(),
        execution_.workspaceBytes > 0 ? workspace_.get() : nullptr, stream_.get());
  }

  void poison(unsigned char value) {
    for (const auto& output : outputs_) output->fill(value);
    workspace_.fill(value);
    require(cudaDeviceSynchronize(), "before enqueue");
  }

  std::vector<Bytes> look() const {
    require(cudaDeviceSynchronize(), "after enqueue");
    workspace_.checkGuards();
    for (size_t i = 0; i < inputs_.size(); ++i) {
      inputs_[i]->checkGuards();
      if (inputs_[i]->download() != execution_.inputData[i]) {
        throw std::runtime_error("enqueue changed input " + std::to_string(i));
      }
    }
    std::vector<Bytes> outputs;
    for (const auto& output : outputs_) {
      output->checkGuards();
      outputs.push_back(output->download());
    }
    return outputs;
  }

  const Execution& execution_;
  Stream stream_;
  GuardedBuffer workspace_;
  std::vector<std::unique_ptr<GuardedBuffer>> inputs_;
  std::vector<std::unique_ptr<GuardedBuffer>> outputs_;
  std::vector<const void*> inputPointers_;
  std::vector<void*> outputPointers_;
  size_t outputBytes_ = 0;
};

}  // namespace

std::string deviceProblem() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return count > 0 ? "" : "no CUDA device";
}

GuardedBuffer::GuardedBuffer(size_t bytes) : bytes_(bytes) {
  require(cudaFree(nullptr), "CUDA context");
  const size_t granule = granularity();
  mapped_ = roundUp(bytes + 1, granule);
  const CUmemAllocationProp properties = allocationProperties();
  CUdeviceptr reserved = 0;
  LITE_DRIVER(cuMemAddressReserve, &reserved, mapped_ + 2 * granule, granule, 0, 0);
  reserved_ = reinterpret_cast<unsigned char*>(reserved);
  start_ = reserved_ + granule;
  LITE_DRIVER(cuMemCreate, &allocation_, mapped_, &properties, 0);
  LITE_DRIVER(cuMemMap, devicePointer(start_), mapped_, 0, allocation_, 0);
  CUmemAccessDesc access{};
  access.location = properties.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  LITE_DRIVER(cuMemSetAccess, devicePointer(start_), mapped_, &access, 1);
  data_ = start_ + mapped_ - roundUp(bytes, kAlignment);
  require(cudaMemset(start_, kPoison, mapped_), "cudaMemset");
}

GuardedBuffer::~GuardedBuffer() {
  // Failures only follow a lost device, which was reported already.
  driver<decltype(&cuMemUnmap)>("cuMemUnmap")(devicePointer(start_), mapped_);
  driver<decltype(&cuMemRelease)>("cuMemRelease")(allocation_);
  driver<decltype(&cuMemAddressFree)>("cuMemAddressFree")(
      devicePointer(reserved_), mapped_ + 2 * static_cast<size_t>(start_ - reserved_));
}

void GuardedBuffer::fill(unsigned char value) {
  require(cudaMemset(data_, value, bytes_), "cudaMemset");
}

Bytes GuardedBuffer::download() const {
  Bytes bytes(bytes_);
  require(cudaMemcpy(bytes.data(), data_, bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy");
  return bytes;
}

void GuardedBuffer::checkGuards() const {
  Bytes all(mapped_);
  require(cudaMemcpy(all.data(), start_, mapped_, cudaMemcpyDeviceToHost), "cudaMemcpy");
  const size_t first = static_cast<size_t>(data_ - start_);
  for (size_t i = 0; i < all.size(); ++i) {
    const bool inside = i >= first && i < first + bytes_;
    if (!inside && all[i] != kPoison) {
      throw std::runtime_error(
          "enqueue wrote outside a buffer, " +
          (i < first ? std::to_string(first - i) + " bytes before its start"
                     : std::to_string(i - first - bytes_ + 1) + " bytes past its end"));
    }
  }
}

std::vector<Bytes> execute(const Execution& execution) {
  Session session(execution);
  const std::vector<Bytes> outputs = session.plain();
  if (session.replayed() != outputs) {
    throw std::runtime_error(
        "a captured graph gives other bytes than a plain call: output left unwritten, inputs read "
        "on another stream, or a result that differs between runs");
  }
  session.misfed();
  return outputs;
}

}  // namespace host
