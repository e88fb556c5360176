"""Small models for tests: every component, awkward sizes, random parameters."""

from __future__ import annotations

import numpy as np

from ghost_ref import ops
from ghost_ref.config import ModelConfig
from ghost_ref.initialise import initialise
from ghost_ref.quantise import quantise

SMALL = ModelConfig(
    d_model=20, n_layers=4, d_state=5, dt_rank=3, d_ff=40, codebook_group=16, n_heads=4,
    attention_layers=(1, 3), attention_stride=3, attention_slots=2, memory_layers=(0, 2), memory_capacity=8,
    mod_layers=(1, 3), depth_layers=(2, 3), surprise_layers=(3,), surprise_threshold=5.0,
)


def random_params(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Initial values with every vector disturbed, so that no bias, gate or router is neutral."""
    rng = np.random.default_rng(seed)
    params = initialise(config, seed)
    for name, p in params.items():
        if p.ndim == 1 and not name.endswith((".threshold", ".scale", ".codebook")):
            p += rng.normal(0, 0.3, p.shape).astype(np.float32)
    if config.depth_layers:
        params["depth.bias"][:] = 0.8  # around sigmoid = 0.7: some tokens stop early
        params["depth.weight"] += rng.normal(0, 1, config.d_model).astype(np.float32)
    return params


def random_weights(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Weights as a packed file holds them."""
    return quantise(random_params(config, seed), config, ops)


def random_memory(config: ModelConfig, seed: int, entries: int) -> dict[str, np.ndarray]:
    """A bank snapshot of unit keys and short values."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(entries, config.d_model)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    return {"keys": keys, "values": rng.integers(0, 256, (entries, 8)).astype(np.uint8),
            "counts": rng.integers(1, 9, entries).astype(np.int32)}
