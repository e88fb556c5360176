// Trits and int8 weights times int8 activations by vpdpbusd: four products of an unsigned and a signed byte added to
// each 32-bit lane. Written once for 512-bit (AVX-512 VNNI) and 256-bit registers (AVX-VNNI); rows are lanes and the
// activations are copied to all of them, four columns at a time, so there are no horizontal sums.
//
// vpdpbusd needs unsigned weights: trits are stored as w + 1 and int8 as w + 128, and 1 or 128 times the sum of q is
// subtracted. No overflow: the largest sum, 64 * 2 * 127 per column in sum_token, leaves room for 132104 columns in each
// of its four sums, that is for 528416 columns; a tile's 2 * 127 and an int8 weight's 255 * 127 per column leave more
// than enough for what a file may hold (262144 columns, 16384 of int8).
#pragma once

#include "kernels-inl.h"

namespace ghost {
namespace {

#define GHOST_INLINE static inline __attribute__((always_inline))
#define GHOST_OUTLINE __attribute__((noinline))
#define GHOST_UNROLL _Pragma("GCC unroll 8")

typedef uint16_t HalfWords __attribute__((vector_size(4 * kWidth)));

constexpr int kParts = kBlock / kStep;      // registers that hold a block's rows
constexpr int kLine = kBlock * 4;           // bytes of codes of a block and a k-block
constexpr int kPartBytes = kStep * 4;
constexpr int kWide = kStep == 16 ? 8 : 5;  // columns of a tile: its sums, two registers of codes and a few more fit
constexpr int kTall = kStep == 16 ? 4 : 2;  // registers of rows of a single token, four sums each
constexpr int kTogether = kTall / kParts;   // blocks: a strip's rows, so that a token reads all codes as one stream
constexpr uintptr_t kAhead = 2048;          // bytes that codes are fetched in advance

// sums[i] += u[4i] * s[4i] + ... + u[4i + 3] * s[4i + 3]. Not the intrinsic: around it GCC 12 copies every sum twice,
// which doubles the instructions of the loops below and lengthens their dependence chains.
GHOST_INLINE void add_products(I* sums, I u, I s) {
#if defined(__AVX512VNNI__)
  asm("vpdpbusd %2, %1, %0" : "+v"(*sums) : "v"(u), "v"(s));
#else
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*sums) : "x"(u), "x"(s));
#endif
}

GHOST_INLINE I load_bytes(const uint8_t* bytes) {
  I v;
  __builtin_memcpy(&v, bytes, sizeof v);
  return v;
}

// Asks for the lines that a stream reads later: the processor's own prefetchers stop at every page. Not to be kept in
// the second-level cache: all of a model's codes together would drive the states out of it. Addresses behind the end of
// the memory do no harm.
template <int kBytes>
GHOST_INLINE void fetch_ahead(const uint8_t* codes) {
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(codes) + kAhead;
  GHOST_UNROLL for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(reinterpret_cast<const void*>(ahead + i), 0, 0);
}

// Copies four activations to every lane.
GHOST_INLINE I four(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  return word - I{};
}

// -n in every lane. Negated as a vector: copied from memory to all lanes, and not by way of a general register.
GHOST_INLINE I minus(int32_t n) {
  I lanes = n - I{};
  settle(&lanes);
  return -lanes;
}

// A block's codes and magnitudes, and how far those of the next k-block and of the next group are.
struct Place {
  const uint8_t* codes;
  const float* magnitude;
  int64_t codes_step, magnitude_step;
};

GHOST_INLINE Place place_of(const TritMatrix& w, int block) {
  const int first = block & -w.together, size = strip_size(w, block);
  return {w.codes + (int64_t{first} * w.k_blocks + block - first) * kLine,
          w.magnitude + (int64_t{first} * w.groups + block - first) * kBlock, size * kLine, size * kBlock};
}

