"""Codebook linear: trits times one of 256 shared magnitudes per (row, group of inputs)."""

from __future__ import annotations

import mlx.core as mx

from mlx_backend.autodiff import op
from mlx_backend.ops.linear import quantise_forced
from mlx_backend.ops.ternary import group_sums


def codebook_linear_forward(x, trits, index, codebook, *, group, forced=None):
    """y_o = (Σ_g float(S_og)·codebook[index_og], groups in order from +0) · s_x, S_og = Σ_{k in g} T_ok q_k.

    x (..., k), trits (n, k), index (n, ceil(k/group)) uint8, codebook (256,) -> (..., n).
    forced: codes (..., k) to use for q (teacher forcing, conformance).
    Straight-through: the gradient that `trits` carries is that of the effective weight trit · entry."""
    q, s_x = quantise_forced(x, forced)
    magnitude = codebook[index]
    y = mx.zeros((*x.shape[:-1], len(trits)))
    for g, start in enumerate(range(0, x.shape[-1], group)):
        y = y + (q[..., start : start + group] @ trits[:, start : start + group].T) * magnitude[:, g]
    return y * s_x, (q, s_x, trits, index, magnitude, len(codebook), group)


def codebook_linear_backward(dy, saved):
    q, s_x, trits, index, magnitude, entries, group = saved
    n, k = trits.shape
    dx = dy @ (trits * mx.repeat(magnitude, group, axis=1)[:, :k])
    dweight = dy.reshape(-1, n).T @ (q * s_x).reshape(-1, k)
    per_group = group_sums(dweight * trits, group)
    chosen = index.reshape(-1, 1) == mx.arange(entries, dtype=index.dtype)  # a product adds in a fixed order
    return dx, dweight, None, per_group.reshape(-1) @ chosen.astype(dy.dtype)


codebook_linear = op(codebook_linear_forward, codebook_linear_backward)
