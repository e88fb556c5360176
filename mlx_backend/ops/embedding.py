"""Table look-ups by byte."""

from __future__ import annotations

import mlx.core as mx

from mlx_backend.autodiff import op
from mlx_backend.numerics import as_array


def take_forward(table, tokens):
    """y = table[tokens].   table (V,) or (V, d), tokens (B, L) integers -> (B, L) or (B, L, d)"""
    return table[tokens], (table.shape, tokens)


def take_backward(dy, saved):
    """By a product with one-hot rows, as in the reference: a scatter on a GPU would add in any order."""
    shape, tokens = saved
    one_hot = tokens.reshape(-1, 1) == mx.arange(shape[0]).astype(tokens.dtype)
    return (one_hot.astype(dy.dtype).T @ dy.reshape(tokens.size, -1)).reshape(shape), None


def window(x, past=None, *, width):
    """The last `width` rows side by side, oldest first: [x_{t-width+1} | ... | x_t].

    x (B, L, d), past (B, width-1, d) or None for zeros -> y (B, L, width·d), present (B, width-1, d)"""
    batch, length, d = x.shape
    past = mx.zeros((batch, width - 1, d), x.dtype) if past is None else mx.stop_gradient(as_array(past))
    padded = mx.concatenate([past, x], 1)
    y = mx.concatenate([padded[:, k : k + length] for k in range(width)], -1)
    return y, mx.stop_gradient(padded)[:, length:]  # sliced last: compile trips over a stopped slice it has merged


def mean_value_embedding(embedding, values, counts):
    """Mean embedding of each memory entry's value bytes, summed in index order from +0; no gradient.

    embedding (256, d), values (M, n) bytes, counts (M,) in 1..n -> (M, d)"""
    embedding, values, counts = mx.stop_gradient(embedding), as_array(values), as_array(counts)[:, None]
    total = mx.zeros((len(values), embedding.shape[1]), embedding.dtype)
    for j in range(values.shape[1]):
        total = total + mx.where(j < counts, embedding[values[:, j]], 0.0)
    return total / counts.astype(embedding.dtype)


take = op(take_forward, take_backward)
