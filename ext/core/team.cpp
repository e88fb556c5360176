#include "team.h"

#include <system_error>

#include "fp_control.h"

namespace ghost {
namespace {

// Spinning is for the usual wait of a few microseconds; beyond it, or with more threads than cores, the core is left to
// whoever we wait for.
constexpr int kSpins = 1000;
constexpr int kSpinsWhenCrowded = 10;
constexpr int kYieldsBeforeSleep = 200;

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
#ifdef __cpp_exceptions
  try {
#endif
    for (int i = 1; i < threads; ++i) {
      workers_[static_cast<size_t>(i - 1)] = std::thread(&Team::work, this, i);
      ++workers_started_;
    }
#ifdef __cpp_exceptions
  } catch (const std::system_error&) {
    stop();
    return false;
  }
#endif
  size_ = threads;
  return true;
}

void Team::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_.store(true, std::memory_order_release);
  }
  wake_.notify_all();
  for (int i = 0; i < workers_started_; ++i) workers_[static_cast<size_t>(i)].join();
  workers_started_ = 0;
}

void Team::run(void (*function)(void*, int), void* argument) {
  FpControl control;
  if (size_ == 1) {
    function(argument, 0);
    return;
  }
  function_ = function;
  argument_ = argument;
  round_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard<std::mutex> lock(mutex_);  // a worker is either before its check of round_ or waiting
    wake_.notify_all();
  }
  function(argument, 0);
  barrier();
}

void Team::barrier() {
  if (size_ == 1) return;
  const unsigned passed = barriers_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    barriers_.store(passed + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; barriers_.load(std::memory_order_acquire) == passed; ++spins) {
    if (spins < spins_) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

bool Team::wait_for_round(unsigned seen) {
  for (int spins = 0; spins < spins_ + kYieldsBeforeSleep; ++spins) {
    if (stopping_.load(std::memory_order_acquire)) return false;
    if (round_.load(std::memory_order_acquire) != seen) return true;
    if (spins < spins_) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (round_.load(std::memory_order_seq_cst) == seen && !stopping_.load(std::memory_order_acquire)) {
    wake_.wait(lock);
  }
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  return !stopping_.load(std::memory_order_acquire);
}

void Team::work(int index) {
  FpControl control;
  for (unsigned seen = 0; wait_for_round(seen);) {
    ++seen;
    function_(argument_, index);
    barrier();
  }
}

}  // namespace ghost
