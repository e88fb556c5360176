// A small persistent team of threads that run one function together and meet at barriers.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "buffer.h"

namespace ghost {

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

  // Inside run: returns when every member has called it. What one member wrote before is visible to all after.
  void barrier();

 private:
  using Counter = std::atomic<unsigned>;

  struct Worker {
    Team* team = nullptr;
    int index = 0;
    pthread_t thread{};
  };

  void work(int index);
  void stop();
  void advance(Counter* counter);
  void wait_for_change(const Counter& counter, unsigned from);

  int size_ = 1;
  int spins_ = 0;
  int started_ = 0;
  Buffer<Worker> workers_;  // POSIX threads: std::thread has no way to fail but an exception
  void (*function_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  alignas(64) Counter runs_{0};
  alignas(64) Counter barriers_{0};          // that everybody has reached
  alignas(64) std::atomic<int> arrived_{0};  // members at the current barrier
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace ghost
