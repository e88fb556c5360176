// A small persistent team of threads that run one function together and meet at barriers.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "buffer.h"

namespace ghost {

constexpr int kMaxThreads = 256;

// A range [begin, end) of items.
struct Share {
  int begin, end;
};

// What thread `index` of `threads` owns of `count` items.
inline Share share(int count, int index, int threads) {
  const auto edge = [&](int i) { return static_cast<int>(static_cast<long long>(count) * i / threads); };
  return {edge(index), edge(index + 1)};
}

class Team {
 public:
  Team() = default;
  ~Team() { stop(); }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Starts threads - 1 workers; the caller of run() is the first member. False when the system refuses a thread.
  bool start(int threads);
  int size() const { return size_; }

  // Calls function(argument, index) on every member, with canonical floating-point control, and waits for all.
  // One run at a time: the owner locks.
  void run(void (*function)(void* argument, int index), void* argument);

  // Inside run, by member `index`: returns when every member has called it. What one member wrote before is visible to
  // all after.
  void barrier(int index) {
    if (size_ > 1) meet(index);
  }

 private:
  // Counts up; whoever waits for a number spins on a cache line of its own.
  struct alignas(64) Counter {
    std::atomic<unsigned> value{0};
  };
  static constexpr int kRounds = 8;  // 2^8 threads
  struct Place {
    Counter arrived[kRounds];
    unsigned meetings = 0;  // barriers passed
    Team* team = nullptr;
    int index = 0;
    pthread_t thread{};  // POSIX threads: std::thread has no way to fail but an exception
  };
  static_assert(kMaxThreads <= 1 << kRounds, "a barrier of 2^kRounds members");

  void work(int index);
  void stop();
  void meet(int index);
  void set(Counter* counter, unsigned value);
  void wait_for(const Counter& counter, unsigned value);

  int size_ = 1;
  bool crowded_ = false;
  int started_ = 0;  // workers, in the places from 1
  Buffer<Place> places_;
  void (*function_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  Counter runs_;
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace ghost
