#include <cuda_fp8.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "../attention.h"
#include "../conv_stack.h"
#include "../copy_source.h"
#include "../embed_source.h"
#include "../glu_mask.h"
#include "../layer_norm.h"
#include "../linear.h"
#include "../linear_wide.h"
#include "../predict_length.h"
#include "../self_conv.h"
#include "../to_fp8.h"
#include "cases.h"

namespace driver {
namespace {

using lite::Activation;
using lite::DataType;

constexpr float kFp8Factor = 100.0f;

/// Ways to multiply elements of a type: as it is, and for FP32 also rounded to TF32.
template <typename T>
std::vector<bool> tf32Ways() {
  return std::is_same_v<T, float> ? std::vector<bool>{false, true} : std::vector<bool>{false};
}

/// A mask with 1 at the first positions of each sentence. Each sentence is shorter than the one
/// before; if there are several, the last one is empty.
std::vector<int32_t> padding(int batch, int width) {
  std::vector<int32_t> mask;
  for (int b = 0; b < batch; ++b) {
    const int length = b > 0 && b == batch - 1 ? 0 : std::max(1, width - 3 * b);
    for (int s = 0; s < width; ++s) mask.push_back(s < length);
  }
  return mask;
}

/// Returns a float as the bulk engine rounds it to TF32, to the nearest, with ties to even.
float roundedToTf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

/// Makes every seventh float a tie: a number halfway between two neighbours in TF32.
void makeTies(std::vector<float>* values) {
  for (size_t i = 0; i < values->size(); i += 7) {
    uint32_t bits;
    std::memcpy(&bits, &(*values)[i], sizeof(bits));
    bits = (bits & ~0x1fffu) | 0x1000;
    std::memcpy(&(*values)[i], &bits, sizeof(bits));
  }
}

/// Computes the result of lite::linear in FP64, with `tf32` that of lite::linearTf32. One of bias
/// and residual is nullptr.
template <typename T>
std::vector<double> linearOnHost(int rows, int in, int out, Activation activation, bool tf32,
                                 const std::vector<T>& x, const std::vector<T>& weight,
                                 const std::vector<T>* bias, const std::vector<T>* residual,
                                 const std::vector<int32_t>* mask) {
  const int outs = activation == Activation::kGlu ? out / 2 : out;
  std::vector<double> a(x.size()), b(weight.size()), y(size_t(rows) * outs);
  const auto operand = [tf32](T value) -> double {
    return tf32 ? roundedToTf32(float(value)) : float(value);
  };
  std::transform(x.begin(), x.end(), a.begin(), operand);
  std::transform(weight.begin(), weight.end(), b.begin(), operand);
  const auto product = [&](int row, int column) {
    const double* first = a.data() + size_t(row) * in;
    const double sum = std::inner_product(first, first + in, b.data() + size_t(column) * in, 0.0);
    return sum + (bias == nullptr ? 0.0 : float((*bias)[column]));
  };
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < outs; ++column) {
      double value = product(row, column);
      if (activation == Activation::kRelu) value = std::max(value, 0.0);
      if (activation == Activation::kGlu) value /= 1.0 + std::exp(-product(row, outs + column));
      const size_t at = size_t(row) * outs + column;
      if (residual != nullptr) value += float((*residual)[at]);
      y[at] = mask != nullptr && (*mask)[row] == 0 ? 0.0 : value;
    }
  }
  return y;
}

/// One of the kernels for linear layers, and the largest relative L2 error of its result.
struct LinearKernel {
  const char* name;
  decltype(lite::linear)* launch;
  int variants;
  double tolerance;
};

template <typename T>
LinearKernel linearKernel(int in, DataType dtype, bool tf32) {
  if constexpr (!std::is_same_v<T, float>) {  // the result is rounded
    return {"linear", lite::linear, lite::kLinearVariants, dtype == DataType::kHalf ? 1e-3 : 8e-3};
  }
  // TF32: FP32 holds each product exactly, and each of the `in` additions truncates. The gate's
  // fast exponential and quotient need some more.
  constexpr double kEpsilon = 1.0 / (1 << 23);
  return tf32 ? LinearKernel{"linear in TF32", lite::linearTf32, lite::kTf32LinearVariants,
                             std::max(in, 16) * kEpsilon}
              : LinearKernel{"linear in FP32", lite::linearFp32, lite::kFp32LinearVariants, 1e-6};
}

