// The right to use a state for the duration of a call.
#pragma once

#include <string>

#include "state.h"
#include "status.h"

namespace ghost {

// Marks a state as used by this call for as long as it lives.
class Lease {
 public:
  explicit Lease(State* state) : state_(state), taken_(!state->in_use.exchange(true, std::memory_order_acquire)) {}
  ~Lease() {
    if (taken_) state_->in_use.store(false, std::memory_order_release);
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  bool taken() const { return taken_; }

 private:
  State* state_;
  bool taken_;
};

inline Status busy() {
  return Status::error("The state is in use by another call; fork it, or wait for that call to return.");
}

// Marks the states of many streams as used, all or none. state_of(i) is that of stream i.
template <typename StateOf>
class Leases {
 public:
  explicit Leases(StateOf state_of) : state_of_(state_of) {}
  ~Leases() {
    for (int64_t i = 0; i < taken_; ++i) state_of_(i)->in_use.store(false, std::memory_order_release);
  }
  Leases(const Leases&) = delete;
  Leases& operator=(const Leases&) = delete;

  Status take(int64_t count) {
    for (; taken_ < count; ++taken_) {
      State* state = state_of_(taken_);
      if (!state->in_use.exchange(true, std::memory_order_acquire)) continue;
      for (int64_t i = 0; i < taken_; ++i) {
        if (state_of_(i) == state) {
          return Status::error("Streams " + std::to_string(i) + " and " + std::to_string(taken_) +
                               " have the same state; every stream needs its own (fork it).");
        }
      }
      return busy();
    }
    return Status();
  }

 private:
  StateOf state_of_;
  int64_t taken_ = 0;
};

}  // namespace ghost
