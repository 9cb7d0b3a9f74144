// Divides a stack among groups of blocks, checks its parameters and launches it.
#include "../common.cuh"
#include "kernel.cuh"
#include "layout.cuh"

namespace lite {

using namespace conv_stack;

namespace {

int tokensOf(const ConvStackParams& p, const ConvStackPlan& plan) {
  return plan.clustered && plan.sentences * p.length <= 32 ? 32 : kMaxTokens;
}

/// Returns how many sentences fit in a cluster of `tokens` positions, or 0 if none fits. Each of
/// the attention's tiles of 16 positions must lie within one sentence.
int sentencesOf(const ConvStackParams& p, int tokens) {
  const bool several = p.source == 0 || p.length % 16 == 0;
  int sentences = several ? tokens / p.length : int(p.length <= tokens);
  if (p.source > 0) sentences = std::min(sentences, std::max(1, kMaxTokens / p.source));
  return std::min(sentences, p.batch);
}

struct Launch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2]{};
  Kernel kernel;
};

/// The launch configuration of a plan. The configuration points into `launch`.
cudaError_t configure(const ConvStackParams& p, const ConvStackPlan& plan, cudaStream_t stream,
                      Launch* launch) {
  const int tokens = tokensOf(p, plan);
  launch->kernel = kernelOf(p.dtype, tokens, plan.clustered);
  const size_t bytes = SharedLayout(p, tokens, plan.sentences, plan.stages).end;
  const cudaError_t status = allowSharedBytes(launch->kernel, bytes);
  cudaLaunchAttribute* attribute = launch->attributes;
  if (plan.clustered) {
    attribute->id = cudaLaunchAttributeClusterDimension;
    attribute->val.clusterDim = {unsigned(p.heads), 1, 1};
    ++attribute;
    attribute->id = cudaLaunchAttributeProgrammaticStreamSerialization;  // fetch weights early
    attribute->val.programmaticStreamSerializationAllowed = 1;
  } else {
    attribute->id = cudaLaunchAttributeCooperative;
    attribute->val.cooperative = 1;
  }
  launch->config.gridDim = dim3(unsigned(plan.groups) * unsigned(p.heads));
  launch->config.blockDim = dim3(kThreads);
  launch->config.dynamicSmemBytes = bytes;
  launch->config.stream = stream;
  launch->config.attrs = launch->attributes;
  launch->config.numAttrs = unsigned(attribute + 1 - launch->attributes);
  return status;
}

}  // namespace

const char* check(const ConvStackParams& p) {
  if (p.dtype != DataType::kHalf && p.dtype != DataType::kBFloat16) {
    return "the data type must be half or bfloat16";
  }
  if (p.batch < 1 || p.length < 1) return "batch and length must be positive";
  if (p.length > kMaxTokens) return "the length must be at most 64";
  if (p.heads < 2 || p.heads > kMaxHeads || p.heads % 2 != 0) {
    return "the heads must be 2, 4, 6 or 8";
  }
  if (p.ffn < 1 || p.ffn % (128 * p.heads) != 0) {
    return "the inner channels must be a multiple of 128 a head";
  }
  if (p.ffn > 4 * kHeadWidth * p.heads) {
    return "the inner channels must be at most 4 times the channels";
  }
  if (p.layers < 1 || p.layers > kMaxStackLayers) return "the layers must be 1 to 16";
  for (int layer = 0; layer < p.layers; ++layer) {
    if (p.kernelSizes[layer] < 1 || p.kernelSizes[layer] > kMaxTaps) {
      return "the kernel sizes must be 1 to 16";
    }
    if (p.paddings[layer] < 0 || p.paddings[layer] >= p.kernelSizes[layer]) {
      return "padding_l must be 0 to kernel size - 1";
    }
  }
  if (p.source < 0 || p.source > kMaxTokens) return "the source's length must be at most 64";
  if (p.source > 0 &&
      (p.sourceStride < 2 * int64_t(p.layers) * kHeadWidth * p.heads || p.sourceStride % 8 != 0)) {
    return "the source must hold the keys and values of every layer";
  }
  if (!(p.eps >= 0.0f)) return "eps must not be negative";
  return nullptr;
}

cudaError_t planConvStack(const ConvStackParams& p, ConvStackPlan* plan) {
  if (check(p) != nullptr) return cudaErrorInvalidValue;
  bool hopper = false;
  int mostShared = 0, processors = 0;
  cudaError_t status = isHopper(&hopper);
  if (status == cudaSuccess) {
    status = deviceAttribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &mostShared);
  }
  if (status == cudaSuccess) {
    status = deviceAttribute(cudaDevAttrMultiProcessorCount, &processors);
  }
  if (status != cudaSuccess) return status;
  if (!hopper) return cudaErrorNotSupported;

  // Groups of fewer positions finish sooner, and clusters are faster. But all groups must fit on
  // the GPU at once.
  struct Way {
    int tokens;
    bool clustered;
  };
  for (const Way way : {Way{32, true}, Way{kMaxTokens, true}, Way{kMaxTokens, false}}) {
    const int sentences = sentencesOf(p, way.tokens);
    if (sentences == 0) continue;
    int stages = kMaxStages;
    while (stages > 1 && int(SharedLayout(p, way.tokens, sentences, stages).end) > mostShared) {
      --stages;
    }
    if (stages < 2) continue;
    *plan = {sentences, ceilDiv(p.batch, sentences), stages, way.clustered};
    if (tokensOf(p, *plan) != way.tokens) continue;
    Launch launch;
    status = configure(p, *plan, nullptr, &launch);
    if (status != cudaSuccess) return status;
    int resident = processors / p.heads;
    if (way.clustered) {
      status = cudaOccupancyMaxActiveClusters(&resident, launch.kernel, &launch.config);
      if (status != cudaSuccess) return status;
    }
    if (resident >= plan->groups) return cudaSuccess;
  }
  return cudaErrorNotSupported;
}

size_t convStackWeightSize(const ConvStackParams& p) {
  return size_t(p.layers) * p.heads * Sizes(p).layerStages * (kStageBytes / 2);
}

size_t convStackConstantSize(const ConvStackParams& p) {
  return size_t(p.layers) * Sizes(p).constants;
}

size_t convStackScratchSize(const ConvStackParams& p, const ConvStackPlan& plan) {
  const ScratchLayout scratch(p, tokensOf(p, plan), plan.groups);
  return plan.clustered ? scratch.partials : scratch.end;
}

cudaError_t convStack(const ConvStackParams& p, const ConvStackPlan& plan,
                      const ConvStackTensors& tensors, cudaStream_t stream) {
  const bool complete = tensors.x != nullptr && tensors.weights != nullptr &&
                        tensors.constants != nullptr && tensors.y != nullptr &&
                        tensors.scratch != nullptr &&
                        (p.source == 0 || tensors.keysValues != nullptr);
  if (check(p) != nullptr || !complete ||
      !aligned(16, {tensors.x, tensors.keysValues, tensors.positions, tensors.y}) ||
      !aligned(128, {tensors.weights, tensors.scratch})) {
    return cudaErrorInvalidValue;
  }
  Launch launch;
  cudaError_t status = configure(p, plan, stream, &launch);
  if (status == cudaSuccess && !plan.clustered) {
    status = cudaMemsetAsync(tensors.scratch, 0,
                             ScratchLayout(p, tokensOf(p, plan), plan.groups).slices, stream);
  }
  if (status != cudaSuccess) return status;
  return cudaLaunchKernelEx(&launch.config, launch.kernel, p, tensors, plan.stages, plan.sentences);
}

}  // namespace lite
