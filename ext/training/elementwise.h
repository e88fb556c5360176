/* Fused elementwise kernels over [begin, end) of flat arrays. */
#ifndef GHOST_TRAINING_ELEMENTWISE_H
#define GHOST_TRAINING_ELEMENTWISE_H

#include "vector_math.h"

/* y = x sigmoid(x) */
static void silu_forward_range(const float* restrict x, float* restrict y, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) y[i] = x[i] * vector_sigmoid(x[i]);
}

/* dx = dy s (1 + x (1 - s)), s = sigmoid(x) */
static void silu_backward_range(const float* restrict dy, const float* restrict x, float* restrict dx,
                                             ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) {
        const float s = vector_sigmoid(x[i]);
        dx[i] = dy[i] * (s * (1.0f + x[i] * (1.0f - s)));
    }
}

/* y = max(x, 0) + log(1 + e^-|x|) */
static void softplus_forward_range(const float* restrict x, float* restrict y, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) {
        const float positive = x[i] < 0.0f ? 0.0f : x[i];
        y[i] = positive + vector_log1p(vector_exp(-fabsf(x[i])));
    }
}

/* dx = dy sigmoid(x) */
static void softplus_backward_range(const float* restrict dy, const float* restrict x,
                                                 float* restrict dx, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) dx[i] = dy[i] * vector_sigmoid(x[i]);
}

/* AdamW (arXiv:1711.05101), each operation rounded as written: the same bits as NumPy in float32. */
static void adamw_range(float* restrict p, const float* restrict g, float* restrict m, float* restrict v,
                                     const struct adamw_factors* factors, ptrdiff_t count) {
    const struct adamw_factors f = *factors;
    for (ptrdiff_t i = 0; i < count; i++) {
        const float clipped = g[i] * f.clip;
        m[i] = f.beta1 * m[i] + f.one_minus_beta1 * clipped;
        v[i] = f.beta2 * v[i] + (f.one_minus_beta2 * clipped) * clipped;
        p[i] = p[i] * f.decay - (f.lr * (m[i] * f.c1)) / (sqrtf(v[i] * f.c2) + f.epsilon);
    }
}

#endif
