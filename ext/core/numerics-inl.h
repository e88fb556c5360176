// Canonical elementary functions and sums: the C++ twin of ghost_ref/numerics.py, bit for bit.
//
// Include once in each translation unit that is compiled for one instruction set. Everything here has internal
// linkage and is always inlined, and only fixed-width types are used, so no code compiled for one instruction set
// can be linked into another. The vectors are the compiler's own (GCC and clang); the arithmetic per element does
// not depend on their width. f32xn is the widest the instruction set has, f32x16 the lanes of a canonical sum.
//
// Needs -ffp-contract=off (a fused multiply-add rounds once instead of twice) and IEEE defaults: round to nearest
// even and denormals kept. GCC also needs -Wno-psabi: it warns about the calling convention of wide vectors, which
// does not matter here because no function exists out of line. On 32-bit x86 also -msse2 -mfpmath=sse, because x87
// keeps extra bits.
// Algorithms, coefficients and error bounds: docs/numerics.md.

#ifndef GHOST_CORE_NUMERICS_INL_H_
#define GHOST_CORE_NUMERICS_INL_H_

#include <cfloat>
#include <cstddef>
#include <cstdint>

#ifdef __FAST_MATH__
#error "Ghost needs IEEE arithmetic: compile without -ffast-math"
#endif
static_assert(FLT_EVAL_METHOD == 0, "Ghost needs float expressions evaluated in float: use SSE2, not x87");

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#define GHOST_INLINE static inline __attribute__((always_inline))

namespace ghost {
namespace {

constexpr size_t kLanes = 16;
#if defined(__AVX512F__)
constexpr size_t kWidth = 16;
#elif defined(__AVX2__)
constexpr size_t kWidth = 8;
#else
constexpr size_t kWidth = 4;
#endif
typedef float f32xn __attribute__((vector_size(4 * kWidth)));
typedef float f32x16 __attribute__((vector_size(4 * kLanes)));

// The integer vectors that go with a float vector V.
template <typename V>
struct Bits {
  typedef int32_t i32 __attribute__((vector_size(sizeof(V))));
  typedef uint32_t u32 __attribute__((vector_size(sizeof(V))));
  static constexpr size_t width = sizeof(V) / sizeof(float);
};

constexpr float kInfinity = __builtin_inff();
constexpr float kNan = __builtin_nanf("");
// 1.5 * 2^23: adding it rounds to an integer, which the low mantissa bits then hold.
constexpr float kRintMagic = 12582912.0f;

template <typename V>
GHOST_INLINE V broadcast(float x) {
  return x - V{};
}

template <typename V>
GHOST_INLINE V load(const float* x) {
  V v;
  __builtin_memcpy(&v, x, sizeof v);
  return v;
}

template <typename V>
GHOST_INLINE void store(float* x, V v) {
  __builtin_memcpy(x, &v, sizeof v);
}

// The first n < width elements, the other lanes zero.
template <typename V>
GHOST_INLINE V load_part(const float* x, size_t n) {
  float buffer[Bits<V>::width] = {};
  for (size_t i = 0; i < n; ++i) buffer[i] = x[i];
  return load<V>(buffer);
}

template <typename V>
GHOST_INLINE void store_part(float* x, V v, size_t n) {
  float buffer[Bits<V>::width];
  store(buffer, v);
  for (size_t i = 0; i < n; ++i) x[i] = buffer[i];
}

// mask ? a : b, where a comparison made the mask. GCC takes the conditional operator apart for vectors wider than a
// register.
template <typename V>
GHOST_INLINE V select(typename Bits<V>::i32 mask, V a, V b) {
  typedef typename Bits<V>::i32 I;
  if constexpr (sizeof(V) == 4 * kWidth) return mask ? a : b;
  return (V)((mask & (I)a) | (~mask & (I)b));
}

template <typename V>
GHOST_INLINE V vabs(V x) {
  return (V)((typename Bits<V>::u32)x & 0x7FFFFFFFu);
}

// -|x|
template <typename V>
GHOST_INLINE V negative_abs(V x) {
  return (V)((typename Bits<V>::u32)x | 0x80000000u);
}

// bound where x < bound, else x; and bound where x > bound, else x. NaN stays. x86 has an instruction for each, which
// takes its second source where the comparison is false, but compilers do not find it.
template <typename V>
GHOST_INLINE V at_least(V x, float bound) {
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 4 * kWidth) {
    asm("vmaxps %1, %2, %0" : "=v"(x) : "v"(x), "v"(broadcast<V>(bound)));
    return x;
  }
#endif
  return select(x < bound, broadcast<V>(bound), x);
}

template <typename V>
GHOST_INLINE V at_most(V x, float bound) {
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 4 * kWidth) {
    asm("vminps %1, %2, %0" : "=v"(x) : "v"(x), "v"(broadcast<V>(bound)));
    return x;
  }
#endif
  return select(x > bound, broadcast<V>(bound), x);
}

