// AArch64 NEON with the dot products of ARMv8.2 (FEAT_DotProd): 16 products of bytes and 4 sums in one instruction.
#include "neon-inl.h"

namespace ghost {
namespace {

#define GHOST_INLINE static inline __attribute__((always_inline))

// A constant that the compiler keeps in a register instead of making it again in every iteration.
GHOST_INLINE uint8x16_t resident(uint8_t byte) {
  uint8x16_t constant = vdupq_n_u8(byte);
  asm("" : "+w"(constant));
  return constant;
}

// sums[r][c] += codes of columns 4 kLane .. 4 kLane + 3 of the k-block times those four bytes of xs[c].
template <int kLane, int kQuads, int kTokens>
GHOST_INLINE void multiply_codes(const uint8x16_t (&z)[kQuads], const int8x16_t (&xs)[kTokens],
                                 int32x4_t (&sums)[kQuads][kTokens]) {
  GHOST_UNROLL
  for (int r = 0; r < kQuads; ++r) {
    uint8x16_t codes = z[r];
    if constexpr (kLane > 0) codes = vshrq_n_u8(codes, 2 * kLane);
    if constexpr (kLane < 3) codes = vandq_u8(codes, vdupq_n_u8(3));
    GHOST_UNROLL
    for (int c = 0; c < kTokens; ++c) {
      sums[r][c] = vdotq_laneq_s32(sums[r][c], vreinterpretq_s8_u8(codes), xs[c], kLane);
    }
  }
}

// The same for one token and the codes where they stand in their byte, times 1, 4 and 16: a mask instead of a shift.
template <int kLane, int kQuads>
GHOST_INLINE void multiply_in_place(const uint8x16_t (&z)[kQuads], uint8x16_t mask, int8x16_t xs,
                                    int32x4_t (&sums)[kQuads]) {
  GHOST_UNROLL
  for (int r = 0; r < kQuads; ++r) {
    sums[r] = vdotq_laneq_s32(sums[r], vreinterpretq_s8_u8(vandq_u8(z[r], mask)), xs, kLane);
  }
}

struct DotProducts {
  template <int kQuads, int kTokens>
  GHOST_INLINE void trits(const uint8_t* codes, const int8_t* q, int64_t stride, int k0, int k1,
                          int32x4_t (&total)[kQuads][kTokens]) {
    if constexpr (kTokens == 1) {
      one_token(codes, q, k0, k1, total);
    } else {
      for (int k = k0; k < k1; ++k) {
        uint8x16_t z[kQuads];
        int8x16_t xs[kTokens];
        GHOST_UNROLL
        for (int r = 0; r < kQuads; ++r) z[r] = vld1q_u8(codes + int64_t{k} * kLineBytes + r * 16);
        GHOST_UNROLL
        for (int c = 0; c < kTokens; ++c) xs[c] = vld1q_s8(q + c * stride + k * kBlock);
        multiply_codes<0>(z, xs, total);
        multiply_codes<1>(z, xs, total);
        multiply_codes<2>(z, xs, total);
        multiply_codes<3>(z, xs, total);
      }
    }
  }

  // One token pays for the decoding of all codes, so codes stay where they are in three sums of different weight that
  // are divided (exactly) at the end. The largest gains 2 * 16 * 127 a column, and 65536 of the at most 262144 columns
  // fall to it: below 2^31. The topmost codes would be times 64 negative as signed bytes; a shift alone isolates them.
  template <int kQuads>
  GHOST_INLINE void one_token(const uint8_t* codes, const int8_t* q, int k0, int k1, int32x4_t (&total)[kQuads][1]) {
    const uint8x16_t mask0 = resident(0x03), mask1 = resident(0x0C), mask2 = resident(0x30);
    int32x4_t ones[kQuads] = {}, fours[kQuads] = {}, sixteens[kQuads] = {};
    for (int k = k0; k < k1; ++k) {
      uint8x16_t z[kQuads];
      GHOST_UNROLL
      for (int r = 0; r < kQuads; ++r) z[r] = vld1q_u8(codes + int64_t{k} * kLineBytes + r * 16);
      const int8x16_t xs = vld1q_s8(q + k * kBlock);
      multiply_in_place<0>(z, mask0, xs, ones);
      multiply_in_place<1>(z, mask1, xs, fours);
      multiply_in_place<2>(z, mask2, xs, sixteens);
      GHOST_UNROLL
      for (int r = 0; r < kQuads; ++r) {
        ones[r] = vdotq_laneq_s32(ones[r], vreinterpretq_s8_u8(vshrq_n_u8(z[r], 6)), xs, 3);
      }
    }
    GHOST_UNROLL
    for (int r = 0; r < kQuads; ++r) {
      const int32x4_t upper = vaddq_s32(vshrq_n_s32(fours[r], 2), vshrq_n_s32(sixteens[r], 4));
      total[r][0] = vaddq_s32(total[r][0], vaddq_s32(ones[r], upper));
    }
  }

