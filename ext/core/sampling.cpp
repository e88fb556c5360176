// Twin of ghost_ref/sampling.py and like it defined by docs/sampling.md: same operations, same order, same byte. Compiled
// once, for the baseline: most of it is no work for vectors.
#include "sampling.h"

#include <cfloat>

#include "numerics-inl.h"
#include "philox.h"

namespace ghost {
namespace {

constexpr int kBytes = 256;

// SEP, PAD and the three fill-in-the-middle bytes; EOS (0xFF) may be chosen.
constexpr int kNeverChosen[] = {0xF8, 0xF9, 0xFA, 0xFB, 0xFE};

// Sorts all bytes by logit descending, then byte ascending: four stable passes, by a quarter of the logit's bits each.
void sort_bytes(const float* logits, int* order) {
  uint64_t from[kBytes], to[kBytes];
  uint16_t start[4][kBytes] = {};
  for (int i = 0; i < kBytes; ++i) {
    const float logit = logits[i] + 0.0f;  // -0 is equal to +0
    uint32_t bits;
    __builtin_memcpy(&bits, &logit, sizeof bits);
    const uint32_t key = bits >> 31 != 0 ? bits : ~bits & 0x7FFFFFFFu;  // ascending as the logits descend
    for (int part = 0; part < 4; ++part) ++start[part][key >> 8 * part & 255];
    from[i] = uint64_t{key} << 8 | static_cast<uint64_t>(i);
  }
  for (int part = 0; part < 4; ++part) {
    uint16_t before = 0;
    for (int i = 0; i < kBytes; ++i) {
      const uint16_t count = start[part][i];
      start[part][i] = before;
      before = static_cast<uint16_t>(before + count);
    }
    for (int i = 0; i < kBytes; ++i) to[start[part][from[i] >> (8 + 8 * part) & 255]++] = from[i];
    __builtin_memcpy(from, to, sizeof from);
  }
  for (int i = 0; i < kBytes; ++i) order[i] = static_cast<int>(from[i] & 255);
}

// The byte with the highest of the allowed logits, the lowest such byte, or -1: see choose_byte. NaN is looked for in all
// logits.
int best_byte(const float* logits, const float* allowed) {
  typedef Bits<f32xn>::i32 I;
  I nan{};
  f32xn top = load<f32xn>(allowed);
  for (size_t i = 0; i < kBytes; i += kWidth) {
    const f32xn all = load<f32xn>(logits + i), v = load<f32xn>(allowed + i);
    nan |= all != all;
    top = select(v > top, v, top);
  }
  float highest = top[0];
  int32_t any_nan = nan[0];
  for (size_t i = 1; i < kWidth; ++i) {
    highest = top[i] > highest ? top[i] : highest;
    any_nan |= nan[i];
  }
  if (any_nan != 0 || !(highest >= -FLT_MAX && highest <= FLT_MAX)) return -1;
  int best = 0;
  while (allowed[best] != highest) ++best;
  return best;
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

}  // namespace

int choose_byte(const float* logits, const SamplingOptions& options, uint64_t step) {
  float allowed[kBytes];
  __builtin_memcpy(allowed, logits, sizeof allowed);
  for (int byte : kNeverChosen) allowed[byte] = -kInfinity;
  const int best = best_byte(logits, allowed);
  if (best < 0) return -1;
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

}  // namespace ghost
