#include "../crf_decode.h"
#include "../crf_normaliser.h"
#include "../dynamic_conv.h"
#include "../glu_mask.h"
#include "../layer_norm.h"
#include "../top_k.h"
#include "cases.h"

namespace driver {
namespace {

using lite::DataType;

struct Shape {
  int batch, length, heads, headChannels, kernel, padding, shift;
};

// One position; fewer positions than taps; tiles of every size, one and many; widths that are not a
// multiple of a vector; unaligned tensors; the longest kernel.
const Shape kShapes[] = {
    {1, 1, 1, 1, 1, 0, 0},      {2, 1, 2, 8, 31, 15, 0},   {3, 5, 4, 16, 31, 30, 0},
    {2, 64, 8, 64, 15, 14, 0},  {1, 32, 8, 64, 31, 15, 0}, {40, 64, 8, 64, 7, 3, 0},
    {2, 33, 4, 50, 5, 2, 1},    {1, 17, 8, 51, 3, 2, 0},   {1, 130, 2, 136, 255, 90, 3},
    {1, 300, 2, 100, 15, 7, 0}, {1, 9, 1, 1040, 4, 0, 0},  {1, 7, 1, 1031, 2, 1, 1},
    {9, 256, 4, 64, 15, 14, 0},
};

template <typename T>
void runConvolutions(Mode mode, const Shape& s, DataType dtype, cudaStream_t stream) {
  const int channels = s.heads * s.headChannels;
  const size_t elements = size_t(s.batch) * channels * s.length;
  const size_t taps = size_t(s.batch) * s.heads * s.kernel * s.length;
  Session session(mode, stream, s.shift);
  const auto x = session.input<T>(elements);
  const auto grad = session.input<T>(elements), weight = session.input<T>(taps);
  const auto mask = session.integers<int32_t>(size_t(s.batch) * s.length, 2);
  const auto y = session.memory<T>(elements), gradWeight = session.memory<T>(taps);

  const lite::DynamicConvParams params{s.batch,  channels,  s.length, s.heads,
                                       s.kernel, s.padding, dtype};
  session.call(
      "dynamicConv",
      [&](cudaStream_t on) {
        return lite::dynamicConv(params, x->data(), weight->data(), y->data(), on);
      },
      Outputs{y});
  session.call(
      "dynamicConvBackward",
      [&](cudaStream_t on) {
        return lite::dynamicConvBackward(params, grad->data(), x->data(), weight->data(), y->data(),
                                         gradWeight->data(), on);
      },
      Outputs{y, gradWeight});
  const lite::DynamicConvFusedParams fused{s.batch,  s.length,  channels, s.heads,
                                           s.kernel, s.padding, dtype};
  for (const bool masked : {false, true}) {
    session.call(
        "dynamicConvFused",
        [&](cudaStream_t on) {
          return lite::dynamicConvFused(fused, x->data(), weight->data(),
                                        masked ? mask->data() : nullptr, y->data(), on);
        },
        Outputs{y});
  }
}

template <typename T>
void runRows(Mode mode, const Shape& s, DataType dtype, cudaStream_t stream) {
  const int width = s.heads * s.headChannels;
  const int64_t rows = int64_t(s.batch) * s.length;
  Session session(mode, stream, s.shift);
  const auto doubled = session.input<T>(2 * rows * width), x = session.input<T>(rows * width);
  const auto residual = session.input<T>(rows * width);
  const auto after = session.input<T>(int64_t(s.length) * width);
  const auto scale = session.input<float>(width), shift = session.input<float>(width);
  const auto mask = session.integers<int32_t>(rows, 2);
  const auto y = session.memory<T>(rows * width);
  for (const bool masked : {false, true}) {
    session.call(
        "gluMask",
        [&](cudaStream_t on) {
          return lite::gluMask({rows, width, dtype}, doubled->data(),
                               masked ? mask->data() : nullptr, y->data(), on);
        },
        Outputs{y});
  }
  const lite::LayerNormParams norm{rows, width, 1e-5f, dtype};
  session.call(
      "layerNorm",
      [&](cudaStream_t on) {
        return lite::layerNorm(norm, x->data(), residual->data(), scale->data(), shift->data(),
                               y->data(), on);
      },
      Outputs{y});
  session.call(
      "layerNorm with rows added after it",
      [&](cudaStream_t on) {
        return lite::layerNorm(norm, x->data(), nullptr, scale->data(), shift->data(), y->data(),
                               on, after->data(), s.length);
      },
      Outputs{y});
}

template <typename T>
void runTopK(Mode mode, int64_t rows, int width, int k, int shift, bool constant, DataType dtype,
             cudaStream_t stream) {
  Session session(mode, stream, shift);
  const auto x = constant ? session.holding(std::vector<T>(rows * width, T(1.0f)))
                          : session.input<T>(rows * width);
  const auto values = session.memory<T>(rows * k);
  const auto indices = session.memory<int32_t>(rows * k);
  session.call(
      "topK",
      [&](cudaStream_t on) {
        return lite::topK({rows, width, k, dtype}, x->data(), values->data(), indices->data(),
                          nullptr, on);
      },
      Outputs{values, indices});
}

template <typename T>
void runCrf(Mode mode, int batch, int length, int beam, int rank, int shift, DataType dtype,
            cudaStream_t stream) {
  constexpr int kVocab = 97;
  const lite::CrfDecodeParams params{batch, length, beam, kVocab, rank, dtype};
  const size_t positions = size_t(batch) * length;
  Session session(mode, stream, shift);
  const auto emissions = session.input<T>(positions * beam);
  const auto E1 = session.input<T>(kVocab * rank), E2 = session.input<T>(kVocab * rank);
  const auto targets = session.integers<int32_t>(positions * beam, kVocab);
  const auto mask = session.integers<int32_t>(positions, 2);
  const auto tokens = session.memory<int32_t>(positions);
  const auto scores = session.memory<float>(positions);
  const auto workspace =
      session.memory<float>(lite::crfDecodeWorkspaceSize(params) / sizeof(float));
  session.call(
      "crfDecode",
      [&](cudaStream_t on) {
        return lite::crfDecode(params, emissions->data(), targets->data(), E1->data(), E2->data(),
                               mask->data(), tokens->data(), scores->data(), workspace->data(), on);
      },
      Outputs{tokens, scores, workspace});
}

template <typename T>
void runCrfNormaliser(Mode mode, int batch, int length, int beam, int shift, DataType dtype,
                      cudaStream_t stream) {
  const lite::CrfNormaliserParams params{batch, length, beam, dtype};
  const size_t slots = size_t(batch) * length * beam;
  const size_t steps = size_t(batch) * (length - 1) * beam * beam;
  Session session(mode, stream, shift);
  const auto emissions = session.input<T>(slots), transitions = session.input<T>(steps);
  const auto mask = session.integers<int32_t>(size_t(batch) * length, 2);
  const auto grad = session.input<float>(batch);
  const auto total = session.memory<float>(batch), prefixes = session.memory<float>(slots);
  const auto gradEmissions = session.memory<T>(slots), gradTransitions = session.memory<T>(steps);
  session.call(
      "crfNormaliser",
      [&](cudaStream_t on) {
        return lite::crfNormaliser(params, emissions->data(), transitions->data(), mask->data(),
                                   total->data(), prefixes->data(), on);
      },
      Outputs{total, prefixes});
  session.call(
      "crfNormaliserBackward",
      [&](cudaStream_t on) {
        return lite::crfNormaliserBackward(
            params, grad->data(), emissions->data(), transitions->data(), mask->data(),
            total->data(), prefixes->data(), gradEmissions->data(), gradTransitions->data(), on);
      },
      Outputs{gradEmissions, gradTransitions});
}

template <typename T>
void runAll(Mode mode, DataType dtype, cudaStream_t stream) {
  for (const Shape& shape : kShapes) {
    runConvolutions<T>(mode, shape, dtype, stream);
    runRows<T>(mode, shape, dtype, stream);
  }
  runTopK<T>(mode, 3, 32768, 32, 0, false, dtype, stream);
  runTopK<T>(mode, 2, 32769, 64, 1, false, dtype, stream);
  runTopK<T>(mode, 2, 251, 5, 3, false, dtype, stream);
  runTopK<T>(mode, 2, 9000, 32, 0, true, dtype, stream);
  runTopK<T>(mode, 1, 1, 1, 0, false, dtype, stream);
  runCrf<T>(mode, 2, 64, 32, 32, 0, dtype, stream);
  runCrf<T>(mode, 2, 21, 64, 32, 0, dtype, stream);
  runCrf<T>(mode, 2, 19, 5, 7, 1, dtype, stream);
  runCrf<T>(mode, 1, 1, 33, 40, 0, dtype, stream);
  runCrf<T>(mode, 1, 512, 64, 8, 0, dtype, stream);
  runCrfNormaliser<T>(mode, 3, 21, 32, 0, dtype, stream);
  runCrfNormaliser<T>(mode, 2, 9, 33, 1, dtype, stream);
  runCrfNormaliser<T>(mode, 2, 2, 1, 0, dtype, stream);
}

}  // namespace

void runOperators(Mode mode, cudaStream_t stream) {
  runAll<float>(mode, DataType::kFloat, stream);
  runAll<__half>(mode, DataType::kHalf, stream);
  runAll<__nv_bfloat16>(mode, DataType::kBFloat16, stream);
  require(lite::topK({1, 8, 65, DataType::kFloat}, nullptr, nullptr, nullptr, nullptr, stream) ==
              cudaErrorInvalidValue,
          "topK takes 65");
}

}  // namespace driver
