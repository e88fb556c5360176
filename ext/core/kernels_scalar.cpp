// The level that every CPU has: no intrinsics, the compiler's baseline instructions.
#include "kernels-inl.h"

namespace ghost {
namespace {

typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef int16_t i16x32 __attribute__((vector_size(64)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the code layout is read as little-endian words");

// Per 32-bit lane: the sum of its two signed halves.
static inline __attribute__((always_inline)) i32x16 add_halves(i16x32 v) {
  const i32x16 words = (i32x16)v;
  return ((i32x16)((u32x16)words << 16) >> 16) + (words >> 16);
}

// Sums of code * q over the k-blocks [k0, k1) for 16 rows. Each 16-bit lane gains at most 8 products of 2 * 127 per
// k-block, so 16 k-blocks stay within 16 * 8 * 254 = 32512.
i32x16 code_sums(const uint8_t* codes, const int8_t* q, int k0, int k1) {
  constexpr int kFlush = 16;
  i32x16 total{};
  for (int start = k0; start < k1; start += kFlush) {
    const int stop = start + kFlush < k1 ? start + kFlush : k1;
    i16x32 sums{};
    for (int k = start; k < stop; ++k) {
      u16x32 z;
      __builtin_memcpy(&z, codes + int64_t{k} * 64, sizeof z);
      const int8_t* x = q + k * kBlock;
      for (int s = 0; s < 4; ++s, x += 4, z >>= 2) {
        // Even lanes hold the row's bytes 0 and 1, odd lanes its bytes 2 and 3.
        const auto pair = [](int8_t low, int8_t high) {
          return (i16x32)(u32x16{} + (static_cast<uint32_t>(static_cast<uint16_t>(low)) |
                                      static_cast<uint32_t>(static_cast<uint16_t>(high)) << 16));
        };
        sums += (i16x32)(z & 3) * pair(x[0], x[2]) + (i16x32)((z >> 8) & 3) * pair(x[1], x[3]);
      }
    }
    total += add_halves(sums);
  }
  return total;
}

void linear(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int block = begin; block < end; ++block) {
    const uint8_t* codes = w->codes + int64_t{block} * w->k_blocks * 64;
    const float* magnitude = w->magnitude + int64_t{block} * w->groups * kBlock;
    for (int t = 0; t < x->tokens; ++t) {
      const int8_t* q = x->q + int64_t{t} * x->stride;
      f32x16 sum = broadcast<f32x16>(w->start);
      for (int g = 0; g < w->groups; ++g) {
        const int k0 = g * w->group_blocks;
        const int k1 = k0 + w->group_blocks < w->k_blocks ? k0 + w->group_blocks : w->k_blocks;
        const i32x16 exact = code_sums(codes, q, k0, k1) - x->sums[int64_t{t} * x->sums_stride + g];
        sum = sum + __builtin_convertvector(exact, f32x16) * load<f32x16>(magnitude + g * kBlock);
      }
      store(y + t * y_stride + int64_t{block} * kBlock, sum * x->scale[t]);
    }
  }
}

void linear_bytes(const ByteMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  for (int block = begin; block < end; ++block) {
    const uint8_t* bytes = w->bytes + int64_t{block} * w->k_quads * 64;
    const f32x16 scale = load<f32x16>(w->scale + int64_t{block} * kBlock);
    for (int t = 0; t < x->tokens; ++t) {
      const int8_t* q = x->q + int64_t{t} * x->stride;
      int32_t sums[kBlock] = {};
      for (int k = 0; k < w->k_quads; ++k) {
        for (int r = 0; r < kBlock; ++r) {
          const uint8_t* row = bytes + int64_t{k} * 64 + r * 4;
          for (int b = 0; b < 4; ++b) sums[r] += (row[b] - 128) * q[k * 4 + b];
        }
      }
      i32x16 exact;
      __builtin_memcpy(&exact, sums, sizeof exact);
      const f32x16 product = __builtin_convertvector(exact, f32x16) * scale;
      store(y + t * y_stride + int64_t{block} * kBlock, product * x->scale[t]);
    }
  }
}

}  // namespace

const Kernels* kernels_scalar() {
  static constexpr Kernels table = kernel_table("scalar");
  return &table;
}

}  // namespace ghost
