/* The trainer's kernels: what they are given, and the table of one instruction set's copies. `kernels-inl.h` holds the
   one source of them all; kernels_LEVEL.c compile it with the flags of levels.txt. Letters: B batch, L length, E channels,
   N states, K taps, M tokens, n rows and k columns of a matrix. */
#ifndef GHOST_TRAINING_KERNELS_H
#define GHOST_TRAINING_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum {
    CONV_BLOCK = 64,           /* channels of a unit of the convolution */
    LANES = 16, SEGMENT = 32,  /* channels and kept steps of the scan */
    BLOCK_ROWS = 16, PACK = 4, /* rows and columns of a block of codes */
    PANEL = 64, DEPTH = 256,   /* columns of a panel of float products, and how many steps of a sum run in one go */
};

struct conv_args {
    ptrdiff_t steps, channels, taps;          /* L, E, K */
    const float *x, *weight, *bias, *past;    /* (B, L, E), transposed (K, E), (E), (B, K-1, E) */
    const ptrdiff_t* length;                  /* (B): kept tokens per row */
    float *y, *present;                       /* (B, L, E) zeroed, (B, K-1, E) */
    const float* dy;                          /* (B, L, E) */
    float *dx, *dweight, *dbias;              /* (B, L, E), (B, K, E), (B, E): zeroed, the last two per row */
};

struct scan_args {
    ptrdiff_t steps, channels, n, blocks, segments, groups; /* L, E, N, ceil(E/LANES), ceil(L/SEGMENT) */
    const float *x, *dt, *A, *Bm, *Cm, *D;                  /* (B, L, E) twice, (E, N), (B, L, N) twice, (E) */
    const float* past;                                      /* (B, E, N) */
    const ptrdiff_t* length;                                /* (B): kept tokens per row */
    float *y, *present;                                     /* (B, L, E) zeroed, (B, E, N) */
    float* starts;                                          /* (B, segments, blocks, N, LANES) */
    const float* dy;                                        /* (B, L, E) */
    float *dx, *ddt, *dA, *dB, *dC, *dD; /* like x, dt; per row (B, E, N); per group (B, groups, L, N) twice; (B, E) */
};

struct rows_args {
    ptrdiff_t columns, padded, stride, group, groups; /* k, k padded to PACK, floats from row to row, columns a group */
    const float* x;                                   /* (M, stride) */
    int8_t* q;                                        /* (M, padded) */
    float* scale;                                     /* (M) */
    int32_t* sums;                                    /* (M, groups): of q */
};

struct pack_args {
    ptrdiff_t rows, columns, groups, group;
    const int8_t* weight;   /* (n, k) */
    const float* magnitude; /* (groups, n padded to BLOCK_ROWS) */
    float* effective;       /* (n, k), or panels (k/PANEL, n, PANEL) */
    uint8_t* codes;         /* (n/16, k/4, 16, 4) */
    int offset, panels;     /* panels: whether `effective` lies in panels */
};

/* dx = dy W over panels of W. */
struct input_gradient_args {
    ptrdiff_t tokens, rows, columns; /* M, n, k */
    const float *dy, *panels;        /* (M, n); (k/PANEL, n, PANEL) */
    float* dx;                       /* (M, k) */
};

/* dW = dy^T (q scale). */
struct weight_gradient_args {
    ptrdiff_t tokens, rows, columns, padded; /* M, n, k, k padded to PACK */
    const float* dy;                         /* (M, n) */
    const int8_t* q;                         /* (M, padded) */
    const float* scale;                      /* (M) */
    float* scratch;                          /* weight_gradient_scratch(n, k) floats */
    float* dweight;                          /* (n, k) */
};

struct product_args {
    ptrdiff_t tokens, rows, packs, group_packs, groups; /* M, n, k/4, packs a group, groups */
    const uint8_t* codes;
    const int8_t* q;        /* (M, 4 packs) */
    const int32_t* sums;    /* (M, groups) */
    const float* magnitude; /* (groups, n padded) */
    const float* scale;     /* (M) */
    float* y;               /* (M, n) */
    int32_t offset;
};

struct ternary_args {
    ptrdiff_t rows, columns, group, groups, padded_rows;
    const float *weight, *threshold; /* (n, k); (n): t clipped and rounded to float16 */
    int8_t* trits;                   /* (n, k) */
    float *mean, *delta;             /* (n) */
    float* kept;                     /* (n, groups): mean of the kept |w|, 0 where none is; NULL: not asked for */
    const float* magnitude;          /* (groups, padded_rows) */
    const float* dweight;            /* (n, k): of the effective weight */
    float *dthreshold, *dmagnitude;  /* (n), (n, groups) */
};

struct adamw_factors {
    float lr, beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon, decay, c1, c2; /* decay = 1 - lr weight_decay */
    float clip;
};

/* Columns of whole panels. */
static inline ptrdiff_t panel_columns(ptrdiff_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

/* Floats that weight_gradient needs: the panels and the transposed gradient of DEPTH tokens. */
static inline ptrdiff_t weight_gradient_scratch(ptrdiff_t rows, ptrdiff_t columns) {
    return DEPTH * (panel_columns(columns) + rows);
}

struct training_kernels {
    const char* level;
    void (*conv_forward_unit)(const struct conv_args*, ptrdiff_t index);
    void (*conv_backward_unit)(const struct conv_args*, ptrdiff_t index);
    int (*scan_forward_unit)(const struct scan_args*, ptrdiff_t index); /* nonzero: out of memory */
    int (*scan_backward_unit)(const struct scan_args*, ptrdiff_t index);
    void (*silu_forward)(const float* x, float* y, ptrdiff_t count);
    void (*silu_backward)(const float* dy, const float* x, float* dx, ptrdiff_t count);
    void (*softplus_forward)(const float* x, float* y, ptrdiff_t count);
    void (*softplus_backward)(const float* dy, const float* x, float* dx, ptrdiff_t count);
    void (*adamw)(float* p, const float* g, float* m, float* v, const struct adamw_factors*, ptrdiff_t count);
    void (*rms_norm_forward)(const float* x, const float* gain, float* y, float* rms, ptrdiff_t rows, ptrdiff_t d);
    void (*rms_norm_backward)(const float* dy, const float* x, const float* rms, const float* gain, float* dx,
                              float* dgain, ptrdiff_t rows, ptrdiff_t d);
    void (*ternarise_rows)(const struct ternary_args*);
    void (*ternarise_backward_rows)(const struct ternary_args*);
    void (*nearest_entries)(const float* values, ptrdiff_t count, const float* entries, const uint8_t* order,
                            ptrdiff_t size, uint8_t* index);
    void (*quantise_rows)(const struct rows_args*, ptrdiff_t begin, ptrdiff_t end);
    void (*dequantise_rows)(const int8_t* q, const float* scale, float* x, ptrdiff_t columns, ptrdiff_t padded,
                            ptrdiff_t rows);
    void (*pack_rows)(const struct pack_args*);
    void (*product)(const struct product_args*); /* NULL: this level leaves it to BLAS, like the next two together */
    void (*input_gradient)(const struct input_gradient_args*);
    void (*weight_gradient)(const struct weight_gradient_args*);
};

/* The levels of this architecture, the best one last; NULL beyond. */
const char* training_level(int index);

/* The kernels of a level; NULL if it is unknown or this CPU or system cannot run it. */
const struct training_kernels* training_kernels(const char* level);

#endif
