// Chooses the fastest way to compute a product, once for each shape.
//
// cuBLASLt's own first choice is often not its fastest for a few hundred rows. So the first call
// with a shape times all ways, and the fastest is kept for the life of the process. They are timed
// inside a CUDA graph, as they will run: a launch from the host takes longer than a small product,
// and would hide which way is faster. Nothing can be timed during stream capture. A new shape then
// takes the first way, and its next call outside a capture times all of them.
#pragma once

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cublaslt.h"
#include "linear.h"

namespace lite::torch_ops {

constexpr int kTimedRuns = 8;     // per graph
constexpr int kTimedReplays = 4;  // the first one only warms up
/// A candidate that takes this many times as long as the fastest so far is not replayed again.
constexpr float kFarBehind = 1.25f;

inline at::Tensor workspace(size_t bytes, const at::Tensor& like) {
  return at::empty({static_cast<int64_t>(std::max<size_t>(bytes, 1))},
                   like.options().dtype(at::kByte));
}

using Kernel = decltype(lite::linear)*;

/// One way to compute a product: an algorithm of cuBLASLt, a variant of one of our kernels, or the
/// kernel for many rows.
struct Choice {
  std::optional<cublasLtMatmulHeuristicResult_t> algorithm;
  Kernel kernel = nullptr;
  int variant = 0;
};

/// A product that can run in any of its ways. Returns false if a way does not work.
class Candidates {
 public:
  std::vector<Choice> choices;

  virtual ~Candidates() = default;
  virtual bool run(const Choice& choice, void* scratch) const = 0;
};

/// Returns the milliseconds of kTimedRuns runs in a graph on the current stream, which is not the
/// default stream. Returns nothing if this way does not work, and clears the error that it left
/// behind. Gives up on a way that takes far longer than `toBeat`, the time of another.
inline std::optional<float> timeOf(const Candidates& candidates, const Choice& choice,
                                   void* scratch, float toBeat) {
  if (!candidates.run(choice, scratch)) {  // also loads the code
    cudaGetLastError();
    return std::nullopt;
  }
  Graph graph;
  C10_CUDA_CHECK(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal));
  bool good = true;
  for (int run = 0; run < kTimedRuns; ++run) good = candidates.run(choice, scratch) && good;
  C10_CUDA_CHECK(cudaStreamEndCapture(stream(), &graph.handle));
  if (!good) return std::nullopt;
  Executable executable;
  C10_CUDA_CHECK(cudaGraphInstantiate(&executable.handle, graph.handle, 0));

  Event start, stop;
  C10_CUDA_CHECK(cudaEventCreate(&start.handle));
  C10_CUDA_CHECK(cudaEventCreate(&stop.handle));
  float best = std::numeric_limits<float>::infinity();
  for (int replay = 0; replay < kTimedReplays; ++replay) {
    C10_CUDA_CHECK(cudaEventRecord(start.handle, stream()));
    C10_CUDA_CHECK(cudaGraphLaunch(executable.handle, stream()));
    C10_CUDA_CHECK(cudaEventRecord(stop.handle, stream()));
    C10_CUDA_CHECK(cudaEventSynchronize(stop.handle));
    float milliseconds = 0;
    C10_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start.handle, stop.handle));
    if (replay > 0) best = std::min(best, milliseconds);
    if (replay > 0 && best > kFarBehind * toBeat) break;
  }
  return best;
}

inline bool isCapturing() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  C10_CUDA_CHECK(cudaStreamIsCapturing(stream(), &status));
  return status != cudaStreamCaptureStatusNone;
}

/// Returns the stream for timing on a device. It is not one of PyTorch's pool: these are 32 streams
/// that the pool hands out in turn, so it may also be the stream of a network in another thread,
/// which cannot replay its graphs during a capture there. The caller holds the mutex of runFastest.
inline c10::cuda::CUDAStream timingStream(c10::DeviceIndex device) {
  static std::map<c10::DeviceIndex, cudaStream_t> streams;
  cudaStream_t& own = streams[device];
  if (own == nullptr) C10_CUDA_CHECK(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking));
  return c10::cuda::getStreamFromExternal(own, device);
}

inline Choice fastest(const char* op, const Candidates& candidates, const at::Tensor& like) {
  C10_CUDA_CHECK(cudaStreamSynchronize(stream()));  // the operands are ready
  const c10::cuda::CUDAStreamGuard guard(timingStream(like.device().index()));
  const at::Tensor scratch = workspace(kMaxWorkspaceBytes, like);
  Choice best = candidates.choices.front();
  float bestTime = std::numeric_limits<float>::infinity();
  for (const Choice& choice : candidates.choices) {
    const float time = timeOf(candidates, choice, scratch.data_ptr(), bestTime)
                           .value_or(std::numeric_limits<float>::infinity());
    if (time < bestTime) {
      best = choice;
      bestTime = time;
    }
  }
  C10_CUDA_CHECK(cudaStreamSynchronize(stream()));
  TORCH_CHECK(bestTime < std::numeric_limits<float>::infinity(), "lite::", op, ": none of the ",
              std::to_string(candidates.choices.size()), " ways to compute this product works");
  return best;
}

/// Device, rows, outputs, inputs, dtype, and what is in the epilogue.
using Shape = std::tuple<int, int64_t, int64_t, int64_t, int, int>;

template <typename MakeCandidates>
void runFastest(const char* op, const at::Tensor& x, const at::Tensor& weight, int flags,
                const MakeCandidates& make) {
  static std::mutex mutex;
  static std::map<Shape, Choice> chosen;
  const Shape shape{static_cast<int>(x.device().index()),
                    x.numel() / x.size(-1),
                    weight.size(0),
                    weight.size(1),
                    static_cast<int>(x.scalar_type()),
                    flags};
  std::unique_lock<std::mutex> lock(mutex);  // one thread times at a time
  const auto known = chosen.find(shape);
  const bool met = known != chosen.end();
  const auto candidates = make(met ? &known->second : nullptr);
  Choice choice;
  if (met) {
    choice = known->second;
  } else if (isCapturing()) {
    choice = candidates.choices.front();  // not kept, since it was not timed
  } else {
    choice = chosen[shape] = fastest(op, candidates, x);
  }
  lock.unlock();
  const size_t bytes = choice.algorithm ? choice.algorithm->workspaceSize : 0;
  const at::Tensor scratch = workspace(bytes, x);
  TORCH_CHECK(candidates.run(choice, scratch.data_ptr()), "lite::", op, ": the product failed");
}

}  // namespace lite::torch_ops
