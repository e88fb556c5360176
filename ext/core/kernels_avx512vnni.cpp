// AVX-512 F, BW, DQ, VL and VNNI.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own header: _mm512_undefined_ps
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "kernels-inl.h"

namespace ghost {
namespace {

static inline __attribute__((always_inline)) __m512i four(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  return _mm512_set1_epi32(word);
}

static inline __attribute__((always_inline)) int group_end(const TritMatrix& w, int g) {
  const int end = (g + 1) * w.group_blocks;
  return end < w.k_blocks ? end : w.k_blocks;
}

static inline __attribute__((always_inline)) const uint8_t* block_codes(const TritMatrix& w, int block) {
  return w.codes + int64_t{block} * w.k_blocks * 64;
}

static inline __attribute__((always_inline)) __m512 magnitudes(const TritMatrix& w, int block, int g) {
  return _mm512_loadu_ps(w.magnitude + (int64_t{block} * w.groups + g) * kBlock);
}

// One token, kRows blocks. The codes are multiplied where they stand in their byte, that is times 1, 4, 16 and 64, in
// four separate sums that are divided (exactly) at the end: masks only, no shifts. The largest sum has 2 * 64 * 127 per
// column and 65536 of the at most 262144 columns, which stays below 2^31.
template <int kRows>
void one_token(const TritMatrix& w, const Activations& x, float* y, int block, int t) {
  const __m512i mask0 = _mm512_set1_epi8(0x03), mask1 = _mm512_set1_epi8(0x0C);
  const __m512i mask2 = _mm512_set1_epi8(0x30), mask3 = _mm512_set1_epi8(static_cast<char>(0xC0));
  const int8_t* q = x.q + int64_t{t} * x.stride;
  const uint8_t* codes = block_codes(w, block);
  __m512 lanes[kRows];
  for (int r = 0; r < kRows; ++r) lanes[r] = _mm512_set1_ps(w.start);
  for (int g = 0, k = 0; g < w.groups; ++g) {
    __m512i sums[kRows][4];
    for (int r = 0; r < kRows; ++r) {
      for (int s = 0; s < 4; ++s) sums[r][s] = _mm512_setzero_si512();
    }
    for (const int end = group_end(w, g); k < end; ++k) {
      const __m512i x0 = four(q + k * kBlock), x1 = four(q + k * kBlock + 4);
      const __m512i x2 = four(q + k * kBlock + 8), x3 = four(q + k * kBlock + 12);
      for (int r = 0; r < kRows; ++r) {
        const __m512i z = _mm512_loadu_si512(codes + (int64_t{r} * w.k_blocks + k) * 64);
        sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], _mm512_and_si512(z, mask0), x0);
        sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], _mm512_and_si512(z, mask1), x1);
        sums[r][2] = _mm512_dpbusd_epi32(sums[r][2], _mm512_and_si512(z, mask2), x2);
        sums[r][3] = _mm512_dpbusd_epi32(sums[r][3], _mm512_and_si512(z, mask3), x3);
      }
    }
    const __m512i q_sum = _mm512_set1_epi32(x.sums[int64_t{t} * x.sums_stride + g]);
    for (int r = 0; r < kRows; ++r) {
      const __m512i low = _mm512_add_epi32(sums[r][0], _mm512_srai_epi32(sums[r][1], 2));
      const __m512i high = _mm512_add_epi32(_mm512_srai_epi32(sums[r][2], 4), _mm512_srai_epi32(sums[r][3], 6));
      const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_add_epi32(low, high), q_sum));
      lanes[r] = _mm512_add_ps(lanes[r], _mm512_mul_ps(exact, magnitudes(w, block + r, g)));
    }
  }
  const __m512 scale = _mm512_set1_ps(x.scale[t]);
  for (int r = 0; r < kRows; ++r) _mm512_storeu_ps(y + (block + r) * kBlock, _mm512_mul_ps(lanes[r], scale));
}

