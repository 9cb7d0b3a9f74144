// All layers of the encoder or of the decoder in one launch. A layer has a gate, a dynamic
// convolution, attention over the source (decoder only) and a feed-forward part, each with its
// residual and LayerNorm. Made for few rows, where one launch per operator spends most of its time
// waiting. Supports 16-bit types on Hopper (sm_90) only.
//
// A layer with C channels in heads of 64, and F inner channels in the feed-forward part:
//
//   h = glu(x W1 + b1), 0 where mask is 0
//   g = glu(h W2 + b2);  y = dynamicConv(g * mask, softmax over K of (g Wt))
//   x = norm1(x + y W3 + b3)
//   x = norm2(x + attention(x Wq + bq, keys, values) Wo + bo)                  decoder only
//   x = norm3(x + relu(x W4 + b4) W5 + b5), + positions except after the last layer
#pragma once

#include "common.h"

namespace lite {

constexpr int kMaxStackLayers = 16;
constexpr int kStackHeadWidth = 64;

/// x and y are [batch, length, kStackHeadWidth * heads]. `source` is 0 for the encoder. For the
/// decoder it is the length of the source, and `sourceStride` is the number of elements from one
/// source position to the next.
struct ConvStackParams {
  int32_t batch, length, heads, ffn, layers;
  int32_t kernelSizes[kMaxStackLayers], paddings[kMaxStackLayers];
  int32_t source;
  int64_t sourceStride;
  bool maskConv;  // whether the mask also applies to the convolution's input
  float eps;      // of every LayerNorm
  DataType dtype;
};

/// A matrix of a layer.
struct StackMatrix {
  const char* name;
  bool attention;  // an encoder does not have it
};

/// The matrices of a layer in the order in which the packed weights hold them.
constexpr StackMatrix kStackMatrices[] = {
    {"linear1", false}, {"conv_linear1", false}, {"taps", false}, {"linear2", false},
    {"query", true},    {"out", true},           {"fc1", false},  {"fc2", false},
};

/// The FP32 constants of a layer, in the order in which memory holds them.
enum StackConstant : int32_t {
  kLinear1Bias,
  kConvLinear1Bias,
  kLinear2Bias,
  kConvNormScale,
  kConvNormShift,
  kQueryBias,
  kOutBias,
  kAttentionNormScale,
  kAttentionNormShift,
  kFc1Bias,
  kFc2Bias,
  kFfnNormScale,
  kFfnNormShift,
  kStackConstantCount
};

/// A number of floats: a multiple of the channels plus a multiple of the inner channels.
struct StackLength {
  int32_t channels, inner;
};

struct StackConstantInfo {
  const char* name;
  StackLength length;
  bool attention;  // an encoder does not have it
};

constexpr StackConstantInfo kStackConstants[kStackConstantCount] = {
    {"linear1_bias", {2, 0}, false},
    {"conv_linear1_bias", {2, 0}, false},
    {"linear2_bias", {1, 0}, false},
    {"conv_norm_scale", {1, 0}, false},
    {"conv_norm_shift", {1, 0}, false},
    {"query_bias", {1, 0}, true},
    {"out_bias", {1, 0}, true},
    {"attention_norm_scale", {1, 0}, true},
    {"attention_norm_shift", {1, 0}, true},
    {"fc1_bias", {0, 1}, false},
    {"fc2_bias", {1, 0}, false},
    {"ffn_norm_scale", {1, 0}, false},
    {"ffn_norm_shift", {1, 0}, false},
};

/// The number of floats of a layer's constants, with or without those of the attention.
constexpr StackLength stackConstantTotal(bool attends) {
  StackLength total{};
  for (const StackConstantInfo& constant : kStackConstants) {
    if (constant.attention && !attends) continue;
    total.channels += constant.length.channels;
    total.inner += constant.length.inner;
  }
  return total;
}
constexpr StackLength kStackConstantsAlways = stackConstantTotal(false);
constexpr StackLength kStackConstantsAll = stackConstantTotal(true);

/// How the rows are divided: each group of blocks takes `sentences` whole sentences, and each block
/// has `stages` buffers for pieces of weights. A group is a cluster. If too few clusters fit on the
/// GPU at once, it is a set of blocks that exchange everything through global memory.
struct ConvStackPlan {
  int32_t sentences, groups, stages;
  bool clustered;
};

/// Returns nullptr if the kernel supports these parameters, otherwise the reason in one line.
const char* check(const ConvStackParams& params);

/// Computes the plan for these parameters on the current device. Returns cudaErrorNotSupported if
/// the device lacks a required feature, or if there are so many rows that one launch per operator
/// is faster.
cudaError_t planConvStack(const ConvStackParams& params, ConvStackPlan* plan);

/// The number of elements in the packed weights of all layers.
size_t convStackWeightSize(const ConvStackParams& params);

/// The number of floats in the constants of all layers.
size_t convStackConstantSize(const ConvStackParams& params);

/// The size of the scratch memory in bytes.
size_t convStackScratchSize(const ConvStackParams& params, const ConvStackPlan& plan);

struct ConvStackTensors {
  const void* x;
  const void* weights;        // packed, see trt_code/cuda_graph/packing.py
  const float* constants;     // of each layer in the order of StackConstant
  const int32_t* mask;        // [batch, length], nullable
  const void* keysValues;     // decoder: [batch, source, sourceStride], of each layer C keys, then
                              // C values, side by side
  const int32_t* sourceMask;  // [batch, source], nullable
  const void* positions;      // [length, C], nullable
  void* y;
  void* scratch;
};

/// All pointers are 16-byte aligned; weights and scratch 128-byte aligned.
cudaError_t convStack(const ConvStackParams& params, const ConvStackPlan& plan,
                      const ConvStackTensors& tensors, cudaStream_t stream);

}  // namespace lite