// y 2^n for |n| <= 254 and y near 1, where the low bits of `shifted` hold n + 254, rounded once.
template <typename V>
GHOST_INLINE V scale_by_power(V y, [[maybe_unused]] V n, V shifted) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 4 * kWidth) {
    asm("vscalefps %2, %1, %0" : "=v"(y) : "v"(y), "v"(n));
    return y;
  }
#endif
  // Two factors 2^a 2^b with a + b = n, both normal: the first product is exact, so overflow and gradual underflow are
  // rounded once, in the last product.
  typedef typename Bits<V>::u32 U;
  const U bits = (U)shifted, first = bits >> 1, second = bits - first;
  return (y * (V)(first << 23)) * (V)(second << 23);
}

// Computes v here. GCC would rather compute it where it is used, and so the vectors of exp_each one after the other.
template <typename V>
GHOST_INLINE void settle([[maybe_unused]] V* v) {
#if defined(__GNUC__) && !defined(__clang__) && (defined(__AVX512F__) || defined(__SSE2__) || defined(__aarch64__))
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 4 * kWidth) asm("" : "+v"(*v));
#elif defined(__SSE2__)
  if constexpr (sizeof(V) == 4 * kWidth) asm("" : "+x"(*v));
#else
  if constexpr (sizeof(V) == 4 * kWidth) asm("" : "+w"(*v));
#endif
#endif
}

// What is known of the argument of an exp.
enum class Range { kAll, kNotPositive /* or NaN */ };

#define GHOST_EACH _Pragma("GCC unroll 16") for (int i = 0; i < kCount; ++i)

// e^x = 2^n e^r with n = rint(x / ln 2), |r| <= ln(2) / 2, and e^r = 1 + (r + r^2 P(r)). In place for kCount vectors
// step by step together: one alone keeps the units waiting for its long chain of dependent operations. The bits do not
// depend on kRange: what it leaves out changes nothing there.
template <Range kRange = Range::kAll, typename V, int kCount>
GHOST_INLINE void exp_each(V (&x)[kCount]) {
  // Beyond these bounds the result is inf or 0 anyway. NaN compares false and stays.
  GHOST_EACH x[i] = at_least(x[i], -104.0f), settle(&x[i]);
  if constexpr (kRange == Range::kAll) {
    GHOST_EACH x[i] = at_most(x[i], 89.0f);
  }
  constexpr float kMagic = kRintMagic + 254.0f;  // 254 is twice the exponent bias
  V shifted[kCount], n[kCount], r[kCount], y[kCount];
  GHOST_EACH shifted[i] = x[i] * 0x1.715476p+0f + kMagic, settle(&shifted[i]);
  GHOST_EACH n[i] = shifted[i] - kMagic, settle(&n[i]);
  GHOST_EACH r[i] = x[i] - n[i] * 0x1.62e4p-1f;  // exact: the high part of ln 2 has 15 bits
  GHOST_EACH r[i] = r[i] - n[i] * 0x1.7f7d1cp-20f, settle(&r[i]);
  GHOST_EACH y[i] = r[i] * 0x1.6ac74ep-10f;
  GHOST_EACH y[i] = (y[i] + 0x1.123dep-7f) * r[i], settle(&y[i]);
  GHOST_EACH y[i] = (y[i] + 0x1.555858p-5f) * r[i], settle(&y[i]);
  GHOST_EACH y[i] = (y[i] + 0x1.55548cp-3f) * r[i], settle(&y[i]);
  GHOST_EACH y[i] = (y[i] + 0x1.fffffcp-2f) * (r[i] * r[i]), settle(&y[i]);
  GHOST_EACH y[i] = (y[i] + r[i]) + 1.0f, settle(&y[i]);
  GHOST_EACH x[i] = scale_by_power(y[i], n[i], shifted[i]);
}

template <typename V>
GHOST_INLINE V vexp(V x) {
  V one[1] = {x};
  exp_each(one);
  return one[0];
}

