// The choice of the next byte, twin of ghost_ref/sampling.py and like it defined by docs/sampling.md: same operations,
// same order, same byte. Included once by each instruction-set unit.

#ifndef GHOST_CORE_SAMPLING_INL_H_
#define GHOST_CORE_SAMPLING_INL_H_

#include <cfloat>

#include "numerics-inl.h"
#include "philox.h"
#include "sampling.h"

namespace ghost {
namespace {

constexpr int kBytes = 256;

// SEP, PAD and the three fill-in-the-middle bytes; EOS (0xFF) may be chosen.
bool never_chosen(int byte) { return (byte >= 0xF8 && byte <= 0xFB) || byte == 0xFE; }

// Sorts all bytes by logit descending, then byte ascending: a total order, so Shell sort need not be stable.
void sort_bytes(const float* logits, int* order) {
  for (int i = 0; i < kBytes; ++i) order[i] = i;
  constexpr int kGaps[] = {132, 57, 23, 10, 4, 1};
  for (int gap : kGaps) {
    for (int i = gap; i < kBytes; ++i) {
      const int byte = order[i];
      const float logit = logits[byte];
      int j = i;
      for (; j >= gap; j -= gap) {
        const int other = order[j - gap];
        if (logits[other] > logit || (logits[other] == logit && other < byte)) break;
        order[j] = other;
      }
      order[j] = byte;
    }
  }
}

// The bytes that survive top-k, top-p and min-p, most probable first, and their (not renormalised) probabilities.
// Returns how many; at least the first.
int keep_bytes(const float* logits, const SamplingOptions& options, int* order, float* p) {
  sort_bytes(logits, order);
  int count = options.top_k > 0 && options.top_k < kBytes ? options.top_k : kBytes;
  const float highest = logits[order[0]];
  for (int i = 0; i < count; ++i) p[i] = (logits[order[i]] - highest) / options.temp;
  map_exp(p, p, static_cast<size_t>(count));
  float sum = 0.0f;
  for (int i = 0; i < count; ++i) sum += p[i];
  for (int i = 0; i < count; ++i) p[i] = p[i] / sum;
  if (options.top_p < 1.0f) {
    float running = 0.0f;
    for (int i = 0; i < count; ++i) {
      running += p[i];
      if (running >= options.top_p) count = i + 1;
    }
  }
  const float least = options.min_p * p[0];
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    if (p[i] < least) continue;
    order[kept] = order[i];
    p[kept++] = p[i];
  }
  return kept;
}

// k * 2^-24 with k in 0..2^24-1.
float uniform(uint64_t seed, uint64_t step) {
  const Philox4x32 counter = {{static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32), 0, 0}};
  const Philox4x32 draw = philox4x32(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return static_cast<float>(draw.word[0] >> 8) * 0x1p-24f;
}

// The next byte from logits (256,), or -1 if one is NaN or the highest of the allowed bytes is not finite.
// `step` is the index of the byte within this generation.
[[maybe_unused]] int choose_byte(const float* logits, const SamplingOptions& options, uint64_t step) {
  float allowed[kBytes];
  int best = 0;
  for (int i = 0; i < kBytes; ++i) {
    if (logits[i] != logits[i]) return -1;
    allowed[i] = never_chosen(i) ? -kInfinity : logits[i];
    if (allowed[i] > allowed[best]) best = i;
  }
  if (!(allowed[best] >= -FLT_MAX && allowed[best] <= FLT_MAX)) return -1;
  if (options.temp == 0.0f) return best;

  int order[kBytes];
  float p[kBytes];
  const int count = keep_bytes(allowed, options, order, p);
  float total = 0.0f;
  for (int i = 0; i < count; ++i) total += p[i];
  const float threshold = uniform(options.seed, step) * total;
  float running = 0.0f;
  int i = 0;
  for (; i < count - 1; ++i) {
    running += p[i];
    if (running > threshold) break;
  }
  return order[i];
}

}  // namespace
}  // namespace ghost

#endif  // GHOST_CORE_SAMPLING_INL_H_
