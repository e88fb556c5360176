"""The family: a preset is a row of differences from the default ModelConfig. Code tests features, never names."""

from __future__ import annotations

from ghost_ref.config import ModelConfig
from ghost_ref.errors import GhostError

PRESETS: dict[str, ModelConfig] = {
    "v12": ModelConfig(
        attention_layers=(3, 5), memory_layers=(2, 4),
        mod_layers=(1, 3, 5, 7), depth_layers=(4, 5, 6, 7), surprise_layers=(6, 7),
    ),
    "tiny": ModelConfig(
        d_model=112, n_layers=5, dt_rank=7, d_ff=64, codebook_group=64,
        attention_layers=(3,), memory_layers=(2,), mod_layers=(1, 3), depth_layers=(2, 3), surprise_layers=(3,),
    ),
}

TRAINING: dict[str, dict[str, float]] = {  # what trains a preset better than the defaults of TrainingConfig
    "v12": {"lr": 0.002},
}


def preset(name: str) -> ModelConfig:
    """The configuration of a preset. Raises GhostError naming the known ones."""
    if name not in PRESETS:
        raise GhostError(f"There is no preset {name!r}; the presets are: {', '.join(sorted(PRESETS))}.")
    return PRESETS[name]
