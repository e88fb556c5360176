/* RMSNorm of rows. */
#ifndef GHOST_TRAINING_NORM_H
#define GHOST_TRAINING_NORM_H

#include "ternary.h"

/* y = (x / rms) gain with rms = sqrt(canonical lane sum of x x / d + 1e-5): the bits of the reference. */
static void rms_norm_forward_rows(const float* x, const float* gain, float* y, float* rms, ptrdiff_t rows,
                                               ptrdiff_t d) {
    const ptrdiff_t whole = d - d % SUM_LANES;
    for (ptrdiff_t row = 0; row < rows; row++) {
        const float* restrict source = x + row * d;
        float* restrict target = y + row * d;
        float lanes[SUM_LANES] = {0};
        for (ptrdiff_t i = 0; i < whole; i += SUM_LANES)
            for (int j = 0; j < SUM_LANES; j++) lanes[j] += source[i + j] * source[i + j];
        for (ptrdiff_t i = whole; i < d; i++) lanes[i - whole] += source[i] * source[i];
        const float root = sqrtf(sum_lanes(lanes) / (float)d + 1e-5f);
        rms[row] = root;
        for (ptrdiff_t i = 0; i < d; i++) target[i] = source[i] / root * gain[i];
    }
}

/* With n = x / rms and e = dy gain: dx = (e - n mean(e n)) / rms, dgain += dy n. */
static void rms_norm_backward_rows(const float* dy, const float* x, const float* rms,
                                                const float* restrict gain, float* dx, float* restrict dgain,
                                                ptrdiff_t rows, ptrdiff_t d) {
    for (ptrdiff_t row = 0; row < rows; row++) {
        const float *restrict e = dy + row * d, *restrict source = x + row * d;
        float* restrict target = dx + row * d;
        const float root = rms[row];
        float lanes[SUM_LANES] = {0};
        for (ptrdiff_t i = 0; i < d; i += SUM_LANES) {
            const ptrdiff_t width = d - i < SUM_LANES ? d - i : SUM_LANES;
            for (ptrdiff_t j = 0; j < width; j++) {
                const float n = source[i + j] / root;
                dgain[i + j] += e[i + j] * n;
                lanes[j] += e[i + j] * gain[i + j] * n;
                target[i + j] = n;
            }
        }
        const float mean = sum_lanes(lanes) / (float)d;
        for (ptrdiff_t i = 0; i < d; i++) target[i] = (e[i] * gain[i] - target[i] * mean) / root;
    }
}

#endif
