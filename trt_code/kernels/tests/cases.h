// The cases: every kernel on shapes that reach each of its code paths.
#pragma once

#include "session.h"

namespace driver {

/// Kernels behind the plugins and the operators of train_model.ops.
void runOperators(Mode mode, cudaStream_t stream);

/// Kernels of the network that runs in CUDA graphs, but for conv_stack.
void runNetwork(Mode mode, cudaStream_t stream);

/// conv_stack, which runs all layers.
void runStacks(Mode mode, cudaStream_t stream);

}  // namespace driver
