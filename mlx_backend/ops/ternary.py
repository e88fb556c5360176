"""From float parameters to what a packed file holds, with straight-through gradients (docs/semantics.md section 3).

Every op here gives integer-valued weights; the gradient such an output carries is that of the *effective* weight
(integer · scale), so that a straight-through estimator is the identity. On MLX's CPU backend trits, int8 codes and
float16 scales are the reference's.
"""

from __future__ import annotations

import mlx.core as mx

from ghost_ref.constants import FLOAT16_LARGEST, SCALE_SMALLEST, THRESHOLD_RANGE
from mlx_backend.autodiff import op
from mlx_backend.numerics import float32_below, lane_sum

KERNEL_WIDTH = 0.25  # half-width of the threshold's surrogate, in units of mean |w|
INT8_LARGEST = 127


def _through_float16(x):
    return x.astype(mx.float16).astype(mx.float32)


def round_float16_forward(x, *, smallest=-FLOAT16_LARGEST):
    """y = float16(clip(x, smallest, 65504)), round to nearest even; straight-through.   any shape"""
    return _through_float16(mx.clip(x, smallest, FLOAT16_LARGEST)), None


def round_float16_backward(dy, saved):
    return (dy,)


def int8_rows_forward(weight, *, forced=None):
    """s = float16(max|w| / 127) per row, q = clip(rint(w / s), -127, 127).   (n, k) -> q (n, k), s (n,)

    forced: (q, s) to use instead (teacher forcing, conformance)."""
    if forced is not None:
        return tuple(forced), None
    scale = _through_float16(mx.abs(weight).max(1) / INT8_LARGEST)
    row = scale[:, None]
    q = mx.clip(mx.round(weight / mx.where(row == 0, 1.0, row)), -INT8_LARGEST, INT8_LARGEST)
    return (mx.where(row == 0, 0.0, q), scale), None


def int8_rows_backward(douts, saved):
    return (douts[0],)


def dequantise_rows_forward(q, scale):
    """w = float(q) · scale, row by row.   q (n, k), scale (n,) -> (n, k)"""
    return q * scale[:, None], None


def dequantise_rows_backward(dw, saved):
    return dw, None


def _threshold(weight, threshold):
    """Mean |w| per row (Σ₁₆ / k) and Δ = t · mean, each (n,).

    Δ stays below the row's largest |w|, so that a row never collapses to all zero."""
    magnitude = mx.abs(weight)
    mean = lane_sum(magnitude) / weight.shape[1]
    t = _through_float16(mx.clip(threshold, *THRESHOLD_RANGE))
    return mean, mx.minimum(t * mean, float32_below(magnitude.max(1)))


def _trits(weight, delta):
    return (weight > delta[:, None]).astype(mx.float32) - (weight < -delta[:, None]).astype(mx.float32)


def _threshold_gradient(dweight, magnitude, weight, mean, delta):
    """dt = -Σ_k dŵ · magnitude·sign(w) · tri((|w| - Δ)/h)/h · mean with h = mean/4, tri(v) = max(0, 1 - |v|)."""
    h = mx.where(mean == 0, 1.0, KERNEL_WIDTH * mean)[:, None]
    kernel = mx.maximum(1 - mx.abs((mx.abs(weight) - delta[:, None]) / h), 0.0)
    return -(lane_sum(kernel * dweight * mx.sign(weight) * magnitude) / h[:, 0]) * mean


def ternarise_forward(weight, threshold, scale, *, forced=None):
    """Trits and float16 scale of a TernaryLinear: q = sign(w)·[|w| > t·mean|w|], s = float16(scale).

    weight (n, k), threshold (n,), scale (n,) -> trits (n, k) in {-1, 0, 1}, scale (n,).
    forced: trits to use instead (teacher forcing, conformance).
    Learned thresholds and scales after TWN and TTQ (arXiv:1605.04711, arXiv:1612.01064)."""
    mean, delta = _threshold(weight, threshold)
    s, _ = round_float16_forward(scale, smallest=SCALE_SMALLEST)
    trits = _trits(weight, delta) if forced is None else forced
    return (trits, s), (weight, s, mean, delta)


def ternarise_backward(douts, saved):
    dweight, dscale = douts
    weight, s, mean, delta = saved
    return dweight, _threshold_gradient(dweight, s[:, None], weight, mean, delta), dscale


def group_sums(x, group):
    """Sums over consecutive groups of the last axis; the last group may be shorter.   (n, k) -> (n, ceil(k/group))"""
    n, k = x.shape
    x = mx.pad(x, [(0, 0), (0, -k % group)])
    return lane_sum(x.reshape(n, -1, group))


def codebook_ternarise_forward(weight, threshold, codebook, *, group, forced=None):
    """Trits and codebook indices of a codebook linear.

    Trits as in ternarise; per (row, group) a = mean of the kept |w| and index = nearest codebook entry to a, ties
    to the lowest index, 0 where nothing is kept.
    weight (n, k), threshold (n,), codebook (256,) -> trits (n, k), index (n, ceil(k/group)) uint8.
    forced: (trits, index) to use instead (teacher forcing, conformance)."""
    mean, delta = _threshold(weight, threshold)
    if forced is None:
        trits = _trits(weight, delta)
        kept = group_sums(mx.abs(trits), group)
        magnitude = group_sums(weight * trits, group) / mx.maximum(kept, 1.0)
        index = mx.where(kept == 0, 0, nearest_entry(magnitude, codebook)).astype(mx.uint8)
    else:
        trits, index = forced
    return (trits, index), (weight, codebook[index], mean, delta, group)


def nearest_entry(values, codebook):
    """Index of the entry nearest to each value by |entry - value|, ties to the lowest index.   (...) -> (...) int"""
    order = mx.argsort(codebook)  # stable: equal entries keep the lowest index first
    entries = codebook[order]

    def entries_before(x):
        return (entries < x[..., None]).sum(-1)

    above = mx.clip(entries_before(values), 1, len(entries) - 1)
    # the neighbour below may be one of a run of equal entries: take the first
    below = entries_before(entries[above - 1])
    distance_below, distance_above = mx.abs(entries[below] - values), mx.abs(entries[above] - values)
    first, second = order[below], order[above]
    take_below = (distance_below < distance_above) | ((distance_below == distance_above) & (first < second))
    return mx.where(take_below, first, second)


def codebook_ternarise_backward(douts, saved):
    weight, magnitude, mean, delta, group = saved
    spread = mx.repeat(magnitude, group, axis=1)[:, : weight.shape[1]]
    return douts[0], _threshold_gradient(douts[0], spread, weight, mean, delta), None


round_float16 = op(round_float16_forward, round_float16_backward)
int8_rows = op(int8_rows_forward, int8_rows_backward)
dequantise_rows = op(dequantise_rows_forward, dequantise_rows_backward)
ternarise = op(ternarise_forward, ternarise_backward)
codebook_ternarise = op(codebook_ternarise_forward, codebook_ternarise_backward)
