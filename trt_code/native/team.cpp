#include "team.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace lite::native {
namespace {

// Waits until done() is true. The next product of a network comes within microseconds, so this
// thread first looks again and again; then it lets others run between its looks.
template <typename Done>
void wait_until(Done done) {
  constexpr int kLooks = 4000;
  for (int i = 0; !done(); ++i) {
    if (i >= kLooks) {
      std::this_thread::yield();
      continue;
    }
#if defined(__SSE2__)
    _mm_pause();
#endif
  }
}

}  // namespace

Team::Team(int size) {
  try {
    for (int part = 1; part < size; ++part)
      threads_.emplace_back([this, part] { wait_for_work(part); });
  } catch (...) {  // no more threads could be started; those that were are enough
  }
}

Team::~Team() {
  ends_ = true;
  turn_.fetch_add(1, std::memory_order_release);
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(const std::function<void(int)>& work) {
  work_ = &work;
  busy_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
  turn_.fetch_add(1, std::memory_order_release);
  work(0);
  wait_until([this] { return busy_.load(std::memory_order_acquire) == 0; });
}

void Team::wait_for_work(int part) {
  for (unsigned seen = 0;; ++seen) {
    wait_until([&] { return turn_.load(std::memory_order_acquire) != seen; });
    if (ends_) return;
    (*work_)(part);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace lite::native
