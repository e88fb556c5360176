"""Table look-ups by byte."""

from __future__ import annotations

import numpy as np

from ghost_ref.autodiff import op


def take_forward(table, tokens):
    """y = table[tokens].   table (V,) or (V, d), tokens (B, L) integers -> (B, L) or (B, L, d)"""
    return table[tokens], (table.shape, tokens)


def take_backward(dy, saved):
    shape, tokens = saved
    one_hot = np.zeros((tokens.size, shape[0]), dy.dtype)
    one_hot[np.arange(tokens.size), tokens.ravel()] = 1
    return (one_hot.T @ dy.reshape(tokens.size, -1)).reshape(shape), None


def window_forward(x, past=None, *, width):
    """The last `width` rows side by side, oldest first: [x_{t-width+1} | ... | x_t].

    x (B, L, d), past (B, width-1, d) or None for zeros -> y (B, L, width·d), present (B, width-1, d)"""
    if past is None:
        past = np.zeros((x.shape[0], width - 1, x.shape[2]), x.dtype)
    padded = np.concatenate([past, x], 1)
    length = x.shape[1]
    y = np.concatenate([padded[:, k : k + length] for k in range(width)], -1)
    return (y, padded[:, length:]), (x.shape, width)


def window_backward(dy, saved):
    (batch, length, d), width = saved
    dpadded = np.zeros_like(dy, shape=(batch, length + width - 1, d))
    for k in range(width):
        dpadded[:, k : k + length] += dy[..., k * d : (k + 1) * d]
    return (dpadded[:, width - 1 :],)


def mean_value_embedding(embedding, values, counts):
    """Mean embedding of each memory entry's value bytes, summed in index order from +0; no gradient.

    embedding (256, d), values (M, n) bytes, counts (M,) in 1..n -> (M, d)"""
    total = np.zeros_like(embedding, shape=(len(values), embedding.shape[1]))
    for j in range(values.shape[1]):
        total += np.where((j < counts)[:, None], embedding[values[:, j]], embedding.dtype.type(0))
    return total / counts[:, None].astype(embedding.dtype)


take = op(take_forward, take_backward)
window = op(window_forward, window_backward)