template <typename T>
void runLinear(Mode mode, int rows, int in, int out, DataType dtype, cudaStream_t stream) {
  constexpr bool kFloat = std::is_same_v<T, float>;
  if (kFloat && !lite::hasLinearTf32()) return;
  Session session(mode, stream);
  const auto x = session.input<T>(size_t(rows) * in), weight = session.input<T>(size_t(out) * in);
  const auto bias = session.input<T>(out), residual = session.input<T>(size_t(rows) * out);
  const auto mask = session.integers<int32_t>(rows, 2);
  if constexpr (kFloat) {
    for (const auto& operands : {x, weight}) {
      std::vector<float> values = operands->get();
      makeTies(&values);
      operands->set(values);
    }
  }
  for (const Activation activation : {Activation::kNone, Activation::kRelu, Activation::kGlu}) {
    const bool glu = activation == Activation::kGlu, plain = activation == Activation::kNone;
    const auto y = session.memory<T>(size_t(rows) * (glu ? out / 2 : out));
    const lite::LinearTensors tensors{x->data(),
                                      weight->data(),
                                      plain ? nullptr : bias->data(),
                                      plain ? residual->data() : nullptr,
                                      glu ? mask->data() : nullptr,
                                      y->data()};
    const auto biases = bias->get(), residuals = residual->get();
    const auto masks = mask->get();
    for (const bool tf32 : tf32Ways<T>()) {
      const LinearKernel kernel = linearKernel<T>(in, dtype, tf32);
      const std::vector<double> expected = linearOnHost(
          rows, in, out, activation, tf32, x->get(), weight->get(), plain ? nullptr : &biases,
          plain ? &residuals : nullptr, glu ? &masks : nullptr);
      for (int variant = 0; variant < kernel.variants; ++variant) {
        session.call(
            kernel.name,
            [&](cudaStream_t on) {
              return kernel.launch({rows, in, out, activation, dtype}, tensors, variant, on);
            },
            Outputs{y});
        const std::vector<T> values = y->get();
        requireClose({values.begin(), values.end()}, expected, kernel.tolerance,
                     std::string(kernel.name) + ", variant " + std::to_string(variant) +
                         ", activation " + std::to_string(int32_t(activation)) + ", " +
                         std::to_string(rows) + " x " + std::to_string(in) + " x " +
                         std::to_string(out));
      }
    }
  }
}

