"""How much memory the NumPy trainer needs: a bound that follows from the configuration and the batch alone."""

from __future__ import annotations

from ghost_ref.config import VOCABULARY, ModelConfig, TrainingConfig
from ghost_ref.muon import muon_matrices
from ghost_ref.parameters import CODEBOOK, TERNARY, parameter_specs

FLOAT = 4
PANEL, DEPTH = 64, 256  # columns and tokens of the blocks in which float products are made (ext/training/kernels.h)


def step_bytes(config: ModelConfig, training: TrainingConfig) -> int:
    """Most bytes that the arrays of a training step hold at once: of the parameters and of the batch's activations.

    Per parameter: value, two moments, gradient; per element of a ternary matrix also the effective float weight in
    panels, trits and codes, and a gradient for each shard; per shard the blocks of the largest product. Per byte of
    the batch: every array that a layer's ops keep for the backward pass, and the largest of those that it makes on the
    way. The interpreter and its libraries (about 100 MB) come on top."""
    specs = parameter_specs(config)
    shapes = [s.shape for s in specs.values() if s.storage in (TERNARY, CODEBOOK)]
    parameters = FLOAT * 4 * sum(s.size for s in specs.values())
    if config.linear == "ternary":
        parameters += sum(n * (FLOAT * _padded(k) + 2 * k + FLOAT * k * training.shards) for n, k in shapes)
        parameters += FLOAT * DEPTH * training.shards * max(n + _padded(k) for n, k in shapes)
    if training.optimizer == "muon":
        parameters += 6 * FLOAT * max(specs[name].size for name in muon_matrices(config))
    tokens = training.batch_size * training.seq_len
    return parameters + FLOAT * tokens * _floats_per_token(config, training)


def _padded(columns: int) -> int:
    return -(-columns // PANEL) * PANEL


def _floats_per_token(config: ModelConfig, training: TrainingConfig) -> int:
    d, E, F, N = config.d_model, config.d_inner, config.d_ff, config.d_state
    mixer = 13 * E + E * N // 8 + 6 * d + 6 * (config.dt_rank + 2 * N)
    ffn = 6 * F + 6 * d
    routing = 4 * d
    layers = config.n_layers * (mixer + ffn + routing)
    layers += len(config.attention_layers) * (10 * d + 2 * config.n_heads * config.attention_slots)
    layers += len(config.memory_layers) * (12 * d + 8 * (training.memory_entries + 1))
    ends = 12 * VOCABULARY + (3 * config.d_conv + 8) * d
    backward = 8 * max(2 * E, F)
    return layers + ends + backward
