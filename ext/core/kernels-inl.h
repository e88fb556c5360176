// The kernels that are written once and compiled for every instruction set; each unit adds its own two matmuls,
// `linear` and `linear_bytes`, before it builds the table. Every formula is in docs/semantics.md.
//
// The bits cannot depend on the instruction set: every element sees the same correctly rounded operations in the same
// order, vector lanes never mix except in lane_tree, and contraction is off. Internal linkage throughout and no
// standard templates, so nothing compiled for one instruction set can be linked into another.
#pragma once

#include "kernels.h"
#include "numerics-inl.h"
#include "sampling-inl.h"

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

GHOST_INLINE int32_t sum_of_lanes(I v) {
  int32_t total = 0;
  for (int j = 0; j < kStep; ++j) total += v[j];
  return total;
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

// max |x|, and whether every element is finite. Read as integers, magnitudes keep their order, and what is not finite
// is the largest.
GHOST_INLINE bool largest_magnitude(const float* x, int n, float* largest) {
  I even{}, odd{};
  int i = 0;
  for (; i + 2 * kStep <= n; i += 2 * kStep) {
    const I v = (I)vabs(load<V>(x + i)), w = (I)vabs(load<V>(x + i + kStep));
    even = v > even ? v : even;
    odd = w > odd ? w : odd;
  }
  for (; i < n; i += kStep) {
    const I v = (I)vabs(load_or_zero(x, i, n));
    even = v > even ? v : even;
  }
  const I lanes = even > odd ? even : odd;
  int32_t bits = 0;
  for (int j = 0; j < kStep; ++j) bits = lanes[j] > bits ? lanes[j] : bits;
  __builtin_memcpy(largest, &bits, sizeof bits);
  return *largest < kInfinity;
}

void quantise_row(const float* x, int n, int group, int8_t* q, float* scale, int32_t* sums) {
  float largest;
  const bool finite = largest_magnitude(x, n, &largest);
  const float s = largest / 127.0f;
  *scale = finite ? s : kNan;
  const bool usable = finite && s != 0.0f;
  for (int start = 0, g = 0; start < n; start += group, ++g) {
    const int stop = start + group < n ? start + group : (n + kBlock - 1) / kBlock * kBlock;
    I sum{};
    for (int i = start; i < stop; i += kStep) {
      I codes{};
      if (usable) {
        V v = vrint(load_or_zero(x, i, n) / s);
        v = at_most(at_least(v, -127.0f), 127.0f);
        codes = __builtin_convertvector(v, I);
      }
      sum += codes;
      // In two steps: GCC 12 takes a vector apart to get from 32 bits to 8 at once.
      const ByteVector bytes = __builtin_convertvector(__builtin_convertvector(codes, WordVector), ByteVector);
      __builtin_memcpy(q + i, &bytes, sizeof bytes);
    }
    sums[g] = sum_of_lanes(sum);
  }
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
    store(a.out + int64_t{t} * a.stride + c, vsilu(sum + bias));
    for (int k = 0; k < past; ++k) seen[k] = seen[k + 1];
  }
  for (int k = 0; k < past; ++k) store(a.past + int64_t{k} * a.stride + c, seen[k]);
}

void conv_silu(const ConvArguments* arguments, int begin, int end) {
  for (int c = begin * kBlock; c < end * kBlock; c += kStep) {
    if (arguments->taps == 4) {
      conv_channels<4>(*arguments, c);
    } else {
      conv_channels<0>(*arguments, c);
    }
  }
}

// kCount of the state's d_state steps for kStep channels: h = exp(dt A) h + u B, returns y with h C added in turn.
template <int kCount>
GHOST_INLINE V scan_states(V dt, V u, const float* A, const float* B, const float* C, float* state, V y) {
  V decay[kCount];
  for (int n = 0; n < kCount; ++n) decay[n] = dt * load<V>(A + n * kBlock);
  exp_each(decay);
  for (int n = 0; n < kCount; ++n) {
    const V h = decay[n] * load<V>(state + n * kBlock) + u * B[n];
    store(state + n * kBlock, h);
    y = y + h * C[n];
  }
  return y;
}

// kStep channels starting at c, all tokens, `out` holding softplus(dt + bias) at first and the scan's sum + D x at last;
// A and state are at the first of the channels.
GHOST_INLINE void scan_channels(const ScanArguments& a, int c, const float* A, float* state) {
  constexpr int kTogether = 8;
  const V D = load<V>(a.D + c);
  for (int t = 0; t < a.tokens; ++t) {
    const int64_t row = int64_t{t} * a.stride + c;
    const float* B = a.bc + int64_t{t} * a.bc_stride;
    const float* C = B + a.d_state;
    const V x = load<V>(a.x + row), dt = load<V>(a.out + row);
    const V u = dt * x;
    V y{};
    int n = 0;
    for (; n + kTogether <= a.d_state; n += kTogether) {
      y = scan_states<kTogether>(dt, u, A + n * kBlock, B + n, C + n, state + n * kBlock, y);
    }
    for (; n < a.d_state; ++n) y = scan_states<1>(dt, u, A + n * kBlock, B + n, C + n, state + n * kBlock, y);
    store(a.out + row, y + D * x);
  }
}

void scan(const ScanArguments* arguments, int begin, int end) {
  const ScanArguments a = *arguments;
  const int64_t size = int64_t{kBlock} * a.d_state;
  // What does not depend on the state comes before and after it for several channels and tokens at a time: each is a long
  // chain of operations, and the processor works on many.
  const int together = a.tokens < 8 ? 8 : 1;
  for (int first = begin; first < end; first += together) {
    const int last = first + together < end ? first + together : end;
    for (int t = 0; t < a.tokens; ++t) {
      for (int c = first * kBlock; c < last * kBlock; c += kStep) {
        const int64_t row = int64_t{t} * a.stride + c;
        store(a.out + row, vsoftplus(load<V>(a.dt + row) + load<V>(a.dt_bias + c)));
      }
    }
    for (int block = first; block < last; ++block) {
      for (int j = 0; j < kBlock; j += kStep) {
        scan_channels(a, block * kBlock + j, a.A + block * size + j, a.state + block * size + j);
      }
    }
    for (int t = 0; t < a.tokens; ++t) {
      for (int c = first * kBlock; c < last * kBlock; c += kStep) {
        const int64_t row = int64_t{t} * a.stride + c;
        store(a.out + row, load<V>(a.out + row) * vsilu(load<V>(a.z + row)));
      }
    }
  }
}

void swiglu(const float* gate, const float* up, float* out, int n) {
  for (int i = 0; i < n; i += kStep) store(out + i, vsilu(load<V>(gate + i)) * load<V>(up + i));
}

float dot(const float* a, const float* b, int n) { return lane_dot(a, b, static_cast<size_t>(n)); }

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

constexpr Kernels kernel_table(const char* name) {
  return {name, map,    quantise_row, linear, linear_bytes, rms_norm,    unit,       conv_silu,
          scan, swiglu, dot,          axpy,   softmax,      log_softmax, choose_byte};
}

#undef GHOST_INLINE

}  // namespace
}  // namespace ghost
