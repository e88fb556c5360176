// A small persistent team of threads that run one function together and meet at barriers.
//
// Whoever is ready takes part: a run is offered to the workers, and those that answer at once, each on a CPU of its
// own, are its members; without any the caller computes alone. So a worker that sleeps, or whose CPU another program
// has taken, costs a microsecond and not the milliseconds until the system lets it run. What is computed may not
// depend on the number of members.
//
// Measured on two CPUs, 40 barriers of 2 microseconds' work, 80 microseconds by one thread: two threads take 44. When
// every run waited for both, Linux woke the worker where it had slept, on the caller's CPU even with the other idle,
// and the two took turns of 200 microseconds: 8,700. Hence no run has two members on one CPU, and a sleeper is moved
// away before it is woken. With a busy program on one of the CPUs such a run took 290 to 470 on average, now 71 to 81:
// alone while the worker has no CPU, and a member that loses its CPU within a run is fetched to the waiting one's.
// Only the team's own threads are moved, and they keep every CPU that they were allowed to run on.
#pragma once

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "buffer.h"
#include "trial.h"

namespace ghost {

constexpr int kMaxThreads = 256;

// A range [begin, end) of items.
struct Share {
  int begin, end;
};

// What member `index` of `members` owns of `count` items.
inline Share share(int count, int index, int members) {
  const auto edge = [&](int i) { return static_cast<int>(static_cast<long long>(count) * i / members); };
  return {edge(index), edge(index + 1)};
}

enum class Attendance {
  kWhoIsReady,
  kEverybody,  // a run waits for all workers, however long that takes: for tests of every split
};

class Team {
 public:
  Team() = default;
  ~Team() { stop(); }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Starts threads - 1 workers; the caller of run() is the first member. False when the system refuses memory or a
  // thread.
  bool start(int threads, Attendance attendance);
  int threads() const { return threads_; }

  // Calls function(argument, index) on every member, with canonical floating-point control, and waits for all. `items`
  // is the amount of work, in any unit; 0: too little to wait for a worker. One run at a time: the owner locks.
  void run(void (*function)(void* argument, int index), void* argument, int items);

  // Inside run: the number of members, 1..threads().
  int size() const { return size_; }

  // Inside run, by member `index`: returns when every member has called it. What one member wrote before is visible to
  // all after.
  void barrier(int index) {
    if (size_ > 1) meet(index);
  }

 private:
  using Clock = std::chrono::steady_clock;

  // Counts up; whoever waits for a number spins on a cache line of its own.
  struct alignas(64) Counter {
    std::atomic<unsigned> value{0};
  };
  static constexpr int kRounds = 8;  // 2^8 threads
  static_assert(kMaxThreads <= 1 << kRounds, "a barrier of 2^kRounds members");

  // A thread; the first place is the caller's.
  struct Place {
    Counter arrived[kRounds];
    Counter answer;  // the last offer that the worker has seen
    Counter order;   // 2 x the last offer that was decided, + 1 if the worker is a member of that run
    alignas(64) std::atomic<bool> asleep{false};
    std::atomic<int> cpu{-1};  // where it was last seen
    std::atomic<int> id{0};    // thread_id()
    std::mutex mutex;          // of its sleep
    std::condition_variable changed;
    // Set by the caller before the order.
    int index = 0;             // as a member of the run
    unsigned meetings = 0;     // barriers passed
    int rounds = 0;            // of a barrier
    Place* next[kRounds] = {};    // whom to tell in each of them
    const Place* late = nullptr;  // who tells this one in the first: a worker, or nullptr
    // The caller's notes.
    bool awaited = false, joins = false;
    Clock::time_point wake_after{};
    Clock::duration rest{};
    // Set before the thread starts.
    Team* team = nullptr;
    pthread_t thread{};  // POSIX threads: std::thread has no way to fail but an exception
  };
  // The places of all workers.
  struct Workers {
    Place *first, *last;
    Place* begin() const { return first; }
    Place* end() const { return last; }
  };
  Place& member(int index) { return *members_[static_cast<size_t>(index)]; }
  const Place& member(int index) const { return *members_[static_cast<size_t>(index)]; }
  Workers workers() { return {places_.begin() + 1, places_.end()}; }

  void work(Place* own);
  void stop();
  bool offer(Clock::time_point start, int items);
  void enlist(Clock::time_point start);
  void arrange();
  void rouse(Place* place, Clock::time_point now);
  bool taken(const Place& worker) const;
  bool crowded(const Place& own) const;
  void meet(int index);
  static void set(Place* waiter, Counter* counter, unsigned value);
  static void wake(Place* place);
  template <typename Ready>
  void wait(Place* own, const Place* late, Ready ready);
  template <typename Ready>
  static void sleep(Place* own, Ready ready);

  int threads_ = 1;
  int size_ = 1;
  int started_ = 0;  // workers, in the places from 1
  bool everybody_ = false;
  Clock::duration awake_{};  // how long a member waits before it sleeps
  Buffer<Place> places_;
  Buffer<Place*> members_;  // [size_]
  void (*function_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  double cost_ = 1e-4;       // seconds of one thread per item of the last run
  Clock::time_point end_{};  // of the last run
  Trial trial_;
  Counter offer_;            // the number of the last one
  std::atomic<bool> stopping_{false};
};

}  // namespace ghost
