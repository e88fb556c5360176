"""Strided attention over a ring of slots: one key and value for every P-th token of the layer's own stream."""

from __future__ import annotations

import math

import numpy as np

from ghost_ref.autodiff import op
from ghost_ref.numerics import index_sum, lane_sum
from ghost_ref.ops.activation import slot_softmax_backward, slot_softmax_forward


def strided_positions(count, length, stride):
    """Chunk offsets of the tokens whose own-stream position count + offset is a multiple of stride."""
    return np.arange(-count % stride, length, stride)


def _scores(q, keys, bias, scale):
    """(Σ₁₆ q·k_j)·scale + bias_j.   q (B, T, H, c), keys (B, F, H, c), bias (B, F) -> (B, T, H, F)"""
    dots = [lane_sum(q * keys[:, None, j]) for j in range(keys.shape[1])]
    return np.stack(dots, -1) * scale + bias[:, None, None, :]


def strided_attention_forward(q, k, v, bias, past=None, *, n_heads, stride, slots):
    """softmax(q·kᵀ/sqrt(c) + bias)·v over the filled slots, summed in slot order.

    q (B, L, d) for every token; k, v (B, J, d) and bias (B, J) for the strided ones (`strided_positions`, the same
    for all rows). past: None, or the ring {"keys", "values" (B, S, d), "bias" (B, S), "count" int}.
    A token at own-stream position p, p mod stride = 0, fills slot (p/stride) mod S before it is answered.
    -> out (B, L, d), present ring. No gradient flows into past."""
    batch, length, d = q.shape
    c = d // n_heads
    scale = q.dtype.type(1 / math.sqrt(c))
    count = 0 if past is None else past["count"]
    if past is None:
        ring = {"keys": np.zeros_like(k, shape=(batch, slots, d)), "values": np.zeros_like(v, shape=(batch, slots, d)),
                "bias": np.zeros_like(bias, shape=(batch, slots))}
    else:
        ring = {name: past[name].copy() for name in ("keys", "values", "bias")}
    source = np.full(slots, -1)  # which new key a slot holds, -1: an older one
    out = np.zeros_like(q)
    segments = []
    edges = strided_positions(count, length, stride)
    starts = edges if count % stride == 0 else np.concatenate([[0], edges])
    for start, end in zip(starts, [*starts[1:], length], strict=True):
        position = count + int(start)
        if position % stride == 0:
            slot, j = (position // stride) % slots, int(np.searchsorted(edges, start))
            ring["keys"][:, slot], ring["values"][:, slot], ring["bias"][:, slot] = k[:, j], v[:, j], bias[:, j]
            source[slot] = j
        filled = min(slots, position // stride + 1)
        span = slice(int(start), int(end))
        heads = [a[:, :filled].reshape(batch, filled, n_heads, c).copy() for a in (ring["keys"], ring["values"])]
        qs = q[:, span].reshape(batch, -1, n_heads, c)
        p, _ = slot_softmax_forward(_scores(qs, heads[0], ring["bias"][:, :filled], scale))
        weighted = p[..., None] * heads[1].transpose(0, 2, 1, 3)[:, None]  # (B, T, H, F, c)
        out[:, span] = index_sum(np.moveaxis(weighted, 3, -1)).reshape(batch, -1, d)
        segments.append((span, p, qs, *heads, source[:filled].copy()))
    return (out, {**ring, "count": count + length}), (segments, q.shape, k.shape, scale)


def strided_attention_backward(dout, saved):
    segments, q_shape, k_shape, scale = saved
    dq, dk, dv, dbias = (np.zeros_like(dout, shape=shape) for shape in (q_shape, k_shape, k_shape, k_shape[:2]))
    batch, _, d = q_shape
    for span, p, qs, keys, values, source in segments:
        do = dout[:, span].reshape(qs.shape)
        dp = np.einsum("bthc,bfhc->bthf", do, values)
        (ds,) = slot_softmax_backward(dp, (p,))
        dq[:, span] = (np.einsum("bthf,bfhc->bthc", ds, keys) * scale).reshape(batch, -1, d)
        new = source >= 0
        dk_slots = np.einsum("bthf,bthc->bfhc", ds, qs).reshape(batch, -1, d) * scale
        dv_slots = np.einsum("bthf,bthc->bfhc", p, do).reshape(batch, -1, d)
        dk[:, source[new]] += dk_slots[:, new]
        dv[:, source[new]] += dv_slots[:, new]
        dbias[:, source[new]] += ds.sum((1, 2))[:, new]
    return dq, dk, dv, dbias


strided_attention = op(strided_attention_forward, strided_attention_backward)
