"""Causal depthwise convolution over time, its window carried between calls (docs/semantics.md section 4).

B batch, L length, E channels, K taps.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_backend.autodiff import op
from mlx_backend.numerics import as_array


def causal_conv1d(x, weight, bias, past=None, length=None):
    """y_t = (Σ_k weight[:, k] · x_{t-K+1+k}, k in index order from +0) + bias.

    x (B, L, E), weight (E, K), bias (E,), past (B, K-1, E) the last inputs, oldest first (zeros by default);
    length (B,) integers: row b keeps its first length[b] tokens and the rest is ignored (their y is zero).
    -> y (B, L, E), present (B, K-1, E), the window after the kept tokens; no gradient flows into past or from present.
    TypeError for mixed dtypes, ValueError for shapes that disagree.
    """
    batch, steps, channels = x.shape
    taps = weight.shape[1]
    past = mx.zeros((batch, taps - 1, channels), x.dtype) if past is None else mx.stop_gradient(as_array(past))
    if len({a.dtype for a in (x, weight, bias, past)}) != 1:
        raise TypeError("causal_conv1d: x, weight, bias and past must have the same dtype")
    if weight.shape[0] != channels or bias.shape != (channels,) or past.shape != (batch, taps - 1, channels):
        shapes = (weight.shape, bias.shape, past.shape)
        raise ValueError(f"causal_conv1d: shapes of weight, bias, past {shapes} do not fit x {x.shape}")
    y = _convolve(x, weight, past) + bias
    window = mx.concatenate([past, mx.stop_gradient(x)], axis=1)
    if length is None:
        return y, window[:, steps:]
    length = as_array(length).astype(mx.int32)
    kept = length[:, None] + mx.arange(taps - 1)
    y = mx.where((mx.arange(steps) < length[:, None])[..., None], y, 0.0)
    return y, mx.take_along_axis(window, kept[..., None], axis=1)


def _convolve_forward(x, weight, past):
    window, steps = mx.concatenate([past, x], axis=1), x.shape[1]
    y = mx.zeros_like(x)
    for k in range(weight.shape[1]):
        y = y + weight[:, k] * window[:, k : k + steps]
    return y, (window, weight)


def _convolve_backward(dy, saved):
    """dx is the same sum over the K gradients that follow: shifted slices, no scatter."""
    window, weight = saved
    steps, taps = dy.shape[1], weight.shape[1]
    following = mx.pad(dy, [(0, 0), (0, taps - 1), (0, 0)])
    dx = mx.zeros_like(dy)
    for k in reversed(range(taps)):
        shift = taps - 1 - k
        dx = dx + weight[:, k] * following[:, shift : shift + steps]
    dweight = mx.stack([(dy * window[:, k : k + steps]).sum(1).sum(0) for k in range(taps)], axis=1)
    return dx, dweight, None


_convolve = op(_convolve_forward, _convolve_backward)
