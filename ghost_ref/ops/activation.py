"""Pointwise functions. Canonical in float32 (ghost_ref.numerics), ordinary in float64."""

from __future__ import annotations

import numpy as np

from ghost_ref import numerics
from ghost_ref.autodiff import op


def sigmoid_forward(x):
    """y = 1 / (1 + exp(-x))."""
    y = numerics.sigmoid(x)
    return y, (y,)


def sigmoid_backward(dy, saved):
    (y,) = saved
    return (dy * y * (1 - y),)


def silu_forward(x):
    """y = x · sigmoid(x)."""
    return numerics.silu(x), (x,)


def silu_backward(dy, saved):
    (x,) = saved
    s = numerics.sigmoid(x)
    return (dy * (s * (1 + x * (1 - s))),)


def softplus_forward(x):
    """y = max(x, 0) + log1p(exp(-|x|))."""
    return numerics.softplus(x), (x,)


def softplus_backward(dy, saved):
    (x,) = saved
    return (dy * numerics.sigmoid(x),)


def negative_exp_forward(x):
    """A = -exp(A_log)."""
    y = -numerics.exp(x)
    return y, (y,)


def negative_exp_backward(dy, saved):
    (y,) = saved
    return (dy * y,)


def dropout_forward(x, mask):
    """y = x · mask, mask 0 or 1/(1 - rate) (arXiv:1207.0580)."""
    return x * mask, (mask,)


def dropout_backward(dy, saved):
    (mask,) = saved
    return dy * mask, None


def slot_softmax_forward(scores):
    """p_j = exp(s_j - max s) / Σ exp(s - max s) over the last axis, summed in index order.   (..., M) -> (..., M)"""
    e = numerics.exp(scores - numerics.maximum_reduce(scores)[..., None])
    p = e / numerics.index_sum(e)[..., None]
    return p, (p,)


def slot_softmax_backward(dp, saved):
    (p,) = saved
    return (p * (dp - (dp * p).sum(-1, keepdims=True)),)


def log_softmax_forward(z):
    """log q = (z - max z) - log Σ₁₆ exp(z - max z) over the vocabulary axis.   (..., V) -> (..., V)"""
    shifted = z - numerics.maximum_reduce(z)[..., None]
    y = shifted - numerics.log(numerics.lane_sum(numerics.exp(shifted)))[..., None]
    return y, (y,)


def log_softmax_backward(dy, saved):
    (y,) = saved
    return (dy - np.exp(y) * dy.sum(-1, keepdims=True),)


sigmoid = op(sigmoid_forward, sigmoid_backward)
silu = op(silu_forward, silu_backward)
softplus = op(softplus_forward, softplus_backward)
negative_exp = op(negative_exp_forward, negative_exp_backward)
dropout = op(dropout_forward, dropout_backward)
slot_softmax = op(slot_softmax_forward, slot_softmax_backward)
log_softmax = op(log_softmax_forward, log_softmax_backward)