/// The kernels for many rows. kOffset moves the norm's inputs away from zero.
template <typename T, typename In>
void runWide(Mode mode, int rows, int in, int out, DataType dtype, cudaStream_t stream) {
  if (!lite::hasLinearTf32()) return;
  constexpr bool kFp8 = sizeof(In) == 1;
  constexpr float kAlpha = kFp8 ? 0.5f : 1.0f, kEps = 1e-5f, kOffset = 3.0f;
  constexpr int kPeriod = 7;
  const double tolerance = dtype == DataType::kHalf ? 1e-3 : 8e-3;
  const lite::WideParams params{rows, in, out, dtype, kFp8, kAlpha};
  Session session(mode, stream);
  const auto x = session.input<In>(size_t(rows) * in);
  const auto weight = session.input<In>(size_t(out) * in, 1.0f / std::sqrt(float(in)));
  const auto bias = session.input<T>(out), residual = session.input<T>(size_t(rows) * out);
  const auto after = session.input<T>(size_t(kPeriod) * out);
  const auto scale = session.input<float>(out), shift = session.input<float>(out);
  const auto mask = session.integers<int32_t>(rows, 2);
  std::vector<T> moved = residual->get();
  for (T& value : moved) value = T(float(value) + kOffset);
  residual->set(moved);
  const auto toFloats = [](const auto& values) {
    return std::vector<float>(values.begin(), values.end());
  };
  const auto xs = toFloats(x->get()), weights = toFloats(weight->get());
  const auto biases = toFloats(bias->get());
  const std::string sizes = std::to_string(rows) + " x " + std::to_string(in) + " x " +
                            std::to_string(out) + (kFp8 ? " of FP8" : "");
  // with alpha, but without the bias
  const std::vector<float> none(out, 0.0f);
  std::vector<double> products = linearOnHost<float>(rows, in, out, Activation::kNone, false, xs,
                                                     weights, &none, nullptr, nullptr);
  for (double& product : products) product *= kAlpha;

  const int outs = out / 2;
  const auto masks = mask->get();
  std::vector<double> gated(size_t(rows) * outs);
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < outs; ++column) {
      const double* first = &products[size_t(row) * out];
      const double gate = first[outs + column] + biases[outs + column];
      const double value = (first[column] + biases[column]) / (1.0 + std::exp(-gate));
      gated[size_t(row) * outs + column] = masks[row] == 0 ? 0.0 : value;
    }
  }
  const auto y = session.memory<T>(gated.size());
  const auto small = session.memory<uint8_t>(gated.size());
  session.call(
      "linearGate " + sizes,
      [&](cudaStream_t on) {
        return lite::linearGate(
            params, {x->data(), weight->data(), bias->data(), mask->data(), y->data(), 0.0f}, on);
      },
      Outputs{y});
  requireClose(toFloats(y->get()), gated, tolerance, "linearGate " + sizes);
  session.call(
      "linearGate to FP8 " + sizes,
      [&](cudaStream_t on) {
        return lite::linearGate(
            params, {x->data(), weight->data(), nullptr, nullptr, small->data(), kFp8Factor}, on);
      },
      Outputs{small});

  const auto residuals = toFloats(residual->get()), scales = scale->get(), shifts = shift->get();
  const auto added = toFloats(after->get());
  std::vector<double> normed(products.size());
  for (int row = 0; row < rows; ++row) {
    double* sums = &products[size_t(row) * out];
    double mean = 0.0, squares = 0.0;
    for (int c = 0; c < out; ++c) {
      sums[c] += biases[c] + residuals[size_t(row) * out + c];
      mean += sums[c] / out;
    }
    for (int c = 0; c < out; ++c) squares += (sums[c] - mean) * (sums[c] - mean) / out;
    for (int c = 0; c < out; ++c) {
      normed[size_t(row) * out + c] = (sums[c] - mean) / std::sqrt(squares + kEps) * scales[c] +
                                      shifts[c] + added[row % kPeriod * out + c];
    }
  }
  const auto result = session.memory<T>(normed.size());
  const auto fp8 = session.memory<uint8_t>(normed.size());
  session.call(
      "linearNorm " + sizes,
      [&](cudaStream_t on) {
        return lite::linearNorm(
            params,
            {x->data(), weight->data(), bias->data(), residual->data(), scale->data(),
             shift->data(), kEps, after->data(), kPeriod, result->data(), fp8->data(), kFp8Factor},
            on);
      },
      Outputs{result, fp8});
  requireClose(toFloats(result->get()), normed, tolerance, "linearNorm " + sizes);
}

/// Infinity, the largest float, and subnormal TF32 numbers in FP32, with weights whose low parts
/// are 0: their products with the parts of infinity are NaN, and the high part of the largest float
/// is infinity. The small numbers are multiples of 2^-136, which the parts hold exactly.
void runExtremeInputs(Mode mode, cudaStream_t stream) {
  if (!lite::hasLinearTf32()) return;
  constexpr int kRows = 70, kIn = 36, kOut = 72;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Session session(mode, stream);
  std::vector<float> x(kRows * kIn), weight(kOut * kIn);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i % 5) - 2.0f;
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = i % 3 == 0 ? -0.25f : 0.5f;
  constexpr int kInfinite = 3, kSmall = 40, kLargest = 69;
  x[kInfinite * kIn + 7] = kInfinity;
  x[kLargest * kIn + 8] = std::numeric_limits<float>::max();
  for (int k = 0; k < kIn; ++k) x[kSmall * kIn + k] = std::ldexp(x[kSmall * kIn + k], -136);
  const auto inputs = session.holding(x), weights = session.holding(weight);
  const auto y = session.memory<float>(kRows * kOut);
  for (int variant = 0; variant < lite::kFp32LinearVariants; ++variant) {
    session.call(
        "linear in FP32 of extreme inputs",
        [&](cudaStream_t on) {
          return lite::linearFp32(
              {kRows, kIn, kOut, Activation::kNone, DataType::kFloat},
              {inputs->data(), weights->data(), nullptr, nullptr, nullptr, y->data()}, variant, on);
        },
        Outputs{y});
    const std::vector<float> values = y->get();
    for (int row = 0; row < kRows; ++row) {
      for (int out = 0; out < kOut; ++out) {
        const float* first = &x[row * kIn];
        const double sum = std::inner_product(first, first + kIn, &weight[out * kIn], 0.0);
        require(values[row * kOut + out] == float(sum),
                "linear in FP32 of extreme inputs, variant " + std::to_string(variant) + ": row " +
                    std::to_string(row) + ", output " + std::to_string(out));
      }
    }
  }
}

