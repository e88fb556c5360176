"""Packed models with random weights that never end their text."""

from __future__ import annotations

from pathlib import Path

from protocol import RESULTS
from random_model import shape

from ghost_ref import ops
from ghost_ref.config import EOS
from ghost_ref.initialise import initialise
from ghost_ref.packed import save_packed
from ghost_ref.quantise import quantise

MODELS = RESULTS / "models"  # what can be made again is not a result


def endless_model(name: str) -> Path:
    """The file of a shape of random_model.py, written at the first call.

    EOS has a row of zeros in the tied head: its logit is 0, another byte's is larger, and greedy decoding goes on."""
    path, config = MODELS / f"{name}-endless.ghost", shape(name)
    if not path.exists():
        MODELS.mkdir(parents=True, exist_ok=True)
        weights = quantise(initialise(config, 0), config, ops)
        weights["embedding.weight"][EOS] = 0
        save_packed(path, weights, config)
    return path