// Positive normal u = 2^exponent (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2).
template <typename V>
GHOST_INLINE void log_reduce(V u, V* exponent, V* f) {
  typedef typename Bits<V>::u32 U;
  constexpr uint32_t kSqrtHalf = 0x3F3504F3;
  U bits = (U)u - kSqrtHalf;
  *exponent = __builtin_convertvector((typename Bits<V>::i32)bits >> 23, V);
  *f = (V)((bits & 0x007FFFFFu) + kSqrtHalf) - 1.0f;
}

// low = exponent ln 2 + log(1 + f), where `low` holds exponent times the low part of ln 2, plus any correction.
// With s = f / (2 + f): log(1 + f) = 2 atanh(s) = f - (h - s (h + R(s^2))), h = f^2 / 2. As exp_each.
template <typename V, int kCount>
GHOST_INLINE void log_combine(const V (&exponent)[kCount], const V (&f)[kCount], V (&low)[kCount]) {
  V s[kCount], z[kCount], y[kCount], half_square[kCount];
  GHOST_EACH s[i] = f[i] / (f[i] + 2.0f), settle(&s[i]);
  GHOST_EACH z[i] = s[i] * s[i], settle(&z[i]);
  GHOST_EACH y[i] = z[i] * 0x1.31e03cp-2f;
  GHOST_EACH y[i] = (y[i] + 0x1.995ed8p-2f) * z[i], settle(&y[i]);
  GHOST_EACH y[i] = (y[i] + 0x1.55557ap-1f) * z[i], settle(&y[i]);
  GHOST_EACH half_square[i] = (f[i] * f[i]) * 0.5f;
  GHOST_EACH y[i] = (y[i] + half_square[i]) * s[i] + low[i], settle(&y[i]);
  GHOST_EACH y[i] = (y[i] - half_square[i]) + f[i];
  GHOST_EACH low[i] = y[i] + exponent[i] * 0x1.62e4p-1f;
}

template <typename V>
GHOST_INLINE V vlog(V x) {
  typename Bits<V>::i32 tiny = x < 0x1p-126f;
  V exponent[1], f[1];
  log_reduce(x * select(tiny, broadcast<V>(0x1p23f), broadcast<V>(1.0f)), &exponent[0], &f[0]);
  exponent[0] = exponent[0] - select(tiny, broadcast<V>(23.0f), V{});
  V y[1] = {exponent[0] * 0x1.7f7d1cp-20f};
  log_combine(exponent, f, y);
  y[0] = select(x < kInfinity, y[0], x);
  y[0] = select(x == 0.0f, broadcast<V>(-kInfinity), y[0]);
  return select(x < 0.0f, broadcast<V>(kNan), y[0]);
}

// log1p of finite x > -1 in place, as exp_each: log(u) + c / u, where u = fl(1 + x) and c = x - (u - 1) is what the
// addition rounded off.
template <typename V, int kCount>
GHOST_INLINE void log1p_inside(V (&x)[kCount]) {
  V exponent[kCount], f[kCount];
  GHOST_EACH {
    const V u = x[i] + 1.0f;
    const V correction = (x[i] - (u - 1.0f)) / u;
    log_reduce(u, &exponent[i], &f[i]);
    x[i] = exponent[i] * 0x1.7f7d1cp-20f + correction, settle(&x[i]);
  }
  log_combine(exponent, f, x);
}

template <typename V>
GHOST_INLINE V vlog1p(V x) {
  V inside[1] = {x};
  log1p_inside(inside);
  V y = select(x < kInfinity, inside[0], x);
  y = select(x == 0.0f, x, y);
  y = select(x == -1.0f, broadcast<V>(-kInfinity), y);
  return select(x < -1.0f, broadcast<V>(kNan), y);
}

// e / (1 + e) with e = exp(x) for x < 0, else 1 / (1 + exp(-x)). In place, as exp_each.
template <typename V, int kCount>
GHOST_INLINE void sigmoid_each(V (&x)[kCount]) {
  V e[kCount];
  GHOST_EACH e[i] = negative_abs(x[i]);
  exp_each<Range::kNotPositive>(e);
  GHOST_EACH x[i] = select(x[i] < 0.0f, e[i], broadcast<V>(1.0f)) / (e[i] + 1.0f);
}

template <typename V, int kCount>
GHOST_INLINE void silu_each(V (&x)[kCount]) {
  V sigmoid[kCount];
  GHOST_EACH sigmoid[i] = x[i];
  sigmoid_each(sigmoid);
  GHOST_EACH x[i] = sigmoid[i] * x[i];
}

