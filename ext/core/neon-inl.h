// What the two AArch64 levels share: everything of a matmul but its innermost sums. A level is a struct with
//   trits<kQuads, kTokens>(codes, q, stride, k0, k1, total): adds the sums of code * q over the k-blocks [k0, k1), and
//   bytes<kQuads, kTokens>(bytes, q, stride, k_quads, total): adds those of w * q over all k-quads,
// for kQuads registers of four rows each, whose weights start at `codes` or `bytes` (blocks lie 64 bytes apart), and
// kTokens tokens, whose q lie `stride` apart; total[r][c] holds rows 4r .. 4r + 3 of token c.
#pragma once

#include <arm_neon.h>

#include "kernels-inl.h"

namespace ghost {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the code layout is read as little-endian words");

#define GHOST_INLINE static inline __attribute__((always_inline))
// Loops over registers, which stay loops over memory otherwise: in clang, and in GCC with -O2.
#ifdef __clang__
#define GHOST_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GHOST_UNROLL _Pragma("GCC unroll 16")
#endif

constexpr int kRowsOfQuad = 4, kQuadsOfBlock = kBlock / kRowsOfQuad;
constexpr int kLineBytes = 64;  // weights of 16 rows at 4 bytes, or 16 bytes a quad

// Where the weights of the quad begin in an array of blocks of `lines` lines.
GHOST_INLINE const uint8_t* quad_weights(const uint8_t* weights, int lines, int quad) {
  return weights + int64_t{quad / kQuadsOfBlock} * lines * kLineBytes + quad % kQuadsOfBlock * (kLineBytes / 4);
}

// kQuads quads from number `quad` on (of one block), kTokens tokens from t on.
template <class Level, int kQuads, int kTokens>
__attribute__((noinline)) void trit_tile(const TritMatrix& w, const Activations& x, float* y, int64_t y_stride, int quad, int t) {
  const uint8_t* codes = quad_weights(w.codes, w.k_blocks, quad);
  const float* magnitude = w.magnitude + int64_t{quad / kQuadsOfBlock} * w.groups * kBlock +
                           quad % kQuadsOfBlock * kRowsOfQuad;
  const int8_t* q = x.q + int64_t{t} * x.stride;
  float32x4_t lanes[kQuads][kTokens];
  for (auto& row : lanes) {
    for (float32x4_t& lane : row) lane = vdupq_n_f32(w.start);
  }
  for (int g = 0; g < w.groups; ++g) {
    const int k0 = g * w.group_blocks;
    const int k1 = k0 + w.group_blocks < w.k_blocks ? k0 + w.group_blocks : w.k_blocks;
    int32x4_t total[kQuads][kTokens];
    GHOST_UNROLL
    for (int c = 0; c < kTokens; ++c) {  // codes are w + 1
      const int32x4_t q_sum = vdupq_n_s32(-x.sums[int64_t{t + c} * x.sums_stride + g]);
      GHOST_UNROLL
      for (int r = 0; r < kQuads; ++r) total[r][c] = q_sum;
    }
    Level::template trits<kQuads, kTokens>(codes, q, x.stride, k0, k1, total);
    GHOST_UNROLL
    for (int r = 0; r < kQuads; ++r) {
      const float32x4_t m = vld1q_f32(magnitude + g * kBlock + r * kRowsOfQuad);
      GHOST_UNROLL
      for (int c = 0; c < kTokens; ++c) {
        lanes[r][c] = vaddq_f32(lanes[r][c], vmulq_f32(vcvtq_f32_s32(total[r][c]), m));
      }
    }
  }
  GHOST_UNROLL
  for (int c = 0; c < kTokens; ++c) {
    float* out = y + (t + c) * y_stride + int64_t{quad} * kRowsOfQuad;
    GHOST_UNROLL
    for (int r = 0; r < kQuads; ++r) {
      vst1q_f32(out + r * kRowsOfQuad, vmulq_f32(lanes[r][c], vdupq_n_f32(x.scale[t + c])));
    }
  }
}

template <class Level, int kQuads, int kTokens>
__attribute__((noinline)) void byte_tile(const ByteMatrix& w, const Activations& x, float* y, int64_t y_stride, int quad, int t) {
  int32x4_t total[kQuads][kTokens] = {};
  Level::template bytes<kQuads, kTokens>(quad_weights(w.bytes, w.k_quads, quad), x.q + int64_t{t} * x.stride, x.stride,
                                         w.k_quads, total);
  GHOST_UNROLL
  for (int c = 0; c < kTokens; ++c) {
    float* out = y + (t + c) * y_stride + int64_t{quad} * kRowsOfQuad;
    GHOST_UNROLL
    for (int r = 0; r < kQuads; ++r) {
      const float32x4_t scale = vld1q_f32(w.scale + int64_t{quad} * kRowsOfQuad + r * kRowsOfQuad);
      const float32x4_t product = vmulq_f32(vcvtq_f32_s32(total[r][c]), scale);
      vst1q_f32(out + r * kRowsOfQuad, vmulq_f32(product, vdupq_n_f32(x.scale[t + c])));
    }
  }
}

#undef GHOST_INLINE

}  // namespace
}  // namespace ghost
