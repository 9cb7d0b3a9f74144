// Device memory next to unmapped pages, for tests. Only the CUDA runtime is linked. The driver's
// virtual memory functions are looked up at run time, so programs that use this also start without
// a GPU.
#pragma once

#include <cstddef>
#include <vector>

namespace host {

using Bytes = std::vector<unsigned char>;

// This byte, repeated, is NaN in every float format, so a result that depends on it shows.
constexpr unsigned char kPoison = 0xff;

// The side on which the unmapped page touches the buffer. An access there is an illegal address.
enum class Guard { kBehind, kBefore };

// Device memory that touches an unmapped page on one side. The other side and the padding for
// alignment are filled with a pattern, which is checked afterwards. The first byte lies `offset`
// bytes after a multiple of 16. With kBehind, up to 15 bytes of padding follow the last byte. With
// kBefore, `offset` bytes of padding come before the first byte.
class GuardedBuffer {
 public:
  // Throws std::runtime_error if such memory cannot be allocated.
  explicit GuardedBuffer(size_t bytes, Guard guard = Guard::kBehind, size_t offset = 0);
  ~GuardedBuffer();
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  void* get() const { return data_; }
  void fill(unsigned char value);
  Bytes download() const;
  // Throws std::runtime_error if something was written outside the buffer.
  void checkGuards() const;

 private:
  size_t bytes_;
  size_t mapped_ = 0;
  unsigned char* reserved_ = nullptr;  // unmapped granule, mapped memory, unmapped granule
  unsigned char* start_ = nullptr;
  unsigned char* data_ = nullptr;
  unsigned long long allocation_ = 0;
};

}  // namespace host
