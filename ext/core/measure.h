// How fast a loaded model runs, measured without anything of Python's: what both `bench` commands report.
#pragma once

#include <cstdint>

#include "peaks.h"
#include "model.h"

namespace ghost {

// The work that bytes took in a model, by its configuration and the layers that the routers chose: multiply-accumulates
// of the integer matrices, and scan updates h = exp(dt A) h + u B. The products of memory layers, which rest without a
// bank, are not in it, nor is arithmetic on floats outside the scan.
struct Work {
  int64_t bytes = 0;
  double products = 0, updates = 0;
};

// What the bytes read through this state, and those it was forked from, have taken.
Work work_of(const Config& config, const State& state);

struct Spread {
  double median = 0, lowest = 0, highest = 0;
};

// Of `repeats` turns after a warm-up. The floor of a byte: its products at the integer peak, plus 26 float operations for
// each of its scan updates at the float peak, both measured in the same turn on one core and divided by the threads.
struct Speed {
  Spread prefill;     // bytes per second, 1024 bytes in one call
  Spread decode;      // bytes per second, 256 bytes one by one: each is read, and the next one chosen
  Spread first_byte;  // seconds, from a fresh state through a 64-byte prompt to the first byte chosen
  double products = 0, updates = 0;  // of a decoded byte
  const Peaks* peaks = nullptr;      // nullptr: this level has none, and what follows is zero
  Spread integer_peak, float_peak;   // per second, one core
  Spread times_floor;                // time of a decoded byte, in floors
};

Status measure_speed(Model* model, int repeats, Speed* speed);

}  // namespace ghost
