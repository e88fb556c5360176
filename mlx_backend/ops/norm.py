"""RMSNorm and unit vectors: sums over the feature axis in 16 lanes (Σ₁₆)."""

from __future__ import annotations

import mlx.core as mx

from mlx_backend.autodiff import op
from mlx_backend.numerics import lane_sum

RMS_EPSILON = 1e-5
UNIT_EPSILON = 1e-12


def rms_norm_forward(x, gain):
    """y = (x / sqrt((Σ₁₆ x·x)/d + 1e-5)) · gain.   x (..., d), gain (d,) -> (..., d).   arXiv:1910.07467"""
    rms = mx.sqrt(lane_sum(x * x) / x.shape[-1] + RMS_EPSILON)[..., None]
    normed = x / rms
    return normed * gain, (normed, rms, gain)


def rms_norm_backward(dy, saved):
    normed, rms, gain = saved
    dnormed = dy * gain
    dx = (dnormed - normed * (lane_sum(dnormed * normed) / gain.size)[..., None]) / rms
    return dx, (dy * normed).reshape(-1, gain.size).sum(0)


def unit_forward(x):
    """y = x / sqrt(Σ₁₆ x·x + 1e-12).   (..., d) -> (..., d)"""
    norm = mx.sqrt(lane_sum(x * x) + UNIT_EPSILON)[..., None]
    y = x / norm
    return y, (y, norm)


def unit_backward(dy, saved):
    y, norm = saved
    return ((dy - y * lane_sum(dy * y)[..., None]) / norm,)


rms_norm = op(rms_norm_forward, rms_norm_backward)
unit = op(unit_forward, unit_backward)