// exact[r]: a group's sum of trit * q for kVectors registers of rows and one token. The codes are multiplied where they
// stand in their byte, that is times 1, 4, 16 and 64, in four separate sums that are divided (exactly) at the end: masks
// only, no shifts.
template <int kVectors>
GHOST_INLINE void sum_token(const uint8_t* codes, int64_t step, const int8_t* q, int k_blocks, int32_t q_sum,
                            I* exact) {
  const I masks[4] = {I{} + 0x03030303, I{} + 0x0C0C0C0C, I{} + 0x30303030, I{} + static_cast<int32_t>(0xC0C0C0C0)};
  I sums[kVectors][4] = {};
  const I start = minus(q_sum);
  GHOST_UNROLL for (int r = 0; r < kVectors; ++r) sums[r][0] = start;
  for (int k = 0; k < k_blocks; ++k, codes += step, q += kBlock) {
    if constexpr (kStep == 16) fetch_ahead<kVectors * kPartBytes>(codes);  // narrower ones are slower than memory
    I z[kVectors];
    GHOST_UNROLL for (int r = 0; r < kVectors; ++r) z[r] = load_bytes(codes + r * kPartBytes);
    GHOST_UNROLL for (int s = 0; s < 4; ++s) {
      const I xs = four(q + 4 * s);
      GHOST_UNROLL for (int r = 0; r < kVectors; ++r) add_products(&sums[r][s], z[r] & masks[s], xs);
    }
  }
  GHOST_UNROLL for (int r = 0; r < kVectors; ++r) {
    exact[r] = (sums[r][0] + (sums[r][1] >> 2)) + ((sums[r][2] >> 4) + (sums[r][3] >> 6));
  }
}

// Token t's outputs of the blocks [begin, end): whole strips that kVectors registers of rows hold, or a part of one.
template <int kVectors>
GHOST_OUTLINE void token_tiles(const TritMatrix& w, const Activations& x, float* y, int begin, int end, int t) {
  Place place = place_of(w, begin);
  for (; begin < end; begin += kVectors / kParts) {
    const int8_t* q = x.q + int64_t{t} * x.stride;
    const int32_t* q_sum = x.sums + int64_t{t} * x.sums_stride;
    V lanes[kVectors];
    GHOST_UNROLL for (int r = 0; r < kVectors; ++r) lanes[r] = broadcast<V>(w.start);
    for (int left = w.k_blocks; left > 0; left -= w.group_blocks) {
      const int k_blocks = left < w.group_blocks ? left : w.group_blocks;
      I exact[kVectors];
      sum_token<kVectors>(place.codes, place.codes_step, q, k_blocks, *q_sum, exact);
      GHOST_UNROLL for (int r = 0; r < kVectors; ++r) {
        lanes[r] += __builtin_convertvector(exact[r], V) * load<V>(place.magnitude + r * kStep);
      }
      place.codes += k_blocks * place.codes_step;
      place.magnitude += place.magnitude_step;
      q += int64_t{k_blocks} * kBlock;
      ++q_sum;
    }
    const V scale = broadcast<V>(x.scale[t]);
    GHOST_UNROLL for (int r = 0; r < kVectors; ++r) store(y + begin * kBlock + r * kStep, lanes[r] * scale);
  }
}

// Token t's outputs of `count` blocks of a strip, at most kBlocks, or of whole strips.
template <int kBlocks>
GHOST_INLINE void token_blocks(const TritMatrix& w, const Activations& x, float* y, int begin, int end, int count,
                               int t) {
  if constexpr (kBlocks > 1) {
    if (count < kBlocks) return token_blocks<kBlocks - 1>(w, x, y, begin, end, count, t);
  }
  token_tiles<kBlocks * kParts>(w, x, y, begin, end, t);
}

void token(const TritMatrix& w, const Activations& x, float* y, int begin, int end, int t) {
  while (begin < end) {
    const int strip_end = (begin & -kTogether) + kTogether, count = (end < strip_end ? end : strip_end) - begin;
    const int stop = count == kTogether ? begin + (end - begin) / kTogether * kTogether : begin + count;
    token_blocks<kTogether>(w, x, y, begin, stop, count, t);
    begin = stop;
  }
}

