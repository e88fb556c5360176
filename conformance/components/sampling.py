"""Choosing the next byte: the same on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from conformance.case import FORWARD, Case, Component
from conformance.components.inputs import normal
from ghost_ref.config import EOS, PAD, SamplingConfig
from ghost_ref.errors import GhostError
from ghost_ref.sampling import NEVER_CHOSEN, choose_byte

Rng = np.random.Generator
REFUSED = -1
EDGE_STEP = 50629177
"""With seed 0 its number is 11184811·2^-24, the float32 sum of two thirds and odd in the last of the 24 bits."""
PUBLISHED = (  # Random123 1.14, tests/kat_vectors: counter, key, expected words
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)
Choose = Callable[[np.ndarray, SamplingConfig, int], int]


CUTS: dict[str, dict[str, Any]] = {
    "greedy": {}, "temperature": {"temp": 0.7}, "hot": {"temp": 100.0}, "cold": {"temp": 1e-3},
    "top-k": {"temp": 1.0, "top_k": 3}, "top-p": {"temp": 1.0, "top_p": 0.8}, "min-p": {"temp": 1.3, "min_p": 0.1},
    "all cuts": {"temp": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
}


def choose_bytes(logits: Any, steps: np.ndarray, *, choose: Choose = choose_byte, **settings: Any) -> np.ndarray:
    """choose(row, SamplingConfig(settings), step) of every row, -1 where it refuses the logits (GhostError or
    RuntimeError).   logits (T, 256), steps (T,) -> (T,)"""
    config = SamplingConfig.from_dict(settings)

    def one(row: np.ndarray, step: int) -> int:
        try:
            return choose(row, config, step)
        except (GhostError, RuntimeError):
            return REFUSED

    rows = np.asarray(logits).astype(np.float32)
    return np.array([one(row, int(step)) for row, step in zip(rows, steps, strict=True)], np.int16)


def words(text: str) -> np.ndarray:
    """Words in hexadecimal."""
    return np.array([int(word, 16) for word in text.split()], np.uint32)


def _philox(rng: Rng, extensive: bool) -> Iterator[Case]:
    published = [np.stack([words(row[i]) for row in PUBLISHED]) for i in (0, 1)]
    drawn = [rng.integers(0, 1 << 32, (256, width), dtype=np.uint32) for width in (4, 2)]
    for label, (counter, key) in (("published", published), ("random", drawn)):
        yield Case("philox4x32", label, FORWARD, {"counter": counter, "key": key})


def _choose_byte(rng: Rng, extensive: bool) -> Iterator[Case]:
    def case(label: str, logits: np.ndarray, steps: np.ndarray | None = None, **settings: Any) -> Case:
        steps = np.arange(len(logits), dtype=np.uint64) if steps is None else steps
        return Case("choose_byte", label, FORWARD, {"logits": logits, "steps": steps}, settings)

    typical = normal(rng, 512 if extensive else 48, 256, scale=3)
    for label, settings in CUTS.items():
        seed = int(rng.integers(1 << 62)) * 4 + 3
        yield case(label, typical, seed=seed, **settings)
    far = rng.integers(0, 1 << 64, len(typical), np.uint64)
    yield case("far steps", typical, far, temp=1.0, seed=(1 << 64) - 1)
    thirds = np.full((1, 256), -5, np.float32)
    thirds[0, :3] = 1
    yield case("number on the edge of two bytes", thirds, np.array([EDGE_STEP], np.uint64), temp=1.0, top_k=3, seed=0)
    for temp in (0.0, 1.0):
        yield case(f"ties, temperature {temp}", rng.integers(0, 3, (32, 256)).astype(np.float32), temp=temp, top_k=5)
        yield case(f"reserved bytes, temperature {temp}", _reserved(rng), temp=temp)
        yield case(f"special values, temperature {temp}", _special(rng), temp=temp, top_p=0.9)
    quarters = np.full((8, 256), -200, np.float32)
    quarters[:, :4] = 1
    yield case("top-p reached exactly", quarters, temp=1.0, top_p=0.5)
    yield case("min-p met exactly", quarters, temp=1.0, min_p=1.0)


def _reserved(rng: Rng) -> np.ndarray:
    """Rows in which a reserved byte leads: only EOS may be chosen."""
    logits = normal(rng, len(NEVER_CHOSEN) + 1, 256)
    logits[np.arange(len(logits)), [*NEVER_CHOSEN, EOS]] = 50
    return logits


def _special(rng: Rng) -> np.ndarray:
    """NaN anywhere is refused, and so is an infinite maximum of the allowed bytes; -inf is never chosen."""
    logits = normal(rng, 8, 256)
    logits[0, 9] = np.nan
    logits[1, PAD] = np.nan
    logits[2, 9] = np.inf
    logits[3, PAD] = np.inf
    logits[4] = -np.inf
    logits[5, 10:] = -np.inf
    logits[6] = np.where(rng.random(256) < 0.5, 0.0, -0.0)
    logits[7] *= np.float32(5e37)  # differences near the largest float32
    return logits


COMPONENTS = (
    Component("philox4x32", "ghost_ref.philox:philox4x32", ("counter", "key"), ("words",), _philox),
    Component("choose_byte", "conformance.components.sampling:choose_bytes", ("logits", "steps"), ("bytes",),
              _choose_byte, exact_arguments=("logits",)),
)
