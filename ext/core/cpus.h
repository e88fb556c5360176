// Which CPU a thread runs on, whether it runs, and moving threads of our own. Only Linux tells and moves: elsewhere
// nothing is known and nothing happens.
#pragma once

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

namespace ghost {

int current_cpu();  // -1: not known
int thread_id();    // of the calling thread; 0: not known

// The time for which the thread has run so far, in seconds; -1: not known.
double running_time(pthread_t thread);

// Moves the thread to this CPU, if it may run here; it may move on at any time.
void bring_here(int thread_id);

// For one scope the thread may not run on the given CPUs, so that the system moves it away; after that, wherever it was
// allowed before. Nothing happens if it is allowed on no other CPU.
class Elsewhere {
 public:
  Elsewhere(int thread_id, const int* cpus, int count);
  ~Elsewhere();
  Elsewhere(const Elsewhere&) = delete;
  Elsewhere& operator=(const Elsewhere&) = delete;

#if defined(__linux__)
 private:
  int thread_;
  cpu_set_t allowed_;
  bool moved_ = false;
#endif
};

}  // namespace ghost