// exact[r * kColumns + c], the same for kColumns tokens: every register of codes is decoded once for all of them.
template <int kVectors, int kColumns>
GHOST_INLINE void sum_tile(const uint8_t* codes, int64_t step, const int8_t* q, int64_t stride, int k_blocks,
                           const int32_t* q_sums, int64_t sums_stride, I* exact) {
  const I mask = I{} + 0x03030303;
  GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
    const I start = minus(q_sums[c * sums_stride]);
    GHOST_UNROLL for (int r = 0; r < kVectors; ++r) exact[r * kColumns + c] = start;
  }
  for (int k = 0; k < k_blocks; ++k, codes += step, q += kBlock) {
    I z[kVectors];
    GHOST_UNROLL for (int r = 0; r < kVectors; ++r) z[r] = load_bytes(codes + r * kPartBytes);
    GHOST_UNROLL for (int s = 0; s < 4; ++s) {
      GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
        const I xs = four(q + c * stride + 4 * s);
        GHOST_UNROLL for (int r = 0; r < kVectors; ++r) add_products(&exact[r * kColumns + c], z[r] & mask, xs);
      }
      GHOST_UNROLL for (int r = 0; r < kVectors; ++r) z[r] = (I)((HalfWords)z[r] >> 2);
    }
  }
}

// kVectors registers of rows of a strip from `block` on, kColumns tokens from t on. Not inlined into a loop over the
// blocks: that would compute the addresses of several tokens for all blocks beforehand, more than there are registers,
// and keep them in memory.
template <int kVectors, int kColumns>
GHOST_OUTLINE void tile(const TritMatrix& w, const Activations& x, float* y, int64_t y_stride, int block, int t) {
  Place place = place_of(w, block);
  const int8_t* q = x.q + int64_t{t} * x.stride;
  const int32_t* q_sums = x.sums + int64_t{t} * x.sums_stride;
  float* out = y + t * y_stride + int64_t{block} * kBlock;
  I exact[kVectors * kColumns];
  // use(r, c, v) for every product v = sum * magnitude of the group that starts at `place`.
  const auto multiply = [&](int k_blocks, auto use) __attribute__((always_inline)) {
    sum_tile<kVectors, kColumns>(place.codes, place.codes_step, q, x.stride, k_blocks, q_sums, x.sums_stride, exact);
    V m[kVectors];
    GHOST_UNROLL for (int r = 0; r < kVectors; ++r) m[r] = load<V>(place.magnitude + r * kStep);
    GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
      GHOST_UNROLL for (int r = 0; r < kVectors; ++r) {
        use(r, c, __builtin_convertvector(exact[r * kColumns + c], V) * m[r]);
      }
    }
  };
  const auto finish = [&](int r, int c, V v) __attribute__((always_inline)) {
    store(out + c * y_stride + r * kStep, v * broadcast<V>(x.scale[t + c]));
  };
  if (w.groups == 1 && __builtin_signbit(w.start)) return multiply(w.k_blocks, finish);  // -0 + v is v
  V lanes[kVectors][kColumns];
  GHOST_UNROLL for (int r = 0; r < kVectors; ++r) {
    GHOST_UNROLL for (int c = 0; c < kColumns; ++c) lanes[r][c] = broadcast<V>(w.start);
  }
  for (int left = w.k_blocks; left > 0; left -= w.group_blocks) {
    const int k_blocks = left < w.group_blocks ? left : w.group_blocks;
    multiply(k_blocks, [&](int r, int c, V v) __attribute__((always_inline)) { lanes[r][c] += v; });
    place.codes += k_blocks * place.codes_step;
    place.magnitude += place.magnitude_step;
    q += int64_t{k_blocks} * kBlock;
    ++q_sums;
  }
  GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
    GHOST_UNROLL for (int r = 0; r < kVectors; ++r) finish(r, c, lanes[r][c]);
  }
}