template <typename T>
void runSelfConv(Mode mode, int batch, int length, int channels, int heads, int kernel, int left,
                 DataType dtype, cudaStream_t stream) {
  Session session(mode, stream);
  const size_t elements = size_t(batch) * length * channels;
  const auto x = session.input<T>(elements), doubled = session.input<T>(2 * elements);
  const auto weight = session.input<T>(size_t(heads) * kernel * channels);
  const auto mask = session.holding(padding(batch, length));
  const auto y = session.memory<T>(elements);
  for (const bool tf32 : tf32Ways<T>()) {
    for (const bool glu : {false, true}) {
      session.call(
          tf32 ? "selfConv in TF32" : "selfConv",
          [&](cudaStream_t on) {
            return lite::selfConv({batch, length, channels, heads, kernel, left, glu, dtype, tf32},
                                  glu ? doubled->data() : x->data(), weight->data(),
                                  glu ? mask->data() : nullptr, y->data(), on);
          },
          Outputs{y});
    }
  }
  if constexpr (sizeof(T) == 2) {
    const auto fp8 = session.memory<uint8_t>(elements);
    session.call(
        "selfConv to FP8",
        [&](cudaStream_t on) {
          return lite::selfConv({batch, length, channels, heads, kernel, left, true, dtype},
                                doubled->data(), weight->data(), mask->data(), fp8->data(), on,
                                kFp8Factor);
        },
        Outputs{fp8});
  }
}

template <typename T>
void runAttention(Mode mode, int batch, int length, int source, int channels, int heads,
                  DataType dtype, cudaStream_t stream) {
  Session session(mode, stream);
  const int64_t stride = channels + 8;
  const auto query = session.input<T>(size_t(batch) * length * channels);
  // The data after the last row does not belong to the keys.
  const size_t pairs = (size_t(batch) * source - 1) * stride + channels;
  const auto keys = session.input<T>(pairs), values = session.input<T>(pairs);
  const auto mask = session.holding(padding(batch, source));
  const auto out = session.memory<T>(size_t(batch) * length * channels);
  for (const bool tf32 : tf32Ways<T>()) {
    for (const bool masked : {false, true}) {
      session.call(
          tf32 ? "attention in TF32" : "attention",
          [&](cudaStream_t on) {
            return lite::attention({batch, length, source, channels, heads, stride, dtype, tf32},
                                   query->data(), keys->data(), values->data(),
                                   masked ? mask->data() : nullptr, out->data(), on);
          },
          Outputs{out});
    }
  }
  if constexpr (sizeof(T) == 2) {
    const auto fp8 = session.memory<uint8_t>(size_t(batch) * length * channels);
    session.call(
        "attention to FP8",
        [&](cudaStream_t on) {
          return lite::attention({batch, length, source, channels, heads, stride, dtype},
                                 query->data(), keys->data(), values->data(), mask->data(),
                                 fp8->data(), on, kFp8Factor);
        },
        Outputs{fp8});
  }
}

