#include "team.h"

#include <thread>

#include "fp_control.h"

namespace ghost {
namespace {

// A waiting member first spins (the usual wait is a few microseconds), then offers its core to others, then sleeps.
constexpr int kSpins = 300;
constexpr int kSpinsWhenCrowded = 10;  // more members than cores: whoever we wait for may need this one
constexpr int kYields = 20;

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

bool Team::start(int threads) {
  if (threads <= 1) return true;
  const bool crowded = static_cast<unsigned>(threads) > std::thread::hardware_concurrency();
  spins_ = crowded ? kSpinsWhenCrowded : kSpins;
  if (!workers_.allocate(static_cast<size_t>(threads - 1))) return false;
  for (; started_ < threads - 1; ++started_) {
    Worker& worker = workers_[static_cast<size_t>(started_)];
    worker.team = this;
    worker.index = started_ + 1;
    const auto entry = [](void* argument) -> void* {
      const Worker& self = *static_cast<const Worker*>(argument);
      self.team->work(self.index);
      return nullptr;
    };
    if (pthread_create(&worker.thread, nullptr, entry, &worker) != 0) return false;
  }
  size_ = threads;
  return true;
}

void Team::stop() {
  stopping_.store(true, std::memory_order_release);
  advance(&runs_);
  for (; started_ > 0; --started_) pthread_join(workers_[static_cast<size_t>(started_ - 1)].thread, nullptr);
}

void Team::run(void (*function)(void*, int), void* argument) {
  const FpControl control;
  function_ = function;
  argument_ = argument;
  if (size_ > 1) advance(&runs_);
  function(argument, 0);
  barrier();
}

void Team::barrier() {
  if (size_ == 1) return;
  const unsigned reached = barriers_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) < size_ - 1) return wait_for_change(barriers_, reached);
  arrived_.store(0, std::memory_order_relaxed);
  advance(&barriers_);
}

void Team::work(int index) {
  const FpControl control;
  for (unsigned runs = 0;; ++runs) {
    wait_for_change(runs_, runs);
    if (stopping_.load(std::memory_order_acquire)) return;
    function_(argument_, index);
    barrier();
  }
}

// Counts up and wakes the sleepers. In the total order of the sequentially consistent operations either this sees the
// sleeper, or the sleeper sees the new count and does not go to sleep.
void Team::advance(Counter* counter) {
  counter->fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
  { const std::lock_guard<std::mutex> lock(mutex_); }  // a sleeper that has not seen the count is waiting by now
  changed_.notify_all();
}

void Team::wait_for_change(const Counter& counter, unsigned from) {
  for (int i = 0; i < spins_ + kYields; ++i) {
    if (counter.load(std::memory_order_acquire) != from) return;
    if (i < spins_) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (counter.load(std::memory_order_seq_cst) == from) changed_.wait(lock);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace ghost