  // Bytes are stored as w + 128, of which the sign bit is the wrong way round. 128 * 127 a column stays below 2^31 for
  // the at most 16384 columns.
  template <int kQuads, int kTokens>
  GHOST_INLINE void bytes(const uint8_t* bytes, const int8_t* q, int64_t stride, int k_quads,
                          int32x4_t (&total)[kQuads][kTokens]) {
    for (int k = 0; k < k_quads; k += 4) {
      int8x16_t xs[kTokens];
      GHOST_UNROLL
      for (int c = 0; c < kTokens; ++c) xs[c] = vld1q_s8(q + c * stride + k * 4);
      multiply_bytes<0>(bytes + int64_t{k} * kLineBytes, xs, total);
      multiply_bytes<1>(bytes + int64_t{k + 1} * kLineBytes, xs, total);
      multiply_bytes<2>(bytes + int64_t{k + 2} * kLineBytes, xs, total);
      multiply_bytes<3>(bytes + int64_t{k + 3} * kLineBytes, xs, total);
    }
  }

  template <int kLane, int kQuads, int kTokens>
  GHOST_INLINE void multiply_bytes(const uint8_t* bytes, const int8x16_t (&xs)[kTokens],
                                   int32x4_t (&total)[kQuads][kTokens]) {
    GHOST_UNROLL
    for (int r = 0; r < kQuads; ++r) {
      const int8x16_t weights = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(bytes + r * 16), vdupq_n_u8(0x80)));
      GHOST_UNROLL
      for (int c = 0; c < kTokens; ++c) total[r][c] = vdotq_laneq_s32(total[r][c], weights, xs[c], kLane);
    }
  }
};

void linear(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int quad = begin * kQuadsOfBlock; quad < end * kQuadsOfBlock; quad += kQuadsOfBlock) {
    int t = 0;
    for (; t + 8 <= x->tokens; t += 8) {
      trit_tile<DotProducts, 2, 8>(*w, *x, y, y_stride, quad, t);
      trit_tile<DotProducts, 2, 8>(*w, *x, y, y_stride, quad + 2, t);
    }
    for (; t + 4 <= x->tokens; t += 4) {
      trit_tile<DotProducts, 2, 4>(*w, *x, y, y_stride, quad, t);
      trit_tile<DotProducts, 2, 4>(*w, *x, y, y_stride, quad + 2, t);
    }
    for (; t < x->tokens; ++t) trit_tile<DotProducts, 4, 1>(*w, *x, y, y_stride, quad, t);
  }
}

void linear_bytes(const ByteMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int quad = begin * kQuadsOfBlock; quad < end * kQuadsOfBlock; quad += kQuadsOfBlock) {
    int t = 0;
    for (; t + 8 <= x->tokens; t += 8) {
      byte_tile<DotProducts, 2, 8>(*w, *x, y, y_stride, quad, t);
      byte_tile<DotProducts, 2, 8>(*w, *x, y, y_stride, quad + 2, t);
    }
    for (; t < x->tokens; ++t) byte_tile<DotProducts, 4, 1>(*w, *x, y, y_stride, quad, t);
  }
}

#undef GHOST_INLINE

}  // namespace

const Kernels* kernels_neondot() {
  static constexpr Kernels table = kernel_table("neondot");
  return &table;
}

}  // namespace ghost
