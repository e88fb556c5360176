"""The recurrent state: one flat dict of fixed-shape arrays (docs/semantics.md section 6)."""

from __future__ import annotations

import math

import numpy as np

from ghost_ref.config import VOCABULARY, ModelConfig

State = dict[str, np.ndarray]


def state_shapes(config: ModelConfig, batch: int = 1) -> dict[str, tuple[tuple[int, ...], type]]:
    """{name: (shape, dtype)} of the state of `batch` streams."""
    taps = config.d_conv - 1
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "position": ((batch,), np.int32),
        "tokenizer.conv": ((batch, taps, config.d_model), np.float32),
    }
    if config.surprise_layers:
        shapes["surprise.log_q"] = ((batch, VOCABULARY), np.float32)
    for i in range(config.n_layers):
        shapes[f"layers.{i}.mixer.conv"] = ((batch, taps, config.d_inner), np.float32)
        shapes[f"layers.{i}.mixer.ssm"] = ((batch, config.d_inner, config.d_state), np.float32)
        if i in config.attention_layers:
            slots = config.attention_slots
            shapes[f"layers.{i}.attention.keys"] = ((batch, slots, config.d_model), np.float32)
            shapes[f"layers.{i}.attention.values"] = ((batch, slots, config.d_model), np.float32)
            shapes[f"layers.{i}.attention.bias"] = ((batch, slots), np.float32)
            shapes[f"layers.{i}.attention.count"] = ((batch,), np.int32)
    return shapes


def initial_state(config: ModelConfig, batch: int = 1) -> State:
    """The state before the first byte: zeros, and a uniform prediction for the surprise predictor."""
    state: State = {name: np.zeros(shape, dtype) for name, (shape, dtype) in state_shapes(config, batch).items()}
    if config.surprise_layers:
        state["surprise.log_q"][:] = np.float32(-math.log(VOCABULARY))
    return state