template <typename T>
void runRowsToFp8(Mode mode, int rows, int width, DataType dtype, cudaStream_t stream) {
  Session session(mode, stream);
  const size_t elements = size_t(rows) * width;
  const auto x = session.input<T>(elements), doubled = session.input<T>(2 * elements);
  const auto scale = session.input<float>(width), shift = session.input<float>(width);
  const auto y = session.memory<T>(elements);
  const auto fp8 = session.memory<uint8_t>(elements);
  session.call(
      "toFp8",
      [&](cudaStream_t on) {
        return lite::toFp8({int64_t(elements), dtype, kFp8Factor}, x->data(), fp8->data(), on);
      },
      Outputs{fp8});
  session.call(
      "gluMask to FP8",
      [&](cudaStream_t on) {
        return lite::gluMask({rows, width, dtype}, doubled->data(), nullptr, fp8->data(), on,
                             kFp8Factor);
      },
      Outputs{fp8});
  session.call(
      "layerNorm to FP8",
      [&](cudaStream_t on) {
        return lite::layerNorm({rows, width, 1e-5f, dtype}, x->data(), nullptr, scale->data(),
                               shift->data(), y->data(), on, nullptr, 1, fp8->data(), kFp8Factor);
      },
      Outputs{y, fp8});
}

template <typename T>
void runEmbedSource(Mode mode, int batch, int length, int channels, int shift, DataType dtype,
                    cudaStream_t stream) {
  constexpr int kVocab = 50;
  Session session(mode, stream, shift);
  auto ids = std::vector<int64_t>(size_t(batch) * length, 1);
  for (int b = 0; b < batch; ++b) {  // padding on the right, then on the left
    for (int t = 0; t < length - length / 3 * (b > 0); ++t) {
      ids[b * length + (b % 2 == 0 ? t : length - 1 - t)] = t % (kVocab + 3) - (t == 5);
    }
  }
  const auto tokens = session.holding(ids);
  const auto embedding = session.input<T>(size_t(kVocab) * channels);
  const auto positions = session.input<T>(size_t(length + 2) * channels);
  const auto x = session.memory<T>(ids.size() * channels);
  const auto embedded = session.memory<T>(ids.size() * channels);
  const auto mask = session.memory<int32_t>(ids.size());
  session.call(
      "embedSource",
      [&](cudaStream_t on) {
        return lite::embedSource({batch, length, channels, kVocab, length + 2, dtype},
                                 tokens->data(), embedding->data(), positions->data(), x->data(),
                                 embedded->data(), mask->data(), on);
      },
      Outputs{x, embedded, mask});
}

template <typename T>
void runPredictLength(Mode mode, int batch, int source, int channels, int shift, DataType dtype,
                      cudaStream_t stream) {
  constexpr int kClasses = 251;
  Session session(mode, stream, shift);
  const auto x = session.input<T>(size_t(batch) * source * channels);
  const auto weight = session.input<T>(size_t(kClasses) * channels);
  const auto mask = session.holding(padding(batch, source));
  const auto limits = session.holding(std::vector<int64_t>(batch, 2 * source));
  const auto lengths = session.memory<int64_t>(batch);
  for (const bool relative : {false, true}) {
    session.call(
        "predictLength",
        [&](cudaStream_t on) {
          return lite::predictLength({batch, source, channels, kClasses, -3, relative, dtype},
                                     x->data(), mask->data(), weight->data(), limits->data(),
                                     lengths->data(), on);
        },
        Outputs{lengths});
  }
}

template <typename T>
void runCopySource(Mode mode, int batch, int length, int source, int channels, int shift,
                   DataType dtype, cudaStream_t stream) {
  constexpr int kVocab = 20;
  Session session(mode, stream, shift);
  std::vector<int64_t> each;
  for (int b = 0; b < batch; ++b) each.push_back(std::max(2, length - 2 * b));
  const auto lengths = session.holding(each);
  const auto queries = session.input<T>(size_t(length + 2) * channels);
  const auto keys = session.input<T>(size_t(batch) * source * channels);
  const auto embedded = session.input<T>(size_t(batch) * source * channels);
  const auto sourceMask = session.holding(padding(batch, source));
  const auto embedding = session.input<T>(size_t(kVocab) * channels);
  const auto positions = session.input<T>(size_t(length + 2) * channels);
  const auto x = session.memory<T>(size_t(batch) * length * channels);
  const auto mask = session.memory<int32_t>(size_t(batch) * length);
  const lite::CopySourceTensors tensors{lengths->data(),   queries->data(),    keys->data(),
                                        embedded->data(),  sourceMask->data(), embedding->data(),
                                        positions->data(), x->data(),          mask->data()};
  session.call(
      "copySource",
      [&](cudaStream_t on) {
        return lite::copySource({batch, length, source, channels, kVocab, length + 2, dtype},
                                tensors, on);
      },
      Outputs{x, mask});
}

