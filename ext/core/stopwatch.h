// Time taken by one call.
#pragma once

#include <chrono>

namespace ghost {

// Seconds since some moment.
inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Calls `body` for about `seconds`, at least once after one warm-up, the clock read every 2^i calls; seconds per call.
template <typename Body>
double seconds_per_call(double seconds, Body body) {
  body();
  const double start = now();
  double stop = start;
  long calls = 0;
  for (long batch = 1; stop - start < seconds; batch = calls) {
    for (long i = 0; i < batch; ++i) body();
    calls += batch;
    stop = now();
  }
  return (stop - start) / static_cast<double>(calls);
}

}  // namespace ghost
