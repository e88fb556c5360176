"""Matmuls: float, quantised (ternary or int8 weights x int8 activations), dots and slot sums."""

from __future__ import annotations

import math

import mlx.core as mx

from mlx_backend.autodiff import op
from mlx_backend.numerics import lane_sum

EXACT_FLOAT32 = 1 << 24  # integers up to here are exact in float32, in any order of summation
ACTIVATION_LEVELS = 127


def quantise_activations(x):
    """Per row: s = max|x| / 127, q = clip(rint(x / s), -127, 127).

    x (..., k) -> q (..., k) integer-valued, s (..., 1). A zero s makes every q zero; a row that holds a non-finite
    value gets s = NaN and q = 0, so that everything computed from it is NaN."""
    magnitude = mx.abs(x).max(-1, keepdims=True)
    finite = mx.isfinite(magnitude)  # max propagates NaN
    scale = mx.where(finite, magnitude, 0.0) / ACTIVATION_LEVELS
    usable = finite & (scale != 0)
    q = mx.clip(mx.round(x / mx.where(scale == 0, 1.0, scale)), -ACTIVATION_LEVELS, ACTIVATION_LEVELS)
    return mx.where(usable, q, 0.0), mx.where(finite, scale, math.nan)


def integer_matmul(q, weight, largest_weight):
    """Exact Σ_k q·weight of integer-valued float arrays.   q (..., k), weight (n, k) -> (..., n)

    |q| <= 127. A float32 product is exact while the sum stays below 2^24; a longer k is split and added as int32,
    rounded once at the end."""
    k = weight.shape[1]
    step = EXACT_FLOAT32 // (ACTIVATION_LEVELS * largest_weight)
    if k <= step:
        return q @ weight.T
    parts = [(q[..., i : i + step] @ weight[:, i : i + step].T).astype(mx.int32) for i in range(0, k, step)]
    return sum(parts[1:], parts[0]).astype(mx.float32)


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
    flat = dy.reshape(-1, n)
    dx = (dy * scale) @ weight
    dweight = flat.T @ (q * s_x).reshape(-1, k)
    dscale = (flat * y.reshape(-1, n)).sum(0) / scale
    return dx, dweight, dscale


def float_linear(x, weight):
    """y = x · Wᵀ, no quantisation.   x (..., k), weight (n, k) -> (..., n)"""
    return x @ weight.T


def row_dot(x, weight):
    """y = Σ₁₆ x·w over the last axis.   x (..., d), weight (d,) -> (...)"""
    return lane_sum(x * weight)


def pairwise_dot(x, keys):
    """y_j = x·key_j, a matrix product.   x (..., d), keys (M, d) -> (..., M)"""
    return x @ keys.T


def slot_sum(p, values):
    """y = Σ_j p_j·v_j, a matrix product.   p (..., M), values (M, d) -> (..., d)"""
    return p @ values


def null_and_slots(null, slots):
    """The null slot's score in front of the entries'.   null (...), slots (..., M) -> (..., M + 1)"""
    return mx.concatenate([null[..., None], slots], -1)


quantised_linear = op(quantised_linear_forward, quantised_linear_backward)