/// Two layers of the encoder (source 0) or of the decoder.
template <typename T>
void runConvStack(Mode mode, int batch, int length, int heads, int source, DataType dtype,
                  cudaStream_t stream) {
  const int channels = 64 * heads, layers = 2;
  lite::ConvStackParams params{};
  params.batch = batch;
  params.length = length;
  params.heads = heads;
  params.ffn = 2 * channels;
  params.layers = layers;
  params.kernelSizes[0] = 3;
  params.kernelSizes[1] = 16;
  params.paddings[0] = source > 0 ? 2 : 1;
  params.paddings[1] = source > 0 ? 15 : 8;
  params.source = source;
  params.sourceStride = 2 * layers * channels;
  params.maskConv = true;
  params.eps = 1e-5f;
  params.dtype = dtype;
  lite::ConvStackPlan plan{};
  const cudaError_t planned = lite::planConvStack(params, &plan);
  if (planned == cudaErrorNotSupported) return;  // only Hopper supports conv_stack
  require(planned, "planConvStack");

  Session session(mode, stream);
  const size_t elements = size_t(batch) * length * channels;
  const auto x = session.input<T>(elements);
  const auto weights = session.input<T>(lite::convStackWeightSize(params), 0.05f);
  const auto constants = session.input<float>(lite::convStackConstantSize(params), 0.3f);
  const auto mask = session.holding(padding(batch, length));
  const auto keysValues =
      session.input<T>(size_t(batch) * std::max(source, 1) * params.sourceStride);
  const auto sourceMask = session.holding(padding(batch, std::max(source, 1)));
  const auto positions = session.input<T>(size_t(length) * channels);
  const auto y = session.memory<T>(elements);
  const auto scratch = session.scratch(lite::convStackScratchSize(params, plan));
  const bool decodes = source > 0;
  const lite::ConvStackTensors tensors{x->data(),
                                       weights->data(),
                                       constants->data(),
                                       decodes ? nullptr : mask->data(),
                                       decodes ? keysValues->data() : nullptr,
                                       decodes ? sourceMask->data() : nullptr,
                                       decodes ? positions->data() : nullptr,
                                       y->data(),
                                       scratch->data()};
  session.call(
      "convStack", [&](cudaStream_t on) { return lite::convStack(params, plan, tensors, on); },
      Outputs{y});
}

