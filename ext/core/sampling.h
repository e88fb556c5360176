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

// The next byte from logits (256,), or -1 if one is NaN or the highest of the allowed bytes is not finite.
// `step` is the index of the byte within this generation. The caller holds an FpControl.
int choose_byte(const float* logits, const SamplingOptions& options, uint64_t step);

}  // namespace ghost
