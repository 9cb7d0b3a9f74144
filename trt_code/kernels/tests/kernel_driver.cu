// Runs every kernel on shapes that reach each of its code paths, on buffers of exactly the right
// size, so that compute-sanitizer sees any access outside of them (sanitize.sh). By itself it
// checks that no launch fails and that every output element is written with a number. What the
// numbers should be is the business of trt_code/tests/test_kernels_gpu.py.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "../common.cuh"
#include "../crf_decode.h"
#include "../dynamic_conv.h"
#include "../glu_mask.h"
#include "../layer_norm.h"
#include "../top_k.h"

namespace {

using lite::DataType;

int failures = 0;
std::mt19937 generator(1);

void require(bool good, const std::string& what) {
  if (good) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  ++failures;
}

void require(cudaError_t status, const std::string& what) {
  require(status == cudaSuccess, what + ": " + cudaGetErrorString(status));
}

/// Device memory of `count` elements, which start `shift` elements after an aligned address and end
/// with the allocation.
template <typename T>
class Buffer {
 public:
  Buffer(size_t count, int shift) : count_(count), shift_(shift) {
    require(cudaMalloc(&base_, bytes()), "cudaMalloc");
    require(cudaMemset(base_, 0xFF, bytes()), "cudaMemset");  // NaN; -1 as an integer
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(base_); }

  T* data() const { return base_ + shift_; }

