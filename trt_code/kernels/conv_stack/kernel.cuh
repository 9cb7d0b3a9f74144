// The kernels of conv_stack.
#pragma once

#include "../conv_stack.h"

namespace lite::conv_stack {

using Kernel = void (*)(ConvStackParams, ConvStackTensors, int stages, int sentences);

/// Returns the kernel for groups of `tokens` positions, 32 or 64. Groups that are not clusters have
/// 64.
Kernel kernelOf(DataType dtype, int tokens, bool clustered);

}  // namespace lite::conv_stack
