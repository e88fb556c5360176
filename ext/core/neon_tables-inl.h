// What the tables of tables-inl.h are made of and how they are looked up with NEON.
#pragma once

#include "neon-inl.h"

namespace ghost {
namespace {

#define GHOST_INLINE static inline __attribute__((always_inline))

constexpr int kTableTokens = 16;
// A table costs 81 additions for each token, and a row saves less than three products: rows and tokens must be many.
constexpr int kFewestBlocks = 4, kFewestTokens = 9;
constexpr int kGroupRows = kStep;
constexpr int kStripBlocks = 24;  // their sums and the tables (of which a third is never touched) fit into 32 kB

// What the codes of one k-block can add up to, by byte of the code line and its value (at most 2 + 8 + 32 + 128).
struct Tables {
  int16_t sums[4][171][kTableTokens];
};

typedef int8x16_t Column;

// columns[k]: the activations of column k for all tokens, from rows of 16 columns. Four perfect shuffles transpose.
GHOST_INLINE void transpose(const int8x16_t (&rows)[kTableTokens], int8x16_t (&columns)[kBlock]) {
  int8x16_t shuffled[kBlock];
  for (int i = 0; i < kBlock; ++i) columns[i] = rows[i];
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < kBlock / 2; ++i) {
      shuffled[2 * i] = vzip1q_s8(columns[i], columns[i + kBlock / 2]);
      shuffled[2 * i + 1] = vzip2q_s8(columns[i], columns[i + kBlock / 2]);
    }
    for (int i = 0; i < kBlock; ++i) columns[i] = shuffled[i];
  }
}

// A sum for 16 tokens.
struct Wide {
  int16x8_t low, high;
};

GHOST_INLINE Wide widen(int8x16_t x) { return {vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)}; }
GHOST_INLINE Wide operator+(Wide a, Wide b) { return {vaddq_s16(a.low, b.low), vaddq_s16(a.high, b.high)}; }
GHOST_INLINE Wide operator-(Wide a, Wide b) { return {vsubq_s16(a.low, b.low), vsubq_s16(a.high, b.high)}; }

GHOST_INLINE void put(int16_t* entry, Wide sum) {
  vst1q_s16(entry, sum.low);
  vst1q_s16(entry + 8, sum.high);
}

// Adds what the 16 rows of a line of codes look up.
__attribute__((noinline)) void look_up(const Tables& tables, const uint8_t* codes, int16_t (*sums)[kTableTokens]) {
  const int16_t(*table[4])[kTableTokens];
  for (int b = 0; b < 4; ++b) {
    table[b] = tables.sums[b];
    asm("" : "+r"(table[b]));  // a register each, or GCC adds the distance of the tables to every index
  }
  for (int r = 0; r < kBlock; r += 2) {
    uint64_t word;  // of two rows
    __builtin_memcpy(&word, codes + 4 * r, sizeof word);
    int16x8_t low[2], high[2];
    for (int i = 0; i < 2; ++i) {
      low[i] = vld1q_s16(sums[r + i]);
      high[i] = vld1q_s16(sums[r + i] + 8);
      for (int b = 0; b < 4; ++b) {
        const int16_t* entry = table[b][word >> (32 * i + 8 * b) & 0xFF];
        asm("" : "+r"(entry));  // one address, from which GCC loads both halves together
        low[i] = vaddq_s16(low[i], vld1q_s16(entry));
        high[i] = vaddq_s16(high[i], vld1q_s16(entry + 8));
      }
      vst1q_s16(sums[r + i], low[i]);
      vst1q_s16(sums[r + i] + 8, high[i]);
    }
  }
}

// products[i]: of four rows and token t + i, float(sum + total) * magnitude; totals may be null.
GHOST_INLINE void multiply_group(const int16_t (*sums)[kTableTokens], const int32_t (*totals)[kTableTokens], int t,
                                 const float* magnitude, V (&products)[kGroupRows]) {
  int32x4_t r[kGroupRows];
  for (int i = 0; i < kGroupRows; ++i) {
    r[i] = vmovl_s16(vld1_s16(sums[i] + t));
    if (totals != nullptr) r[i] = vaddq_s32(r[i], vld1q_s32(totals[i] + t));
  }
  const int64x2_t a = vreinterpretq_s64_s32(vtrn1q_s32(r[0], r[1])), b = vreinterpretq_s64_s32(vtrn2q_s32(r[0], r[1]));
  const int64x2_t c = vreinterpretq_s64_s32(vtrn1q_s32(r[2], r[3])), d = vreinterpretq_s64_s32(vtrn2q_s32(r[2], r[3]));
  const int64x2_t columns[4] = {vtrn1q_s64(a, c), vtrn1q_s64(b, d), vtrn2q_s64(a, c), vtrn2q_s64(b, d)};
  const float32x4_t m = vld1q_f32(magnitude);
  for (int i = 0; i < kGroupRows; ++i) {
    products[i] = (V)vmulq_f32(vcvtq_f32_s32(vreinterpretq_s32_s64(columns[i])), m);
  }
}

#undef GHOST_INLINE

}  // namespace
}  // namespace ghost

#include "tables-inl.h"
