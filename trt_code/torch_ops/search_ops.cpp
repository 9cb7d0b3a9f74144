// The operators of one step of a search, for PyTorch. They write the search's state in place, and
// exist on CUDA only, for inference.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <vector>

#include "attend_step.h"
#include "choose_step.h"
#include "convolve_step.h"
#include "embed_step.h"
#include "tensors.h"

namespace {

using at::Tensor;
using namespace lite::torch_ops;

// Raises an error unless the rows of x [rows, width] are dense and the tensor is like `like`.
// Returns the distance between two rows.
int64_t rowStride(const char* op, const char* name, const Tensor& x, int64_t rows, int64_t width,
                  const Tensor& like) {
  TORCH_CHECK(x.dim() == 2 && x.size(0) == rows && x.size(1) == width && x.stride(1) == 1,
              "lite::", op, ": ", name, " must be ", text({rows, width}), " with dense rows, got ",
              text(x.sizes()));
  TORCH_CHECK(x.scalar_type() == like.scalar_type() && x.device() == like.device(), "lite::", op,
              ": ", name, " must have the type and the device of the other tensors");
  return rows > 1 ? x.stride(0) : width;
}

// Returns why attend_past and attend_source do not support these sizes, or nothing if they do.
std::optional<std::string> whyNotAttendStep(int64_t channels, int64_t heads, int64_t positions,
                                            at::ScalarType dtype) {
  constexpr const char* kName = "why_not_attend_step";
  lite::AttendPastParams params{};
  params.capacity = narrow(kName, positions);
  params.channels = narrow(kName, channels);
  params.heads = narrow(kName, heads);
  params.stride = 3 * channels;
  params.outStride = channels;
  params.dtype = dataType(kName, dtype);
  return whyNot(params);
}

void attendPast(const Tensor& qkv, const Tensor& keys, const Tensor& values,
                const OptionalTensor& ancestors, const Tensor& position, int64_t heads,
                const Tensor& out) {
  constexpr const char* kName = "attend_past";
  requireRank(kName, "keys", keys, 3);
  const int64_t rows = keys.size(0), capacity = keys.size(1), channels = keys.size(2);
  requireTensor(kName, "keys", keys, keys.sizes(), qkv);
  requireTensor(kName, "values", values, keys.sizes(), qkv);
  const lite::AttendPastParams params{narrow(kName, rows),
                                      narrow(kName, capacity),
                                      narrow(kName, channels),
                                      narrow(kName, heads),
                                      rowStride(kName, "qkv", qkv, rows, 3 * channels, qkv),
                                      rowStride(kName, "out", out, rows, channels, qkv),
                                      dataType(kName, qkv)};
  checkParams(kName, params);
  const c10::cuda::CUDAGuard guard(qkv.device());
  C10_CUDA_CHECK(lite::attendPast(
      params, qkv.const_data_ptr(), keys.data_ptr(), values.data_ptr(),
      int32OrNull(kName, "ancestors", ancestors, {2, rows, capacity}, qkv),
      dataOf<int64_t>(kName, "position", position, {}, qkv), out.data_ptr(), stream()));
}

// keys and values [B, S, C] may be slices of wider rows.
Tensor attendSource(const Tensor& query, const Tensor& keys, const Tensor& values,
                    const Tensor& mask, int64_t heads) {
  constexpr const char* kName = "attend_source";
  requireRank(kName, "query", query, 3);
  requireRank(kName, "keys", keys, 3);
  const int64_t batch = query.size(0), beam = query.size(1), channels = query.size(2);
  const int64_t source = keys.size(1);
  requireTensor(kName, "query", query, query.sizes(), query);
  const auto matches = [&](const Tensor& x) {
    return x.sizes() == at::IntArrayRef({batch, source, channels}) && x.stride(2) == 1 &&
           x.stride(0) == source * x.stride(1) && x.strides() == keys.strides() &&
           x.scalar_type() == query.scalar_type() && x.device() == query.device();
  };
  TORCH_CHECK(matches(keys) && matches(values), "lite::attend_source: keys and values must be ",
              text({batch, source, channels}), " with equal strides and rows at one distance, got ",
              text(keys.sizes()), " and ", text(values.sizes()));
  const lite::AttendSourceParams params{
      narrow(kName, batch), narrow(kName, beam), narrow(kName, source), narrow(kName, channels),
      narrow(kName, heads), keys.stride(1),      dataType(kName, query)};
  checkParams(kName, params);
  const c10::cuda::CUDAGuard guard(query.device());
  Tensor out = at::empty_like(query);
  C10_CUDA_CHECK(lite::attendSource(
      params, query.const_data_ptr(), keys.const_data_ptr(), values.const_data_ptr(),
      dataOf<bool>(kName, "mask", mask, {batch, source}, query), out.data_ptr(), stream()));
  return out;
}

// Returns why convolve_step does not support these sizes, or nothing if it does.
std::optional<std::string> whyNotConvolveStep(int64_t channels, int64_t heads, int64_t kernel_size,
                                              at::ScalarType dtype) {
  constexpr const char* kName = "why_not_convolve_step";
  lite::ConvolveStepParams params{};
  params.capacity = 1;
  params.channels = narrow(kName, channels);
  params.heads = narrow(kName, heads);
  params.kernelSize = narrow(kName, kernel_size);
  params.stride = params.outStride = channels;
  params.dtype = dataType(kName, dtype);
  return whyNot(params);
}

void convolveStep(const Tensor& x, const Tensor& weight, const Tensor& inputs,
                  const OptionalTensor& ancestors, const Tensor& position, int64_t heads, bool glu,
                  bool softmax, const Tensor& out) {
  constexpr const char* kName = "convolve_step";
  requireRank(kName, "inputs", inputs, 3);
  requireRank(kName, "weight", weight, 3);
  const int64_t rows = inputs.size(0), capacity = inputs.size(1), channels = inputs.size(2);
  requireTensor(kName, "inputs", inputs, inputs.sizes(), x);
  const int64_t vector = lite::tapsVector(dataType(kName, x)), taps = weight.size(1);
  requireTensor(kName, "weight", weight, {channels / vector, taps, vector}, x);
  TORCH_CHECK(heads > 0 && taps % heads == 0, "lite::convolve_step: ", std::to_string(taps),
              " taps for ", std::to_string(heads), " heads");
  const lite::ConvolveStepParams params{narrow(kName, rows),
                                        narrow(kName, capacity),
                                        narrow(kName, channels),
                                        narrow(kName, heads),
                                        narrow(kName, taps / heads),
                                        rowStride(kName, "x", x, rows, channels * (1 + glu), x),
                                        rowStride(kName, "out", out, rows, channels, x),
                                        glu,
                                        softmax,
                                        dataType(kName, x)};
  checkParams(kName, params);
  const c10::cuda::CUDAGuard guard(x.device());
  C10_CUDA_CHECK(lite::convolveStep(
      params, x.const_data_ptr(), weight.const_data_ptr(), inputs.data_ptr(),
      int32OrNull(kName, "ancestors", ancestors, {2, rows, capacity}, x),
      dataOf<int64_t>(kName, "position", position, {}, x), out.data_ptr(), stream()));
}

Tensor embedStep(const Tensor& tokens, const Tensor& parents, const Tensor& position,
                 const Tensor& embedding, const OptionalTensor& positions, double scale,
                 const OptionalTensor& ancestors) {
  constexpr const char* kName = "embed_step";
  requireRank(kName, "tokens", tokens, 2);
  requireRank(kName, "embedding", embedding, 2);
  requireTensor(kName, "embedding", embedding, embedding.sizes(), embedding);
  const int64_t batch = tokens.size(0), beam = tokens.size(1), channels = embedding.size(1);
  if (positions) {
    requireRank(kName, "positions", *positions, 2);
    requireTensor(kName, "positions", *positions, {positions->size(0), channels}, embedding);
  }
  if (ancestors) requireRank(kName, "ancestors", *ancestors, 3);
  const int64_t capacity = ancestors ? ancestors->size(2) : 1;
  const lite::EmbedStepParams params{narrow(kName, batch),
                                     narrow(kName, beam),
                                     narrow(kName, channels),
                                     narrow(kName, embedding.size(0)),
                                     positions ? narrow(kName, positions->size(0)) : 0,
                                     narrow(kName, capacity),
                                     static_cast<float>(scale),
                                     dataType(kName, embedding)};
  checkParams(kName, params);
  const c10::cuda::CUDAGuard guard(embedding.device());
  int32_t* table = nullptr;
  if (ancestors) {
    table = dataOf<int32_t>(kName, "ancestors", *ancestors, {2, batch * beam, capacity}, embedding);
  }
  Tensor x = at::empty({batch, beam, channels}, embedding.options());
  C10_CUDA_CHECK(lite::embedStep(
      params, dataOf<int64_t>(kName, "tokens", tokens, {batch, beam}, embedding),
      dataOf<int64_t>(kName, "parents", parents, {batch, beam}, embedding),
      dataOf<int64_t>(kName, "position", position, {}, embedding), embedding.const_data_ptr(),
      dataOrNull(positions), table, x.data_ptr(), stream()));
  return x;
}

// Returns why choose_step does not support these sizes, or nothing if it does.
std::optional<std::string> whyNotChooseStep(int64_t beam, int64_t vocab, at::ScalarType dtype) {
  constexpr const char* kName = "why_not_choose_step";
  lite::ChooseStepParams params{};
  params.beam = narrow(kName, beam);
  params.vocab = narrow(kName, vocab);
  params.steps = 1;
  params.dtype = dataType(kName, dtype);
  return whyNot(params);
}

void chooseStep(const Tensor& logits, const Tensor& forbidden, const Tensor& kinds,
                const Tensor& tokens, const Tensor& parents, const Tensor& totals,
                const Tensor& step, const Tensor& done, const Tensor& past_tokens,
                const Tensor& past_parents, const Tensor& past_totals, const Tensor& count,
                const Tensor& end_at, const Tensor& end_total, const Tensor& counters) {
  constexpr const char* kName = "choose_step";
  requireRank(kName, "logits", logits, 3);
  requireRank(kName, "kinds", kinds, 1);
  requireTensor(kName, "logits", logits, logits.sizes(), logits);
  const int64_t batch = logits.size(0), beam = logits.size(1), vocab = logits.size(2);
  const int64_t steps = kinds.size(0);
  const lite::ChooseStepParams params{narrow(kName, batch), narrow(kName, beam),
                                      narrow(kName, vocab), narrow(kName, steps),
                                      dataType(kName, logits)};
  checkParams(kName, params);
  const auto integers = [&](const char* name, const Tensor& x, at::IntArrayRef sizes) {
    return dataOf<int64_t>(kName, name, x, sizes, logits);
  };
  const auto floats = [&](const char* name, const Tensor& x, at::IntArrayRef sizes) {
    return dataOf<float>(kName, name, x, sizes, logits);
  };
  const lite::SearchState state{integers("tokens", tokens, {batch, beam}),
                                integers("parents", parents, {batch, beam}),
                                floats("totals", totals, {batch, beam}),
                                integers("step", step, {}),
                                dataOf<bool>(kName, "done", done, {}, logits),
                                integers("past_tokens", past_tokens, {steps, batch, beam}),
                                integers("past_parents", past_parents, {steps, batch, beam}),
                                floats("past_totals", past_totals, {steps, batch, beam}),
                                integers("count", count, {batch}),
                                integers("end_at", end_at, {batch, beam + 1}),
                                floats("end_total", end_total, {batch, beam + 1})};
  const c10::cuda::CUDAGuard guard(logits.device());
  const std::vector<int64_t> candidates{batch * beam, 2 * beam};
  Tensor values = at::empty(candidates, logits.options().dtype(at::kFloat));
  Tensor indices = at::empty(candidates, logits.options().dtype(at::kInt));
  C10_CUDA_CHECK(
      lite::chooseStep(params, logits.const_data_ptr(), floats("forbidden", forbidden, {3, vocab}),
                       integers("kinds", kinds, {steps}), state, values.data_ptr<float>(),
                       indices.data_ptr<int32_t>(),
                       dataOf<int32_t>(kName, "counters", counters, {2}, logits), stream()));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lite, library) {
  library.def(
      "attend_past(Tensor qkv, Tensor(a!) keys, Tensor(b!) values, Tensor? ancestors, "
      "Tensor position, int heads, Tensor(c!) out) -> ()");
  library.def(
      "attend_source(Tensor query, Tensor keys, Tensor values, Tensor mask, int heads) -> Tensor");
  library.def(
      "convolve_step(Tensor x, Tensor weight, Tensor(a!) inputs, Tensor? ancestors, "
      "Tensor position, int heads, bool glu, bool softmax, Tensor(b!) out) -> ()");
  library.def(
      "embed_step(Tensor tokens, Tensor parents, Tensor position, Tensor embedding, "
      "Tensor? positions, float scale, Tensor(a!)? ancestors) -> Tensor");
  library.def(
      "choose_step(Tensor logits, Tensor forbidden, Tensor kinds, Tensor(a!) tokens, "
      "Tensor(b!) parents, Tensor(c!) totals, Tensor(d!) step, Tensor(e!) done, "
      "Tensor(f!) past_tokens, Tensor(g!) past_parents, Tensor(h!) past_totals, "
      "Tensor(i!) count, Tensor(j!) end_at, Tensor(k!) end_total, Tensor(l!) counters) -> ()");
  library.def(
      "why_not_attend_step(int channels, int heads, int positions, ScalarType dtype) -> str?",
      &whyNotAttendStep);
  library.def(
      "why_not_convolve_step(int channels, int heads, int kernel_size, ScalarType dtype) -> str?",
      &whyNotConvolveStep);
  library.def("why_not_choose_step(int beam, int vocab, ScalarType dtype) -> str?",
              &whyNotChooseStep);
}

TORCH_LIBRARY_IMPL(lite, CUDA, library) {
  library.impl("attend_past", &attendPast);
  library.impl("attend_source", &attendSource);
  library.impl("convolve_step", &convolveStep);
  library.impl("embed_step", &embedStep);
  library.impl("choose_step", &chooseStep);
}
