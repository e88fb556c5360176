"""Skip means skip: a routed-away token leaves the layer's stream. Compaction, its inverse, and the gates' gradients."""

from __future__ import annotations

import math

import numpy as np

from ghost_ref.autodiff import Var, detach, op
from ghost_ref.constants import GATE_SLOPE
from ghost_ref.numerics import sigmoid


def compaction_index(keep):
    """Stable partition of each row, kept tokens first.

    keep (B, L) bool -> (index (B, max kept) source positions, length (B,) kept per row). Positions beyond a row's
    length point at skipped tokens: `scatter` ignores them and causality keeps them from the kept ones."""
    length = keep.sum(1)
    order = np.argsort(~keep, axis=1, kind="stable")
    return order[:, : length.max(initial=0)], length


def gather_forward(x, index):
    """y[b, j] = x[b, index[b, j]].   x (B, L, ...), index (B, J) -> (B, J, ...)"""
    return x[np.arange(len(x))[:, None], index], (x.shape, index)


def gather_backward(dy, saved):
    shape, index = saved
    dx = np.zeros_like(dy, shape=shape)
    dx[np.arange(shape[0])[:, None], index] = dy
    return dx, None


def scatter_forward(x, update, index, length):
    """x with row index[b, j] replaced by update[b, j] for j < length[b].

    x (B, L, d), update (B, J, d), index (B, J), length (B,) -> (B, L, d)"""
    rows, slots = np.nonzero(np.arange(index.shape[1]) < length[:, None])
    positions = index[rows, slots]
    y = x.copy()
    y[rows, positions] = update[rows, slots]
    return y, (rows, slots, positions, update.shape)


def scatter_backward(dy, saved):
    rows, slots, positions, shape = saved
    dupdate = np.zeros_like(dy, shape=shape)
    dupdate[rows, slots] = dy[rows, positions]
    dx = dy.copy()
    dx[rows, positions] = 0
    return dx, dupdate, None, None


def depth_gate_forward(skipped, processed, depth, *, layer):
    """`processed` unchanged. D gets the gradient of skipped + g·(processed - skipped) with g = sigmoid(5(D - i)),
    `processed` gets dout as it is: its gate's forward value is exactly 1 (straight-through, processed tokens only).

    skipped, processed (B, J, d), depth (B, J) -> (B, J, d)"""
    return processed, (skipped, processed, depth, layer)


def depth_gate_backward(dout, saved):
    skipped, processed, depth, layer = saved
    g = sigmoid(depth.dtype.type(GATE_SLOPE) * (depth - depth.dtype.type(layer)))
    dgate = (dout * (processed - skipped)).sum(-1)
    return None, dout, dgate * depth.dtype.type(GATE_SLOPE) * g * (1 - g)


def weighted_residual_forward(h, u, weight):
    """y = h + weight·(u - h).   h, u (B, J, d), weight (B, J) -> (B, J, d)"""
    delta = u - h
    return h + weight[..., None] * delta, (delta, weight)


def weighted_residual_backward(dy, saved):
    delta, weight = saved
    du = dy * weight[..., None]
    return dy - du, du, (dy * delta).sum(-1)


def top_k_mask(scores, survivors, capacity):
    """The k = ceil(capacity·survivors) highest scores of each row among the survivors, ties to the lowest index.

    scores (B, L), survivors (B, L) bool -> (B, L) bool"""
    masked = np.where(survivors, scores, -np.inf)
    order = np.argsort(-masked, axis=1, kind="stable")
    chosen = np.zeros(scores.shape, bool)
    for row, count in enumerate(survivors.sum(1)):
        chosen[row, order[row, : math.ceil(capacity * count)]] = True
    return chosen & survivors


def restore(h, update, index, length):
    """Scatter the layer's rows back; without compaction (index None) they are the whole stream."""
    return update if index is None else scatter(h, update, index, length)


def exceeds(x, threshold):
    """The mask x > threshold, threshold rounded to x's precision; no gradient.   any shape -> bool"""
    x = detach(x)
    return x > x.dtype.type(threshold)


def surprise(log_q, tokens, past=None):
    """-log q_{t-1}[x_t], the surprise of the byte just read; no gradient.

    log_q (B, L, 256), tokens (B, L) bytes, past (B, 256) log q before the chunk, None: uniform -> (B, L)"""
    if past is None:
        past = np.full((len(tokens), log_q.shape[-1]), -math.log(log_q.shape[-1]))
    previous = np.concatenate([past[:, None].astype(log_q.dtype), log_q[:, :-1]], 1)
    return -np.take_along_axis(previous, tokens[..., None].astype(np.intp), -1)[..., 0]


def concatenate_rows(arrays):
    """Arrays of several streams as one batch."""
    return np.concatenate(arrays)


def compact(h, keep, *, drop_tail=False):
    """(kept rows, index, length); when every token is kept, h itself and index None. h may be an array or a Var.

    drop_tail: the caller carries a state, so no row may follow the kept ones; this vocabulary always drops them
    (of one stream), those of static shapes only when told."""
    if keep.all():
        return h, None, None
    index, length = compaction_index(keep)
    return gather(h, index), index, length


def select(x, index):
    """Follow a compaction with other arrays of the same stream (None: nothing was compacted)."""
    if index is None:
        return x
    return gather(x, index) if isinstance(x, Var) else gather_forward(x, index)[0]


gather = op(gather_forward, gather_backward)
scatter = op(scatter_forward, scatter_backward)
depth_gate = op(depth_gate_forward, depth_gate_backward)
weighted_residual = op(weighted_residual_forward, weighted_residual_backward)
