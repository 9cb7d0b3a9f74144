// Execution on a GPU: guarded device memory, a stream, a captured graph.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <vector>

#include "guarded_buffer.h"

namespace host {

// Returns "" if there is a GPU, otherwise the reason why there is none.
std::string deviceProblem();

// One call of enqueue: the plugin, the descriptions of its tensors and the bytes of its inputs.
struct Execution {
  nvinfer1::IPluginV3OneRuntime* plugin;
  std::vector<nvinfer1::PluginTensorDesc> inputs;
  std::vector<nvinfer1::PluginTensorDesc> outputs;
  std::vector<Bytes> inputData;
  size_t workspaceBytes;
  // If not 0, call enqueue this many more times without a pause, and do not capture a graph: while
  // one thread captures, no other thread may wait for the device.
  int32_t times;
};

// Runs enqueue directly and inside a captured CUDA graph, on buffers that end at unmapped memory
// and on buffers that start there. Returns the bytes of the outputs. Throws std::runtime_error if
// enqueue fails, uses another stream than the given one, leaves output bytes unwritten, writes to
// its inputs or outside its buffers, returns different bytes the second time, or accepts a type
// that it cannot handle.
std::vector<Bytes> execute(const Execution& execution);

}  // namespace host
