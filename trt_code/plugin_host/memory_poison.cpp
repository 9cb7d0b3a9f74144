// Overwrites freed memory and keeps it from reuse for a while, in this program and in the plugin
// library that it loads. If a plugin still reads from a destroyed plugin or from an argument of an
// earlier call, the data is then always wrong, not correct by chance. AddressSanitizer does the
// same more thoroughly.

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#if !defined(__SANITIZE_ADDRESS__)

#include <malloc.h>

namespace {

constexpr unsigned char kFreed = 0xdd;
constexpr size_t kKept = 4096;

std::atomic<void*> kept[kKept];
std::atomic<size_t> next{0};

void poison(void* memory) noexcept {
  if (memory == nullptr) return;
  std::memset(memory, kFreed, malloc_usable_size(memory));
  std::free(kept[next++ % kKept].exchange(memory));
}

}  // namespace

void operator delete(void* memory) noexcept { poison(memory); }
void operator delete(void* memory, size_t) noexcept { poison(memory); }
void operator delete[](void* memory) noexcept { poison(memory); }
void operator delete[](void* memory, size_t) noexcept { poison(memory); }

#endif
