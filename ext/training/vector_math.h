/* exp, log1p and sigmoid as branch-free polynomials that the compiler vectorises, for the training kernels.
   Not canonical: judged by error bounds. No libm, no fast-math; build with -O3 -ffp-contract=off -fno-math-errno. */
#ifndef GHOST_TRAINING_VECTOR_MATH_H
#define GHOST_TRAINING_VECTOR_MATH_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#ifdef __FAST_MATH__
#error "the training kernels need IEEE arithmetic: build without -ffast-math"
#endif

#define GHOST_INLINE static inline __attribute__((always_inline))

/* a b + c, rounded once at the levels that have it in the instruction set. */
GHOST_INLINE float multiply_add(float a, float b, float c) {
#if defined(__AVX512F__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

#define LOWEST_EXPONENT -87.336f /* e^x is 0 below */

/* e^x, at most 1 ULP; below 2^-126 it is 0, above e^88.37 it is inf. x = n ln 2 + r, e^x = 2^n (1 + r + r^2 P(r)). */
GHOST_INLINE float vector_exp(float x) {
    const float magic = 0x1.8p23f; /* adding it rounds to an integer and leaves that in the low mantissa bits */
    const float lowest = LOWEST_EXPONENT, highest = 88.37f;
    float clamped = x < lowest ? lowest : x; /* in this form NaN stays NaN */
    clamped = clamped > highest ? highest : clamped;
    const float shifted = multiply_add(clamped, 0x1.715476p+0f, magic);
    const float n = shifted - magic;
    const float r = multiply_add(n, -0x1.7f7d1cp-20f, multiply_add(n, -0x1.62e4p-1f, clamped));
    float p = 0x1.6a2352p-10f;
    p = multiply_add(p, r, 0x1.123a6cp-7f);
    p = multiply_add(p, r, 0x1.5558f4p-5f);
    p = multiply_add(p, r, 0x1.555490p-3f);
    p = multiply_add(p, r, 0x1.fffffcp-2f);
    p = multiply_add(p, r * r, r) + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    const float y = p * scale;
    return x < lowest ? 0.0f : x > highest ? INFINITY : y;
}

/* log(1 + e) for 0 <= e <= 1, at most 2 ULP: 2 atanh(s) with s = e / (2 + e). */
GHOST_INLINE float vector_log1p(float e) {
    const float s = e / (2.0f + e), z = s * s;
    float p = 0x1.1f0a4ep-3f;
    p = multiply_add(p, z, 0x1.1eb2b8p-3f);
    p = multiply_add(p, z, 0x1.99d2acp-3f);
    p = multiply_add(p, z, 0x1.555500p-2f);
    const float twice = s + s;
    return multiply_add(twice, z * p, twice);
}

/* 1 / (1 + e^-x), at most 3 ULP; never overflows. */
GHOST_INLINE float vector_sigmoid(float x) {
    const float e = vector_exp(-fabsf(x));
    const float numerator = x < 0.0f ? e : 1.0f;
    return numerator / (1.0f + e);
}

#endif
