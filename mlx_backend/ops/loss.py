"""Losses in nats, in float32 by two-stage sums. `count` may be an int or a 0-d array (a Python number retraces)."""

from __future__ import annotations

import mlx.core as mx

from mlx_backend.autodiff import op
from mlx_backend.numerics import as_array, exp, total
from mlx_backend.ops.activation import softplus


def _weights(mask, count):
    return as_array(mask).astype(mx.float32) / mx.maximum(as_array(count).astype(mx.float32), 1.0)


def cross_entropy(logits, targets, mask, *, count):
    """Sum over the masked positions of log Σ exp(z) - z[target], divided by count.

    logits (B, L, V), targets, mask (B, L) -> ()"""
    return total(_byte_losses(logits, as_array(targets)) * _weights(mask, count))


def _byte_losses_forward(logits, targets):
    shifted = logits - logits.max(-1, keepdims=True)
    e = exp(shifted)
    normaliser = e.sum(-1, keepdims=True)
    picked = mx.take_along_axis(shifted, targets[..., None].astype(mx.int32), -1)
    return (mx.log(normaliser) - picked)[..., 0], (e / normaliser, targets)


def _byte_losses_backward(dlosses, saved):
    probabilities, targets = saved
    target = targets[..., None] == mx.arange(probabilities.shape[-1]).astype(targets.dtype)
    # In the reference's order: (p - 1)·g would round once more than p·g - g does where p is small.
    return probabilities * dlosses[..., None] - mx.where(target, dlosses[..., None], 0), None


def binary_cross_entropy(logits, targets, mask, *, count):
    """Sum over the masked positions of softplus(r) - r·target, divided by count.   all (B, L) -> ()"""
    losses = softplus(logits) - logits * as_array(targets).astype(mx.float32)
    return total(losses * _weights(mask, count))


def masked_mean(x, mask, *, count):
    """Sum of x over the masked positions, divided by count.   x, mask (B, L) -> ()"""
    return total(x * _weights(mask, count))


_byte_losses = op(_byte_losses_forward, _byte_losses_backward)
