"""Strided attention over a ring of slots: one key and value for every P-th token of the layer's own stream."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from mlx_backend.numerics import as_array
from mlx_backend.ops.activation import slot_softmax


def strided_positions(count, length, stride):
    """Chunk offsets of the tokens whose own-stream position count + offset is a multiple of stride."""
    return mx.array(np.arange(-count % stride, length, stride, dtype=np.int32))


def strided_attention(q, k, v, bias, past=None, *, n_heads, stride, slots):
    """softmax(q·kᵀ/sqrt(c) + bias)·v over the filled slots.

    q (B, L, d) for every token; k, v (B, J, d) and bias (B, J) for the strided ones (`strided_positions`, the same
    for all rows). past: None, or the ring {"keys", "values" (B, S, d), "bias" (B, S), "count" int}.
    A token at own-stream position p, p mod stride = 0, fills slot (p/stride) mod S before it is answered.
    -> out (B, L, d), present ring. No gradient flows into past.

    All keys that a chunk can see, older ones of the ring first, stand side by side; key number j answers the
    tokens p with p // stride - S < j <= p // stride, so the mask is static."""
    batch, length, d = q.shape
    c = d // n_heads
    count = 0 if past is None else past["count"]
    written = -(-count // stride)  # keys before this chunk
    first = max(0, written - slots)
    if past is not None:
        order = mx.array(np.arange(first, written, dtype=np.int32) % slots)
        k, v, bias = (mx.concatenate([mx.stop_gradient(as_array(past[name]))[:, order], new], 1)
                      for name, new in (("keys", k), ("values", v), ("bias", bias)))
    number = np.arange(first, first + k.shape[1])
    newest = (count + np.arange(length))[:, None] // stride
    visible = mx.array((number <= newest) & (number > newest - slots))

    def heads(a):
        return a.reshape(batch, -1, n_heads, c).transpose(0, 2, 1, 3)

    scores = heads(q) @ heads(k).swapaxes(-1, -2) * (1 / math.sqrt(c)) + bias[:, None, None, :]
    p = slot_softmax(mx.where(visible, scores, -math.inf))
    out = (p @ heads(v)).transpose(0, 2, 1, 3).reshape(batch, length, d)
    ring = {name: _ring(mx.stop_gradient(a), None if past is None else as_array(past[name]), first, slots)
            for name, a in (("keys", k), ("values", v), ("bias", bias))}
    return out, {**ring, "count": count + length}


def _ring(rows, past, first, slots):
    """The last `slots` of the rows numbered from `first` on, row j in slot j mod slots; empty slots stay."""
    total = first + rows.shape[1]
    if total < slots:
        empty = (rows.shape[0], slots - total, *rows.shape[2:])
        return mx.concatenate([rows, mx.zeros(empty) if past is None else past[:, total:]], 1)
    slot = np.arange(slots)
    newest = total - 1 - (total - 1 - slot) % slots  # the last number that falls in each slot
    return rows[:, mx.array((newest - first).astype(np.int32))]