  void set(const std::vector<T>& values) {
    require(cudaMemcpy(data(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "copy");
  }

  std::vector<T> get() const {
    std::vector<T> values(count_);
    require(cudaMemcpy(values.data(), data(), count_ * sizeof(T), cudaMemcpyDeviceToHost), "copy");
    return values;
  }

 private:
  size_t bytes() const { return (count_ + shift_) * sizeof(T); }

  size_t count_;
  int shift_;
  T* base_ = nullptr;
};

template <typename T>
T number(float value);
template <>
float number<float>(float value) {
  return value;
}
template <>
__half number<__half>(float value) {
  return __float2half(value);
}
template <>
__nv_bfloat16 number<__nv_bfloat16>(float value) {
  return __float2bfloat16(value);
}
float plain(float value) { return value; }
float plain(__half value) { return __half2float(value); }
float plain(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
struct Input : Buffer<T> {
  Input(size_t count, int shift) : Buffer<T>(count, shift) {
    std::normal_distribution<float> normal;
    std::vector<T> values(count);
    for (T& value : values) value = number<T>(normal(generator));
    this->set(values);
  }
};

/// Integers in [0, limit).
struct Integers : Buffer<int32_t> {
  Integers(size_t count, int limit, int shift) : Buffer<int32_t>(count, shift) {
    std::vector<int32_t> values(count);
    for (int32_t& value : values) value = int32_t(generator() % unsigned(limit));
    set(values);
  }
};

template <typename T>
void requireWritten(const Buffer<T>& output, const std::string& what) {
  for (const T value : output.get()) {
    const float read = plain(value);
    if (read != read) return require(false, what + ": an element was not written");
  }
}

void requireWritten(const Buffer<int32_t>& output, const std::string& what) {
  for (const int32_t value : output.get()) {
    if (value < 0) return require(false, what + ": an element was not written");
  }
}

struct Shape {
  int batch, length, heads, headChannels, kernel, padding, shift;
};

const Shape kShapes[] = {
    {1, 1, 1, 1, 1, 0, 0},        {2, 64, 8, 64, 15, 14, 0}, {1, 32, 8, 64, 31, 15, 0},
    {40, 64, 8, 64, 7, 3, 0},     {2, 33, 4, 50, 5, 2, 1},   {1, 17, 8, 51, 3, 2, 0},
    {1, 130, 2, 136, 255, 90, 3}, {1, 9, 1, 1040, 4, 0, 0},  {1, 7, 1, 1031, 2, 1, 1},
};

template <typename T>
void runConvolutions(const Shape& s, DataType dtype, cudaStream_t stream) {
  const int channels = s.heads * s.headChannels;
  const size_t elements = size_t(s.batch) * channels * s.length;
  const size_t taps = size_t(s.batch) * s.heads * s.kernel * s.length;
  const Input<T> x(elements, s.shift), doubled(2 * elements, s.shift), weight(taps, s.shift);
  const Integers mask(size_t(s.batch) * s.length, 2, s.shift);
  const Buffer<T> y(elements, s.shift), gradWeight(taps, s.shift);

  const lite::DynamicConvParams params{s.batch,  channels,  s.length, s.heads,
                                       s.kernel, s.padding, dtype};
  require(lite::dynamicConv(params, x.data(), weight.data(), y.data(), stream), "dynamicConv");
  requireWritten(y, "dynamicConv");
  require(lite::dynamicConvBackward(params, x.data(), x.data(), weight.data(), y.data(),
                                    gradWeight.data(), stream),
          "dynamicConvBackward");
  requireWritten(y, "dynamicConvBackward");
  requireWritten(gradWeight, "dynamicConvBackward");

  for (const bool glu : {false, true}) {
    const lite::DynamicConvFusedParams fused{s.batch,  s.length,  channels, s.heads,
                                             s.kernel, s.padding, glu,      dtype};
    const Buffer<T> result(elements, s.shift);
    require(lite::dynamicConvFused(fused, glu ? doubled.data() : x.data(), weight.data(),
                                   glu ? mask.data() : nullptr, result.data(), stream),
            "dynamicConvFused");
    requireWritten(result, "dynamicConvFused");
  }
}

template <typename T>
void runRows(const Shape& s, DataType dtype, cudaStream_t stream) {
  const int width = s.heads * s.headChannels;
  const int64_t rows = int64_t(s.batch) * s.length;
  const Input<T> x(2 * rows * width, s.shift), residual(rows * width, s.shift),
      bias(width, s.shift);
  const Input<float> scale(width, s.shift), shift(width, s.shift);
  const Integers mask(rows, 2, s.shift);

  const Buffer<T> gated(rows * width, s.shift), normal(rows * width, s.shift);
  require(lite::gluMask({rows, width, dtype}, x.data(), mask.data(), gated.data(), stream),
          "gluMask");
  requireWritten(gated, "gluMask");
  require(lite::layerNorm({rows, width, 1e-5f, dtype}, residual.data(), gated.data(), bias.data(),
                          scale.data(), shift.data(), normal.data(), stream),
          "layerNorm");
  requireWritten(normal, "layerNorm");
}

template <typename T>
void runTopK(int64_t rows, int width, int k, int shift, bool constant, DataType dtype,
             cudaStream_t stream) {
  Input<T> x(rows * width, shift);
  if (constant) x.set(std::vector<T>(rows * width, number<T>(1.0f)));
  const Buffer<T> values(rows * k, shift);
  const Buffer<int32_t> indices(rows * k, shift);
  require(
      lite::topK({rows, width, k, dtype}, x.data(), values.data(), indices.data(), nullptr, stream),
      "topK");
  requireWritten(values, "topK");
  requireWritten(indices, "topK");
}

template <typename T>
void runCrf(int batch, int length, int beam, int rank, int shift, DataType dtype,
            cudaStream_t stream) {
  constexpr int kVocab = 97;
  const lite::CrfDecodeParams params{batch, length, beam, kVocab, rank, dtype};
  const Input<T> emissions(size_t(batch) * length * beam, shift);
  const Input<T> E1(kVocab * rank, shift), E2(kVocab * rank, shift);
  const Integers targets(size_t(batch) * length * beam, kVocab, shift);
  const Integers mask(size_t(batch) * length, 2, shift);
  const Buffer<int32_t> tokens(size_t(batch) * length, shift);
  const Buffer<float> scores(size_t(batch) * length, shift);
  const Buffer<float> workspace(lite::crfDecodeWorkspaceSize(params) / sizeof(float), 0);
  require(lite::crfDecode(params, emissions.data(), targets.data(), E1.data(), E2.data(),
                          mask.data(), tokens.data(), scores.data(), workspace.data(), stream),
          "crfDecode");
  requireWritten(tokens, "crfDecode");
  requireWritten(scores, "crfDecode");
}

template <typename T>
void runAll(DataType dtype, cudaStream_t stream) {
  for (const Shape& shape : kShapes) {
    runConvolutions<T>(shape, dtype, stream);
    runRows<T>(shape, dtype, stream);
  }
  runTopK<T>(3, 32768, 32, 0, false, dtype, stream);
  runTopK<T>(2, 32769, 64, 1, false, dtype, stream);
  runTopK<T>(2, 251, 5, 3, false, dtype, stream);
  runTopK<T>(2, 9000, 32, 0, true, dtype, stream);
  runTopK<T>(1, 1, 1, 0, false, dtype, stream);
  runCrf<T>(2, 64, 32, 32, 0, dtype, stream);
  runCrf<T>(2, 21, 64, 32, 0, dtype, stream);
  runCrf<T>(2, 19, 5, 7, 1, dtype, stream);
  runCrf<T>(1, 1, 33, 40, 0, dtype, stream);
}

}  // namespace

int main() {
  cudaStream_t stream;
  require(cudaStreamCreate(&stream), "cudaStreamCreate");
  runAll<float>(DataType::kFloat, stream);
  runAll<__half>(DataType::kHalf, stream);
  runAll<__nv_bfloat16>(DataType::kBFloat16, stream);
  require(lite::topK({1, 8, 65, DataType::kFloat}, nullptr, nullptr, nullptr, nullptr, stream) ==
              cudaErrorInvalidValue,
          "topK takes 65");
  require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  require(cudaStreamDestroy(stream), "cudaStreamDestroy");
  std::printf("%d failures\n", failures);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
