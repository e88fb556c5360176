#include "team.h"

#include <algorithm>
#include <thread>

#include "cpus.h"
#include "fp_control.h"

namespace ghost {
namespace {

using std::chrono::microseconds;
using Seconds = std::chrono::duration<double>;

constexpr int kLooks = 64;  // at a counter, a microsecond or two in all, before a look at the clock

// A thread that waits for longer sleeps: waking it takes the system 60 to 100 microseconds where its CPU was idle.
constexpr microseconds kAwake(100);

// Waking costs the caller some 20 microseconds: a worker that does not come is left alone for a time that doubles.
constexpr microseconds kShortestRest(500), kLongestRest(64000);

// Runs that take one thread less may be quicker alone.
constexpr microseconds kBrief(500);

// Awake and on a CPU, a worker answers in a fraction of this.
constexpr microseconds kAnswer(1);

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

bool Team::start(int threads, Attendance attendance) {
  if (threads <= 1) return true;
  if (!places_.allocate(static_cast<size_t>(threads)) || !members_.allocate(static_cast<size_t>(threads))) return false;
  everybody_ = attendance == Attendance::kEverybody;
  threads_ = threads;
  members_[0] = places_.data();
  const bool too_many = static_cast<unsigned>(threads) > std::thread::hardware_concurrency();
  awake_ = everybody_ && too_many ? microseconds(0) : kAwake;
  for (; started_ < threads - 1; ++started_) {
    Place& place = places_[static_cast<size_t>(started_ + 1)];
    place.team = this;
    place.rest = kShortestRest;
    const auto entry = [](void* argument) -> void* {
      Place* own = static_cast<Place*>(argument);
      own->team->work(own);
      return nullptr;
    };
    if (pthread_create(&place.thread, nullptr, entry, &place) != 0) return false;
  }
  return true;
}

void Team::stop() {
  stopping_.store(true, std::memory_order_release);
  offer_.value.fetch_add(1, std::memory_order_seq_cst);
  for (; started_ > 0; --started_) {
    Place& place = places_[static_cast<size_t>(started_)];
    wake(&place);
    pthread_join(place.thread, nullptr);
  }
}

void Team::run(void (*function)(void*, int), void* argument, int items) {
  const FpControl control;
  size_ = 1;
  if (threads_ == 1) return function(argument, 0);
  const Clock::time_point start = Clock::now();
  function_ = function;
  argument_ = argument;
  places_[0].cpu.store(current_cpu(), std::memory_order_relaxed);
  const bool brief = !everybody_ && items > 0 && Seconds(cost_ * items) < kBrief;
  if ((!brief || trial_.together()) && offer(start, items)) enlist(start);
  function(argument, 0);
  barrier(0);
  end_ = Clock::now();
  if (brief) trial_.add(size_ > 1, Seconds(end_ - start).count() / items);
  if (items > 0) cost_ = std::min(2 * cost_, Seconds(end_ - start).count() * size_ / items);  // or it was held up
}

// Offers the run to the workers and waits until those who can answer soon have done so. False: nobody is awake, and
// waking does not pay.
bool Team::offer(Clock::time_point start, int items) {
  const Seconds alone(cost_ * items);  // what the run takes without workers
  const bool worth_waiting = alone / 8 > kAwake / 2, worth_waking = worth_waiting || start - end_ < kAwake;
  const auto due = [&](const Place& place) { return everybody_ || (worth_waking && start >= place.wake_after); };
  bool anybody = false;
  for (Place& place : workers()) anybody = anybody || !place.asleep.load(std::memory_order_relaxed) || due(place);
  if (!anybody) return false;

  Seconds patience = kAnswer + alone / 64;
  offer_.value.fetch_add(1, std::memory_order_seq_cst);
  for (Place& place : workers()) {
    place.awaited = !place.asleep.load(std::memory_order_seq_cst);
    if (place.awaited || !due(place)) continue;
    rouse(&place, start);
    place.awaited = everybody_ || worth_waiting;
    if (place.awaited) patience = std::max(patience, alone / 8);
  }
  const auto all_answered = [&](std::memory_order order) {
    for (const Place& place : workers()) {
      if (place.awaited && place.answer.value.load(order) != offer_.value.load(std::memory_order_relaxed)) return false;
    }
    return true;
  };
  if (everybody_) wait(&places_[0], nullptr, all_answered);
  while (!all_answered(std::memory_order_acquire) && Clock::now() - start < patience) pause();
  return true;
}

// Makes members of the workers that have answered, if each has a CPU of its own, and sends the others off.
void Team::enlist(Clock::time_point start) {
  const unsigned offer = offer_.value.load(std::memory_order_relaxed);
  bool changed = false;
  for (Place& place : workers()) {
    bool joins = place.answer.value.load(std::memory_order_acquire) == offer;
    if (joins && !everybody_ && taken(place)) {
      joins = false;
      if (start >= place.wake_after) rouse(&place, start);
    }
    changed = changed || joins != place.joins;
    place.joins = joins;
    if (!joins) continue;
    place.rest = kShortestRest;
    members_[static_cast<size_t>(size_++)] = &place;
  }
  if (changed) arrange();
  for (Place& place : workers()) set(&place, &place.order, 2 * offer + (place.joins ? 1 : 0));
}

// Tells the members whom they will meet.
void Team::arrange() {
  for (int i = 0; i < size_; ++i) {
    Place& own = member(i);
    own.index = i;
    own.meetings = places_[0].meetings;
    own.rounds = 0;
    own.late = i == 1 ? nullptr : &member((i + size_ - 1) % size_);
    for (int step = 1; step < size_; step *= 2) own.next[own.rounds++] = &member((i + step) % size_);
    for (Counter& counter : own.arrived) counter.value.store(own.meetings, std::memory_order_relaxed);
  }
}

// Wakes a worker. The system would do so where it ran last, even if the caller computes there and other CPUs are idle.
void Team::rouse(Place* place, Clock::time_point now) {
  place->wake_after = now + place->rest;
  place->rest = std::min<Clock::duration>(2 * place->rest, kLongestRest);
  if (!taken(*place)) return wake(place);
  int cpus[kMaxThreads];
  for (int i = 0; i < size_; ++i) cpus[i] = member(i).cpu.load(std::memory_order_relaxed);
  const Elsewhere elsewhere(place->id.load(std::memory_order_relaxed), cpus, size_);
  wake(place);
}

// Whether a member of this run is on the worker's CPU.
bool Team::taken(const Place& worker) const {
  const int cpu = worker.cpu.load(std::memory_order_relaxed);
  for (int i = 0; cpu >= 0 && i < size_; ++i) {
    if (member(i).cpu.load(std::memory_order_relaxed) == cpu) return true;
  }
  return false;
}

// Whether a thread that is awake, or the caller, needs this one's CPU.
bool Team::crowded(const Place& own) const {
  const int cpu = own.cpu.load(std::memory_order_relaxed);
  for (const Place& other : places_) {
    if (&other == &own || cpu < 0 || other.cpu.load(std::memory_order_relaxed) != cpu) continue;
    if (&other == places_.begin() || !other.asleep.load(std::memory_order_relaxed)) return true;
  }
  return false;
}

void Team::work(Place* own) {
  const FpControl control;
  own->id.store(thread_id(), std::memory_order_relaxed);
  for (unsigned seen = 0;;) {
    wait(own, nullptr, [&](std::memory_order order) { return offer_.value.load(order) != seen; });
    if (stopping_.load(std::memory_order_acquire)) return;
    seen = offer_.value.load(std::memory_order_acquire);
    own->cpu.store(current_cpu(), std::memory_order_relaxed);
    set(&places_[0], &own->answer, seen);
    const unsigned last = 2 * (seen - 1);  // every offer is decided, so the order is at least that of the last one
    wait(own, nullptr, [&](std::memory_order order) { return ((own->order.value.load(order) ^ last) >> 1) != 0; });
    if (own->order.value.load(std::memory_order_acquire) != 2 * seen + 1) continue;
    function_(argument_, own->index);
    barrier(own->index);
  }
}

// In round r everybody tells the member 2^r places on that they, and all they have heard of, have arrived: after
// ceil(log2 size) rounds everybody has heard of all. Two members exchange one cache line each. A member may still be
// here, having told everybody, when the caller begins another run: only its own place is sure not to change then.
void Team::meet(int index) {
  Place* own = &member(index);
  const unsigned meeting = ++own->meetings;
  for (int r = 0, rounds = own->rounds; r < rounds; ++r) {
    set(own->next[r], &own->next[r]->arrived[r], meeting);
    const auto told = [&](std::memory_order order) {
      return static_cast<int>(own->arrived[r].value.load(order) - meeting) >= 0;
    };
    wait(own, r == 0 ? own->late : nullptr, told);
  }
}

// Wakes the waiter too. In the total order of the sequentially consistent operations either this sees that it is
// asleep, or it sees the new value and does not go to sleep.
void Team::set(Place* waiter, Counter* counter, unsigned value) {
  counter->value.store(value, std::memory_order_seq_cst);
  if (waiter->asleep.load(std::memory_order_seq_cst)) wake(waiter);
}

void Team::wake(Place* place) {
  { const std::lock_guard<std::mutex> lock(place->mutex); }  // whoever has not seen the news is waiting by now
  place->changed.notify_one();
}

// Spins, then sleeps; at once where another thread needs this CPU. `late`: a worker that is waited for, or nullptr.
template <typename Ready>
void Team::wait(Place* own, const Place* late, Ready ready) {
  const auto spin = [&](Clock::duration limit) {
    for (const Clock::time_point start = Clock::now(); Clock::now() - start < limit;) {
      for (int i = 0; i < kLooks; ++i) {
        if (ready(std::memory_order_acquire)) return true;
        pause();
      }
    }
    return false;
  };
  for (int i = 0; i < kLooks; ++i) {
    if (ready(std::memory_order_acquire)) return;
    pause();
  }
  own->cpu.store(current_cpu(), std::memory_order_relaxed);
  if (!crowded(*own)) {
    if (spin(awake_ / 2)) return;
    const double before = late == nullptr ? 0 : running_time(late->thread);
    if (spin(awake_ / 2)) return;
    if (late != nullptr && running_time(late->thread) - before < Seconds(awake_).count() / 8) bring_here(late->id);
  }
  sleep(own, ready);
}

template <typename Ready>
void Team::sleep(Place* own, Ready ready) {
  std::unique_lock<std::mutex> lock(own->mutex);
  own->asleep.store(true, std::memory_order_seq_cst);
  while (!ready(std::memory_order_seq_cst)) own->changed.wait(lock);
  own->asleep.store(false, std::memory_order_relaxed);
  lock.unlock();
  own->cpu.store(current_cpu(), std::memory_order_relaxed);
}

}  // namespace ghost
