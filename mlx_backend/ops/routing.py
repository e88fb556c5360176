"""Skip means skip, with static shapes: a layer's stream holds its kept tokens first, the skipped ones after them.

Attention, scan and convolution are causal, so the tail cannot reach the kept tokens, and `restore` ignores it.
"""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from ghost_ref.constants import GATE_SLOPE
from mlx_backend.autodiff import op
from mlx_backend.numerics import as_array, sigmoid


def compaction_index(keep):
    """Stable partition of each row, kept tokens first.   keep (B, L) bool -> index (B, L), length (B,) kept per row"""
    return mx.argsort(~keep, axis=1).astype(mx.int32), keep.sum(1)


def _rows(x, index):
    """x[b, index[b, j]] as one look-up of rows.   x (B, L, ...), index (B, J) -> (B, J, ...)"""
    batch, length = x.shape[:2]
    flat = index + length * mx.arange(batch)[:, None]
    return x.reshape(batch * length, *x.shape[2:])[flat]


def _slots(index, length):
    """The inverse of an index: the slot j of every position, J where it has none.   (B, J) -> (B, length)"""
    slot = mx.broadcast_to(mx.arange(index.shape[1]), index.shape)
    return mx.put_along_axis(mx.full((len(index), length), index.shape[1], mx.int32), index, slot, axis=1)


def _where_rows(mask, a, b):
    """Row by row a or b.   mask (B, L), a, b (B, L, ...)"""
    return mx.where(mask.reshape(*mask.shape, *[1] * (a.ndim - 2)), a, b)


def gather_forward(x, index):
    """y[b, j] = x[b, index[b, j]].   x (B, L, ...), index (B, J) without repeats -> (B, J, ...)"""
    return _rows(x, index), (index, x.shape[1])


def gather_backward(dy, saved):
    index, length = saved
    slot, slots = _slots(index, length), index.shape[1]
    return _where_rows(slot < slots, _rows(dy, mx.minimum(slot, slots - 1)), 0.0), None


def scatter_forward(x, update, index, length):
    """x with row index[b, j] replaced by update[b, j] for j < length[b].

    x (B, L, d), update (B, J, d), index (B, J), length (B,) -> (B, L, d)"""
    slot, last = _slots(index, x.shape[1]), index.shape[1] - 1
    replaced = slot < length[:, None]
    return _where_rows(replaced, _rows(update, mx.minimum(slot, last)), x), (replaced, index, length)


def scatter_backward(dy, saved):
    replaced, index, length = saved
    used = mx.arange(index.shape[1]) < length[:, None]
    return _where_rows(~replaced, dy, 0.0), _where_rows(used, _rows(dy, index), 0.0), None, None


def depth_gate_forward(skipped, processed, depth, *, layer):
    """`processed` unchanged. D gets the gradient of skipped + g·(processed - skipped) with g = sigmoid(5(D - i)),
    `processed` gets dout as it is: its gate's forward value is exactly 1 (straight-through, processed tokens only).

    skipped, processed (B, J, d), depth (B, J) -> (B, J, d)"""
    return processed, (skipped, processed, depth, layer)


def depth_gate_backward(dout, saved):
    skipped, processed, depth, layer = saved
    g = sigmoid(GATE_SLOPE * (depth - layer))
    dgate = (dout * (processed - skipped)).sum(-1)
    return None, dout, dgate * GATE_SLOPE * g * (1 - g)


def weighted_residual(h, u, weight):
    """y = h + weight·(u - h).   h, u (B, J, d), weight (B, J) -> (B, J, d)"""
    return h + weight[..., None] * (u - h)


def top_k_counts(largest, capacity):
    """ceil(capacity·n) for n = 0..largest, rounded up from float64 as by math.ceil.   -> (largest + 1,) int32"""
    return np.ceil(capacity * np.arange(largest + 1)).astype(np.int32)


def top_k_mask(scores, survivors, capacity):
    """The k = ceil(capacity·survivors) highest scores of each row among the survivors, ties to the lowest index.

    scores (B, L), survivors (B, L) bool -> (B, L) bool. No gradient."""
    k = mx.array(top_k_counts(scores.shape[1], capacity))[survivors.sum(1)]
    order = mx.argsort(mx.where(survivors, -scores, math.inf), axis=1)  # a stable sort
    return (mx.argsort(order, axis=1) < k[:, None]) & survivors


def restore(h, update, index, length):
    """Scatter the layer's rows back; without compaction (index None) they are the whole stream."""
    return update if index is None else scatter(h, update, index, length)


def exceeds(x, threshold):
    """The mask x > threshold, threshold rounded to x's precision; no gradient.   any shape -> bool"""
    return mx.stop_gradient(x) > threshold


def surprise(log_q, tokens, past=None):
    """-log q_{t-1}[x_t], the surprise of the byte just read; no gradient.

    log_q (B, L, 256), tokens (B, L) bytes, past (B, 256) log q before the chunk, None: uniform -> (B, L)"""
    if past is None:
        past = mx.full((len(tokens), log_q.shape[-1]), -math.log(log_q.shape[-1]))
    previous = mx.concatenate([as_array(past)[:, None], log_q[:, :-1]], 1)
    picked = mx.take_along_axis(previous, as_array(tokens)[..., None].astype(mx.int32), -1)
    return -mx.stop_gradient(picked[..., 0])


def concatenate_rows(arrays):
    """Arrays of several streams as one batch."""
    return mx.concatenate([as_array(a) for a in arrays])


def compact(h, keep, *, drop_tail=False):
    """(rows, index (B, J), length (B,)): J = L, kept rows first, and all others after them.

    drop_tail: the caller carries a state of one stream, so no row may follow the kept ones: J is their number, and
    when every token is kept, h itself is returned with index None. Not under mx.compile."""
    index, length = compaction_index(keep)
    if drop_tail:
        kept = int(length[0])
        if kept == keep.shape[1]:
            return h, None, None
        index = index[:, :kept]
    return gather(h, index), index, length


def select(x, index):
    """Follow a compaction with other arrays of the same stream (None: nothing was compacted)."""
    return x if index is None else gather(x, index)


gather = op(gather_forward, gather_backward)
scatter = op(scatter_forward, scatter_backward)
depth_gate = op(depth_gate_forward, depth_gate_backward)
