// Threads that share the products of one part of a batch: for batches with fewer sentences than
// threads.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace lite::native {

class Team {
 public:
  // Starts size - 1 threads, which wait for work until the team ends.
  explicit Team(int size);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }
  // Calls work(part) for each part from 0 to size() - 1, each on its own thread, and returns
  // after all of them. `work` may not throw.
  void run(const std::function<void(int)>& work);

 private:
  void wait_for_work(int part);

  const std::function<void(int)>* work_ = nullptr;
  std::atomic<unsigned> turn_{0};  // one more for each call of run(), and for the end
  std::atomic<int> busy_{0};       // threads that still work on this turn
  bool ends_ = false;
  std::vector<std::thread> threads_;
};

// The fewest floating point operations that threads share: 125 us. Where other programs compute
// too, waiting costs most.
constexpr double kLeastShared = 1e7;

// Calls work(begin, end) for parts of [0, count) on the threads of `team`. Without a team, or for
// fewer operations than kLeastShared, calls work(0, count) on this thread.
template <typename Work>
void share(Team* team, int count, double operations, Work work) {
  if (!team || operations < kLeastShared) {
    work(0, count);
    return;
  }
  const auto begin = [&](int part) {
    return static_cast<int>(static_cast<long long>(count) * part / team->size());
  };
  team->run([&](int part) { work(begin(part), begin(part + 1)); });
}

}  // namespace lite::native
