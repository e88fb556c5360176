/* Causal depthwise convolution. A unit of work is 64 channels of one batch row; units share no output. */
#ifndef GHOST_TRAINING_CONV_H
#define GHOST_TRAINING_CONV_H

#include "vector_math.h"

struct conv_unit {
    ptrdiff_t row, first, width; /* batch row, first channel, channels */
};

GHOST_INLINE struct conv_unit conv_unit(const struct conv_args* a, ptrdiff_t index) {
    const ptrdiff_t blocks = (a->channels + CONV_BLOCK - 1) / CONV_BLOCK, first = index % blocks * CONV_BLOCK;
    const ptrdiff_t left = a->channels - first;
    return (struct conv_unit){index / blocks, first, left < CONV_BLOCK ? left : CONV_BLOCK};
}

/* Row `position` of [past | x]: the input of tap k at step t is at position t + k. */
GHOST_INLINE const float* conv_input(const struct conv_args* a, struct conv_unit unit, ptrdiff_t position) {
    const ptrdiff_t before = a->taps - 1;
    const float* source = position < before ? a->past + (unit.row * before + position) * a->channels
                                            : a->x + (unit.row * a->steps + position - before) * a->channels;
    return source + unit.first;
}

static void conv_forward_unit(const struct conv_args* a, ptrdiff_t index) {
    const struct conv_unit unit = conv_unit(a, index);
    const ptrdiff_t kept = a->length[unit.row], before = a->taps - 1;
    for (ptrdiff_t t = 0; t < kept; t++) {
        float sum[CONV_BLOCK] = {0};
        for (ptrdiff_t k = 0; k < a->taps; k++) {
            const float* restrict input = conv_input(a, unit, t + k);
            const float* restrict weight = a->weight + k * a->channels + unit.first;
            for (ptrdiff_t j = 0; j < unit.width; j++) sum[j] += weight[j] * input[j];
        }
        float* restrict y = a->y + (unit.row * a->steps + t) * a->channels + unit.first;
        for (ptrdiff_t j = 0; j < unit.width; j++) y[j] = sum[j] + a->bias[unit.first + j];
    }
    for (ptrdiff_t k = 0; k < before; k++)
        memcpy(a->present + (unit.row * before + k) * a->channels + unit.first, conv_input(a, unit, kept + k),
               (size_t)unit.width * sizeof(float));
}

/* dx_{t-K+1+k} += w_k dy_t,  dw_k += dy_t x_{t-K+1+k},  dbias += dy_t */
static void conv_backward_unit(const struct conv_args* a, ptrdiff_t index) {
    const struct conv_unit unit = conv_unit(a, index);
    const ptrdiff_t kept = a->length[unit.row], before = a->taps - 1;
    float* restrict dbias = a->dbias + unit.row * a->channels + unit.first;
    for (ptrdiff_t t = 0; t < kept; t++) {
        const float* restrict dy = a->dy + (unit.row * a->steps + t) * a->channels + unit.first;
        for (ptrdiff_t j = 0; j < unit.width; j++) dbias[j] += dy[j];
        for (ptrdiff_t k = 0; k < a->taps; k++) {
            const float* restrict input = conv_input(a, unit, t + k);
            float* restrict dweight = a->dweight + (unit.row * a->taps + k) * a->channels + unit.first;
            for (ptrdiff_t j = 0; j < unit.width; j++) dweight[j] += dy[j] * input[j];
            if (t + k < before) continue;
            const float* restrict weight = a->weight + k * a->channels + unit.first;
            float* restrict dx = a->dx + (unit.row * a->steps + t + k - before) * a->channels + unit.first;
            for (ptrdiff_t j = 0; j < unit.width; j++) dx[j] += weight[j] * dy[j];
        }
    }
}

#endif