template <typename T>
void runAll(Mode mode, DataType dtype, cudaStream_t stream) {
  runEmbedSource<T>(mode, 1, 1, 1, 0, dtype, stream);
  runEmbedSource<T>(mode, 3, 70, 20, 1, dtype, stream);
  runEmbedSource<T>(mode, 2, 33, 512, 0, dtype, stream);
  runPredictLength<T>(mode, 1, 1, 3, 0, dtype, stream);
  runPredictLength<T>(mode, 3, 20, 65, 1, dtype, stream);
  runPredictLength<T>(mode, 3, 20, 512, 0, dtype, stream);
  runCopySource<T>(mode, 1, 2, 1, 64, 0, dtype, stream);
  runCopySource<T>(mode, 3, 13, 7, 9, 1, dtype, stream);
  runCopySource<T>(mode, 5, 100, 50, 512, 0, dtype, stream);
  runCopySource<T>(mode, 33, 100, 50, 64, 0, dtype, stream);  // enough for blocks of 32 positions
  runCopySource<T>(mode, 2, 20, 512, 40, 0, dtype, stream);
  runAttention<T>(mode, 1, 1, 1, 16, 1, dtype, stream);
  runAttention<T>(mode, 2, 5, 17, 96, 2, dtype, stream);
  runAttention<T>(mode, 9, 33, 16, 512, 8, dtype, stream);
  runAttention<T>(mode, 1, 20, 300, 256, 2, dtype, stream);
  runSelfConv<T>(mode, 1, 1, 16, 1, 1, 0, dtype, stream);
  runSelfConv<T>(mode, 2, 9, 48, 3, 4, 3, dtype, stream);
  runSelfConv<T>(mode, 2, 12, 240, 4, 31, 15, dtype, stream);
  runSelfConv<T>(mode, 1, 5, 128, 8, 31, 30, dtype, stream);
  runSelfConv<T>(mode, 3, 17, 512, 8, 15, 14, dtype, stream);
  runSelfConv<T>(mode, 52, 70, 64, 2, 7, 3, dtype,
                 stream);  // enough for tiles of 16 positions of FP32
  runSelfConv<T>(mode, 45, 90, 64, 2, 7, 3, dtype, stream);     // of 32 of 16 bits
  runSelfConv<T>(mode, 90, 180, 48, 2, 15, 14, dtype, stream);  // of 64
  if constexpr (sizeof(T) == 2) {
    runRowsToFp8<T>(mode, 1, 16, dtype, stream);
    runRowsToFp8<T>(mode, 37, 320, dtype, stream);
    runRowsToFp8<T>(mode, 3, 2048, dtype, stream);
  }
  runLinear<T>(mode, 1, 8, 8, dtype, stream);
  runLinear<T>(mode, 21, 72, 24, dtype, stream);
  runLinear<T>(mode, 70, 496, 104, dtype, stream);
  runLinear<T>(mode, 130, 512, 256, dtype, stream);
  if constexpr (std::is_same_v<T, float>) {
    runAttention<T>(mode, 2, 5, 7, 51, 3, dtype, stream);
    runLinear<T>(mode, 65, 4, 12, dtype, stream);
    runLinear<T>(mode, 2200, 68, 1040, dtype, stream);  // more tiles than blocks, and than a band
    runExtremeInputs(mode, stream);
  }
}

template <typename T>
void runAllWide(Mode mode, DataType dtype, cudaStream_t stream) {
  runWide<T, T>(mode, 1, 8, 256, dtype, stream);
  runWide<T, T>(mode, 300, 72, 512, dtype, stream);
  runWide<T, T>(mode, 129, 520, 1024, dtype, stream);
  runWide<T, __nv_fp8_e4m3>(mode, 257, 16, 256, dtype, stream);
  runWide<T, __nv_fp8_e4m3>(mode, 140, 656, 512, dtype, stream);
  runWide<T, T>(mode, 17000, 16, 512, dtype, stream);  // several tiles a block
}

template <typename T>
void runAllStacks(Mode mode, DataType dtype, cudaStream_t stream) {
  runConvStack<T>(mode, 1, 1, 2, 0, dtype, stream);
  runConvStack<T>(mode, 3, 17, 4, 0, dtype, stream);
  runConvStack<T>(mode, 2, 64, 8, 0, dtype, stream);
  runConvStack<T>(mode, 7, 16, 2, 11, dtype, stream);
  runConvStack<T>(mode, 1, 64, 8, 64, dtype, stream);
  runConvStack<T>(mode, 16, 64, 8, 5, dtype, stream);  // more groups than clusters that fit
}

}  // namespace

void runNetwork(Mode mode, cudaStream_t stream) {
  runAll<float>(mode, DataType::kFloat, stream);
  runAll<__half>(mode, DataType::kHalf, stream);
  runAll<__nv_bfloat16>(mode, DataType::kBFloat16, stream);
}

void runWideProducts(Mode mode, cudaStream_t stream) {
  runAllWide<__half>(mode, DataType::kHalf, stream);
  runAllWide<__nv_bfloat16>(mode, DataType::kBFloat16, stream);
}

void runStacks(Mode mode, cudaStream_t stream) {
  runAllStacks<__half>(mode, DataType::kHalf, stream);
  runAllStacks<__nv_bfloat16>(mode, DataType::kBFloat16, stream);
}

}  // namespace driver
