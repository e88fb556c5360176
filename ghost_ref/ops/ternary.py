"""From float parameters to what a packed file holds, with straight-through gradients (docs/semantics.md section 3).

Every op here gives integer-valued weights; the gradient such an output carries is that of the *effective* weight
(integer · scale), so that a straight-through estimator is the identity.
"""

from __future__ import annotations

import numpy as np

from ghost_ref.autodiff import op
from ghost_ref.constants import FLOAT16_LARGEST, SCALE_SMALLEST, THRESHOLD_RANGE
from ghost_ref.numerics import lane_sum

KERNEL_WIDTH = 0.25  # half-width of the threshold's surrogate, in units of mean |w|


def round_float16_forward(x, *, smallest=-FLOAT16_LARGEST):
    """y = float16(clip(x, smallest, 65504)), round to nearest even; straight-through.   any shape"""
    return np.clip(x, smallest, FLOAT16_LARGEST).astype(np.float16).astype(x.dtype), None


def round_float16_backward(dy, saved):
    return (dy,)


def int8_rows_forward(weight, *, forced=None):
    """s = float16(max|w| / 127) per row, q = clip(rint(w / s), -127, 127).   (n, k) -> q (n, k), s (n,)

    forced: (q, s) to use instead (teacher forcing, conformance)."""
    if forced is not None:
        return forced, None
    largest = weight.dtype.type(127)
    scale = (np.abs(weight).max(1) / largest).astype(np.float16).astype(weight.dtype)
    safe = np.where(scale == 0, weight.dtype.type(1), scale)
    q = np.where(scale[:, None] == 0, 0, np.clip(np.rint(weight / safe[:, None]), -largest, largest))
    return (q.astype(weight.dtype), scale), None


def int8_rows_backward(dq, saved):
    return (dq,)


def dequantise_rows_forward(q, scale):
    """w = float(q) · scale, row by row.   q (n, k), scale (n,) -> (n, k)"""
    return q * scale[:, None], None


def dequantise_rows_backward(dw, saved):
    return dw, None


def _threshold(weight, threshold):
    """Mean |w| per row (Σ₁₆ / k) and Δ = t · mean, each (n,).

    Δ stays below the row's largest |w|, so that a row never collapses to all zero."""
    magnitude = np.abs(weight)
    mean = lane_sum(magnitude) / weight.dtype.type(weight.shape[1])
    t = np.clip(threshold, *THRESHOLD_RANGE).astype(np.float16).astype(weight.dtype)
    return mean, np.minimum(t * mean, np.nextafter(magnitude.max(1), weight.dtype.type(0)))


def _trits(weight, delta):
    return (weight > delta[:, None]).astype(weight.dtype) - (weight < -delta[:, None]).astype(weight.dtype)


def _threshold_gradient(dweight, magnitude, weight, mean, delta):
    """dt = -Σ_k dŵ · magnitude·sign(w) · tri((|w| - Δ)/h)/h · mean with h = mean/4, tri(v) = max(0, 1 - |v|)."""
    h = np.where(mean == 0, 1, weight.dtype.type(KERNEL_WIDTH) * mean)[:, None]
    kernel = 1 - np.abs((np.abs(weight) - delta[:, None]) / h)
    np.maximum(kernel, 0, out=kernel)
    kernel *= dweight
    kernel *= np.sign(weight)
    kernel *= magnitude
    return -(kernel.sum(1) / h[:, 0]) * mean


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
    if dweight is None:
        return None, None, dscale
    return dweight, _threshold_gradient(dweight, s[:, None], weight, mean, delta), dscale


def group_sums(x, group):
    """Sums over consecutive groups of the last axis; the last group may be shorter.   (n, k) -> (n, ceil(k/group))"""
    return np.add.reduceat(x, np.arange(0, x.shape[1], group), axis=1)


def codebook_ternarise_forward(weight, threshold, codebook, *, group, forced=None):
    """Trits and codebook indices of a codebook linear.

    Trits as in ternarise; per (row, group) a = mean of the kept |w| and index = nearest codebook entry to a, ties
    to the lowest index, 0 where nothing is kept.
    weight (n, k), threshold (n,), codebook (256,) -> trits (n, k), index (n, ceil(k/group)) uint8.
    forced: (trits, index) to use instead (teacher forcing, conformance)."""
    mean, delta = _threshold(weight, threshold)
    if forced is not None:
        return forced, (weight, codebook[forced[1]], mean, delta, group)
    trits = _trits(weight, delta)
    kept = group_sums(np.abs(trits), group)
    magnitude = group_sums(weight * trits, group) / np.maximum(kept, 1)
    index = np.where(kept == 0, 0, nearest_entry(magnitude, codebook)).astype(np.uint8)
    return (trits, index), (weight, codebook[index], mean, delta, group)


def nearest_entry(values, codebook):
    """Index of the entry nearest to each value by |entry - value|, ties to the lowest index.   (...) -> (...) int"""
    order = np.argsort(codebook, kind="stable")  # equal entries keep the lowest index first
    entries = codebook[order]
    above = np.clip(np.searchsorted(entries, values), 1, len(entries) - 1)
    # searchsorted gives the first entry >= value; its neighbour below may be a run of equal entries: take the first
    below = np.searchsorted(entries, entries[above - 1])
    distance_below, distance_above = np.abs(entries[below] - values), np.abs(entries[above] - values)
    first, second = order[below], order[above]
    take_below = (distance_below < distance_above) | ((distance_below == distance_above) & (first < second))
    return np.where(take_below, first, second)


def codebook_ternarise_backward(dweight, saved):
    weight, magnitude, mean, delta, group = saved
    spread = np.repeat(magnitude, group, axis=1)[:, : weight.shape[1]]
    return dweight, _threshold_gradient(dweight, spread, weight, mean, delta), None


round_float16 = op(round_float16_forward, round_float16_backward)
int8_rows = op(int8_rows_forward, int8_rows_backward)
dequantise_rows = op(dequantise_rows_forward, dequantise_rows_backward)
ternarise = op(ternarise_forward, ternarise_backward, outputs=2)
codebook_ternarise = op(codebook_ternarise_forward, codebook_ternarise_backward)
