// The best few of many scores.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "vector.h"

namespace lite::native {

struct Candidate {
  float score;
  int beam, token;
};

// The `most` best candidates that were offered, the best first; of equal ones the first offered.
class Best {
 public:
  explicit Best(int most) : most_(most) { list_.reserve(most + 1); }

  void clear() { list_.clear(); }

  void offer(float score, int beam, int token) {
    if (!(score > threshold())) return;
    auto at = list_.end();
    while (at != list_.begin() && (at - 1)->score < score) --at;
    list_.insert(at, {score, beam, token});
    if (static_cast<int>(list_.size()) > most_) list_.pop_back();
  }

  // Offers the scores x[i] + offset of all tokens i.
  void offer_all(const float* x, int n, float offset, int beam) {
    constexpr int kBlock = 64;  // scores that are compared at once
    for (int begin = 0; begin < n; begin += kBlock) {
      const int end = std::min(n, begin + kBlock);
      if (!(maximum(x + begin, end - begin) + offset > threshold())) continue;
      for (int i = begin; i < end; ++i) offer(x[i] + offset, beam, i);
    }
  }

  // The list, filled up with candidates that cannot win.
  const std::vector<Candidate>& get() {
    while (!full()) list_.push_back({kNone, 0, 0});
    return list_;
  }

 private:
  float threshold() const { return full() ? list_.back().score : kNone; }
  bool full() const { return static_cast<int>(list_.size()) == most_; }

  int most_;
  std::vector<Candidate> list_;
};

// Finds the `most` best of many scores, as Best does, but faster than it for more than a few.
class BestOfMany {
 public:
  explicit BestOfMany(int most) : most_(most) {}

  // Writes the `most` best of x[0..n), the best first, and their numbers; of equal ones the first.
  // If there are not as many, the others are number 0 with a score that cannot win.
  void find(const float* x, int n, float* scores, int* numbers) {
    // Group i has the scores i, i + groups, i + 2 * groups, ... If the maxima of `most` groups are
    // above a value, at least `most` scores are, so only the scores above it can be among the best.
    const int groups = std::min(n, std::max(4 * most_, n / 64));
    greatest_.assign(x, x + groups);
    for (int begin = groups; begin < n; begin += groups) {
      const int size = std::min(groups, n - begin);
      for (int i = 0; i < size; ++i) greatest_[i] = std::max(greatest_[i], x[begin + i]);
    }
    const float low = threshold();
    numbers_.resize(n);
    numbers_.resize(list_where(
        n, numbers_.data(), [x, low](int i) { return load(x + i) > low; },
        [x, low](int i) { return x[i] > low; }));
    found_.clear();
    for (const int number : numbers_) found_.push_back(x[number]);
    std::fill_n(scores, most_, kNone);
    std::fill_n(numbers, most_, 0);
    if (found_.size() > 8 * static_cast<std::size_t>(most_)) keep_best();
    const int count = static_cast<int>(found_.size());
    for (int i = 0; i < count; ++i) {  // no branch in the inner loop, which compilers vectorise
      const float score = found_[i];
      const int number = numbers_[i];
      int rank = 0;
      for (int j = 0; j < count; ++j)
        rank += (found_[j] > score) | ((found_[j] == score) & (numbers_[j] < number));
      if (rank >= most_) continue;
      scores[rank] = score;
      numbers[rank] = number;
    }
  }

 private:
  // Leaves the `most` best of found_: it is long if many scores are equal.
  void keep_best() {
    std::vector<int> order(found_.size());
    std::iota(order.begin(), order.end(), 0);
    std::nth_element(order.begin(), order.begin() + most_, order.end(), [this](int a, int b) {
      return found_[a] > found_[b] || (found_[a] == found_[b] && numbers_[a] < numbers_[b]);
    });
    std::vector<float> best;
    std::vector<int> best_numbers;
    for (int i = 0; i < most_; ++i) {
      best.push_back(found_[order[i]]);
      best_numbers.push_back(numbers_[order[i]]);
    }
    found_ = std::move(best);
    numbers_ = std::move(best_numbers);
  }

  int above(float value) const {
    int count = 0;
    for (const float x : greatest_) count += x > value;
    return count;
  }

  // Returns a value below the maxima of at least `most` groups, and of few more; minus infinity if
  // there is none.
  float threshold() const {
    float high = maximum(greatest_.data(), static_cast<int>(greatest_.size()));
    float reach = 1, low = high - reach;
    int count = above(low);
    for (; count < most_ && low > kNone; count = above(low)) {
      high = low;
      low -= reach *= 2;
    }
    for (int i = 0; i < 20 && count > most_ + most_ / 8; ++i) {
      const float middle = low + (high - low) / 2;
      const int found = above(middle);
      if (found < most_) {
        high = middle;
      } else {
        low = middle;
        count = found;
      }
    }
    return low;
  }

  int most_;
  std::vector<float> greatest_, found_;
  std::vector<int> numbers_;  // of found_
};

inline float log_sum_exp(const float* x, int n) {
  const float most = maximum(x, n);
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += exp_of(x[i] - most);
  return most + std::log(sum);
}

}  // namespace lite::native
