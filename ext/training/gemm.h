/* Float products of the linear layers' backward pass, for AVX-512: C = A B with A row by row and B in panels of 64 columns.
   A tile of 6 x 64 outputs stays in registers for DEPTH steps; 10 loads for 24 multiply-adds leave those the limit. */
#ifndef GHOST_TRAINING_GEMM_H
#define GHOST_TRAINING_GEMM_H

#include <immintrin.h>

#include "linear.h"

enum { TILE_ROWS = 6, BLOCK = 16 };

/* The sums of 6 rows and a panel over `count` steps, into sums (6, PANEL). They are named, and alone in their function,
   because compilers keep arrays of them, and those used later, in memory. */
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define START(r)                    \
    const float* const a##r = a[r]; \
    __m512 w##r = _mm512_setzero_ps(), x##r = w##r, y##r = w##r, z##r = w##r;
#define STEP(r)                         \
    s = _mm512_set1_ps(a##r[p]);        \
    w##r = _mm512_fmadd_ps(s, b0, w##r); \
    x##r = _mm512_fmadd_ps(s, b1, x##r); \
    y##r = _mm512_fmadd_ps(s, b2, y##r); \
    z##r = _mm512_fmadd_ps(s, b3, z##r);
#define STORE(r)                                     \
    _mm512_store_ps(sums + r * PANEL, w##r);         \
    _mm512_store_ps(sums + r * PANEL + BLOCK, x##r); \
    _mm512_store_ps(sums + r * PANEL + 2 * BLOCK, y##r); \
    _mm512_store_ps(sums + r * PANEL + 3 * BLOCK, z##r);

static __attribute__((noinline)) void tile_sums(const float* const* a, const float* panel, ptrdiff_t count, float* sums) {
    EACH_ROW(START)
    for (ptrdiff_t p = 0; p < count; p++) {
        const float* b = panel + p * PANEL;
        const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + BLOCK);
        const __m512 b2 = _mm512_loadu_ps(b + 2 * BLOCK), b3 = _mm512_loadu_ps(b + 3 * BLOCK);
        __m512 s;
        EACH_ROW(STEP)
    }
    EACH_ROW(STORE)
}
#undef EACH_ROW
#undef START
#undef STEP
#undef STORE

struct panel_product {
    ptrdiff_t rows, columns, depth, stride; /* of A (rows, depth) with `stride` floats from row to row; C (rows, columns) */
    const float *a, *panels;                /* panels (columns/PANEL, depth, PANEL) */
    float* c;
    int add; /* to what C holds */
};

/* C or, from the second part of the depth on, C + A B; sums of DEPTH steps are added in order. */
static void panel_product(const struct panel_product* g) {
    _Alignas(64) float sums[TILE_ROWS * PANEL];
    for (ptrdiff_t column = 0; column < g->columns; column += PANEL) {
        const ptrdiff_t width = g->columns - column < PANEL ? g->columns - column : PANEL;
        for (ptrdiff_t first = 0; first < g->depth; first += DEPTH) {
            const ptrdiff_t count = g->depth - first < DEPTH ? g->depth - first : DEPTH;
            const float* panel = g->panels + column * g->depth + first * PANEL;
            for (ptrdiff_t row = 0; row < g->rows; row += TILE_ROWS) {
                const ptrdiff_t height = g->rows - row < TILE_ROWS ? g->rows - row : TILE_ROWS;
                const float* a[TILE_ROWS];
                for (int r = 0; r < TILE_ROWS; r++) a[r] = g->a + (r < height ? row + r : row) * g->stride + first;
                tile_sums(a, panel, count, sums);
                for (ptrdiff_t r = 0; r < height; r++) {
                    float* restrict c = g->c + (row + r) * g->columns + column;
                    const float* restrict s = sums + r * PANEL;
                    if (g->add || first)
                        for (ptrdiff_t i = 0; i < width; i++) c[i] += s[i];
                    else
                        memcpy(c, s, (size_t)width * sizeof(float));
                }
            }
        }
    }
}

static void input_gradient(const struct input_gradient_args* a) {
    panel_product(&(struct panel_product){a->tokens, a->columns, a->rows, a->rows, a->dy, a->panels, a->dx, 0});
}

/* 16 x 16 floats: rows of `source` become columns of `target`. */
GHOST_INLINE void transpose_block(const float* source, ptrdiff_t source_stride, float* target, ptrdiff_t target_stride) {
    __m512 r[BLOCK], t[BLOCK];
    for (int i = 0; i < BLOCK; i++) r[i] = _mm512_loadu_ps(source + i * source_stride);
    for (int i = 0; i < BLOCK; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < BLOCK; i += 4)
        for (int j = 0; j < 2; j++) {
            const __m512d low = _mm512_castps_pd(t[i + j]), high = _mm512_castps_pd(t[i + j + 2]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    for (int i = 0; i < BLOCK; i += 8) /* r[4q + c] holds column c + 4 lane of rows 4q .. 4q + 3 */
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_f32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_f32x4(r[i + j], r[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        r[j] = _mm512_shuffle_f32x4(t[j], t[j + 8], 0x88);
        r[j + 8] = _mm512_shuffle_f32x4(t[j], t[j + 8], 0xdd);
    }
    for (int i = 0; i < BLOCK; i++) _mm512_storeu_ps(target + i * target_stride, r[i]);
}

/* (rows, columns) -> (columns, target_stride), of which the first `rows` are filled. */
static void transpose(const float* source, ptrdiff_t rows, ptrdiff_t columns, float* target, ptrdiff_t target_stride) {
    const ptrdiff_t whole_rows = rows - rows % BLOCK, whole = columns - columns % BLOCK;
    for (ptrdiff_t i = 0; i < whole_rows; i += BLOCK)
        for (ptrdiff_t j = 0; j < whole; j += BLOCK)
            transpose_block(source + i * columns + j, columns, target + j * target_stride + i, target_stride);
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = i < whole_rows ? whole : 0; j < columns; j++)
            target[j * target_stride + i] = source[i * columns + j];
}

/* x^ = q scale in panels: (M, padded) -> (k/PANEL, M, PANEL), zeros beyond the columns. */
static void pack_inputs(const struct weight_gradient_args* a, ptrdiff_t first, ptrdiff_t count, float* panels) {
    for (ptrdiff_t column = 0; column < a->columns; column += PANEL) {
        const ptrdiff_t width = a->columns - column < PANEL ? a->columns - column : PANEL;
        for (ptrdiff_t t = 0; t < count; t++) {
            const int8_t* restrict q = a->q + (first + t) * a->padded + column;
            float* restrict target = panels + column * count + t * PANEL;
            const float scale = a->scale[first + t];
            if (width == PANEL)
                for (int i = 0; i < PANEL; i++) target[i] = (float)q[i] * scale;
            else
                for (ptrdiff_t i = 0; i < PANEL; i++) target[i] = i < width ? (float)q[i] * scale : 0.0f;
        }
    }
}

static void weight_gradient(const struct weight_gradient_args* a) {
    float *panels = a->scratch, *turned = a->scratch + DEPTH * panel_columns(a->columns);
    if (a->tokens == 0) memset(a->dweight, 0, (size_t)(a->rows * a->columns) * sizeof(float));
    for (ptrdiff_t first = 0; first < a->tokens; first += DEPTH) {
        const ptrdiff_t count = a->tokens - first < DEPTH ? a->tokens - first : DEPTH;
        pack_inputs(a, first, count, panels);
        transpose(a->dy + first * a->rows, count, a->rows, turned, DEPTH);
        panel_product(&(struct panel_product){a->rows, a->columns, count, DEPTH, turned, panels, a->dweight, first > 0});
    }
}

#endif
