"""Matmuls: float, quantised (ternary or int8 weights x int8 activations), dots and slot sums in canonical order."""

from __future__ import annotations

import numpy as np

from ghost_ref.autodiff import op
from ghost_ref.numerics import lane_sum, rint

EXACT_FLOAT32 = 1 << 24  # integers up to here are exact in float32, in any order of summation
ACTIVATION_LEVELS = 127


def quantise_activations(x):
    """Per row: s = max|x| / 127, q = clip(rint(x / s), -127, 127).

    x (..., k) -> q (..., k) integer-valued, s (..., 1). A zero s makes every q zero; a row that holds a non-finite
    value gets s = NaN and q = 0, so that everything computed from it is NaN."""
    magnitude = np.abs(x).max(-1, keepdims=True, initial=0)
    finite = np.isfinite(magnitude)  # max propagates NaN
    scale = np.where(finite, magnitude, x.dtype.type(0)) / x.dtype.type(ACTIVATION_LEVELS)
    with np.errstate(invalid="ignore", over="ignore"):
        q = rint(x / np.where(scale == 0, x.dtype.type(1), scale))
    q = np.clip(q, -ACTIVATION_LEVELS, ACTIVATION_LEVELS)
    usable = finite & (scale != 0)
    if not usable.all():
        q = np.where(usable, q, x.dtype.type(0))
        scale = np.where(finite, scale, x.dtype.type(np.nan))
    return q, scale


def integer_matmul(q, weight, largest_weight):
    """Exact Σ_k q·weight of integer-valued float arrays.   q (..., k), weight (n, k) -> (..., n)

    |q| <= 127. BLAS is exact while the sum stays below 2^24; a longer k is split and added as integers, rounding
    once at the end as the conversion of an int32 accumulator does."""
    k = weight.shape[1]
    step = EXACT_FLOAT32 // (ACTIVATION_LEVELS * largest_weight)
    if q.dtype != np.float32 or k <= step:
        return q @ weight.T
    total = np.zeros((*q.shape[:-1], weight.shape[0]), np.int64)
    for start in range(0, k, step):
        total += (q[..., start : start + step] @ weight[:, start : start + step].T).astype(np.int64)
    return total.astype(np.float32)


def quantise_forced(x, forced):
    """quantise_activations with the codes given: (forced, s), or its own codes where forced is None."""
    q, scale = quantise_activations(x)
    return (q if forced is None else forced), scale


def quantised_linear_forward(x, weight, scale, *, largest_weight=1, forced=None):
    """y = (float(Σ_k W_ok q_k) · scale_o) · s_x with (q, s_x) = quantise_activations(x).

    x (..., k), weight (n, k) integer-valued (trits, or int8 with largest_weight=127), scale (n,) -> (..., n).
    forced: codes (..., k) to use for q (teacher forcing, conformance).
    Straight-through: the gradient that `weight` carries is that of the effective weight weight · scale."""
    q, s_x = quantise_forced(x, forced)
    y = (integer_matmul(q, weight, largest_weight) * scale) * s_x
    return y, (q, s_x, weight, scale, y)


def quantised_linear_backward(dy, saved):
    q, s_x, weight, scale, y = saved
    n, k = weight.shape
    dx = (dy * scale) @ weight
    flat = dy.reshape(-1, n)
    dweight = flat.T @ (q * s_x).reshape(-1, k)
    dscale = (flat * y.reshape(-1, n)).sum(0) / scale
    return dx, dweight, dscale


def float_linear_forward(x, weight):
    """y = x · Wᵀ, no quantisation.   x (..., k), weight (n, k) -> (..., n)"""
    return x @ weight.T, (x, weight)


def float_linear_backward(dy, saved):
    x, weight = saved
    return dy @ weight, dy.reshape(-1, weight.shape[0]).T @ x.reshape(-1, weight.shape[1])


def row_dot_forward(x, weight):
    """y = Σ₁₆ x·w over the last axis.   x (..., d), weight (d,) -> (...)"""
    return lane_sum(x * weight), (x, weight)


def row_dot_backward(dy, saved):
    x, weight = saved
    return dy[..., None] * weight, (dy[..., None] * x).reshape(-1, weight.size).sum(0)


def pairwise_dot_forward(x, keys):
    """y_j = Σ₁₆ x·key_j.   x (..., d), keys (M, d) -> (..., M)"""
    return np.stack([lane_sum(x * key) for key in keys], -1), (x, keys)


def pairwise_dot_backward(dy, saved):
    x, keys = saved
    return dy @ keys, dy.reshape(-1, len(keys)).T @ x.reshape(-1, x.shape[-1])


def slot_sum_forward(p, values):
    """y = Σ_j p_j·v_j, slots in index order from +0.   p (..., M), values (M, d) -> (..., d)"""
    y = np.zeros_like(p, np.result_type(p, values), shape=(*p.shape[:-1], values.shape[1]))
    for j, value in enumerate(values):
        y += p[..., j, None] * value
    return y, (p, values)


def slot_sum_backward(dy, saved):
    p, values = saved
    return dy @ values.T, p.reshape(-1, p.shape[-1]).T @ dy.reshape(-1, values.shape[1])


def null_and_slots_forward(null, slots):
    """The null slot's score in front of the entries'.   null (...), slots (..., M) -> (..., M + 1)"""
    return np.concatenate([null[..., None], slots], -1), None


def null_and_slots_backward(dy, saved):
    return dy[..., 0], dy[..., 1:]


quantised_linear = op(quantised_linear_forward, quantised_linear_backward)
float_linear = op(float_linear_forward, float_linear_backward)
row_dot = op(row_dot_forward, row_dot_backward)
pairwise_dot = op(pairwise_dot_forward, pairwise_dot_backward)
null_and_slots = op(null_and_slots_forward, null_and_slots_backward)
slot_sum = op(slot_sum_forward, slot_sum_backward)
