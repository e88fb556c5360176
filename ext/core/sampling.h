// How the next byte is chosen: the fields of SamplingConfig (ghost_ref/config.py), rounded once to float.
#pragma once

#include <cstdint>

namespace ghost {

struct SamplingOptions {
  float temp = 0.0f;   // 0 is greedy
  int top_k = 0;       // 0..256, 0 keeps all
  float top_p = 1.0f;  // (0, 1], 1 keeps all
  float min_p = 0.0f;  // 0..1, 0 keeps all
  uint64_t seed = 0;
};

}  // namespace ghost
