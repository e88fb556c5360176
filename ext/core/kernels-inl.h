// The kernels that are written once and compiled for every instruction set; each unit adds its own two matmuls,
// `linear` and `linear_bytes`, before it builds the table. Every formula is in docs/semantics.md.
//
// The bits cannot depend on the instruction set: every element sees the same correctly rounded operations in the same
// order, vector lanes never mix except in lane_tree, and contraction is off. Internal linkage throughout and no
// standard templates, so nothing compiled for one instruction set can be linked into another.
#pragma once

#include "kernels.h"
#include "numerics-inl.h"

namespace ghost {
namespace {

typedef f32xn V;           // as wide as the registers of this instruction set
typedef Bits<V>::i32 I;
typedef int8_t ByteVector __attribute__((vector_size(kWidth)));
typedef int16_t WordVector __attribute__((vector_size(2 * kWidth)));
constexpr int kStep = kWidth;
static_assert(kBlock == kLanes && kBlock % kStep == 0, "a block is a whole number of vectors");

#define GHOST_INLINE static inline __attribute__((always_inline))

// Elements i .. i + kStep - 1 of x (n); those beyond n are zero.
GHOST_INLINE V load_or_zero(const float* x, int i, int n) {
  if (i + kStep <= n) return load<V>(x + i);
  return i < n ? load_part<V>(x + i, static_cast<size_t>(n - i)) : V{};
}

// Lane i of v combined with the others by an associative `combine` of two vectors.
template <typename Combine>
GHOST_INLINE int32_t reduce_lanes(I v, Combine combine) {
  typedef int32_t Four __attribute__((vector_size(16)));
  constexpr int kFours = kStep / 4;
  Four parts[kFours];
  __builtin_memcpy(parts, &v, sizeof parts);
  Four four = parts[0];
  for (int i = 1; i < kFours; ++i) four = combine(four, parts[i]);
  four = combine(four, Four{four[2], four[3], four[0], four[1]});
  return combine(four, Four{four[1], four[0], four[3], four[2]})[0];
}

GHOST_INLINE int32_t sum_of_lanes(I v) {
  return reduce_lanes(v, [](auto a, auto b) { return a + b; });
}

template <int n>
struct Count {
  static constexpr int value = n;
};

// Calls function(i, Count<k>) for k vectors from element i on, until n elements are done: several vectors at a time,
// because each is a long chain of dependent operations.
template <typename F>
GHOST_INLINE void in_groups(int n, F function) {
  int i = 0;
  for (; i + kGroup * kStep <= n; i += kGroup * kStep) function(i, Count<kGroup>{});
  for (; i < n; i += kStep) function(i, Count<1>{});
}

void map(Function function, const float* x, float* y, int64_t count) {
  const size_t n = static_cast<size_t>(count);
  switch (function) {
    case Function::kExp: return map_exp(x, y, n);
    case Function::kLog: return map_log(x, y, n);
    case Function::kLog1p: return map_log1p(x, y, n);
    case Function::kSigmoid: return map_sigmoid(x, y, n);
    case Function::kSilu: return map_silu(x, y, n);
    case Function::kSoftplus: return map_softplus(x, y, n);
    case Function::kRint: return map_rint(x, y, n);
  }
}

GHOST_INLINE I larger(I a, I b) { return a > b ? a : b; }

GHOST_INLINE int32_t largest_of_lanes(I v) {
  return reduce_lanes(v, [](auto a, auto b) { return a > b ? a : b; });
}

// The bits of max |x|: those of Inf or NaN if there is one, because the bits of magnitudes are ordered as they are.
GHOST_INLINE int32_t largest_magnitude(const float* x, int n) {
  I lanes[4] = {};
  int i = 0;
  for (; i + 4 * kStep <= n; i += 4 * kStep) {
    for (int j = 0; j < 4; ++j) lanes[j] = larger(lanes[j], (I)vabs(load<V>(x + i + j * kStep)));
  }
  for (; i < n; i += kStep) lanes[0] = larger(lanes[0], (I)vabs(load_or_zero(x, i, n)));
  return largest_of_lanes(larger(larger(lanes[0], lanes[1]), larger(lanes[2], lanes[3])));
}

// The low bytes. Elsewhere than in AVX-512 in two steps: GCC 12 takes a vector apart to get from 32 bits to 8 at once.
GHOST_INLINE ByteVector bytes_of(I v) {
  if constexpr (kStep == 16) return __builtin_convertvector(v, ByteVector);
  return __builtin_convertvector(__builtin_convertvector(v, WordVector), ByteVector);
}

// q = codes(v) for the vectors v of x [start, n) up to stop, those beyond n being zero. Returns the sum of the codes.
template <typename Codes>
GHOST_INLINE int32_t store_codes(const float* x, int start, int stop, int n, int8_t* q, Codes codes_of) {
  I sum{};
  int i = start;
  const auto next = [&](V v) __attribute__((always_inline)) {
    const I codes = codes_of(v);
    const ByteVector bytes = bytes_of(codes);
    __builtin_memcpy(q + i, &bytes, sizeof bytes);
    sum += codes;
  };
  for (const int whole = (stop < n ? stop : n) - kStep; i <= whole; i += kStep) next(load<V>(x + i));
  for (; i < stop; i += kStep) next(load_or_zero(x, i, n));
  return sum_of_lanes(sum);
}

// The codes of a row whose scale s is finite and not zero: rint(x / s), clipped where a scale below 2^-126 lost bits.
struct ByDivision {
  V s;
  I operator()(V v) const __attribute__((always_inline)) {
    v = vrint(v / s);
    return __builtin_convertvector(at_most(at_least(v, -127.0f), 127.0f), I);
  }
};

// The same by r = 1 / s, unless a product is so near to the middle of two codes that the quotient may be beyond it: the
// two are at most 3 * 2^-24 of 127.00001 apart, which is below 3 * 2^-17. Neither is rounded to more than 127.
struct ByProduct {
  V r;
  I* nearest;  // the bits of the largest distance from a product to its code
  I operator()(V v) const __attribute__((always_inline)) {
    v = v * r;
    const V shifted = v + kRintMagic;
    *nearest = larger(*nearest, (I)vabs(v - (shifted - kRintMagic)));
    return (I)shifted - 0x4B400000;  // the bits of kRintMagic
  }
};
constexpr int32_t kNearMiddle = 0x3EFFFD00;  // the bits of 1/2 - 3 * 2^-17

void quantise_row(const float* x, int n, int group, int8_t* q, float* scale, int32_t* sums) {
  const int32_t bits = largest_magnitude(x, n);
  const bool finite = bits < 0x7F800000;
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  const float s = largest / 127.0f;
  *scale = finite ? s : kNan;
  const auto each_group = [&](auto codes_of) __attribute__((always_inline)) {
    for (int start = 0, g = 0; start < n; start += group, ++g) {
      const int stop = start + group < n ? start + group : (n + kBlock - 1) / kBlock * kBlock;
      sums[g] = store_codes(x, start, stop, n, q, codes_of);
    }
  };
  if (!finite || s == 0.0f) return each_group([](V) { return I{}; });
  if (s > 0x1p-100f && s < 0x1p100f) {  // the reciprocal, too, is a normal number
    I nearest{};
    each_group(ByProduct{broadcast<V>(1.0f / s), &nearest});
    if (largest_of_lanes(nearest) < kNearMiddle) return;
  }
  each_group(ByDivision{broadcast<V>(s)});
}

void rms_norm(const float* x, const float* gain, int n, float* y) {
  const float mean = lane_sum_squares(x, static_cast<size_t>(n)) / static_cast<float>(n);
  const float root = __builtin_sqrtf(mean + 1e-5f);
  for (int i = 0; i < n; i += kStep) store(y + i, (load<V>(x + i) / root) * load<V>(gain + i));
}

void unit(const float* x, int n, float* y) {
  const float length = __builtin_sqrtf(lane_sum_squares(x, static_cast<size_t>(n)) + 1e-12f);
  for (int i = 0; i < n; i += kStep) store(y + i, load<V>(x + i) / length);
}

// kStep channels starting at c; kTaps is the number of taps, or 0: as the arguments say. The inputs that a token sees
// stay in registers.
template <int kTaps>
GHOST_INLINE void conv_channels(const ConvArguments& a, int c) {
  const int past = (kTaps > 0 ? kTaps : a.taps) - 1;
  const V bias = load<V>(a.bias + c);
  V weight[kMaxTaps], seen[kMaxTaps];  // seen[past]: the token's own
  for (int k = 0; k <= past; ++k) weight[k] = load<V>(a.weight + int64_t{k} * a.stride + c);
  for (int k = 0; k < past; ++k) seen[k] = load<V>(a.past + int64_t{k} * a.stride + c);
  for (int t = 0; t < a.tokens; ++t) {
    seen[past] = load<V>(a.x + int64_t{t} * a.stride + c);
    V sum{};
    for (int k = 0; k <= past; ++k) sum = sum + weight[k] * seen[k];
    store(a.out + int64_t{t} * a.stride + c, sum + bias);
    for (int k = 0; k < past; ++k) seen[k] = seen[k + 1];
  }
  for (int k = 0; k < past; ++k) store(a.past + int64_t{k} * a.stride + c, seen[k]);
}

template <int kTaps>
void conv_rows(const ConvArguments& arguments, int begin, int end) {
  const ConvArguments a = arguments;  // a copy: the stores to its arrays cannot change it
  for (int c = begin * kBlock; c < end * kBlock; c += kStep) conv_channels<kTaps>(a, c);
}

void conv_silu(const ConvArguments* arguments, int begin, int end) {
  if (arguments->taps == 4) {
    conv_rows<4>(*arguments, begin, end);
  } else {
    conv_rows<0>(*arguments, begin, end);
  }
  for (int t = 0; t < arguments->tokens; ++t) {
    float* row = arguments->out + int64_t{t} * arguments->stride;
    map_silu(row + begin * kBlock, row + begin * kBlock, static_cast<size_t>(end - begin) * kBlock);
  }
}

// kCount of the state's d_state steps for kStep channels: h = exp(dt A) h + u B, returns y with h C added in turn.
// dt is a softplus: dt A is not positive.
template <int kCount>
GHOST_INLINE V scan_states(V dt, V u, const float* A, const float* B, const float* C, float* state, V y) {
  V h[kCount];
  for (int n = 0; n < kCount; ++n) h[n] = dt * load<V>(A + n * kBlock), settle(&h[n]);
  exp_each<Range::kNotPositive>(h);
  for (int n = 0; n < kCount; ++n) h[n] = h[n] * load<V>(state + n * kBlock), settle(&h[n]);
  for (int n = 0; n < kCount; ++n) h[n] = h[n] + u * B[n], store(state + n * kBlock, h[n]);
  for (int n = 0; n < kCount; ++n) y = y + h[n] * C[n];
  return y;
}

// kStep channels starting at c, all tokens, `out` holding softplus(dt + bias) at first and the scan's sum + D x at last;
// A and state are at the first of the channels.
GHOST_INLINE void scan_channels(const ScanArguments& a, int c, const float* A, float* state) {
  constexpr int kSteps = 8;
  const V D = load<V>(a.D + c);
  for (int t = 0; t < a.tokens; ++t) {
    const int64_t row = int64_t{t} * a.stride + c;
    const float* B = a.bc + int64_t{t} * a.bc_stride;
    const float* C = B + a.d_state;
    const V x = load<V>(a.x + row), dt = load<V>(a.out + row);
    const V u = dt * x;
    V y{};
    int n = 0;
    for (; n + kSteps <= a.d_state; n += kSteps) {
      y = scan_states<kSteps>(dt, u, A + n * kBlock, B + n, C + n, state + n * kBlock, y);
    }
    for (; n < a.d_state; ++n) y = scan_states<1>(dt, u, A + n * kBlock, B + n, C + n, state + n * kBlock, y);
    store(a.out + row, y + D * x);
  }
}

// What does not depend on the state comes before and after it for several channels: each is a long chain of operations,
// and the processor works on many.
__attribute__((noinline)) void scan_steps(const ScanArguments& a, int first, int last) {
  for (int t = 0; t < a.tokens; ++t) {
    const int64_t row = int64_t{t} * a.stride;
    in_groups(last - first, [&](int i, auto count) __attribute__((always_inline)) {
      V v[count.value];
      const int c = first + i;
      for (int j = 0; j < count.value; ++j) {
        v[j] = load<V>(a.dt + row + c + j * kStep) + load<V>(a.dt_bias + c + j * kStep);
      }
      softplus_each(v);
      for (int j = 0; j < count.value; ++j) store(a.out + row + c + j * kStep, v[j]);
    });
  }
}

__attribute__((noinline)) void scan_gate(const ScanArguments& a, int first, int last) {
  for (int t = 0; t < a.tokens; ++t) {
    const int64_t row = int64_t{t} * a.stride + first;
    float* out = a.out + row;
    const float* z = a.z + row;
    in_groups(last - first, [&](int i, auto count) __attribute__((always_inline)) {
      V v[count.value];
      for (int j = 0; j < count.value; ++j) v[j] = load<V>(z + i + j * kStep);
      silu_each(v);
      for (int j = 0; j < count.value; ++j) store(out + i + j * kStep, load<V>(out + i + j * kStep) * v[j]);
    });
  }
}

// Asks for n floats that are read and written later.
GHOST_INLINE void fetch(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kBlock) __builtin_prefetch(x + i, 1);
}

void scan(const ScanArguments* arguments, int begin, int end) {
  constexpr int kBlocks = 8, kTokens = 8;  // at a time: what they read and write stays in the nearest cache
  constexpr int kAhead = 2;                // blocks: the states of many streams are far away
  const int64_t size = int64_t{kBlock} * arguments->d_state;
  for (int first = begin; first < end; first += kBlocks) {
    const int last = first + kBlocks < end ? first + kBlocks : end;
    ScanArguments a = *arguments;
    for (int t = 0; t < arguments->tokens; t += kTokens) {
      a.tokens = t + kTokens < arguments->tokens ? kTokens : arguments->tokens - t;
      scan_steps(a, first * kBlock, last * kBlock);
      for (int block = first; block < last; ++block) {
        if (block + kAhead < end) fetch(a.state + (block + kAhead) * size, size);
        for (int j = 0; j < kBlock; j += kStep) {
          scan_channels(a, block * kBlock + j, a.A + block * size + j, a.state + block * size + j);
        }
      }
      scan_gate(a, first * kBlock, last * kBlock);
      const int64_t rows = int64_t{kTokens} * a.stride;
      a.dt += rows, a.x += rows, a.z += rows, a.out += rows, a.bc += int64_t{kTokens} * a.bc_stride;
    }
  }
}

void swiglu(const float* gate, const float* up, float* out, int n) {
  in_groups(n, [=](int i, auto count) __attribute__((always_inline)) {
    V v[count.value];
    for (int j = 0; j < count.value; ++j) v[j] = load<V>(gate + i + j * kStep);
    silu_each(v);
    for (int j = 0; j < count.value; ++j) store(out + i + j * kStep, v[j] * load<V>(up + i + j * kStep));
  });
}

float dot(const float* a, const float* b, int n) { return lane_dot(a, b, static_cast<size_t>(n)); }

void add(const float* a, const float* b, float* out, int n) {
  int i = 0;
  for (; i + kStep <= n; i += kStep) store(out + i, load<V>(a + i) + load<V>(b + i));
  for (; i < n; ++i) out[i] = a[i] + b[i];
}

void lerp(float weight, const float* to, float* x, int n) {
  int i = 0;
  for (; i + kStep <= n; i += kStep) store(x + i, load<V>(x + i) + (load<V>(to + i) - load<V>(x + i)) * weight);
  for (; i < n; ++i) x[i] = x[i] + weight * (to[i] - x[i]);
}

void axpy(float p, const float* x, float* y, int n) {
  int i = 0;
  for (; i + kStep <= n; i += kStep) store(y + i, load<V>(y + i) + load<V>(x + i) * p);
  for (; i < n; ++i) y[i] = y[i] + p * x[i];
}

float largest_of(const float* x, int n) {
  float largest = x[0];
  for (int i = 1; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

void softmax(float* x, int n) {
  const float largest = largest_of(x, n);
  for (int i = 0; i < n; i += kStep) store(x + i, vexp(load<V>(x + i) - largest));
  float sum = 0.0f;
  for (int i = 0; i < n; ++i) sum = sum + x[i];
  for (int i = 0; i < n; i += kStep) store(x + i, load<V>(x + i) / sum);
}

void log_softmax(float* x, int n) {
  const float largest = largest_of(x, n);
  f32x16 lanes{};
  for (int i = 0; i < n; i += kBlock) {
    const f32x16 shifted = load<f32x16>(x + i) - largest;
    lanes = lanes + vexp(shifted);
    store(x + i, shifted);
  }
  const float log_sum = log1(lane_tree(lanes));
  for (int i = 0; i < n; i += kStep) store(x + i, load<V>(x + i) - log_sum);
}

void linear(const TritMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end);
void linear_bytes(const ByteMatrix* w, const Activations* x, float* y, int64_t y_stride, int begin, int end);

constexpr Kernels kernel_table(const char* name, int together = 1) {
  return {name, together, map,    quantise_row, linear, linear_bytes, rms_norm,    unit,       conv_silu,
          scan, swiglu,   dot, add,  lerp,         axpy,   softmax,      log_softmax};
}

#undef GHOST_INLINE

}  // namespace
}  // namespace ghost
