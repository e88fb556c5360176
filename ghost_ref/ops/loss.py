"""Losses in nats. Training only: ordinary fast arithmetic, float64 for the reported value."""

from __future__ import annotations

import numpy as np

from ghost_ref.autodiff import op


def _weights(mask, count, dtype):
    return (mask / max(count, 1)).astype(dtype)


def cross_entropy_forward(logits, targets, mask, *, count):
    """Sum over the masked positions of log Σ exp(z) - z[target], divided by count.

    logits (B, L, V), targets, mask (B, L) -> ()"""
    shifted = logits - logits.max(-1, keepdims=True)
    probabilities = np.exp(shifted)
    total = probabilities.sum(-1, keepdims=True)
    probabilities /= total
    picked = np.take_along_axis(shifted, targets[..., None].astype(np.intp), -1)[..., 0]
    weights = _weights(mask, count, logits.dtype)
    loss = ((np.log(total[..., 0]) - picked) * weights).sum(dtype=np.float64)
    return loss.astype(logits.dtype), (probabilities, targets, weights)


def cross_entropy_backward(dloss, saved):
    probabilities, targets, weights = saved
    dlogits = probabilities * (weights * dloss)[..., None]
    picked = targets[..., None].astype(np.intp)
    np.put_along_axis(dlogits, picked, np.take_along_axis(dlogits, picked, -1) - (weights * dloss)[..., None], -1)
    return dlogits, None, None


def binary_cross_entropy_forward(logits, targets, mask, *, count):
    """Sum over the masked positions of softplus(r) - r·target, divided by count.   all (B, L) -> ()"""
    weights = _weights(mask, count, logits.dtype)
    losses = np.logaddexp(0, logits) - logits * targets
    return (losses * weights).sum(dtype=np.float64).astype(logits.dtype), (logits, targets, weights)


def binary_cross_entropy_backward(dloss, saved):
    logits, targets, weights = saved
    return dloss * weights * (0.5 * (1 + np.tanh(0.5 * logits)) - targets), None, None


def masked_mean_forward(x, mask, *, count):
    """Sum of x over the masked positions, divided by count.   x, mask (B, L) -> ()"""
    weights = _weights(mask, count, x.dtype)
    return (x * weights).sum(dtype=np.float64).astype(x.dtype), (weights,)


def masked_mean_backward(dmean, saved):
    (weights,) = saved
    return dmean * weights, None


cross_entropy = op(cross_entropy_forward, cross_entropy_backward)
binary_cross_entropy = op(binary_cross_entropy_forward, binary_cross_entropy_backward)
masked_mean = op(masked_mean_forward, masked_mean_backward)
