#include "../attend_step.h"
#include "../choose_step.h"
#include "../convolve_step.h"
#include "../embed_step.h"
#include "cases.h"

namespace driver {
namespace {

using lite::DataType;

/// A step of a search with this state.
struct Step {
  int batch, beam, capacity, position;

  int rows() const { return batch * beam; }
};

// The first position and the last one; one hypothesis and several; few rows and more than 512.
const Step kSteps[] = {{1, 1, 1, 0}, {3, 1, 40, 39}, {2, 5, 33, 17}, {130, 4, 20, 7}};

/// A table of ancestors within each sentence; nullptr for a greedy search, which needs none.
Pointer<int32_t> ancestors(Session& session, const Step& s) {
  if (s.beam == 1) return nullptr;
  std::vector<int32_t> rows;
  for (int half = 0; half < 2; ++half) {
    for (int row = 0; row < s.rows(); ++row) {
      for (int j = 0; j < s.capacity; ++j) rows.push_back(row / s.beam * s.beam + j % s.beam);
    }
  }
  return session.holding(rows);
}

int32_t* dataOrNull(const Pointer<int32_t>& buffer) { return buffer ? buffer->data() : nullptr; }

/// Makes a call that writes to its inputs. It writes the same values every time, so after the first
/// time they do not change.
void callTwice(Session& session, cudaStream_t stream, const std::string& what,
               const std::function<cudaError_t(cudaStream_t)>& launch, const Outputs& outputs) {
  require(launch(stream), what + ": the first time");
  require(cudaStreamSynchronize(stream), what + ": the first time");
  session.call(what, launch, outputs);
}

template <typename T>
void runAttendPast(Mode mode, const Step& s, int channels, int heads, int shift, DataType dtype,
                   cudaStream_t stream) {
  Session session(mode, stream, shift);
  const size_t state = size_t(s.rows()) * s.capacity * channels;
  const auto qkv = session.input<T>(size_t(s.rows()) * 3 * channels);
  const auto keys = session.input<T>(state), values = session.input<T>(state);
  const auto table = ancestors(session, s);
  const auto position = session.holding(std::vector<int64_t>{s.position});
  const auto out = session.memory<T>(size_t(s.rows()) * channels);
  callTwice(
      session, stream, "attendPast",
      [&](cudaStream_t on) {
        return lite::attendPast(
            {s.rows(), s.capacity, channels, heads, 3 * channels, channels, dtype}, qkv->data(),
            keys->data(), values->data(), dataOrNull(table), position->data(), out->data(), on);
      },
      Outputs{out});
}

template <typename T>
void runAttendSource(Mode mode, const Step& s, int channels, int heads, int shift, DataType dtype,
                     cudaStream_t stream) {
  Session session(mode, stream, shift);
  const int source = s.capacity;
  const int64_t stride = channels + 8;
  const auto query = session.input<T>(size_t(s.rows()) * channels);
  // The data after the last row does not belong to the keys.
  const size_t pairs = (size_t(s.batch) * source - 1) * stride + channels;
  const auto keys = session.input<T>(pairs), values = session.input<T>(pairs);
  const auto mask = session.integers<uint8_t>(size_t(s.batch) * source, 2);
  const auto out = session.memory<T>(size_t(s.rows()) * channels);
  session.call(
      "attendSource",
      [&](cudaStream_t on) {
        return lite::attendSource({s.batch, s.beam, source, channels, heads, stride, dtype},
                                  query->data(), keys->data(), values->data(),
                                  reinterpret_cast<const bool*>(mask->data()), out->data(), on);
      },
      Outputs{out});
}

template <typename T>
void runConvolve(Mode mode, const Step& s, int channels, int heads, int kernel, DataType dtype,
                 cudaStream_t stream) {
  Session session(mode, stream);
  const auto x = session.input<T>(size_t(s.rows()) * 2 * channels);
  const auto weight = session.input<T>(size_t(channels) * heads * kernel);
  const auto inputs = session.input<T>(size_t(s.rows()) * s.capacity * channels);
  const auto table = ancestors(session, s);
  const auto position = session.holding(std::vector<int64_t>{s.position});
  const auto out = session.memory<T>(size_t(s.rows()) * channels);
  for (const bool both : {false, true}) {
    callTwice(
        session, stream, "convolveStep",
        [&](cudaStream_t on) {
          return lite::convolveStep({s.rows(), s.capacity, channels, heads, kernel, 2 * channels,
                                     channels, both, both, dtype},
                                    x->data(), weight->data(), inputs->data(), dataOrNull(table),
                                    position->data(), out->data(), on);
        },
        Outputs{out});
  }
}

template <typename T>
void runEmbed(Mode mode, const Step& s, int channels, int shift, DataType dtype,
              cudaStream_t stream) {
  constexpr int kWords = 9;
  Session session(mode, stream, shift);
  const int positions = s.position + 3;
  const auto tokens = session.integers<int64_t>(s.rows(), kWords + 2);  // some are unknown
  const auto parents = session.integers<int64_t>(s.rows(), s.beam);
  const auto position = session.holding(std::vector<int64_t>{s.position});
  const auto embedding = session.input<T>(kWords * channels);
  const auto table = session.input<T>(positions * channels);
  const auto history = ancestors(session, s);
  const auto x = session.memory<T>(size_t(s.rows()) * channels);
  callTwice(
      session, stream, "embedStep",
      [&](cudaStream_t on) {
        return lite::embedStep(
            {s.batch, s.beam, channels, kWords, positions, s.capacity, 1.5f, dtype}, tokens->data(),
            parents->data(), position->data(), embedding->data(), table->data(),
            dataOrNull(history), x->data(), on);
      },
      Outputs{x});
}

template <typename T>
void runChoose(Mode mode, const Step& s, int vocab, DataType dtype, cudaStream_t stream) {
  Session session(mode, stream);
  const int steps = s.capacity;
  const size_t rows = s.rows(), past = size_t(steps) * rows, ends = size_t(s.batch) * (s.beam + 1);
  const auto logits = session.input<T>(rows * vocab);
  const auto forbidden = session.input<float>(3 * vocab);
  const auto kinds = session.integers<int64_t>(steps, 3);
  const auto tokens = session.integers<int64_t>(rows, vocab);
  const auto parents = session.integers<int64_t>(rows, s.beam);
  const auto totals = session.memory<float>(rows);
  const auto step = session.memory<int64_t>(1);
  const auto done = session.memory<uint8_t>(1);
  const auto pastTokens = session.integers<int64_t>(past, vocab);
  const auto pastParents = session.integers<int64_t>(past, s.beam);
  const auto pastTotals = session.input<float>(past);
  const auto count = session.memory<int64_t>(s.batch);
  const auto endAt = session.integers<int64_t>(ends, vocab);
  const auto endTotal = session.input<float>(ends);
  const auto values = session.scratch(rows * 2 * s.beam * sizeof(float));
  const auto indices = session.scratch(rows * 2 * s.beam * sizeof(int32_t));
  const auto counters = session.integers<int32_t>(2, 1);
  const auto firstTotals = session.input<float>(rows);
  const auto firstStep = session.holding(std::vector<int64_t>{s.position});
  const auto firstCount = session.integers<int64_t>(s.batch, s.beam + 1);
  const lite::SearchState state{tokens->data(),
                                parents->data(),
                                totals->data(),
                                step->data(),
                                reinterpret_cast<bool*>(done->data()),
                                pastTokens->data(),
                                pastParents->data(),
                                pastTotals->data(),
                                count->data(),
                                endAt->data(),
                                endTotal->data()};
  callTwice(
      session, stream, "chooseStep",
      [&](cudaStream_t on) {
        const auto restore = [&](const auto& to, const auto& from, size_t bytes) {
          return cudaMemcpyAsync(to->data(), from->data(), bytes, cudaMemcpyDeviceToDevice, on);
        };
        require(restore(totals, firstTotals, rows * sizeof(float)), "totals");
        require(restore(step, firstStep, sizeof(int64_t)), "step");
        require(restore(count, firstCount, s.batch * sizeof(int64_t)), "count");
        return lite::chooseStep({s.batch, s.beam, vocab, steps, dtype}, logits->data(),
                                forbidden->data(), kinds->data(), state,
                                reinterpret_cast<float*>(values->data()),
                                reinterpret_cast<int32_t*>(indices->data()), counters->data(), on);
      },
      Outputs{totals, step, count, done});
}

template <typename T>
void runAll(Mode mode, DataType dtype, cudaStream_t stream) {
  for (const Step& s : kSteps) {
    runAttendPast<T>(mode, s, 64, 4, 0, dtype, stream);
    runAttendPast<T>(mode, s, 33, 3, 1, dtype, stream);
    runAttendSource<T>(mode, s, 320, 8, 0, dtype, stream);
    runAttendSource<T>(mode, s, 33, 3, 1, dtype, stream);
    runConvolve<T>(mode, s, 64, 4, 15, dtype, stream);
    runConvolve<T>(mode, s, 160, 4, 31, dtype, stream);
    runConvolve<T>(mode, s, 24, 3, 1, dtype, stream);
    runEmbed<T>(mode, s, 320, 0, dtype, stream);
    runEmbed<T>(mode, s, 33, 1, dtype, stream);
    runChoose<T>(mode, s, 200, dtype, stream);
    runChoose<T>(mode, s, 9001, dtype, stream);
  }
}

}  // namespace

void runSearches(Mode mode, cudaStream_t stream) {
  runAll<float>(mode, DataType::kFloat, stream);
  runAll<__half>(mode, DataType::kHalf, stream);
  runAll<__nv_bfloat16>(mode, DataType::kBFloat16, stream);
}

}  // namespace driver
