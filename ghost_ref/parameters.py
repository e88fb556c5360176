"""Every parameter of a model: its name, shape, how a packed file stores it, and its first value.

``parameter_specs(config)`` is the single list from which training, packing, storage estimates and loading go.
Symbols: d d_model, E d_inner, N d_state, R dt_rank, K d_conv, F d_ff (docs/semantics.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ghost_ref.config import CODEBOOK_SIZE, VOCABULARY, ModelConfig

Array = np.ndarray
TERNARY, CODEBOOK, INT8, VECTOR = "ternary", "codebook", "int8", "vector"


@dataclass(frozen=True)
class Spec:
    """One parameter: its shape and how it is stored (ternary, codebook, int8 or vector)."""

    shape: tuple[int, ...]
    storage: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def parameter_specs(config: ModelConfig) -> dict[str, Spec]:
    """{name: Spec} of a model's parameters, in forward order.

    A ternary matrix ``X.weight`` brings ``X.threshold`` and ``X.scale`` (one per row), a codebook matrix
    ``X.threshold``; with ``linear="float"`` neither exists."""
    d, specs = config.d_model, {}

    def matrix(name: str, rows: int, columns: int, storage: str = TERNARY) -> None:
        specs[f"{name}.weight"] = Spec((rows, columns), storage)
        if config.linear == "ternary":
            specs[f"{name}.threshold"] = Spec((rows,), VECTOR)
            if storage == TERNARY:
                specs[f"{name}.scale"] = Spec((rows,), VECTOR)

    def vector(name: str, size: int) -> None:
        specs[name] = Spec((size,), VECTOR)

    specs["embedding.weight"] = Spec((VOCABULARY, d), INT8)
    matrix("tokenizer.conv1d", d, config.d_conv * d)
    vector("tokenizer.conv1d.bias", d)
    if config.depth_layers or config.attention_layers:
        vector("byte_importance", VOCABULARY)
    if config.depth_layers:
        vector("depth.weight", d)
        vector("depth.bias", 1)
    if config.surprise_layers:
        matrix("surprise.head", VOCABULARY, d)
        vector("surprise.head.bias", VOCABULARY)
    for i in range(config.n_layers):
        layer = f"layers.{i}"
        if i in config.mod_layers:
            vector(f"{layer}.router.weight", d)
            vector(f"{layer}.router.bias", 1)
        _mixer_specs(config, layer, specs, matrix, vector)
        if i in config.attention_layers:
            vector(f"{layer}.norm_attention.weight", d)
            for name in "qkvo":
                matrix(f"{layer}.attention.{name}_proj", d, d)
        if i in config.memory_layers:
            vector(f"{layer}.norm_memory.weight", d)
            for name in "qkvo":
                matrix(f"{layer}.memory.{name}_proj", d, d)
            vector(f"{layer}.memory.null_key", d)
            vector(f"{layer}.memory.score_scale", 1)
            vector(f"{layer}.memory.gate.weight", d)
            vector(f"{layer}.memory.gate.bias", 1)
        if config.d_ff:
            vector(f"{layer}.norm_ffn.weight", d)
            matrix(f"{layer}.ffn.gate_proj", config.d_ff, d, CODEBOOK)
            matrix(f"{layer}.ffn.up_proj", config.d_ff, d, CODEBOOK)
            matrix(f"{layer}.ffn.down_proj", d, config.d_ff, CODEBOOK)
            if config.linear == "ternary":
                vector(f"{layer}.ffn.codebook", CODEBOOK_SIZE)
    vector("norm_f.weight", d)
    return specs


def _mixer_specs(config: ModelConfig, layer: str, specs: dict[str, Spec], matrix, vector) -> None:
    d, E, N, R = config.d_model, config.d_inner, config.d_state, config.dt_rank
    vector(f"{layer}.norm_mixer.weight", d)
    matrix(f"{layer}.mixer.in_proj", 2 * E, d)
    specs[f"{layer}.mixer.conv1d.weight"] = Spec((E, config.d_conv), INT8)
    vector(f"{layer}.mixer.conv1d.bias", E)
    matrix(f"{layer}.mixer.x_proj", R + 2 * N, E)
    matrix(f"{layer}.mixer.dt_proj", E, R)
    vector(f"{layer}.mixer.dt_proj.bias", E)
    specs[f"{layer}.mixer.A_log"] = Spec((E, N), INT8)
    vector(f"{layer}.mixer.D", E)
    matrix(f"{layer}.mixer.out_proj", d, E)


def component_specs(config: ModelConfig) -> Iterator[dict[str, Spec]]:
    """`parameter_specs` in consecutive parts, each of which is initialised and quantised without the others: a mixer,
    an attention, a feed-forward network of one layer, or what stands outside the layers on its own."""

    def component(name: str) -> str:
        return ".".join(name.split(".")[:3]) if name.startswith("layers.") else name.split(".")[0]

    for _, part in itertools.groupby(parameter_specs(config).items(), key=lambda item: component(item[0])):
        yield dict(part)


def parameter_count(config: ModelConfig) -> int:
    """Number of trained parameters, thresholds, scales and codebooks included."""
    return sum(spec.size for spec in parameter_specs(config).values())
