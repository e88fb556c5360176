/* Trits of weights and the gradients of their thresholds and magnitudes (ghost_ref.ops.ternary). */
#ifndef GHOST_TRAINING_TERNARY_H
#define GHOST_TRAINING_TERNARY_H

#include "lanes.h"

enum { SUM_LANES = 16 };

/* The lanes as a tree: i with i + 8, 4, 2, 1. */
GHOST_INLINE float sum_lanes(float* lanes) {
    for (int step = SUM_LANES / 2; step; step /= 2)
        for (int j = 0; j < step; j++) lanes[j] += lanes[j + step];
    return lanes[0];
}

/* mean = (canonical lane sum of |w|) / k, delta = min(t mean, the float below max |w|), trits by the sign beyond delta:
   the bits of the reference. */
static void ternarise_rows(const struct ternary_args* a) {
    const ptrdiff_t k = a->columns, whole = k - k % SUM_LANES;
    for (ptrdiff_t row = 0; row < a->rows; row++) {
        const float* restrict w = a->weight + row * k;
        int8_t* restrict trits = a->trits + row * k;
        lanes sum = lanes_of(0.0f), most = sum;
        for (ptrdiff_t i = 0; i < whole; i += SUM_LANES) {
            const lanes size = lanes_abs(lanes_load(w + i));
            sum += size;
            most = lanes_larger(size, most);
        }
        const lanes rest = lanes_abs(lanes_load_some(w + whole, k - whole));
        float total[SUM_LANES], largest[SUM_LANES];
        lanes_store(total, sum + rest);
        lanes_store(largest, lanes_larger(rest, most));
        float below = 0.0f;
        for (int j = 0; j < SUM_LANES; j++) below = largest[j] > below ? largest[j] : below;
        uint32_t bits;
        memcpy(&bits, &below, sizeof bits);
        bits -= bits != 0;
        memcpy(&below, &bits, sizeof below);
        const float mean = sum_lanes(total) / (float)k, asked = a->threshold[row] * mean;
        const float delta = asked > below ? below : asked;
        a->mean[row] = mean;
        a->delta[row] = delta;
        for (ptrdiff_t i = 0; i < k; i++) trits[i] = (int8_t)((w[i] > delta) - (w[i] < -delta));
        if (a->kept == NULL) continue;
        for (ptrdiff_t g = 0; g < a->groups; g++) {
            const ptrdiff_t first = g * a->group, end = first + a->group < k ? first + a->group : k;
            lanes sum_kept = lanes_of(0.0f);
            int32_t count = 0;
            ptrdiff_t i = first;
            for (; i + SUM_LANES <= end; i += SUM_LANES)
                sum_kept += lanes_where_larger(lanes_abs(lanes_load(w + i)), lanes_of(delta));
            float sums[SUM_LANES];
            lanes_store(sums, sum_kept + lanes_where_larger(lanes_abs(lanes_load_some(w + i, end - i)), lanes_of(delta)));
            for (i = first; i < end; i++) count += trits[i] != 0;
            a->kept[row * a->groups + g] = count ? sum_lanes(sums) / (float)count : 0.0f;
        }
    }
}

/* One element's share of the two sums below; its trit is that of the forward pass. */
GHOST_INLINE void ternarise_backward_one(float w, float dw, float delta, float h, float* slope, float* product) {
    const float near = 1.0f - fabsf((fabsf(w) - delta) / h), kernel = near < 0.0f ? 0.0f : near;
    const float slope_here = kernel * dw;
    *slope += w > 0.0f ? slope_here : w < 0.0f ? -slope_here : 0.0f;
    *product += w > delta ? dw : w < -delta ? -dw : 0.0f;
}

/* dthreshold = -sum_k dw magnitude sign(w) max(0, 1 - |(|w| - delta) / h|) / h mean with h = mean / 4,
   dmagnitude = sum over the group of dw trit. */
static void ternarise_backward_rows(const struct ternary_args* a) {
    const ptrdiff_t k = a->columns;
    for (ptrdiff_t row = 0; row < a->rows; row++) {
        const float *restrict w = a->weight + row * k, *restrict dw = a->dweight + row * k;
        const float mean = a->mean[row], delta = a->delta[row], h = mean == 0.0f ? 1.0f : 0.25f * mean;
        float total = 0.0f;
        for (ptrdiff_t g = 0; g < a->groups; g++) {
            const ptrdiff_t first = g * a->group, end = first + a->group < k ? first + a->group : k;
            float slopes[SUM_LANES] = {0}, products[SUM_LANES] = {0};
            ptrdiff_t i = first;
            for (; i + SUM_LANES <= end; i += SUM_LANES)
                for (int j = 0; j < SUM_LANES; j++)
                    ternarise_backward_one(w[i + j], dw[i + j], delta, h, &slopes[j], &products[j]);
            for (int j = 0; i + j < end; j++)
                ternarise_backward_one(w[i + j], dw[i + j], delta, h, &slopes[j], &products[j]);
            total += sum_lanes(slopes) * a->magnitude[g * a->padded_rows + row];
            a->dmagnitude[row * a->groups + g] = sum_lanes(products);
        }
        a->dthreshold[row] = -(total / h) * mean;
    }
}

/* Index of the entry nearest to each value, ties to the lowest. `entries` ascend, order[i] is the index of entries[i],
   and equal entries keep their lowest index first (as ghost_ref.ops.ternary.nearest_entry). */
static void nearest_entries(const float* values, ptrdiff_t count, const float* entries, const uint8_t* order,
                            ptrdiff_t size, uint8_t* index) {
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t low = 0, high = size; /* the first entry >= value */
        while (low < high) {
            const ptrdiff_t middle = (low + high) / 2;
            if (entries[middle] < values[i]) low = middle + 1;
            else high = middle;
        }
        const ptrdiff_t above = low < 1 ? 1 : low > size - 1 ? size - 1 : low;
        ptrdiff_t below = above - 1;
        while (below > 0 && entries[below - 1] == entries[below]) below--;
        const float to_below = fabsf(entries[below] - values[i]), to_above = fabsf(entries[above] - values[i]);
        const int take_below = to_below < to_above || (to_below == to_above && order[below] < order[above]);
        index[i] = order[take_below ? below : above];
    }
}

#endif
