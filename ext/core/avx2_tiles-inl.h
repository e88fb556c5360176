// AVX2 products of trits and of int8 weights with int8 activations. The rows of a block are the lanes of two registers
// and the activations are copied to all of them, four columns at a time, so there are no horizontal sums.
#pragma once

#include <immintrin.h>

#include "kernels-inl.h"

namespace ghost {
namespace {

#define GHOST_INLINE static inline __attribute__((always_inline))
#define GHOST_UNROLL _Pragma("GCC unroll 8")

constexpr int kLineBytes = 64;           // weights of a block's 16 rows, four bytes each
constexpr int kParts = 2;                // registers that hold them
constexpr int kPartRows = kBlock / kParts, kPartBytes = kLineBytes / kParts;

GHOST_INLINE __m256i load_bytes(const uint8_t* bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

// Copies four activations to every lane.
GHOST_INLINE __m256i four(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  return _mm256_set1_epi32(word);
}

// sums[i] += u[2i] * s[2i] + u[2i + 1] * s[2i + 1], in 16 bits. Not the intrinsics: GCC 12 adds the products of several
// steps first, in another order, and then has more of them than registers.
GHOST_INLINE void add_products(__m256i* sums, __m256i u, __m256i s) {
  __m256i products;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(*sums), "=&x"(products) : "x"(u), "x"(s));
}

// exact[r]: the sums of trit * q of rows 8r .. 8r + 7 for one token. Codes are multiplied where they stand in their
// half of a byte, that is times 1 and 4, and all sums are made four times theirs and divided (exactly) at the end: one
// shift for four masks.
//
// No 16-bit overflow: in a k-block a lane of `high` adds two results of maddubs of at most 2 * 8 * 127 each, and 8
// k-blocks stay within 8 * 2 * 2032 = 32512; `low` adds a quarter of that, in 32 k-blocks as much; then they are
// widened.
// The 32-bit sums hold four times what is wanted, at most 4 * 2 * 127 a column: enough for two million columns.
GHOST_INLINE void sum_token(const uint8_t* codes, const int8_t* q, int k_blocks, int32_t q_sum,
                            __m256i (&exact)[kParts][1]) {
  constexpr int kFlushLow = 32, kFlushHigh = 8;  // k-blocks
  const __m256i low_mask = _mm256_set1_epi8(3), high_mask = _mm256_set1_epi8(12);
  const __m256i one = _mm256_set1_epi16(1), four_times = _mm256_set1_epi16(4);
  __m256i total[kParts] = {};
  for (int k = 0, end; k < k_blocks; k = end) {
    end = k + kFlushLow < k_blocks ? k + kFlushLow : k_blocks;
    __m256i low[kParts] = {};
    for (int start = k; start < end; start += kFlushHigh) {
      const int stop = start + kFlushHigh < end ? start + kFlushHigh : end;
      __m256i high[kParts] = {};
      for (int i = start; i < stop; ++i, codes += kLineBytes, q += kBlock) {
        const __m256i x0 = four(q), x1 = four(q + 4), x2 = four(q + 8), x3 = four(q + 12);
        GHOST_UNROLL for (int r = 0; r < kParts; ++r) {
          const __m256i z = load_bytes(codes + r * kPartBytes), upper = _mm256_srli_epi16(z, 4);
          add_products(&low[r], _mm256_and_si256(z, low_mask), x0);
          add_products(&high[r], _mm256_and_si256(z, high_mask), x1);
          add_products(&low[r], _mm256_and_si256(upper, low_mask), x2);
          add_products(&high[r], _mm256_and_si256(upper, high_mask), x3);
        }
      }
      GHOST_UNROLL for (int r = 0; r < kParts; ++r) {
        total[r] = _mm256_add_epi32(total[r], _mm256_madd_epi16(high[r], one));
      }
    }
    GHOST_UNROLL for (int r = 0; r < kParts; ++r) {
      total[r] = _mm256_add_epi32(total[r], _mm256_madd_epi16(low[r], four_times));
    }
  }
  GHOST_UNROLL for (int r = 0; r < kParts; ++r) {
    exact[r][0] = _mm256_sub_epi32(_mm256_srai_epi32(total[r], 2), _mm256_set1_epi32(q_sum));
  }
}

// exact[r][c], the same for kColumns tokens: a register of codes is decoded once for all of them.
//
// No 16-bit overflow: maddubs adds two products of |2 * 127|, a k-block adds four such results to a lane, and 16
// k-blocks stay within 16 * 4 * 2 * 254 = 32512; then the lanes are widened into 32 bits.
template <int kColumns>
GHOST_INLINE void sum_tile(const uint8_t* codes, const int8_t* q, int64_t stride, int k_blocks, const int32_t* q_sums,
                           int64_t sums_stride, __m256i (&exact)[kParts][kColumns]) {
  constexpr int kFlush = 16;  // k-blocks
  const __m256i mask = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
  GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
    GHOST_UNROLL for (int r = 0; r < kParts; ++r) exact[r][c] = _mm256_set1_epi32(-q_sums[c * sums_stride]);
  }
  for (int start = 0; start < k_blocks; start += kFlush) {
    const int stop = start + kFlush < k_blocks ? start + kFlush : k_blocks;
    __m256i sums[kParts][kColumns] = {};
    for (int k = start; k < stop; ++k, codes += kLineBytes, q += kBlock) {
      __m256i z[kParts];
      GHOST_UNROLL for (int r = 0; r < kParts; ++r) z[r] = load_bytes(codes + r * kPartBytes);
      GHOST_UNROLL for (int s = 0; s < 4; ++s) {
        GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
          const __m256i xs = four(q + c * stride + 4 * s);
          GHOST_UNROLL for (int r = 0; r < kParts; ++r) add_products(&sums[r][c], _mm256_and_si256(z[r], mask), xs);
        }
        GHOST_UNROLL for (int r = 0; r < kParts; ++r) z[r] = _mm256_srli_epi16(z[r], 2);
      }
    }
    GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
      GHOST_UNROLL for (int r = 0; r < kParts; ++r) {
        exact[r][c] = _mm256_add_epi32(exact[r][c], _mm256_madd_epi16(sums[r][c], one));
      }
    }
  }
}

