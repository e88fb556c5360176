// Ternary matrices times many tokens without multiplications, exactly: for the 81 values of a byte of codes, what its
// four trits make of four columns is added up once for 16 tokens, and every row then looks its sums up.
#pragma once

#include "neon-inl.h"

namespace ghost {
namespace {

#define GHOST_INLINE static inline __attribute__((always_inline))

constexpr int kTableTokens = 16;
// A table costs 81 additions for each token, and a row saves less than three products: rows and tokens must be many.
constexpr int kFewestBlocks = 4, kFewestTokens = 9;
constexpr int kStripBlocks = 24;  // their sums and the tables (of which a third is never touched) fit into 32 kB

// What the codes of one k-block can add up to, by byte of the code line and its value (at most 2 + 8 + 32 + 128).
struct Tables {
  int16_t sums[4][171][kTableTokens];
};

struct Strip {
  int16_t sums[kStripBlocks * kBlock][kTableTokens];
  int32_t totals[kStripBlocks * kBlock][kTableTokens];
};

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

// The table of one byte position: entry c0 + 4 c1 + 16 c2 + 64 c3 is the sum of (c_s - 1) x_s.
__attribute__((noinline)) void fill_table(const int8x16_t* columns, int16_t (*table)[kTableTokens]) {
  const Wide x0 = widen(columns[0]), x1 = widen(columns[4]), x2 = widen(columns[8]), x3 = widen(columns[12]);
  Wide upper = Wide{} - x3;
  for (int c3 = 0; c3 < 3; ++c3, upper = upper + x3) {
    Wide middle = upper - x2;
    for (int c2 = 0; c2 < 3; ++c2, middle = middle + x2) {
      Wide sum = middle - x1;
      for (int c1 = 0; c1 < 3; ++c1, sum = sum + x1) {
        int16_t(*entry)[kTableTokens] = table + 64 * c3 + 16 * c2 + 4 * c1;
        put(entry[0], sum - x0);
        put(entry[1], sum);
        put(entry[2], sum + x0);
      }
    }
  }
}

// The tables of k-block k for `tokens` tokens, whose q lie `stride` apart; missing tokens are zero.
GHOST_INLINE void fill_tables(const int8_t* q, int64_t stride, int tokens, Tables* tables) {
  int8x16_t rows[kTableTokens], columns[kBlock];
  for (int t = 0; t < kTableTokens; ++t) rows[t] = t < tokens ? vld1q_s8(q + t * stride) : vdupq_n_s8(0);
  transpose(rows, columns);
  for (int b = 0; b < 4; ++b) fill_table(columns + b, tables->sums[b]);
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

// totals of the strip's rows over the k-blocks [k0, k1). No 16-bit overflow: 16 k-blocks add up to at most
// 256 * 127 = 32512; then they are widened.
GHOST_INLINE void add_up(const TritMatrix& w, const int8_t* q, int64_t stride, int tokens, int begin, int end, int k0,
                         int k1, Tables* tables, Strip* strip) {
  constexpr int kFlush = 16;  // k-blocks
  const int rows = (end - begin) * kBlock;
  __builtin_memset(strip->totals, 0, sizeof strip->totals[0] * static_cast<size_t>(rows));
  for (int start = k0; start < k1; start += kFlush) {
    const int stop = start + kFlush < k1 ? start + kFlush : k1;
    __builtin_memset(strip->sums, 0, sizeof strip->sums[0] * static_cast<size_t>(rows));
    for (int k = start; k < stop; ++k) {
      fill_tables(q + k * kBlock, stride, tokens, tables);
      for (int block = begin; block < end; ++block) {
        const uint8_t* codes = w.codes + (int64_t{block} * w.k_blocks + k) * kLineBytes;
        look_up(*tables, codes, strip->sums + (block - begin) * kBlock);
      }
    }
    for (int i = 0; i < rows * kTableTokens; i += 4) {
      int32_t* total = strip->totals[0] + i;
      vst1q_s32(total, vaddw_s16(vld1q_s32(total), vld1_s16(strip->sums[0] + i)));
    }
  }
}

// Four rows and four tokens of y from four rows of totals: y += float(total) * magnitude.
GHOST_INLINE void add_group(const int32_t (*totals)[kTableTokens], int t, int tokens, float32x4_t magnitude, float* y,
                            int64_t y_stride) {
  const int32x4_t r0 = vld1q_s32(totals[0] + t), r1 = vld1q_s32(totals[1] + t);
  const int32x4_t r2 = vld1q_s32(totals[2] + t), r3 = vld1q_s32(totals[3] + t);
  const int64x2_t a = vreinterpretq_s64_s32(vtrn1q_s32(r0, r1)), b = vreinterpretq_s64_s32(vtrn2q_s32(r0, r1));
  const int64x2_t c = vreinterpretq_s64_s32(vtrn1q_s32(r2, r3)), d = vreinterpretq_s64_s32(vtrn2q_s32(r2, r3));
  const int64x2_t columns[4] = {vtrn1q_s64(a, c), vtrn1q_s64(b, d), vtrn2q_s64(a, c), vtrn2q_s64(b, d)};
  for (int i = 0; i < 4 && t + i < tokens; ++i) {
    float* out = y + (t + i) * y_stride;
    const float32x4_t product = vmulq_f32(vcvtq_f32_s32(vreinterpretq_s32_s64(columns[i])), magnitude);
    vst1q_f32(out, vaddq_f32(vld1q_f32(out), product));
  }
}

// y of the blocks [begin, end), at most kStripBlocks, for `tokens` tokens from number `first` on, at most kTableTokens.
__attribute__((noinline)) void by_tables(const TritMatrix& w, const Activations& x, float* y, int64_t y_stride,
                                         int begin, int end, int first, int tokens) {
  Tables tables;
  Strip strip;
  y += first * y_stride;
  const int8_t* q = x.q + int64_t{first} * x.stride;
  for (int t = 0; t < tokens; ++t) {
    for (int r = begin * kBlock; r < end * kBlock; r += 4) vst1q_f32(y + t * y_stride + r, vdupq_n_f32(w.start));
  }
  for (int g = 0; g < w.groups; ++g) {
    const int k0 = g * w.group_blocks;
    const int k1 = k0 + w.group_blocks < w.k_blocks ? k0 + w.group_blocks : w.k_blocks;
    add_up(w, q, x.stride, tokens, begin, end, k0, k1, &tables, &strip);
    for (int r = begin * kBlock; r < end * kBlock; r += 4) {
      const float* magnitude = w.magnitude + (int64_t{r / kBlock} * w.groups + g) * kBlock + r % kBlock;
      for (int t = 0; t < tokens; t += 4) {
        add_group(strip.totals + (r - begin * kBlock), t, tokens, vld1q_f32(magnitude), y + r, y_stride);
      }
    }
  }
  for (int t = 0; t < tokens; ++t) {
    const float32x4_t scale = vdupq_n_f32(x.scale[first + t]);
    for (int r = begin * kBlock; r < end * kBlock; r += 4) {
      float* out = y + t * y_stride + r;
      vst1q_f32(out, vmulq_f32(vld1q_f32(out), scale));
    }
  }
}

#undef GHOST_INLINE

}  // namespace
}  // namespace ghost
