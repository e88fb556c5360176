// A small persistent team of threads that run one function together and meet at barriers.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "buffer.h"

namespace ghost {

// The part [begin, end) of `count` items that thread `index` of `threads` owns.
struct Share {
  int begin, end;
};

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
  void work(int index);
  void stop();
  bool wait_for_round(unsigned seen);

  int size_ = 1;
  int spins_ = 0;
  int workers_started_ = 0;
  Buffer<std::thread> workers_;
  void (*function_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  alignas(64) std::atomic<unsigned> round_{0};    // a new run began
  alignas(64) std::atomic<int> arrived_{0};       // members at the barrier
  alignas(64) std::atomic<unsigned> barriers_{0}; // barriers passed
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace ghost
