"""Codebook linear: trits times one of 256 shared magnitudes per (row, group of inputs)."""

from __future__ import annotations

import numpy as np

from ghost_ref.autodiff import op
from ghost_ref.ops.linear import quantise_forced


def codebook_linear_forward(x, trits, index, codebook, *, group, forced=None):
    """y_o = (Σ_g float(S_og)·codebook[index_og], groups in order from +0) · s_x, S_og = Σ_{k in g} T_ok q_k.

    x (..., k), trits (n, k), index (n, ceil(k/group)) uint8, codebook (256,) -> (..., n).
    forced: codes (..., k) to use for q (teacher forcing, conformance).
    Straight-through: the gradient that `trits` carries is that of the effective weight trit · entry."""
    q, s_x = quantise_forced(x, forced)
    magnitude = codebook[index]
    y = np.zeros_like(x, shape=(*x.shape[:-1], len(trits)))
    for g, start in enumerate(range(0, x.shape[-1], group)):
        span = slice(start, start + group)
        y += (q[..., span] @ trits[:, span].T) * magnitude[:, g]
    return y * s_x, (q, s_x, trits, index, magnitude, codebook, group)


def codebook_linear_backward(dy, saved):
    q, s_x, trits, index, magnitude, codebook, group = saved
    n, k = trits.shape
    effective = trits * np.repeat(magnitude, group, axis=1)[:, :k]
    dx = dy @ effective
    dweight = dy.reshape(-1, n).T @ (q * s_x).reshape(-1, k)
    per_group = np.add.reduceat(dweight * trits, np.arange(0, k, group), axis=1)
    dcodebook = np.bincount(index.ravel(), per_group.ravel(), len(codebook)).astype(codebook.dtype)
    return dx, dweight, None, dcodebook


codebook_linear = op(codebook_linear_forward, codebook_linear_backward)
