// The threads that calls of one network share.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace lite::native {

// Bounds the threads of all calls together and gives them to the calls in the order in which they
// came.
class Budget {
 public:
  // Waits until fewer than `most` threads are busy. Takes those that are idle, but at most
  // `wanted`, and only an equal part if other calls wait too. Returns their number, at least 1.
  int take(int most, int wanted);
  // Ends the use of threads that take() gave.
  void give_back(int threads);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t arrived_ = 0, served_ = 0;  // calls that came, and that got their threads
  int busy_ = 0;                            // threads
};

}  // namespace lite::native
