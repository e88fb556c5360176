#include "team.h"

#include <chrono>
#include <thread>

#include "fp_control.h"

namespace ghost {
namespace {

using Clock = std::chrono::steady_clock;

// A waiting member spins (the usual wait is below a microsecond), then it sleeps. Waking a sleeper takes the system some
// 50 microseconds: a member that slept sooner would keep the others waiting so long that they sleep too, at every
// barrier from then on. It does not yield: another program on this core would get milliseconds.
constexpr auto kAwake = std::chrono::microseconds(200);
constexpr int kLooks = 32;            // between two looks at the clock
constexpr int kLooksWhenCrowded = 4;  // more members than cores: whoever we wait for may need this one, so yield

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

bool reached(unsigned count, unsigned value) { return static_cast<int>(count - value) >= 0; }

}  // namespace

bool Team::start(int threads) {
  if (threads <= 1) return true;
  crowded_ = static_cast<unsigned>(threads) > std::thread::hardware_concurrency();
  if (!places_.allocate(static_cast<size_t>(threads))) return false;
  size_ = threads;
  for (; started_ < threads - 1; ++started_) {
    Place& place = places_[static_cast<size_t>(started_ + 1)];
    place.team = this;
    place.index = started_ + 1;
    const auto entry = [](void* argument) -> void* {
      const Place& self = *static_cast<const Place*>(argument);
      self.team->work(self.index);
      return nullptr;
    };
    if (pthread_create(&place.thread, nullptr, entry, &place) != 0) return false;
  }
  return true;
}

void Team::stop() {
  stopping_.store(true, std::memory_order_release);
  set(&runs_, runs_.value.load(std::memory_order_relaxed) + 1);
  for (; started_ > 0; --started_) pthread_join(places_[static_cast<size_t>(started_)].thread, nullptr);
}

void Team::run(void (*function)(void*, int), void* argument) {
  const FpControl control;
  function_ = function;
  argument_ = argument;
  if (size_ > 1) set(&runs_, runs_.value.load(std::memory_order_relaxed) + 1);
  function(argument, 0);
  barrier(0);
}

void Team::work(int index) {
  const FpControl control;
  for (unsigned run = 1;; ++run) {
    wait_for(runs_, run);
    if (stopping_.load(std::memory_order_acquire)) return;
    function_(argument_, index);
    barrier(index);
  }
}

// In round r everybody tells the member 2^r places on that they, and all they have heard of, have arrived: after
// ceil(log2 size) rounds everybody has heard of all. Two members exchange one cache line each.
void Team::meet(int index) {
  Place& own = places_[static_cast<size_t>(index)];
  const unsigned meeting = ++own.meetings;
  for (int r = 0, step = 1; step < size_; ++r, step *= 2) {
    set(&places_[static_cast<size_t>((index + step) % size_)].arrived[r], meeting);
    wait_for(own.arrived[r], meeting);
  }
}

// Wakes the sleepers too. In the total order of the sequentially consistent operations either this sees the sleeper, or
// the sleeper sees the new value and does not go to sleep.
void Team::set(Counter* counter, unsigned value) {
  counter->value.store(value, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
  { const std::lock_guard<std::mutex> lock(mutex_); }  // a sleeper that has not seen the value is waiting by now
  changed_.notify_all();
}

void Team::wait_for(const Counter& counter, unsigned value) {
  const int looks = crowded_ ? kLooksWhenCrowded : kLooks;
  const auto arrived = [&](std::memory_order order) { return reached(counter.value.load(order), value); };
  Clock::time_point start{};
  for (Clock::duration waited{}; waited < kAwake;) {
    for (int i = 0; i < looks; ++i) {
      if (arrived(std::memory_order_acquire)) return;
      pause();
    }
    if (crowded_) std::this_thread::yield();
    const Clock::time_point now = Clock::now();
    if (start == Clock::time_point{}) start = now;
    waited = now - start;
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (!arrived(std::memory_order_seq_cst)) changed_.wait(lock);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace ghost