// kRows blocks times kColumns tokens: every register of codes is decoded once for all columns.
template <int kRows, int kColumns>
void tile(const TritMatrix& w, const Activations& x, float* y, int64_t y_stride, int block, int t) {
  const __m512i mask = _mm512_set1_epi8(3);
  const int8_t* q = x.q + int64_t{t} * x.stride;
  const uint8_t* codes = block_codes(w, block);
  __m512 lanes[kRows][kColumns];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) lanes[r][c] = _mm512_set1_ps(w.start);
  }
  for (int g = 0, k = 0; g < w.groups; ++g) {
    __m512i sums[kRows][kColumns];
    for (int c = 0; c < kColumns; ++c) {
      const __m512i q_sum = _mm512_set1_epi32(-x.sums[int64_t{t + c} * x.sums_stride + g]);
      for (int r = 0; r < kRows; ++r) sums[r][c] = q_sum;
    }
    for (const int end = group_end(w, g); k < end; ++k) {
      __m512i z[kRows];
      for (int r = 0; r < kRows; ++r) z[r] = _mm512_loadu_si512(codes + (int64_t{r} * w.k_blocks + k) * 64);
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) {
        __m512i trits[kRows];
        for (int r = 0; r < kRows; ++r) {
          trits[r] = _mm512_and_si512(z[r], mask);
          z[r] = _mm512_srli_epi16(z[r], 2);
        }
        for (int c = 0; c < kColumns; ++c) {
          const __m512i xs = four(q + int64_t{c} * x.stride + k * kBlock + 4 * s);
          for (int r = 0; r < kRows; ++r) sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], trits[r], xs);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const __m512 m = magnitudes(w, block + r, g);
      for (int c = 0; c < kColumns; ++c) {
        lanes[r][c] = _mm512_add_ps(lanes[r][c], _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][c]), m));
      }
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    const __m512 scale = _mm512_set1_ps(x.scale[t + c]);
    for (int r = 0; r < kRows; ++r) {
      _mm512_storeu_ps(y + (t + c) * y_stride + (block + r) * kBlock, _mm512_mul_ps(lanes[r][c], scale));
    }
  }
}

template <int kRows>
void rows(const TritMatrix& w, const Activations& x, float* y, int64_t y_stride, int block) {
  int t = 0;
  for (; t + 8 <= x.tokens; t += 8) tile<kRows, 8>(w, x, y, y_stride, block, t);
  for (; t + 4 <= x.tokens; t += 4) tile<kRows, 4>(w, x, y, y_stride, block, t);
  for (; t < x.tokens; ++t) one_token<kRows>(w, x, y + t * y_stride, block, t);
}

void linear(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  int block = begin;
  for (; block + 2 <= end; block += 2) rows<2>(*w, *x, y, y_stride, block);
  if (block < end) rows<1>(*w, *x, y, y_stride, block);
}

// vpdpbusd takes unsigned times signed bytes: the weights are stored as w + 128, and 128 times the sum of q is
// subtracted. 255 * 127 per column stays below 2^31 for the at most 16384 columns.
void linear_bytes(const ByteMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int block = begin; block < end; ++block) {
    const uint8_t* bytes = w->bytes + int64_t{block} * w->k_quads * 64;
    const __m512 weight_scale = _mm512_loadu_ps(w->scale + int64_t{block} * kBlock);
    for (int t = 0; t < x->tokens; ++t) {
      const int8_t* q = x->q + int64_t{t} * x->stride;
      __m512i sums[4] = {};
      for (int k = 0; k < w->k_quads; k += 4) {
        for (int j = 0; j < 4; ++j) {
          const __m512i weights = _mm512_loadu_si512(bytes + int64_t{k + j} * 64);
          sums[j] = _mm512_dpbusd_epi32(sums[j], weights, four(q + (k + j) * 4));
        }
      }
      const __m512i total = _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3]));
      const __m512i exact = _mm512_sub_epi32(total, _mm512_set1_epi32(128 * x->sums[int64_t{t} * x->sums_stride]));
      const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), weight_scale);
      _mm512_storeu_ps(y + t * y_stride + block * kBlock, _mm512_mul_ps(product, _mm512_set1_ps(x->scale[t])));
    }
  }
}

}  // namespace

const Kernels* kernels_avx512vnni() {
  static constexpr Kernels table = kernel_table("avx512vnni");
  return &table;
}

}  // namespace ghost
