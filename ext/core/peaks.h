// What one core of this machine can do at most: the yardsticks of `bench` and of benchmarks/kernel_speed.py.
#pragma once

namespace ghost {

// Multiply-accumulates or float operations per second of a loop (peaks.cpp: "vnni512", "muladd512", ...), measured for
// about `seconds`; -1 where this CPU cannot run it.
double limit(const char* name, double seconds);

// The loops that bound a level: the instruction its integer products are built on, and as many multiplications as
// additions of floats, none fused, in its registers.
struct Peaks {
  const char* level;
  const char* products;     // a loop
  const char* floats;       // a loop
  const char* instruction;  // of `products`, for people
};

// nullptr for a level without such an instruction (scalar), or one that this CPU cannot run.
const Peaks* peaks_of(const char* level);

// Bytes per second that one core reads from `bytes` of memory, over and over; -1 without AVX2 or memory.
double read_rate(double bytes, double seconds);

}  // namespace ghost
