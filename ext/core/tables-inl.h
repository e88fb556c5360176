// Ternary matrices times many tokens without multiplications, exactly: for the 81 values of a byte of codes, what its
// four trits make of four columns is added up once for 16 tokens, and every row then looks its sums up.
//
// Included by the file of an instruction set, after it has defined when tables pay (kFewestBlocks, kFewestTokens), the
// blocks summed together (kStripBlocks), the types Column (a column of q for 16 tokens) and Wide (16-bit sums for them,
// with + and -), and widen, put, transpose, look_up and multiply_group
// (of kGroupRows rows and tokens, as many as a vector has lanes).
#pragma once

namespace ghost {
namespace {

#define GHOST_INLINE static inline __attribute__((always_inline))

// Of a strip of blocks: 16-bit sums of the latest k-blocks, and 32-bit ones of those before.
struct Strip {
  int16_t sums[kStripBlocks * kBlock][kTableTokens];
  int32_t totals[kStripBlocks * kBlock][kTableTokens];
};

// The table of one byte position: entry c0 + 4 c1 + 16 c2 + 64 c3 is the sum of (c_s - 1) x_s.
__attribute__((noinline)) void fill_table(const Column* columns, int16_t (*table)[kTableTokens]) {
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
  Column rows[kTableTokens], columns[kBlock];
  for (int t = 0; t < kTableTokens; ++t) {
    rows[t] = Column{};
    if (t < tokens) __builtin_memcpy(&rows[t], q + t * stride, sizeof rows[t]);
  }
  transpose(rows, columns);
  for (int b = 0; b < 4; ++b) fill_table(columns + b, tables->sums[b]);
}

// totals += sums for rows of the strip.
GHOST_INLINE void widen_sums(int rows, Strip* strip) {
  for (int i = 0; i < rows * kTableTokens; i += kStep) {
    WordVector sums;
    I total;
    __builtin_memcpy(&sums, strip->sums[0] + i, sizeof sums);
    __builtin_memcpy(&total, strip->totals[0] + i, sizeof total);
    total += __builtin_convertvector(sums, I);
    __builtin_memcpy(strip->totals[0] + i, &total, sizeof total);
  }
}

// Adds up the strip's rows over the k-blocks [k0, k1): in its sums and, when true is returned, also in its totals. No
// 16-bit overflow: 16 k-blocks add up to at most 256 * 127 = 32512; then they are widened.
GHOST_INLINE bool add_up(const TritMatrix& w, const int8_t* q, int64_t stride, int tokens, int begin, int end, int k0,
                         int k1, Tables* tables, Strip* strip) {
  constexpr int kFlush = 16;  // k-blocks
  const int rows = (end - begin) * kBlock;
  const int64_t block_bytes = int64_t{w.k_blocks} * kLineBytes;
  for (int start = k0; start < k1; start += kFlush) {
    const int stop = start + kFlush < k1 ? start + kFlush : k1;
    if (start == k0 + kFlush) __builtin_memset(strip->totals, 0, sizeof strip->totals[0] * static_cast<size_t>(rows));
    if (start > k0) widen_sums(rows, strip);
    __builtin_memset(strip->sums, 0, sizeof strip->sums[0] * static_cast<size_t>(rows));
    for (int k = start; k < stop; ++k) {
      fill_tables(q + k * kBlock, stride, tokens, tables);
      const uint8_t* codes = w.codes + begin * block_bytes + int64_t{k} * kLineBytes;
      for (int block = begin; block < end; ++block, codes += block_bytes) {
        __builtin_prefetch(codes + 2 * block_bytes);  // one line a block: no processor foresees that
        look_up(*tables, codes, strip->sums + (block - begin) * kBlock);
      }
    }
  }
  return k1 - k0 > kFlush;
}

// y of the blocks [begin, end), at most kStripBlocks, for `tokens` tokens from number `first` on, at most kTableTokens.
__attribute__((noinline)) void by_tables(const TritMatrix& w, const Activations& x, float* y, int64_t y_stride,
                                         int begin, int end, int first, int tokens) {
  Tables tables;
  Strip strip;
  y += first * y_stride;
  const int8_t* q = x.q + int64_t{first} * x.stride;
  for (int g = 0; g < w.groups; ++g) {
    const int k0 = g * w.group_blocks;
    const int k1 = k0 + w.group_blocks < w.k_blocks ? k0 + w.group_blocks : w.k_blocks;
    const bool widened = add_up(w, q, x.stride, tokens, begin, end, k0, k1, &tables, &strip);
    for (int r = begin * kBlock; r < end * kBlock; r += kGroupRows) {
      const float* magnitude = w.magnitude + (int64_t{r / kBlock} * w.groups + g) * kBlock + r % kBlock;
      const int row = r - begin * kBlock;
      for (int t = 0; t < tokens; t += kGroupRows) {
        V products[kGroupRows];
        multiply_group(strip.sums + row, widened ? strip.totals + row : nullptr, t, magnitude, products);
        for (int i = 0; i < kGroupRows && t + i < tokens; ++i) {
          float* out = y + (t + i) * y_stride + r;
          V sum = (g == 0 ? broadcast<V>(w.start) : load<V>(out)) + products[i];
          if (g + 1 == w.groups) sum = sum * x.scale[first + t + i];
          store(out, sum);
        }
      }
    }
  }
}

// Computes y by tables for as many tokens as that pays for, from the first on, and says how many.
GHOST_INLINE int all_by_tables(const TritMatrix& w, const Activations& x, float* y, int64_t y_stride, int begin,
                               int end) {
  int t = 0;
  for (; end - begin >= kFewestBlocks && x.tokens - t >= kFewestTokens; t += kTableTokens) {
    const int tokens = x.tokens - t < kTableTokens ? x.tokens - t : kTableTokens;
    for (int block = begin; block < end; block += kStripBlocks) {
      by_tables(w, x, y, y_stride, block, block + kStripBlocks < end ? block + kStripBlocks : end, t, tokens);
    }
  }
  return t;
}

#undef GHOST_INLINE

}  // namespace
}  // namespace ghost