// The blocks [begin, end): two registers of rows at a time, or where a strip has one block left, token by token.
template <int kColumns>
void tiles(const TritMatrix& w, const Activations& x, float* y, int64_t y_stride, int begin, int end, int t) {
  constexpr int kBlocks = 2 / kParts;
  while (begin < end) {
    const int strip_end = (begin & -kTogether) + kTogether;
    if (begin + kBlocks <= (end < strip_end ? end : strip_end)) {
      tile<2, kColumns>(w, x, y, y_stride, begin, t);
      begin += kBlocks;
    } else {
      for (int c = 0; c < kColumns; ++c) token(w, x, y + (t + c) * y_stride, begin, begin + 1, t + c);
      ++begin;
    }
  }
}

void linear(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  int t = 0;
  for (; t + kWide <= x->tokens; t += kWide) tiles<kWide>(*w, *x, y, y_stride, begin, end, t);
  for (; t + 4 <= x->tokens; t += 4) tiles<4>(*w, *x, y, y_stride, begin, end, t);
  for (; t < x->tokens; ++t) token(*w, *x, y + t * y_stride, begin, end, t);
}

template <int kVectors, int kColumns>
GHOST_OUTLINE void byte_tile(const ByteMatrix& w, const Activations& x, float* y, int64_t y_stride, int block, int t) {
  const int64_t block_bytes = int64_t{w.k_quads} * kLine;
  const uint8_t* bytes = w.bytes + block * block_bytes;
  const int8_t* q = x.q + int64_t{t} * x.stride;
  I sums[kVectors][kColumns];
  GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
    const I q_sum = -128 * x.sums[int64_t{t + c} * x.sums_stride] - I{};
    GHOST_UNROLL for (int r = 0; r < kVectors; ++r) sums[r][c] = q_sum;
  }
  for (int k = 0; k < w.k_quads; ++k, bytes += kLine, q += 4) {
    I z[kVectors];
    GHOST_UNROLL for (int r = 0; r < kVectors; ++r) {
      z[r] = load_bytes(bytes + r / kParts * block_bytes + r % kParts * kPartBytes);
    }
    GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
      const I xs = four(q + int64_t{c} * x.stride);
      GHOST_UNROLL for (int r = 0; r < kVectors; ++r) add_products(&sums[r][c], z[r], xs);
    }
  }
  const float* scale = w.scale + int64_t{block} * kBlock;
  GHOST_UNROLL for (int c = 0; c < kColumns; ++c) {
    GHOST_UNROLL for (int r = 0; r < kVectors; ++r) {
      const V product = __builtin_convertvector(sums[r][c], V) * load<V>(scale + r * kStep);
      store(y + (t + c) * y_stride + int64_t{block} * kBlock + r * kStep, product * x.scale[t + c]);
    }
  }
}

// As `tiles`, for int8 weights.
template <int kVectors, int kColumns>
void byte_tiles(const ByteMatrix& w, const Activations& x, float* y, int64_t y_stride, int begin, int end, int t) {
  constexpr int kBlocks = kVectors / kParts;
  for (; begin + kBlocks <= end; begin += kBlocks) byte_tile<kVectors, kColumns>(w, x, y, y_stride, begin, t);
  if constexpr (kBlocks > 1) {
    constexpr int kNext = kVectors > 2 || kColumns == 1 ? kColumns : 1;
    for (int c = 0; c < kColumns; c += kNext) byte_tiles<kVectors / 2, kNext>(w, x, y, y_stride, begin, end, t + c);
  }
}

void linear_bytes(const ByteMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end) {
  int t = 0;
  for (; t + kWide <= x->tokens; t += kWide) byte_tiles<2, kWide>(*w, *x, y, y_stride, begin, end, t);
  for (; t < x->tokens; ++t) byte_tiles<8, 1>(*w, *x, y, y_stride, begin, end, t);
}

#undef GHOST_OUTLINE
#undef GHOST_UNROLL
#undef GHOST_INLINE

}  // namespace
}  // namespace ghost
