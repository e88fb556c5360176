/* Selective scan, forward and backward. Sixteen channels go through time together, one per vector lane; a state is
   (N, LANES). The forward keeps the state before every SEGMENT steps, from which the backward recomputes the rest
   of a segment in cache. */
#ifndef GHOST_TRAINING_SCAN_H
#define GHOST_TRAINING_SCAN_H

#include "lanes.h"

GHOST_INLINE ptrdiff_t scan_smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* (width, N) rows of a parameter or state -> (N, LANES), and back. */
GHOST_INLINE void scan_load_state(float* restrict lanes, const float* restrict source, ptrdiff_t width, ptrdiff_t n) {
    memset(lanes, 0, (size_t)(n * LANES) * sizeof(float));
    for (ptrdiff_t j = 0; j < width; j++)
        for (ptrdiff_t i = 0; i < n; i++) lanes[i * LANES + j] = source[j * n + i];
}

GHOST_INLINE void scan_store_state(float* restrict target, const float* restrict lanes, ptrdiff_t width, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < width; j++)
        for (ptrdiff_t i = 0; i < n; i++) target[j * n + i] = lanes[i * LANES + j];
}

/* `count` zeros in whole lines of the cache, of which no vector lies across two; free(*memory). NULL: out of memory. */
GHOST_INLINE float* aligned_zeros(void** memory, ptrdiff_t count) {
    const uintptr_t line = sizeof(lanes);
    *memory = calloc((size_t)count * sizeof(float) + line, 1);
    return *memory == NULL ? NULL : (float*)(((uintptr_t)*memory + line - 1) / line * line);
}

/* One unit is one block of channels of one batch row. Returns nonzero when out of memory. */
static int scan_forward_unit(const struct scan_args* a, ptrdiff_t index) {
    const ptrdiff_t row = index / a->blocks, block = index % a->blocks, first = block * LANES, n = a->n;
    const ptrdiff_t width = scan_smaller(LANES, a->channels - first), kept = a->length[row];
    const size_t state_bytes = (size_t)(n * LANES) * sizeof(float);
    void* memory;
    float* restrict h = aligned_zeros(&memory, 2 * n * LANES);
    if (h == NULL) return 1;
    float* restrict A = h + n * LANES;
    const lanes D = lanes_load_some(a->D + first, width);
    scan_load_state(A, a->A + first * n, width, n);
    scan_load_state(h, a->past + (row * a->channels + first) * n, width, n);
    for (ptrdiff_t t = 0; t < kept; t++) {
        const ptrdiff_t token = row * a->steps + t;
        const float *Bm = a->Bm + token * n, *Cm = a->Cm + token * n;
        if (t % SEGMENT == 0)
            memcpy(a->starts + ((row * a->segments + t / SEGMENT) * a->blocks + block) * n * LANES, h, state_bytes);
        const lanes x = lanes_load_some(a->x + token * a->channels + first, width);
        const lanes dt = lanes_load_some(a->dt + token * a->channels + first, width), u = dt * x;
        lanes y = lanes_of(0.0f);
        for (ptrdiff_t i = 0; i < n; i++) {
            const lanes decay = lanes_exp(dt * lanes_load(A + i * LANES));
            const lanes state = lanes_multiply_add(decay, lanes_load(h + i * LANES), u * lanes_of(Bm[i]));
            lanes_store(h + i * LANES, state);
            y = lanes_multiply_add(lanes_of(Cm[i]), state, y);
        }
        lanes_store_some(a->y + token * a->channels + first, y + D * x, width);
    }
    scan_store_state(a->present + (row * a->channels + first) * n, h, width, n);
    free(memory);
    return 0;
}

/* Buffers of a backward unit. */
struct scan_work {
    float *decay, *states;   /* (SEGMENT, N, LANES); (SEGMENT + 1, N, LANES): before every step and after the last */
    float *dB, *dC;          /* (SEGMENT, N, LANES): summed over blocks, not yet over lanes */
    float *A;                /* (N, LANES) */
    float *carry, *dA, *dD;  /* per block: (N, LANES) a_{t+1} g_{t+1}; (N, LANES); (LANES) */
};

/* States and decays of steps [begin, begin + count) of one block. */
GHOST_INLINE void scan_recompute(const struct scan_args* a, const struct scan_work* w, ptrdiff_t row, ptrdiff_t first,
                                 ptrdiff_t width, ptrdiff_t begin, ptrdiff_t count) {
    const ptrdiff_t n = a->n;
    for (ptrdiff_t s = 0; s < count; s++) {
        const ptrdiff_t token = row * a->steps + begin + s;
        const lanes x = lanes_load_some(a->x + token * a->channels + first, width);
        const lanes dt = lanes_load_some(a->dt + token * a->channels + first, width), u = dt * x;
        for (ptrdiff_t i = 0; i < n; i++) {
            const ptrdiff_t at = (s * n + i) * LANES;
            const lanes decay = lanes_exp(dt * lanes_load(w->A + i * LANES));
            const lanes b = lanes_of(a->Bm[token * n + i]);
            lanes_store(w->decay + at, decay);
            lanes_store(w->states + at + n * LANES, lanes_multiply_add(decay, lanes_load(w->states + at), u * b));
        }
    }
}

