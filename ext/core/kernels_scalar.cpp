// The level that every CPU has: no intrinsics, the compiler's baseline instructions.
#include "kernels-inl.h"

namespace ghost {
namespace {

// Four rows at a time: the 16-byte vectors that every 64-bit CPU has (and that compilers emulate elsewhere).
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef float f32x4 __attribute__((vector_size(16)));
constexpr int kQuads = 4;  // of rows in a block

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the code layout is read as little-endian words");

#define GHOST_INLINE static inline __attribute__((always_inline))

// Per 32-bit lane: the sum of its two signed halves.
GHOST_INLINE i32x4 add_halves(i16x8 v) { return ((i32x4)((u32x4)v << 16) >> 16) + ((i32x4)v >> 16); }

// In every 32-bit lane: `low` in the lower half, `high` in the upper.
GHOST_INLINE i16x8 pair(int8_t low, int8_t high) {
  const uint32_t word = static_cast<uint16_t>(low) | static_cast<uint32_t>(static_cast<uint16_t>(high)) << 16;
  return (i16x8)(u32x4{} + word);
}

// total[r]: the sums of code * q over the k-blocks [k0, k1) for rows 4r .. 4r + 3. Each 16-bit lane gains at most 8
// products of 2 * 127 per k-block, so 16 k-blocks stay within 16 * 8 * 254 = 32512.
GHOST_INLINE void code_sums(const uint8_t* codes, const int8_t* q, int k0, int k1, i32x4 (&total)[kQuads]) {
  constexpr int kFlush = 16;
  for (int start = k0; start < k1; start += kFlush) {
    const int stop = start + kFlush < k1 ? start + kFlush : k1;
    i16x8 sums[kQuads] = {};
    for (int k = start; k < stop; ++k) {
      u16x8 z[kQuads];
      __builtin_memcpy(&z, codes + int64_t{k} * 64, sizeof z);
      const int8_t* x = q + k * kBlock;
      for (int s = 0; s < 4; ++s, x += 4) {
        // Lower halves hold a row's bytes 0 and 1, upper halves its bytes 2 and 3.
        const i16x8 even = pair(x[0], x[2]), odd = pair(x[1], x[3]);
        for (int r = 0; r < kQuads; ++r) {
          sums[r] += (i16x8)(z[r] & 3) * even + (i16x8)((z[r] >> 8) & 3) * odd;
          z[r] >>= 2;
        }
      }
    }
    for (int r = 0; r < kQuads; ++r) total[r] += add_halves(sums[r]);
  }
}

void linear(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int block = begin; block < end; ++block) {
    const uint8_t* codes = w->codes + int64_t{block} * w->k_blocks * 64;
    const float* magnitude = w->magnitude + int64_t{block} * w->groups * kBlock;
    for (int t = 0; t < x->tokens; ++t) {
      f32x4 sums[kQuads];
      for (f32x4& sum : sums) sum = w->start - f32x4{};  // in every lane; adding to +0 would lose the sign of -0
      for (int g = 0; g < w->groups; ++g) {
        const int k0 = g * w->group_blocks;
        const int k1 = k0 + w->group_blocks < w->k_blocks ? k0 + w->group_blocks : w->k_blocks;
        i32x4 exact[kQuads];
        for (i32x4& sum : exact) sum = i32x4{} - x->sums[int64_t{t} * x->sums_stride + g];
        code_sums(codes, x->q + int64_t{t} * x->stride, k0, k1, exact);
        for (int r = 0; r < kQuads; ++r) {
          sums[r] = sums[r] + __builtin_convertvector(exact[r], f32x4) * load<f32x4>(magnitude + g * kBlock + 4 * r);
        }
      }
      for (int r = 0; r < kQuads; ++r) store(y + t * y_stride + block * kBlock + 4 * r, sums[r] * x->scale[t]);
    }
  }
}

void linear_bytes(const ByteMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int block = begin; block < end; ++block) {
    const uint8_t* bytes = w->bytes + int64_t{block} * w->k_quads * 64;
    const float* scale = w->scale + int64_t{block} * kBlock;
    for (int t = 0; t < x->tokens; ++t) {
      const int8_t* q = x->q + int64_t{t} * x->stride;
      int32_t sums[kBlock] = {};
      for (int k = 0; k < w->k_quads; ++k) {
        for (int r = 0; r < kBlock; ++r) {
          const uint8_t* row = bytes + int64_t{k} * 64 + r * 4;
          for (int b = 0; b < 4; ++b) sums[r] += (row[b] - 128) * q[k * 4 + b];
        }
      }
      float* out = y + t * y_stride + int64_t{block} * kBlock;
      for (int r = 0; r < kBlock; ++r) out[r] = (static_cast<float>(sums[r]) * scale[r]) * x->scale[t];
    }
  }
}

#undef GHOST_INLINE

}  // namespace

const Kernels* kernels_scalar() {
  static constexpr Kernels table = kernel_table("scalar");
  return &table;
}

}  // namespace ghost