// The 16 rows of `block`, kColumns tokens from t on.
template <int kColumns>
void tile(const TritMatrix& w, const Activations& x, float* y, int64_t y_stride, int block, int t) {
  const uint8_t* codes = w.codes + int64_t{block} * w.k_blocks * kLineBytes;
  const float* magnitude = w.magnitude + int64_t{block} * w.groups * kBlock;
  const int8_t* q = x.q + int64_t{t} * x.stride;
  const int32_t* q_sums = x.sums + int64_t{t} * x.sums_stride;
  __m256 lanes[kParts][kColumns];
  GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
    GHOST_UNROLL for (int r = 0; r < kParts; ++r) lanes[r][c] = _mm256_set1_ps(w.start);
  }
  for (int g = 0, k = 0; g < w.groups; ++g, k += w.group_blocks) {
    const int k_blocks = g + 1 < w.groups ? w.group_blocks : w.k_blocks - k;
    __m256i exact[kParts][kColumns];
    if constexpr (kColumns == 1) {
      sum_token(codes + int64_t{k} * kLineBytes, q + int64_t{k} * kBlock, k_blocks, q_sums[g], exact);
    } else {
      sum_tile<kColumns>(codes + int64_t{k} * kLineBytes, q + int64_t{k} * kBlock, x.stride, k_blocks, q_sums + g,
                         x.sums_stride, exact);
    }
    GHOST_UNROLL for (int r = 0; r < kParts; ++r) {
      const __m256 m = _mm256_loadu_ps(magnitude + g * kBlock + r * kPartRows);
      GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
        lanes[r][c] = _mm256_add_ps(lanes[r][c], _mm256_mul_ps(_mm256_cvtepi32_ps(exact[r][c]), m));
      }
    }
  }
  GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
    float* out = y + (t + c) * y_stride + int64_t{block} * kBlock;
    const __m256 scale = _mm256_set1_ps(x.scale[t + c]);
    GHOST_UNROLL for (int r = 0; r < kParts; ++r) {
      _mm256_storeu_ps(out + r * kPartRows, _mm256_mul_ps(lanes[r][c], scale));
    }
  }
}

// The same for int8 weights, stored as w + 128. maddubs takes |w| and q with the sign of w: its two products add up to
// at most 2 * 128 * 127 = 32512 in 16 bits, which are widened at once.
template <int kColumns>
void byte_tile(const ByteMatrix& w, const Activations& x, float* y, int64_t y_stride, int block, int t) {
  const __m256i offset = _mm256_set1_epi8(-128), one = _mm256_set1_epi16(1);
  const uint8_t* bytes = w.bytes + int64_t{block} * w.k_quads * kLineBytes;
  const int8_t* q = x.q + int64_t{t} * x.stride;
  __m256i sums[kParts][kColumns] = {};
#pragma GCC unroll 4
  for (int k = 0; k < w.k_quads; ++k, bytes += kLineBytes, q += 4) {
    __m256i weights[kParts], sizes[kParts];
    GHOST_UNROLL for (int r = 0; r < kParts; ++r) {
      weights[r] = _mm256_xor_si256(load_bytes(bytes + r * kPartBytes), offset);
      sizes[r] = _mm256_abs_epi8(weights[r]);
    }
    GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
      const __m256i xs = four(q + int64_t{c} * x.stride);
      GHOST_UNROLL for (int r = 0; r < kParts; ++r) {
        const __m256i pairs = _mm256_maddubs_epi16(sizes[r], _mm256_sign_epi8(xs, weights[r]));
        sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(pairs, one));
      }
    }
  }
  const float* scale = w.scale + int64_t{block} * kBlock;
  GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
    GHOST_UNROLL for (int r = 0; r < kParts; ++r) {
      const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][c]), _mm256_loadu_ps(scale + r * kPartRows));
      _mm256_storeu_ps(y + (t + c) * y_stride + int64_t{block} * kBlock + r * kPartRows,
                       _mm256_mul_ps(product, _mm256_set1_ps(x.scale[t + c])));
    }
  }
}

#undef GHOST_UNROLL
#undef GHOST_INLINE

}  // namespace
}  // namespace ghost
