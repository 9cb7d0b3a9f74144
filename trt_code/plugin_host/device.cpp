#include "device.h"

#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>

#include "case_file.h"

namespace host {
namespace {

// Bytes that enqueue leaves unwritten differ between two runs.
constexpr unsigned char kOtherPoison = 0x5a;

void require(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

class Stream {
 public:
  // Non-blocking: this stream and the default stream do not wait for each other.
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

// The buffers of one execution, and functions to run it.
class Session {
 public:
  Session(const Execution& e, Guard guard) : execution_(e), workspace_(e.workspaceBytes, guard) {
    for (const Bytes& bytes : e.inputData) {
      inputs_.push_back(std::make_unique<GuardedBuffer>(bytes.size(), guard));
      inputPointers_.push_back(inputs_.back()->get());
    }
    for (const nvinfer1::PluginTensorDesc& output : e.outputs) {
      const size_t bytes = tensorBytes(output.type, output.dims);
      outputs_.push_back(std::make_unique<GuardedBuffer>(bytes, guard));
      outputPointers_.push_back(outputs_.back()->get());
      outputBytes_ += bytes;
    }
  }

  // Copies the inputs late on the given stream, so that work on any other stream reads poison.
  std::vector<Bytes> plain() {
    for (const auto& input : inputs_) input->fill(kPoison);
    poison(kPoison);  // also waits, since a fill may return before its stream executes it
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

  std::vector<Bytes> repeated() {
    for (int32_t i = 0; i < execution_.times; ++i) {
      if (enqueue() != 0) throw std::runtime_error("call " + std::to_string(i) + " failed");
    }
    stream_.finish();
    return look();
  }

  // The plugin must refuse a type that no plugin of this kind accepts, before it launches anything.
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

std::vector<Bytes> execute(const Execution& execution) {
  std::vector<Bytes> outputs;
  for (const Guard guard : {Guard::kBehind, Guard::kBefore}) {
    Session session(execution, guard);
    const std::vector<Bytes> plain = session.plain();
    if (execution.times > 0) {
      if (session.repeated() != plain) {
        throw std::runtime_error("many calls in a row give other bytes than one");
      }
    } else if (session.replayed() != plain) {
      throw std::runtime_error(
          "a captured graph gives other bytes than a plain call: output left unwritten, inputs "
          "read on another stream, or a result that differs between runs");
    }
    session.misfed();
    if (guard == Guard::kBehind) {
      outputs = plain;
    } else if (plain != outputs) {
      throw std::runtime_error("the same inputs elsewhere in memory give other bytes");
    }
  }
  return outputs;
}

}  // namespace host
