// Test fixtures for the kernels: device memory that detects misuse, inputs, and calls that check
// that outputs are written and repeat.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <initializer_list>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "../../plugin_host/guarded_buffer.h"

namespace driver {

/// How kernels are run.
enum class Mode {
  kOnce,         // each call once, on plain cudaMalloc memory, for compute-sanitizer
  kGuardBehind,  // each call twice and from a CUDA graph, on memory that ends at an unmapped page
  kGuardBefore,  // the same on memory that starts after an unmapped page
};

inline void require(bool good, const std::string& what) {
  if (!good) throw std::runtime_error(what);
}

inline void require(cudaError_t status, const std::string& what) {
  if (status != cudaSuccess) throw std::runtime_error(what + ": " + cudaGetErrorString(status));
}

/// Throws if the relative L2 error of all numbers together exceeds `tolerance`.
inline void requireClose(const std::vector<float>& given, const std::vector<double>& expected,
                         double tolerance, const std::string& what) {
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (given[i] - expected[i]) * (given[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  char found[64];
  std::snprintf(found, sizeof found, ": relative error %.3g of at most %.3g",
                std::sqrt(error / size), tolerance);
  require(std::sqrt(error) <= tolerance * std::sqrt(size), what + found);
}

/// Device memory of a given size. Its first byte lies `offset` bytes after an aligned address.
class Memory {
 public:
  Memory(Mode mode, size_t bytes, size_t offset) : bytes_(bytes) {
    if (mode == Mode::kOnce) {
      require(cudaMalloc(&base_, bytes + offset), "cudaMalloc");
      data_ = base_ + offset;
    } else {
      const auto guard = mode == Mode::kGuardBehind ? host::Guard::kBehind : host::Guard::kBefore;
      guarded_ = std::make_unique<host::GuardedBuffer>(bytes, guard, offset);
      data_ = static_cast<unsigned char*>(guarded_->get());
    }
  }
  virtual ~Memory() { cudaFree(base_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void fill(unsigned char value) const { require(cudaMemset(data_, value, bytes_), "cudaMemset"); }
  host::Bytes download() const {
    host::Bytes bytes(bytes_);
    require(cudaMemcpy(bytes.data(), data_, bytes_, cudaMemcpyDeviceToHost), "copy from device");
    return bytes;
  }
  void checkGuards() const {
    if (guarded_) guarded_->checkGuards();
  }
  /// Returns whether no element still has the value that fill(host::kPoison) gave it: NaN, or a
  /// negative integer.
  virtual bool written() const { return true; }

 protected:
  unsigned char* data_ = nullptr;

 private:
  size_t bytes_;
  unsigned char* base_ = nullptr;
  std::unique_ptr<host::GuardedBuffer> guarded_;
};

using Outputs = std::vector<std::shared_ptr<Memory>>;

/// `count` elements. The first lies `shift` elements after an aligned address.
template <typename T>
class Buffer : public Memory {
 public:
  Buffer(Mode mode, size_t count, int shift)
      : Memory(mode, count * sizeof(T), shift * sizeof(T)), count_(count) {}

  T* data() const { return reinterpret_cast<T*>(data_); }

  void set(const std::vector<T>& values) {
    require(cudaMemcpy(data(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
            "copy to device");
  }
  std::vector<T> get() const {
    std::vector<T> values(count_);
    require(cudaMemcpy(values.data(), data(), count_ * sizeof(T), cudaMemcpyDeviceToHost),
            "copy from device");
    return values;
  }
  bool written() const override {
    const std::vector<T> values = get();
    return std::none_of(values.begin(), values.end(), [](T value) {
      if constexpr (std::is_unsigned_v<T>) {
        return false;
      } else if constexpr (std::is_integral_v<T>) {
        return value < 0;
      } else {
        return std::isnan(float(value));
      }
    });
  }

 private:
  size_t count_;
};

template <typename T>
using Pointer = std::shared_ptr<Buffer<T>>;

/// The tensors of one case, and the stream on which its calls run. `shift` moves the first element
/// of each tensor that many elements off alignment.
class Session {
 public:
  Session(Mode mode, cudaStream_t stream, int shift = 0)
      : mode_(mode), stream_(stream), shift_(shift) {}

  /// Memory with unspecified contents.
  template <typename T>
  Pointer<T> memory(size_t count) {
    auto buffer = std::make_shared<Buffer<T>>(mode_, count, shift_);
    all_.push_back(buffer);
    return buffer;
  }

  /// Scratch memory. Its contents before and after a call are not checked.
  Pointer<unsigned char> scratch(size_t bytes) {
    auto buffer = std::make_shared<Buffer<unsigned char>>(mode_, bytes, 0);
    scratch_.push_back(buffer);
    return buffer;
  }

  /// Normally distributed values, times `scale`.
  template <typename T>
  Pointer<T> input(size_t count, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<T> values(count);
    for (T& value : values) value = T(normal(generator()));
    return holding(values);
  }

  /// Integers in [0, limit).
  template <typename T>
  Pointer<T> integers(size_t count, int limit) {
    std::vector<T> values(count);
    for (T& value : values) value = T(generator()() % unsigned(limit));
    return holding(values);
  }

  template <typename T>
  Pointer<T> holding(const std::vector<T>& values) {
    Pointer<T> buffer = memory<T>(values.size());
    buffer->set(values);
    return buffer;
  }

  /// Makes a call. On guarded memory, the outputs are poisoned before the call, and the call must
  /// write a number to each of their elements. A second call and a replay from a graph must produce
  /// the same bytes. Inputs and the memory around the buffers must not change.
  void call(const std::string& what, const std::function<cudaError_t(cudaStream_t)>& launch,
            const Outputs& outputs) {
    if (mode_ == Mode::kOnce) {
      require(launch(stream_), what);
      require(cudaStreamSynchronize(stream_), what + ": in the kernel");
      for (const auto& output : outputs) output->download();  // initcheck reports what is unset
      return;
    }
    const auto run = [&](unsigned char poison, const std::function<cudaError_t()>& start) {
      for (const auto& output : outputs) output->fill(poison);
      for (const auto& memory : scratch_) memory->fill(poison);
      require(cudaDeviceSynchronize(), what + ": before the call");
      require(start(), what);
      require(cudaStreamSynchronize(stream_), what + ": in the kernel");
      std::vector<host::Bytes> bytes;
      for (const auto& output : outputs) bytes.push_back(output->download());
      return bytes;
    };
    const auto plain = [&] { return launch(stream_); };
    const std::vector<host::Bytes> before = inputBytes(outputs);
    const std::vector<host::Bytes> first = run(host::kPoison, plain);
    for (const auto& output : outputs) {
      require(output->written(), what + ": an element was not written");
    }

    constexpr unsigned char kOtherPoison = 0x5a;
    require(run(kOtherPoison, plain) == first, what + ": a second call gives other bytes");
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    require(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), what);
    require(launch(stream_), what + ": captured");
    require(cudaStreamEndCapture(stream_, &graph), what + ": captured");
    require(cudaGraphInstantiate(&executable, graph, 0), what + ": instantiated");
    const auto replay = [&] { return cudaGraphLaunch(executable, stream_); };
    require(run(kOtherPoison, replay) == first, what + ": a graph's replay gives other bytes");
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    require(inputBytes(outputs) == before, what + ": an input was changed");
    for (const auto& memory : all_) memory->checkGuards();
    for (const auto& memory : scratch_) memory->checkGuards();
  }

 private:
  static std::mt19937& generator() {
    static std::mt19937 engine(1);
    return engine;
  }

  /// The contents of all tensors except the outputs.
  std::vector<host::Bytes> inputBytes(const Outputs& outputs) const {
    std::vector<host::Bytes> bytes;
    for (const auto& memory : all_) {
      if (std::find(outputs.begin(), outputs.end(), memory) == outputs.end()) {
        bytes.push_back(memory->download());
      }
    }
    return bytes;
  }

  Mode mode_;
  cudaStream_t stream_;
  int shift_;
  Outputs all_, scratch_;
};

}  // namespace driver
