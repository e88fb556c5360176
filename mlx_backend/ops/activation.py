"""Pointwise functions and softmaxes."""

from __future__ import annotations

import mlx.core as mx

from mlx_backend import numerics
from mlx_backend.autodiff import op


def sigmoid_forward(x):
    """y = 1 / (1 + exp(-x))."""
    y = numerics.sigmoid(x)
    return y, y


def sigmoid_backward(dy, y):
    return (dy * y * (1 - y),)


def silu_forward(x):
    """y = x · sigmoid(x)."""
    s = numerics.sigmoid(x)
    return x * s, (x, s)


def silu_backward(dy, saved):
    x, s = saved
    return (dy * (s * (1 + x * (1 - s))),)


def softplus_forward(x):
    """y = max(x, 0) + log1p(exp(-|x|))."""
    return numerics.softplus(x), x


def softplus_backward(dy, x):
    return (dy * numerics.sigmoid(x),)


def negative_exp_forward(x):
    """A = -exp(A_log)."""
    y = -numerics.exp(x)
    return y, y


def negative_exp_backward(dy, y):
    return (dy * y,)


def dropout(x, mask):
    """y = x · mask, mask 0 or 1/(1 - rate) (arXiv:1207.0580)."""
    return x * mx.stop_gradient(mask)


def slot_softmax_forward(scores):
    """p_j = exp(s_j - max s) / Σ exp(s - max s) over the last axis; -inf gives exactly 0.   (..., M) -> (..., M)"""
    e = numerics.exp(scores - scores.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    return p, p


def slot_softmax_backward(dp, p):
    return (p * (dp - (dp * p).sum(-1, keepdims=True)),)


def log_softmax_forward(z):
    """log q = (z - max z) - log Σ₁₆ exp(z - max z) over the vocabulary axis.   (..., V) -> (..., V)"""
    shifted = z - z.max(-1, keepdims=True)
    y = shifted - mx.log(numerics.lane_sum(numerics.exp(shifted)))[..., None]
    return y, y


def log_softmax_backward(dy, y):
    return (dy - numerics.exp(y) * dy.sum(-1, keepdims=True),)


sigmoid = op(sigmoid_forward, sigmoid_backward)
silu = op(silu_forward, silu_backward)
softplus = op(softplus_forward, softplus_backward)
negative_exp = op(negative_exp_forward, negative_exp_backward)
slot_softmax = op(slot_softmax_forward, slot_softmax_backward)
log_softmax = op(log_softmax_forward, log_softmax_backward)
