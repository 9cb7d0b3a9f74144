// Real execution: guarded device memory, a stream, a captured graph. Only the CUDA runtime is
// linked; the driver's virtual memory functions are looked up, so the host also starts where there
// is no GPU.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <vector>

namespace host {

using Bytes = std::vector<unsigned char>;

// "" when there is a GPU, else why there is none.
std::string deviceProblem();

// Device memory whose last byte is followed by an unmapped page (up to 15 bytes of padding before
// it keep the start aligned): an access past the end is an illegal address. What lies before, and
// the padding, is filled with a pattern and looked at afterwards.
class GuardedBuffer {
 public:
  explicit GuardedBuffer(size_t bytes);
  ~GuardedBuffer();
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  void* get() const { return data_; }
  void fill(unsigned char value);
  Bytes download() const;
  // Throws std::runtime_error when something was written outside the buffer.
  void checkGuards() const;

 private:
  size_t bytes_;
  size_t mapped_ = 0;
  unsigned char* reserved_ = nullptr;  // one unmapped granule, the mapped memory, one more
  unsigned char* start_ = nullptr;
  unsigned char* data_ = nullptr;
  unsigned long long allocation_ = 0;
};

// One call of enqueue: the plugin, the tensors' descriptions and the inputs' bytes.
struct Execution {
  nvinfer1::IPluginV3OneRuntime* plugin;
  std::vector<nvinfer1::PluginTensorDesc> inputs;
  std::vector<nvinfer1::PluginTensorDesc> outputs;
  std::vector<Bytes> inputData;
  size_t workspaceBytes;
};

// Runs enqueue plainly and inside a captured CUDA graph, and returns the outputs' bytes. Throws
// std::runtime_error when enqueue fails, uses another stream than the given one, leaves output
// bytes unwritten, writes to its inputs or outside its buffers, gives other bytes the second time,
// or accepts a type that it cannot handle.
std::vector<Bytes> execute(const Execution& execution);

}  // namespace host
