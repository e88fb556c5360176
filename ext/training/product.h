/* The exact product of int8 activation codes with byte codes of weights (linear.h), for AVX-512 VNNI. */
#ifndef GHOST_TRAINING_PRODUCT_H
#define GHOST_TRAINING_PRODUCT_H

#include <immintrin.h>

#include "linear.h"

enum { TILE_BLOCKS = 3, TILE_TOKENS = 8 };

GHOST_INLINE __m512i product_codes(const int8_t* q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

/* float(sum - offset Σq) magnitude */
GHOST_INLINE __m512 product_part(const struct product_args* a, __m512i sum, ptrdiff_t token, ptrdiff_t g,
                                            __m512 magnitude) {
    const __m512i shift = _mm512_set1_epi32(a->offset * a->sums[token * a->groups + g]);
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, shift)), magnitude);
}

GHOST_INLINE void product_store(const struct product_args* a, ptrdiff_t block, ptrdiff_t token, __m512 y) {
    const ptrdiff_t row = block * BLOCK_ROWS, left = a->rows - row;
    const __mmask16 mask = left >= BLOCK_ROWS ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1u);
    _mm512_mask_storeu_ps(a->y + token * a->rows + row, mask, _mm512_mul_ps(y, _mm512_set1_ps(a->scale[token])));
}

/* Integer sums of 3 blocks of rows and 8 tokens over `count` packs, into sums (3, 8). The 24 are named, and alone in their
   function, because compilers keep arrays of them, and those used later, in memory. */
#define EACH_TOKEN(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define START(t) __m512i a##t = _mm512_setzero_si512(), b##t = a##t, c##t = a##t;
#define STEP(t)                                    \
    x = product_codes(q + t * stride + p * PACK);  \
    a##t = _mm512_dpbusd_epi32(a##t, w0, x);       \
    b##t = _mm512_dpbusd_epi32(b##t, w1, x);       \
    c##t = _mm512_dpbusd_epi32(c##t, w2, x);
#define STORE(t)                                             \
    _mm512_store_si512(sums + t, a##t);                      \
    _mm512_store_si512(sums + TILE_TOKENS + t, b##t);        \
    _mm512_store_si512(sums + 2 * TILE_TOKENS + t, c##t);

static __attribute__((noinline)) void product_sums(const uint8_t* codes, ptrdiff_t block_bytes, const int8_t* q,
                                                              ptrdiff_t stride, ptrdiff_t count, __m512i* sums) {
    const uint8_t *second = codes + block_bytes, *third = second + block_bytes;
    EACH_TOKEN(START)
    for (ptrdiff_t p = 0; p < count; p++) {
        const __m512i w0 = _mm512_loadu_si512(codes + p * BLOCK_ROWS * PACK);
        const __m512i w1 = _mm512_loadu_si512(second + p * BLOCK_ROWS * PACK);
        const __m512i w2 = _mm512_loadu_si512(third + p * BLOCK_ROWS * PACK);
        __m512i x;
        EACH_TOKEN(STEP)
    }
    EACH_TOKEN(STORE)
}
#undef EACH_TOKEN
#undef START
#undef STEP
#undef STORE

/* The y of 3 blocks of rows and 8 tokens. */
static void product_tile(const struct product_args* a, ptrdiff_t block, ptrdiff_t token) {
    const ptrdiff_t stride = a->packs * PACK, block_bytes = stride * BLOCK_ROWS;
    const ptrdiff_t padded_rows = pad_to(a->rows, BLOCK_ROWS);
    __m512i sums[TILE_BLOCKS * TILE_TOKENS];
    __m512 y[TILE_BLOCKS * TILE_TOKENS];
    for (ptrdiff_t g = 0; g < a->groups; g++) {
        const ptrdiff_t first = g * a->group_packs, left = a->packs - first;
        product_sums(a->codes + block * block_bytes + first * BLOCK_ROWS * PACK, block_bytes,
                     a->q + token * stride + first * PACK, stride, left < a->group_packs ? left : a->group_packs, sums);
        for (int b = 0; b < TILE_BLOCKS; b++) {
            const __m512 magnitude = _mm512_loadu_ps(a->magnitude + g * padded_rows + (block + b) * BLOCK_ROWS);
            for (int t = 0; t < TILE_TOKENS; t++) {
                const int at = b * TILE_TOKENS + t;
                const __m512 part = product_part(a, sums[at], token + t, g, magnitude);
                y[at] = g ? _mm512_add_ps(y[at], part) : part;
            }
        }
    }
    for (int b = 0; b < TILE_BLOCKS; b++)
        for (int t = 0; t < TILE_TOKENS; t++) product_store(a, block + b, token + t, y[b * TILE_TOKENS + t]);
}

/* The y of one block of rows and one token, where there are fewer than a tile of them. */
static void product_single(const struct product_args* args, ptrdiff_t block, ptrdiff_t token) {
    const ptrdiff_t packs = args->packs, padded_rows = pad_to(args->rows, BLOCK_ROWS);
    const uint8_t* codes = args->codes + block * packs * BLOCK_ROWS * PACK;
    const int8_t* q = args->q + token * packs * PACK;
    __m512 y = _mm512_setzero_ps();
    for (ptrdiff_t g = 0; g < args->groups; g++) {
        const ptrdiff_t first = g * args->group_packs, end = first + args->group_packs, last = end < packs ? end : packs;
        __m512i sum = _mm512_setzero_si512();
        for (ptrdiff_t p = first; p < last; p++)
            sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(codes + p * BLOCK_ROWS * PACK), product_codes(q + p * PACK));
        const __m512 magnitude = _mm512_loadu_ps(args->magnitude + g * padded_rows + block * BLOCK_ROWS);
        const __m512 part = product_part(args, sum, token, g, magnitude);
        y = g ? _mm512_add_ps(y, part) : part;
    }
    product_store(args, block, token, y);
}

/* y of every row and token. The weights of a tile stay in L1 while the tokens pass; the last tile of a side goes back
   over rows or tokens that are done, and writes what is there. */
static void product(const struct product_args* a) {
    const ptrdiff_t blocks = pad_to(a->rows, BLOCK_ROWS) / BLOCK_ROWS;
    if (blocks < TILE_BLOCKS || a->tokens < TILE_TOKENS) {
        for (ptrdiff_t block = 0; block < blocks; block++)
            for (ptrdiff_t t = 0; t < a->tokens; t++) product_single(a, block, t);
        return;
    }
    for (ptrdiff_t next = 0; next < blocks; next += TILE_BLOCKS) {
        const ptrdiff_t block = next + TILE_BLOCKS <= blocks ? next : blocks - TILE_BLOCKS;
        for (ptrdiff_t t = 0; t < a->tokens; t += TILE_TOKENS)
            product_tile(a, block, t + TILE_TOKENS <= a->tokens ? t : a->tokens - TILE_TOKENS);
    }
}

#endif
