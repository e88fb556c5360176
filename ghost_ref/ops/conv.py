"""Causal depthwise convolution over time, its window carried between calls (docs/semantics.md section 4).

B batch, L length, E channels, K taps.
"""

from __future__ import annotations

import numpy as np

from ghost_ref.autodiff import op


def causal_conv1d_forward(x, weight, bias, past=None, length=None):
    """y_t = (Σ_k weight[:, k] · x_{t-K+1+k}, k in index order from +0) + bias.

    x (B, L, E), weight (E, K), bias (E,), past (B, K-1, E) the last inputs, oldest first (zeros by default);
    length (B,) integers: row b keeps its first length[b] tokens and the rest is ignored (their y is zero).
    -> y (B, L, E), present (B, K-1, E), the window after the kept tokens. Canonical in float32; float64 and
    complex128 serve as truth. TypeError for mixed dtypes, ValueError for shapes that disagree.
    """
    batch, steps, channels = x.shape
    taps = weight.shape[1]
    past = np.zeros((batch, taps - 1, channels), x.dtype) if past is None else past
    if len({a.dtype for a in (x, weight, bias, past)}) != 1:
        raise TypeError("causal_conv1d: x, weight, bias and past must have the same dtype")
    if weight.shape[0] != channels or bias.shape != (channels,) or past.shape != (batch, taps - 1, channels):
        shapes = (weight.shape, bias.shape, past.shape)
        raise ValueError(f"causal_conv1d: shapes of weight, bias, past {shapes} do not fit x {x.shape}")
    window = np.concatenate([past, x], axis=1)
    y = np.zeros_like(x)
    for k in range(taps):
        y += weight[:, k] * window[:, k : k + steps]
    y += bias
    if length is None:
        return (y, window[:, steps:].copy()), (window, weight, None)
    y[np.arange(steps) >= length[:, None]] = 0
    kept = length[:, None] + np.arange(taps - 1)
    return (y, np.take_along_axis(window, kept[..., None], axis=1)), (window, weight, length)


def causal_conv1d_backward(dy, saved):
    """Gradients of x, weight and bias; past is a constant.   dy (B, L, E)"""
    window, weight, length = saved
    steps, taps = dy.shape[1], weight.shape[1]
    if length is not None:
        dy = np.where((np.arange(steps) < length[:, None])[..., None], dy, dy.dtype.type(0))
    dwindow, dweight = np.zeros_like(window), np.empty_like(weight)
    for k in range(taps):
        dwindow[:, k : k + steps] += weight[:, k] * dy
        dweight[:, k] = (dy * window[:, k : k + steps]).sum((0, 1))
    return dwindow[:, taps - 1 :], dweight, dy.sum((0, 1))


causal_conv1d = op(causal_conv1d_forward, causal_conv1d_backward)
