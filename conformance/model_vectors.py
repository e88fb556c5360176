"""Golden vectors of a whole model: a packed file of a few kilobytes, bytes to read, and the reference's logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conformance.components.models import SMALL, random_memory, random_params
from ghost_ref import ops
from ghost_ref.config import PAD
from ghost_ref.engines import ReferenceEngine
from ghost_ref.packed import save_packed
from ghost_ref.quantise import quantise

ARGUMENTS = ("tokens", "memory.keys", "memory.values", "memory.counts")
OUTPUTS = ("logits", "hidden")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ModelCase:
    """Bytes fed in chunks to a fresh state. arguments: tokens (t,), and a memory snapshot or none; outputs: logits
    (t, 256) and hidden (t, d)."""

    label: str
    chunks: tuple[int, ...]
    arguments: Arrays
    outputs: Arrays


def write_model(path: Path, seed: int) -> list[ModelCase]:
    """Write the packed model of a seed, with every feature and awkward sizes, and compute its cases."""
    rng = np.random.default_rng((seed, *b"model"))
    save_packed(path, quantise(random_params(SMALL, rng), SMALL, ops), SMALL)
    engine = ReferenceEngine(path)
    memory = random_memory(SMALL, rng, 5)

    def text(length: int) -> np.ndarray:
        return rng.integers(0, PAD, length).astype(np.uint8)

    padded = text(12)
    padded[4:7] = PAD
    return [_case(engine, "one chunk", (33,), text(33)),
            _case(engine, "byte by byte", (1,) * 9, text(9)),
            _case(engine, "chunks", (17, 1, 5, 7), text(30)),
            _case(engine, "PAD inside", (12,), padded),
            _case(engine, "memory", (24,), text(24), memory)]


def _case(engine: ReferenceEngine, label: str, chunks: tuple[int, ...], tokens: np.ndarray,
          memory: Arrays | None = None) -> ModelCase:
    engine.set_memory(memory)
    state = engine.new_state()
    parts = [engine.forward(state, part, False) for part in np.split(tokens, np.cumsum(chunks)[:-1])]
    outputs = {name: np.concatenate(found) for name, found in zip(OUTPUTS, zip(*parts, strict=True), strict=True)}
    arguments = {"tokens": tokens} | {f"memory.{k}": v for k, v in (memory or {}).items()}
    return ModelCase(label, chunks, arguments, outputs)
