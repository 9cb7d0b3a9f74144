// The test cases: every kernel, on shapes that reach each of its code paths.
#pragma once

#include "session.h"

namespace driver {

/// Kernels used by the plugins and by the operators of train_model.ops.
void runOperators(Mode mode, cudaStream_t stream);

/// Kernels of the CUDA-graph network, except conv_stack and linear_wide.
void runNetwork(Mode mode, cudaStream_t stream);

/// linear_wide, products of many rows.
void runWideProducts(Mode mode, cudaStream_t stream);

/// Kernels of one step of a search.
void runSearches(Mode mode, cudaStream_t stream);

/// conv_stack, which runs all layers.
void runStacks(Mode mode, cudaStream_t stream);

}  // namespace driver