/* The reverse scan over the same steps: g_t = dy_t C_t + carry, carry = a_t g_t, q_t = carry h_{t-1}. */
GHOST_INLINE void scan_reverse(const struct scan_args* a, const struct scan_work* w, ptrdiff_t row, ptrdiff_t block,
                               ptrdiff_t width, ptrdiff_t begin, ptrdiff_t count, float* carry, float* dA, float* dD) {
    const ptrdiff_t n = a->n, first = block * LANES;
    for (ptrdiff_t s = count - 1; s >= 0; s--) {
        const ptrdiff_t token = row * a->steps + begin + s;
        const lanes x = lanes_load_some(a->x + token * a->channels + first, width);
        const lanes dt = lanes_load_some(a->dt + token * a->channels + first, width), u = dt * x;
        const lanes dy = lanes_load_some(a->dy + token * a->channels + first, width);
        lanes du = lanes_of(0.0f), ddt = du;
        lanes_store(dD, lanes_load(dD) + dy * x);
        for (ptrdiff_t i = 0; i < n; i++) {
            const ptrdiff_t at = (s * n + i) * LANES;
            const lanes before = lanes_load(w->states + at), after = lanes_load(w->states + at + n * LANES);
            const lanes b = lanes_of(a->Bm[token * n + i]), c = lanes_of(a->Cm[token * n + i]);
            float *restrict next = carry + i * LANES, *restrict dAi = dA + i * LANES;
            const lanes g = lanes_multiply_add(dy, c, lanes_load(next));
            lanes_store(w->dC + at, lanes_multiply_add(dy, after, lanes_load(w->dC + at)));
            lanes_store(w->dB + at, lanes_multiply_add(g, u, lanes_load(w->dB + at)));
            du = lanes_multiply_add(g, b, du);
            const lanes passed = lanes_load(w->decay + at) * g, q = passed * before;
            lanes_store(next, passed);
            ddt = lanes_multiply_add(q, lanes_load(w->A + i * LANES), ddt);
            lanes_store(dAi, lanes_multiply_add(q, dt, lanes_load(dAi)));
        }
        const ptrdiff_t at = token * a->channels + first;
        lanes_store_some(a->dx + at, lanes_multiply_add(du, dt, dy * lanes_load_some(a->D + first, width)), width);
        lanes_store_some(a->ddt + at, lanes_multiply_add(du, x, ddt), width);
    }
}

/* Sum the lanes of (count, LANES) pairwise. */
GHOST_INLINE void scan_sum_lanes(float* restrict target, const float* restrict lanes, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) {
        float v[LANES / 2];
        for (int j = 0; j < 8; j++) v[j] = lanes[i * LANES + j] + lanes[i * LANES + j + 8];
        for (int j = 0; j < 4; j++) v[j] += v[j + 4];
        target[i] = (v[0] + v[2]) + (v[1] + v[3]);
    }
}

/* One unit is one group of blocks of one batch row. Returns nonzero when out of memory. */
static int scan_backward_unit(const struct scan_args* a, ptrdiff_t index) {
    const ptrdiff_t row = index / a->groups, group = index % a->groups, n = a->n, state = n * LANES;
    const ptrdiff_t begin_block = group * a->blocks / a->groups, end_block = (group + 1) * a->blocks / a->groups;
    const ptrdiff_t members = end_block - begin_block, kept = a->length[row];
    const ptrdiff_t total = (4 * SEGMENT + 2 + 2 * members) * state + members * LANES;
    void* memory;
    struct scan_work w;
    w.decay = aligned_zeros(&memory, total);
    if (w.decay == NULL) return 1;
    w.states = w.decay + SEGMENT * state;
    w.dB = w.states + (SEGMENT + 1) * state;
    w.dC = w.dB + SEGMENT * state;
    w.A = w.dC + SEGMENT * state;
    w.carry = w.A + state;
    w.dA = w.carry + members * state;
    w.dD = w.dA + members * state;
    for (ptrdiff_t segment = (kept + SEGMENT - 1) / SEGMENT - 1; segment >= 0; segment--) {
        const ptrdiff_t begin = segment * SEGMENT, count = scan_smaller(SEGMENT, kept - begin);
        memset(w.dB, 0, (size_t)(2 * SEGMENT * state) * sizeof(float));
        for (ptrdiff_t block = begin_block; block < end_block; block++) {
            const ptrdiff_t first = block * LANES, width = scan_smaller(LANES, a->channels - first);
            const ptrdiff_t member = block - begin_block;
            scan_load_state(w.A, a->A + first * n, width, n);
            memcpy(w.states, a->starts + ((row * a->segments + segment) * a->blocks + block) * state,
                   (size_t)state * sizeof(float));
            scan_recompute(a, &w, row, first, width, begin, count);
            scan_reverse(a, &w, row, block, width, begin, count, w.carry + member * state, w.dA + member * state,
                         w.dD + member * LANES);
        }
        const ptrdiff_t target = ((row * a->groups + group) * a->steps + begin) * n;
        scan_sum_lanes(a->dB + target, w.dB, count * n);
        scan_sum_lanes(a->dC + target, w.dC, count * n);
    }
    for (ptrdiff_t member = 0; member < members; member++) {
        const ptrdiff_t first = (begin_block + member) * LANES, width = scan_smaller(LANES, a->channels - first);
        const ptrdiff_t channel = row * a->channels + first;
        scan_store_state(a->dA + channel * n, w.dA + member * state, width, n);
        memcpy(a->dD + channel, w.dD + member * LANES, (size_t)width * sizeof(float));
    }
    free(memory);
    return 0;
}

#endif
