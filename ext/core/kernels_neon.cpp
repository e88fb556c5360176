// AArch64 NEON as every 64-bit ARM has it (Cortex-A53, A72): products of bytes are added up in 16 bits.
#include "neon-inl.h"
#include "neon_tables-inl.h"

namespace ghost {
namespace {

#define GHOST_INLINE static inline __attribute__((always_inline))

// Copies four activations to every lane.
GHOST_INLINE int8x16_t four(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

struct LongProducts {
  // Half sums: of a quad's first two rows, and of its other two, four 16-bit lanes a row.
  template <int kQuads, int kTokens>
  struct Halves {
    int16x8_t low[kQuads][kTokens], high[kQuads][kTokens];
  };

  // No 16-bit overflow: a k-block adds 4 products of |2 * 127| to a lane, and 32 k-blocks stay within 32 * 4 * 254 =
  // 32512; then the lanes are widened into 32 bits.
  template <int kQuads, int kTokens>
  GHOST_INLINE void trits(const uint8_t* codes, const int8_t* q, int64_t stride, int k0, int k1,
                          int32x4_t (&total)[kQuads][kTokens]) {
    constexpr int kFlush = 32;  // k-blocks
    for (int start = k0; start < k1; start += kFlush) {
      const int stop = start + kFlush < k1 ? start + kFlush : k1;
      Halves<kQuads, kTokens> sums = {};
      for (int k = start; k < stop; ++k) {
        uint8x16_t z[kQuads];
        GHOST_UNROLL
        for (int r = 0; r < kQuads; ++r) z[r] = vld1q_u8(codes + int64_t{k} * kLineBytes + r * 16);
        int32x4_t x[kTokens];
        GHOST_UNROLL
        for (int c = 0; c < kTokens; ++c) x[c] = vreinterpretq_s32_s8(vld1q_s8(q + c * stride + k * kBlock));
        multiply_codes<0>(z, x, &sums);
        multiply_codes<1>(z, x, &sums);
        multiply_codes<2>(z, x, &sums);
        multiply_codes<3>(z, x, &sums);
      }
      GHOST_UNROLL
      for (int r = 0; r < kQuads; ++r) {
        GHOST_UNROLL
        for (int c = 0; c < kTokens; ++c) {
          const int32x4_t exact = vpaddq_s32(vpaddlq_s16(sums.low[r][c]), vpaddlq_s16(sums.high[r][c]));
          total[r][c] = vaddq_s32(total[r][c], exact);
        }
      }
    }
  }

  // Adds the products of columns 4 kGroup .. 4 kGroup + 3 of a k-block.
  template <int kGroup, int kQuads, int kTokens>
  GHOST_INLINE void multiply_codes(const uint8x16_t (&z)[kQuads], const int32x4_t (&x)[kTokens],
                                   Halves<kQuads, kTokens>* sums) {
    int8x16_t codes[kQuads];
    GHOST_UNROLL
    for (int r = 0; r < kQuads; ++r) {
      uint8x16_t shifted = z[r];
      if constexpr (kGroup > 0) shifted = vshrq_n_u8(shifted, 2 * kGroup);
      if constexpr (kGroup < 3) shifted = vandq_u8(shifted, vdupq_n_u8(3));
      codes[r] = vreinterpretq_s8_u8(shifted);
    }
    GHOST_UNROLL
    for (int c = 0; c < kTokens; ++c) {
      const int8x16_t xs = vreinterpretq_s8_s32(vdupq_laneq_s32(x[c], kGroup));
      GHOST_UNROLL
      for (int r = 0; r < kQuads; ++r) {
        sums->low[r][c] = vmlal_s8(sums->low[r][c], vget_low_s8(codes[r]), vget_low_s8(xs));
        sums->high[r][c] = vmlal_high_s8(sums->high[r][c], codes[r], xs);
      }
    }
  }

  // Two k-quads at a time: two products of |128 * 127| are 32512 in 16 bits, then they are widened.
  template <int kQuads, int kTokens>
  GHOST_INLINE void bytes(const uint8_t* bytes, const int8_t* q, int64_t stride, int k_quads,
                          int32x4_t (&total)[kQuads][kTokens]) {
    int32x4_t low[kQuads][kTokens] = {}, high[kQuads][kTokens] = {};
    for (int k = 0; k < k_quads; k += 2) {
      int8x16_t weights[kQuads][2];
      GHOST_UNROLL
      for (int r = 0; r < kQuads; ++r) {
        GHOST_UNROLL
        for (int j = 0; j < 2; ++j) {  // stored as w + 128, of which the sign bit is the wrong way round
          const uint8x16_t raw = vld1q_u8(bytes + int64_t{k + j} * kLineBytes + r * 16);
          weights[r][j] = vreinterpretq_s8_u8(veorq_u8(raw, vdupq_n_u8(0x80)));
        }
      }
      GHOST_UNROLL
      for (int c = 0; c < kTokens; ++c) {
        const int8x16_t x0 = four(q + c * stride + k * 4), x1 = four(q + c * stride + k * 4 + 4);
        GHOST_UNROLL
        for (int r = 0; r < kQuads; ++r) {
          const int8x16_t w0 = weights[r][0], w1 = weights[r][1];
          const int16x8_t upper = vmlal_high_s8(vmull_high_s8(w0, x0), w1, x1);
          const int16x8_t lower = vmlal_s8(vmull_s8(vget_low_s8(w0), vget_low_s8(x0)), vget_low_s8(w1), vget_low_s8(x1));
          low[r][c] = vpadalq_s16(low[r][c], lower);
          high[r][c] = vpadalq_s16(high[r][c], upper);
        }
      }
    }
    GHOST_UNROLL
    for (int r = 0; r < kQuads; ++r) {
      GHOST_UNROLL
      for (int c = 0; c < kTokens; ++c) total[r][c] = vaddq_s32(total[r][c], vpaddq_s32(low[r][c], high[r][c]));
    }
  }
};

void linear(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  const int t = all_by_tables(*w, *x, y, y_stride, begin, end);
  for (int quad = begin * kQuadsOfBlock; quad < end * kQuadsOfBlock; quad += kQuadsOfBlock) {
    int c = t;
    for (; c + 4 <= x->tokens; c += 4) {
      trit_tile<LongProducts, 2, 4>(*w, *x, y, y_stride, quad, c);
      trit_tile<LongProducts, 2, 4>(*w, *x, y, y_stride, quad + 2, c);
    }
    for (; c < x->tokens; ++c) trit_tile<LongProducts, 4, 1>(*w, *x, y, y_stride, quad, c);
  }
}

// More tokens at a time would save nothing: the products need all the instructions.
void linear_bytes(const ByteMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int quad = begin * kQuadsOfBlock; quad < end * kQuadsOfBlock; quad += kQuadsOfBlock) {
    for (int t = 0; t < x->tokens; ++t) byte_tile<LongProducts, 4, 1>(*w, *x, y, y_stride, quad, t);
  }
}

#undef GHOST_INLINE

}  // namespace

const Kernels* kernels_neon() {
  static constexpr Kernels table = kernel_table("neon");
  return &table;
}

}  // namespace ghost