// The exp is in [0, 1] or NaN: no exception of log1p applies.
template <typename V, int kCount>
GHOST_INLINE void softplus_each(V (&x)[kCount]) {
  V e[kCount];
  GHOST_EACH e[i] = negative_abs(x[i]);
  exp_each<Range::kNotPositive>(e);
  log1p_inside(e);
  GHOST_EACH x[i] = e[i] + select(x[i] > 0.0f, x[i], V{});
}

#define GHOST_ONE(name)               \
  template <typename V>               \
  GHOST_INLINE V v##name(V x) {       \
    V one[1] = {x};                   \
    name##_each(one);                 \
    return one[0];                    \
  }
GHOST_ONE(sigmoid)
GHOST_ONE(silu)
GHOST_ONE(softplus)
#undef GHOST_ONE

// Half to even for |x| < 2^22; a zero result is +0.
template <typename V>
GHOST_INLINE V vrint(V x) { return (x + kRintMagic) - kRintMagic; }

#undef GHOST_EACH

// Vectors to compute together; with the fewer registers of other instruction sets, more would be kept in memory.
constexpr int kGroup = kWidth == 16 ? 8 : 4;

// What comes before the vectors that are computed one by one.
#define GHOST_GROUPS(name)                                                   \
  for (; i + kGroup * kWidth <= n; i += kGroup * kWidth) {                   \
    f32xn v[kGroup];                                                         \
    for (int j = 0; j < kGroup; ++j) v[j] = load<f32xn>(x + i + j * kWidth); \
    name##_each(v);                                                          \
    for (int j = 0; j < kGroup; ++j) store(y + i + j * kWidth, v[j]);        \
  }
#define GHOST_SCALAR_AND_MAP(name, groups)                                                  \
  GHOST_INLINE float name##1(float x) { return v##name(broadcast<f32xn>(x))[0]; }           \
  GHOST_INLINE void map_##name(const float* x, float* y, size_t n) {                        \
    size_t i = 0;                                                                           \
    groups                                                                                  \
    for (; i < n; i += kWidth) {                                                            \
      const bool whole = i + kWidth <= n;                                                   \
      const f32xn v = v##name(whole ? load<f32xn>(x + i) : load_part<f32xn>(x + i, n - i)); \
      if (whole) store(y + i, v);                                                           \
      else store_part(y + i, v, n - i);                                                     \
    }                                                                                       \
  }
GHOST_SCALAR_AND_MAP(exp, )
GHOST_SCALAR_AND_MAP(log, )
GHOST_SCALAR_AND_MAP(log1p, )
GHOST_SCALAR_AND_MAP(sigmoid, )
GHOST_SCALAR_AND_MAP(silu, GHOST_GROUPS(silu))  // the one that whole rows go through
GHOST_SCALAR_AND_MAP(softplus, )
GHOST_SCALAR_AND_MAP(rint, )
#undef GHOST_GROUPS
#undef GHOST_SCALAR_AND_MAP

// The lanes of a canonical sum added as a tree: lane i += lane i + 8, i + 4, i + 2, i + 1.
GHOST_INLINE float lane_tree(f32x16 lanes) {
  typedef float f32x8 __attribute__((vector_size(32)));
  typedef float f32x4 __attribute__((vector_size(16)));
  f32x8 halves[2];
  __builtin_memcpy(halves, &lanes, sizeof halves);
  const f32x8 eight = halves[0] + halves[1];
  f32x4 quarters[2];
  __builtin_memcpy(quarters, &eight, sizeof quarters);
  const f32x4 four = quarters[0] + quarters[1];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// Canonical sums: lane j of 16 starts at +0 and adds elements j, j + 16, ... in turn, then the tree. A lane is
// never -0, so the zeros that fill a ragged last block change nothing. In registers of the instruction set: GCC takes
// wider vectors apart. Products are rounded before they are added.
GHOST_INLINE float lane_dot(const float* a, const float* b, size_t n) {
  f32xn lanes[kLanes / kWidth] = {};
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t j = 0; j < kLanes / kWidth; ++j) {
      lanes[j] = lanes[j] + load<f32xn>(a + i + j * kWidth) * load<f32xn>(b + i + j * kWidth);
    }
  }
  f32x16 sums;
  __builtin_memcpy(&sums, lanes, sizeof sums);
  if (i < n) sums = sums + load_part<f32x16>(a + i, n - i) * load_part<f32x16>(b + i, n - i);
  return lane_tree(sums);
}

GHOST_INLINE float lane_sum_squares(const float* x, size_t n) { return lane_dot(x, x, n); }

}  // namespace
}  // namespace ghost

#undef GHOST_INLINE

#endif  // GHOST_CORE_NUMERICS_INL_H_
