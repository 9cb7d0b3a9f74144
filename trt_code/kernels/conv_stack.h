// All layers of the encoder or of the decoder in one launch: gate, dynamic convolution, attention
// over the source (decoder alone) and feed-forward part, each with its residual and LayerNorm.
// For few rows, where a launch an operator is mostly waiting. 16-bit types, Hopper (sm_90) alone.
//
// A layer, with C channels in heads of 64, F inner channels of the feed-forward part:
//
//   h = glu(x W1 + b1), 0 where mask is 0
//   g = glu(h W2 + b2);  y = dynamicConv(g * mask, softmax over K of (g Wt))
//   x = norm1(x + y W3 + b3)
//   x = norm2(x + attention(x Wq + bq, keys, values) Wo + bo)                  decoder alone
//   x = norm3(x + relu(x W4 + b4) W5 + b5), + positions but after the last layer
#pragma once

#include "common.h"

namespace lite {

constexpr int kMaxStackLayers = 16;

/// x and y are [batch, length, 64 * heads]. `source` is 0 for the encoder; for the decoder the
/// source's length, and `sourceStride` the elements from one of its positions to the next.
struct ConvStackParams {
  int32_t batch, length, heads, ffn, layers;
  int32_t kernelSizes[kMaxStackLayers], paddings[kMaxStackLayers];
  int32_t source;
  int64_t sourceStride;
  bool maskConv;  // whether the mask also counts for the convolution's input
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

/// The constants of a layer, FP32, in the order in which memory holds them.
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

/// A number of floats: so many times the channels, and so many times the inner channels.
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

/// All constants of a layer, with the attention's or without.
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

/// How the rows are dealt out: groups of blocks take `sentences` whole sentences each, and a block
/// has room for `stages` pieces of weights. A group is a cluster or, where too few of those fit on
/// the GPU at once, blocks that exchange everything through memory.
struct ConvStackPlan {
  int32_t sentences, groups, stages;
  bool clustered;
};

/// Why these parameters cannot run, in one line; nullptr when they can.
const char* check(const ConvStackParams& params);

/// The plan for these parameters on the current device, or cudaErrorNotSupported where the device
/// lacks what is needed or the rows are so many that one launch an operator is better.
cudaError_t planConvStack(const ConvStackParams& params, ConvStackPlan* plan);

/// Elements of the packed weights, all layers together.
size_t convStackWeightSize(const ConvStackParams& params);

/// Floats of the constants, all layers together.
size_t convStackConstantSize(const ConvStackParams& params);

/// Bytes of scratch memory.
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
