/* Linear layers with integer weights: int8 codes of activation rows, and their exact product with codes of weights.

   Weights of n rows and k columns lie as bytes w + offset in [row/16][column/4][16][4], padded with `offset` (so a
   padded weight is 0); activation codes lie row by row, padded with zeros to a multiple of 4. Columns come in groups
   with a magnitude per (group, row): y = (sum over groups, in order, of float(S_group) magnitude) scale. */
#ifndef GHOST_TRAINING_LINEAR_H
#define GHOST_TRAINING_LINEAR_H

#include "vector_math.h"

/* s = max|x| / 127, q = clip(rint(x / s), -127, 127) with the bits of ghost_ref.ops.linear.quantise_activations. */
static void quantise_rows(const struct rows_args* a, ptrdiff_t begin, ptrdiff_t end) {
    const float magic = 0x1.8p23f;
    const ptrdiff_t columns = a->columns, padded = a->padded; /* a byte stored might change what `a` points to */
    for (ptrdiff_t row = begin; row < end; row++) {
        const float* restrict x = a->x + row * a->stride;
        int8_t* restrict q = a->q + row * padded;
        int32_t largest = 0; /* bits of |x| order like |x|, and NaN is above infinity */
        for (ptrdiff_t i = 0; i < columns; i++) {
            int32_t bits;
            memcpy(&bits, &x[i], sizeof bits);
            bits &= 0x7fffffff;
            largest = bits > largest ? bits : largest;
        }
        float scale;
        memcpy(&scale, &largest, sizeof scale);
        scale /= 127.0f;
        const int usable = largest < 0x7f800000 && scale != 0.0f;
        if (usable) {
            for (ptrdiff_t i = 0; i < columns; i++) {
                float v = (x[i] / scale + magic) - magic;
                v = v > 127.0f ? 127.0f : v;
                v = v < -127.0f ? -127.0f : v;
                q[i] = (int8_t)(int32_t)v;
            }
            memset(q + columns, 0, (size_t)(padded - columns));
        } else {
            memset(q, 0, (size_t)padded);
        }
        a->scale[row] = largest < 0x7f800000 ? scale : NAN;
        for (ptrdiff_t g = 0; g < a->groups; g++) {
            const ptrdiff_t first = g * a->group, last = first + a->group < padded ? first + a->group : padded;
            int32_t sum = 0;
            for (ptrdiff_t i = first; i < last; i++) sum += q[i];
            a->sums[row * a->groups + g] = sum;
        }
    }
}

/* x^ = q s, what the product saw.   (M, padded) -> (M, columns) */
static void dequantise_rows(const int8_t* restrict q, const float* restrict scale, float* restrict x,
                                         ptrdiff_t columns, ptrdiff_t padded, ptrdiff_t rows) {
    for (ptrdiff_t row = 0; row < rows; row++)
        for (ptrdiff_t i = 0; i < columns; i++) x[row * columns + i] = (float)q[row * padded + i] * scale[row];
}

GHOST_INLINE ptrdiff_t pad_to(ptrdiff_t size, ptrdiff_t multiple) { return (size + multiple - 1) / multiple * multiple; }

/* Columns [first, last) of a row of the effective weight, in panels. */
GHOST_INLINE void pack_panel_row(const struct pack_args* a, ptrdiff_t row, ptrdiff_t first, ptrdiff_t last,
                                 float magnitude) {
    const int8_t* restrict weight = a->weight + row * a->columns;
    for (ptrdiff_t i = first; i < last;) {
        const ptrdiff_t start = i / PANEL * PANEL, next = start + PANEL < last ? start + PANEL : last;
        float* restrict target = a->effective + start * a->rows + row * PANEL - start;
        for (; i < next; i++) target[i] = (float)weight[i] * magnitude;
    }
}

/* The effective weight = weight magnitude, and the weights as codes. */
static void pack_rows(const struct pack_args* a) {
    const ptrdiff_t padded_rows = pad_to(a->rows, BLOCK_ROWS), packs = pad_to(a->columns, PACK) / PACK;
    memset(a->codes, a->offset, (size_t)(padded_rows * packs * PACK));
    for (ptrdiff_t row = 0; row < a->rows; row++) {
        const int8_t* restrict weight = a->weight + row * a->columns;
        float* restrict effective = a->effective + row * a->columns;
        for (ptrdiff_t g = 0; g < a->groups; g++) {
            const float magnitude = a->magnitude[g * padded_rows + row];
            const ptrdiff_t first = g * a->group, end = first + a->group;
            const ptrdiff_t last = end < a->columns ? end : a->columns;
            if (a->panels)
                pack_panel_row(a, row, first, last, magnitude);
            else
                for (ptrdiff_t i = first; i < last; i++) effective[i] = (float)weight[i] * magnitude;
        }
        uint8_t* codes = a->codes + row / BLOCK_ROWS * packs * BLOCK_ROWS * PACK + row % BLOCK_ROWS * PACK;
        const ptrdiff_t whole = a->columns / PACK;
        const uint32_t offsets = (uint32_t)a->offset * 0x01010101u, high = 0x80808080u;
        for (ptrdiff_t p = 0; p < whole; p++) {
            uint32_t four;
            memcpy(&four, weight + p * PACK, PACK);
            four = ((four & ~high) + (offsets & ~high)) ^ ((four ^ offsets) & high); /* byte by byte, no carry */
            memcpy(codes + p * BLOCK_ROWS * PACK, &four, PACK);
        }
        for (ptrdiff_t i = whole * PACK; i < a->columns; i++)
            codes[whole * BLOCK_ROWS * PACK + i % PACK] = (uint8_t)(weight[i] + a->offset);
    }
}

#endif
