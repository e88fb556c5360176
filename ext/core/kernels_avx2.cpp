// AVX2 (without FMA: a fused multiply-add would round differently).
#include <immintrin.h>

#include "kernels-inl.h"

namespace ghost {
namespace {

constexpr int kHalf = 8;    // rows in one register; a block is two
constexpr int kFlush = 16;  // k-blocks between two flushes of the 16-bit sums, see code_sums

// Copies four activations to every lane.
static inline __attribute__((always_inline)) __m256i four(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  return _mm256_set1_epi32(word);
}

// Adds the sums of code * q over the k-blocks [k0, k1) of 8 rows for `kColumns` tokens.
//
// No 16-bit overflow: maddubs adds two products of |2 * 127|, a k-block adds four such results to a lane, and 16
// k-blocks stay within 16 * 4 * 2 * 254 = 32512; then the lanes are widened into 32 bits.
template <int kColumns>
static inline __attribute__((always_inline)) void code_sums(const uint8_t* codes, const int8_t* q, int64_t stride,
                                                            int k0, int k1, __m256i* total) {
  const __m256i mask = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  for (int start = k0; start < k1; start += kFlush) {
    const int stop = start + kFlush < k1 ? start + kFlush : k1;
    __m256i sums[kColumns];
    for (int c = 0; c < kColumns; ++c) sums[c] = _mm256_setzero_si256();
    for (int k = start; k < stop; ++k) {
      __m256i z = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + int64_t{k} * 64));
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) {
        const __m256i w = _mm256_and_si256(z, mask);
        z = _mm256_srli_epi16(z, 2);
        for (int c = 0; c < kColumns; ++c) {
          sums[c] = _mm256_add_epi16(sums[c], _mm256_maddubs_epi16(w, four(q + c * stride + k * kBlock + 4 * s)));
        }
      }
    }
    for (int c = 0; c < kColumns; ++c) total[c] = _mm256_add_epi32(total[c], _mm256_madd_epi16(sums[c], ones));
  }
}

// 8 rows starting at row 8 * `half` of a block, `kColumns` tokens starting at t.
template <int kColumns>
void tile(const TritMatrix& w, const Activations& x, float* y, int64_t y_stride, int block, int half, int t) {
  const uint8_t* codes = w.codes + int64_t{block} * w.k_blocks * 64 + half * 32;
  const float* magnitude = w.magnitude + int64_t{block} * w.groups * kBlock + half * kHalf;
  const int8_t* q = x.q + int64_t{t} * x.stride;
  __m256 y_lanes[kColumns];
  for (int c = 0; c < kColumns; ++c) y_lanes[c] = _mm256_set1_ps(w.start);
  for (int g = 0; g < w.groups; ++g) {
    const int k0 = g * w.group_blocks;
    const int k1 = k0 + w.group_blocks < w.k_blocks ? k0 + w.group_blocks : w.k_blocks;
    __m256i total[kColumns];
    for (int c = 0; c < kColumns; ++c) total[c] = _mm256_set1_epi32(-x.sums[int64_t{t + c} * x.sums_stride + g]);
    code_sums<kColumns>(codes, q, x.stride, k0, k1, total);
    const __m256 m = _mm256_loadu_ps(magnitude + g * kBlock);
    for (int c = 0; c < kColumns; ++c) {
      y_lanes[c] = _mm256_add_ps(y_lanes[c], _mm256_mul_ps(_mm256_cvtepi32_ps(total[c]), m));
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    float* out = y + (t + c) * y_stride + int64_t{block} * kBlock + half * kHalf;
    _mm256_storeu_ps(out, _mm256_mul_ps(y_lanes[c], _mm256_set1_ps(x.scale[t + c])));
  }
}

void linear(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int block = begin; block < end; ++block) {
    for (int half = 0; half < 2; ++half) {
      int t = 0;
      for (; t + 4 <= x->tokens; t += 4) tile<4>(*w, *x, y, y_stride, block, half, t);
      for (; t < x->tokens; ++t) tile<1>(*w, *x, y, y_stride, block, half, t);
    }
  }
}

// 16 rows as four registers of four rows, two 32-bit partial sums per row that are added at the end.
void linear_bytes(const ByteMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  const __m128i offset = _mm_set1_epi8(-128);
  const __m256i rows_in_order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
  for (int block = begin; block < end; ++block) {
    const uint8_t* bytes = w->bytes + int64_t{block} * w->k_quads * 64;
    for (int t = 0; t < x->tokens; ++t) {
      const int8_t* q = x->q + int64_t{t} * x->stride;
      __m256i sums[4] = {};
      for (int k = 0; k < w->k_quads; ++k) {
        int32_t word;
        __builtin_memcpy(&word, q + k * 4, sizeof word);
        const __m256i xs = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(word)));
        for (int r = 0; r < 4; ++r) {
          const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + int64_t{k} * 64 + r * 16));
          const __m256i ws = _mm256_cvtepi8_epi16(_mm_xor_si128(raw, offset));
          sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(ws, xs));
        }
      }
      for (int pair = 0; pair < 2; ++pair) {
        // hadd leaves rows 0 1 4 5 | 2 3 6 7 of the pair.
        const __m256i mixed = _mm256_hadd_epi32(sums[2 * pair], sums[2 * pair + 1]);
        const __m256i exact = _mm256_permutevar8x32_epi32(mixed, rows_in_order);
        const int64_t row = int64_t{block} * kBlock + pair * kHalf;
        const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(exact), _mm256_loadu_ps(w->scale + row));
        _mm256_storeu_ps(y + t * y_stride + row, _mm256_mul_ps(product, _mm256_set1_ps(x->scale[t])));
      }
    }
  }
}

}  // namespace

const Kernels* kernels_avx2() {
  static constexpr Kernels table = kernel_table("avx2");
  return &table;
}

}  // namespace ghost
