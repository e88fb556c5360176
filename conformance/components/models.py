"""A small model with every feature and awkward sizes, for the components that are whole models.

Its predictions are nearly uniform, so that about half of all bytes are above the surprise threshold of 5.5 < log 256.
"""

from __future__ import annotations

import numpy as np

from ghost_ref.config import PAD, ModelConfig
from ghost_ref.initialise import initialise

SMALL = ModelConfig(
    d_model=22, n_layers=4, d_state=5, dt_rank=3, d_ff=40, codebook_group=16, n_heads=2,
    attention_layers=(1, 3), attention_stride=3, attention_slots=2, memory_layers=(0, 2), memory_capacity=8,
    mod_layers=(1, 3), depth_layers=(2, 3), surprise_layers=(2, 3), surprise_threshold=5.5,
)
Rng = np.random.Generator
Arrays = dict[str, np.ndarray]


def random_params(config: ModelConfig, rng: Rng) -> Arrays:
    """Initial values with every vector disturbed, so that no bias, gate or router is neutral."""
    params = initialise(config, int(rng.integers(1 << 32)))
    for name, p in params.items():
        if p.ndim == 1 and not name.endswith((".threshold", ".scale", ".codebook")):
            p += rng.normal(0, 0.3, p.shape).astype(np.float32)
    if config.depth_layers:
        params["depth.bias"][:] = 0.8  # around sigmoid = 0.7: some tokens stop early
        params["depth.weight"] += rng.normal(0, 1, config.d_model).astype(np.float32)
    return params


def random_memory(config: ModelConfig, rng: Rng, entries: int) -> Arrays:
    """A snapshot of a memory bank: unit keys and short values."""
    keys = rng.normal(size=(entries, config.d_model)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    return {"keys": keys, "values": rng.integers(0, 256, (entries, 8)).astype(np.uint8),
            "counts": rng.integers(1, 9, entries).astype(np.int32)}


def random_batch(rng: Rng, rows: int, length: int) -> Arrays:
    """Training rows: any bytes but PAD, which ends the last row early; the loss is taken on about half of the rest.

    counts: loss and valid positions of a whole batch of which these rows are a part."""
    content = rng.integers(0, PAD, (rows, length + 1)).astype(np.uint8)
    content[-1, length - length // 4 :] = PAD
    valid = content[:, 1:] != PAD
    loss_mask = valid & (rng.random(valid.shape) < 0.5)
    counts = np.array([loss_mask.sum() + 3, valid.sum() + 5], np.int32)
    return {"tokens": content[:, :-1], "targets": content[:, 1:], "loss_mask": loss_mask, "valid": valid,
            "counts": counts}
