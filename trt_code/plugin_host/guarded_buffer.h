// Device memory beside unmapped pages, for tests. Only the CUDA runtime is linked; the driver's
// virtual memory functions are looked up, so what uses this also starts where there is no GPU.
#pragma once

#include <cstddef>
#include <vector>

namespace host {

using Bytes = std::vector<unsigned char>;

// As a float, this byte repeated is NaN in every format, so reading it shows.
constexpr unsigned char kPoison = 0xff;

// Where the unmapped page lies that touches the buffer: an access there is an illegal address.
enum class Guard { kBehind, kBefore };

// Device memory that touches an unmapped page on one side. What lies on the other side, and the
// padding that alignment needs, is filled with a pattern and looked at afterwards. The first byte
// lies `offset` bytes after a multiple of 16; with kBehind up to 15 bytes of padding follow the
// last one, with kBefore the offset's bytes come before the first.
class GuardedBuffer {
 public:
  // Throws std::runtime_error when there is no such memory.
  explicit GuardedBuffer(size_t bytes, Guard guard = Guard::kBehind, size_t offset = 0);
  ~GuardedBuffer();
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  void* get() const { return data_; }
  void fill(unsigned char value);
  Bytes download() const;
  // Throws std::runtime_error when something was written outside the buffer.
  void checkGuards() const;

 private:
  size_t bytes_;
  size_t mapped_ = 0;
  unsigned char* reserved_ = nullptr;  // one unmapped granule, the mapped memory, one more
  unsigned char* start_ = nullptr;
  unsigned char* data_ = nullptr;
  unsigned long long allocation_ = 0;
};

}  // namespace host
