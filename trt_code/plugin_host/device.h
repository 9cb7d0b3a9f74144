// Real execution: guarded device memory, a stream, a captured graph.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <vector>

#include "guarded_buffer.h"

namespace host {

// "" when there is a GPU, else why there is none.
std::string deviceProblem();

// One call of enqueue: the plugin, the tensors' descriptions and the inputs' bytes.
struct Execution {
  nvinfer1::IPluginV3OneRuntime* plugin;
  std::vector<nvinfer1::PluginTensorDesc> inputs;
  std::vector<nvinfer1::PluginTensorDesc> outputs;
  std::vector<Bytes> inputData;
  size_t workspaceBytes;
  // If not 0, enqueue this many times more, without a pause, and capture no graph: while one thread
  // captures, no other may wait for the device.
  int32_t times;
};

// Runs enqueue plainly and inside a captured CUDA graph, on buffers that end at unmapped memory and
// on others that start there, and returns the outputs' bytes. Throws
// std::runtime_error when enqueue fails, uses another stream than the given one, leaves output
// bytes unwritten, writes to its inputs or outside its buffers, gives other bytes a second time, or
// accepts a type that it cannot handle.
std::vector<Bytes> execute(const Execution& execution);

}  // namespace host
