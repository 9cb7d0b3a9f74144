#include "budget.h"

#include <algorithm>

namespace lite::native {

int Budget::take(int most, int wanted) {
  std::unique_lock lock(mutex_);
  const std::uint64_t own = arrived_++;
  changed_.wait(lock, [&] { return served_ == own && busy_ < most; });
  const int idle = most - busy_;
  const std::uint64_t waiting = arrived_ - served_;  // this call included
  const int share =
      waiting < static_cast<std::uint64_t>(idle) ? idle / static_cast<int>(waiting) : 1;
  const int taken = std::max(1, std::min(wanted, share));
  busy_ += taken;
  ++served_;
  changed_.notify_all();
  return taken;
}

void Budget::give_back(int threads) {
  const std::lock_guard lock(mutex_);
  busy_ -= threads;
  changed_.notify_all();
}

}  // namespace lite::native
