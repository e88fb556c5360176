"""First values of the parameters, a function of (config, seed) alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ghost_ref.config import CODEBOOK_SIZE, ModelConfig
from ghost_ref.ops.ternary import group_sums
from ghost_ref.parameters import CODEBOOK, TERNARY, component_specs
from ghost_ref.quantise import quantise

Params = dict[str, np.ndarray]

FIRST_THRESHOLD = 0.7  # of mean |w|: near the optimum for Gaussian and uniform weights (arXiv:1605.04711)
DT_RANGE = (1e-3, 1e-1)  # as in state-spaces/mamba
CODEBOOK_MARGIN = (0.25, 4.0)  # around the smallest and largest first magnitude
CONSTANTS = {"memory.score_scale": 20.0, "memory.gate.bias": -2.0, "depth.bias": 3.0}
ONES = ("norm_mixer.weight", "norm_attention.weight", "norm_memory.weight", "norm_ffn.weight", "norm_f.weight",
        "mixer.D")
ZEROS = ("bias", "byte_importance", "depth.weight", "memory.gate.weight")


def initialise(config: ModelConfig, seed: int) -> Params:
    """float32 parameters: matrices uniform in ±1/sqrt(inputs), the rest as state-spaces/mamba or neutral."""
    return {name: value for component in initial_components(config, seed) for name, value in component.items()}


def initial_components(config: ModelConfig, seed: int) -> Iterator[Params]:
    """The parameters of `initialise`, one of `component_specs` after the other: only what the caller keeps stays."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    for specs in component_specs(config):
        params: Params = {}
        for name, spec in specs.items():
            params[name] = np.ascontiguousarray(_first_value(name, spec, config, params, rng), np.float32)
        yield params


def initial_weights(config: ModelConfig, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of `quantise(initialise(config, seed))` one by one, for `save_packed`: a model larger than the memory
    can be made. No more than one of `component_specs` is in memory at a time."""
    from ghost_ref import ops

    for specs, params in zip(component_specs(config), initial_components(config, seed), strict=True):
        weights = quantise(params, config, ops, specs)
        params.clear()
        for name in list(weights):
            yield name, weights.pop(name)


def _first_value(name, spec, config, params, rng):
    stem = name.rpartition(".")[0]
    if spec.storage in (TERNARY, CODEBOOK) or name.endswith("mixer.conv1d.weight"):
        weight = rng.uniform(-1, 1, spec.shape)
        weight /= math.sqrt(spec.shape[1])
        if name.endswith(("out_proj.weight", "down_proj.weight")):
            weight /= math.sqrt(config.n_layers)
        return weight
    if name.endswith(".threshold"):
        return np.full(spec.shape, FIRST_THRESHOLD)
    if name.endswith(".scale"):
        return _mean_kept(params[f"{stem}.weight"], params[f"{stem}.weight"].shape[1])[:, 0]
    if name.endswith(".codebook"):
        matrices = [params[f"{stem}.{m}_proj.weight"] for m in ("gate", "up", "down")]
        magnitudes = np.concatenate([_mean_kept(w, config.codebook_group).ravel() for w in matrices])
        used = magnitudes[magnitudes > 0]  # a small group may keep nothing
        return np.geomspace(used.min() * CODEBOOK_MARGIN[0], used.max() * CODEBOOK_MARGIN[1], CODEBOOK_SIZE)
    if name.endswith("mixer.A_log"):
        return np.broadcast_to(np.log(np.arange(1, config.d_state + 1)), spec.shape)
    if name.endswith("dt_proj.bias"):
        dt = np.exp(rng.uniform(*np.log(DT_RANGE), spec.shape))
        return dt + np.log(-np.expm1(-dt))  # inverse softplus
    for ending, value in CONSTANTS.items():
        if name.endswith(ending):
            return np.full(spec.shape, value)
    if name.endswith(ONES):
        return np.ones(spec.shape)
    if name.endswith(ZEROS):
        return np.zeros(spec.shape)
    return rng.normal(0, config.d_model**-0.5, spec.shape)  # embedding, routers, null keys


def _mean_kept(weight: np.ndarray, group: int) -> np.ndarray:
    """Mean of the |w| that a first threshold keeps, per row and group."""
    magnitude = np.abs(weight)
    kept = magnitude > FIRST_THRESHOLD * magnitude.mean(1, keepdims=True)
    return group_sums(magnitude * kept, group) / np.maximum(group_sums(kept.astype(np.float64), group), 1)
