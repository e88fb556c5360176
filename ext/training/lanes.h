/* Sixteen floats in one value, for loops that keep sums in registers: compilers leave arrays in memory. */
#ifndef GHOST_TRAINING_LANES_H
#define GHOST_TRAINING_LANES_H

#include "vector_math.h"

#ifdef __AVX512F__
#include <immintrin.h>

typedef __m512 lanes;

GHOST_INLINE lanes lanes_of(float x) { return _mm512_set1_ps(x); }
GHOST_INLINE lanes lanes_multiply_add(lanes a, lanes b, lanes c) { return _mm512_fmadd_ps(a, b, c); }
GHOST_INLINE lanes lanes_abs(lanes x) { return _mm512_abs_ps(x); }
GHOST_INLINE lanes lanes_larger(lanes a, lanes b) { return _mm512_max_ps(a, b); } /* b where a is NaN */
GHOST_INLINE lanes lanes_where_larger(lanes a, lanes b) { /* a > b ? a : 0 */
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), a);
}

/* vector_exp, but that only x above 88.73 gives inf. */
GHOST_INLINE lanes lanes_exp(lanes x) {
    const lanes bounded = _mm512_min_ps(lanes_of(89.0f), x); /* in this order NaN stays NaN */
    const lanes n = _mm512_roundscale_ps(_mm512_mul_ps(bounded, lanes_of(0x1.715476p+0f)), 8);
    const lanes high = _mm512_fmadd_ps(n, lanes_of(-0x1.62e4p-1f), bounded);
    const lanes r = _mm512_fmadd_ps(n, lanes_of(-0x1.7f7d1cp-20f), high);
    lanes p = lanes_of(0x1.6a2352p-10f);
    p = _mm512_fmadd_ps(p, r, lanes_of(0x1.123a6cp-7f));
    p = _mm512_fmadd_ps(p, r, lanes_of(0x1.5558f4p-5f));
    p = _mm512_fmadd_ps(p, r, lanes_of(0x1.555490p-3f));
    p = _mm512_fmadd_ps(p, r, lanes_of(0x1.fffffcp-2f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), lanes_of(1.0f));
    const __mmask16 usable = _mm512_cmp_ps_mask(x, lanes_of(LOWEST_EXPONENT), _CMP_NLT_UQ); /* NaN too */
    return _mm512_maskz_scalef_ps(usable, p, n);
}
#else
typedef float lanes __attribute__((vector_size(64)));

GHOST_INLINE lanes lanes_of(float x) { return (lanes){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
GHOST_INLINE lanes lanes_multiply_add(lanes a, lanes b, lanes c) { return a * b + c; }

typedef int32_t lane_bits __attribute__((vector_size(64)));
GHOST_INLINE lanes lanes_abs(lanes x) { return (lanes)((lane_bits)x & 0x7fffffff); }
GHOST_INLINE lanes lanes_larger(lanes a, lanes b) { /* b where a is NaN */
    const lane_bits chosen = a > b;
    return (lanes)(((lane_bits)a & chosen) | ((lane_bits)b & ~chosen));
}
GHOST_INLINE lanes lanes_where_larger(lanes a, lanes b) { return (lanes)((lane_bits)a & (a > b)); } /* a > b ? a : 0 */

GHOST_INLINE lanes lanes_exp(lanes x) {
    float values[LANES];
    memcpy(values, &x, sizeof x);
    for (int j = 0; j < LANES; j++) values[j] = vector_exp(values[j]);
    memcpy(&x, values, sizeof x);
    return x;
}
#endif

GHOST_INLINE lanes lanes_load(const float* source) {
    lanes x;
    memcpy(&x, source, sizeof x);
    return x;
}

GHOST_INLINE void lanes_store(float* target, lanes x) { memcpy(target, &x, sizeof x); }

/* The first `width` floats, zeros in the other lanes; and back. */
GHOST_INLINE lanes lanes_load_some(const float* source, ptrdiff_t width) {
    if (width == LANES) return lanes_load(source);
    float values[LANES] = {0};
    memcpy(values, source, (size_t)width * sizeof(float));
    return lanes_load(values);
}

GHOST_INLINE void lanes_store_some(float* target, lanes x, ptrdiff_t width) {
    if (width == LANES)
        lanes_store(target, x);
    else
        memcpy(target, &x, (size_t)width * sizeof(float));
}

#endif
