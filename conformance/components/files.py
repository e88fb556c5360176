"""The packed file: what is written is what is read, and damage is refused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from conformance.case import FORWARD, Case, Component
from conformance.components.models import SMALL, random_params
from conformance.judge import same_values
from ghost_ref import ops
from ghost_ref.errors import GhostError
from ghost_ref.packed import load_packed, save_packed
from ghost_ref.quantise import quantise
from ghost_ref.runtime import Model, load

Rng = np.random.Generator
HEADER_BYTES = 8  # the length of the header stands before it


def load_reference(path: Path) -> Model:
    """The NumPy reference on a packed file."""
    return load(path, backend="reference")


def read_file(file: np.ndarray, tokens: np.ndarray, damage: np.ndarray, *,
              load: Callable[[Path], Model] = load_reference) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits of the tokens, the config as the bytes of its JSON, which damaged copies are refused).

    file (n,) uint8. damage (F, 2): per copy a position and the bits flipped there; no bits: cut off there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ghost"
        path.write_bytes(file.tobytes())
        model = load(path)
        logits = model.logits(tokens)
        refused = [_refused(path, file, int(position), int(bits), load) for position, bits in damage]
    return logits, np.frombuffer(model.config.to_json().encode(), np.uint8), np.array(refused)


def _refused(path: Path, file: np.ndarray, position: int, bits: int, load: Callable[[Path], Model]) -> bool:
    damaged = file.copy() if bits else file[:position]
    if bits:
        damaged[position] ^= bits
    path.write_bytes(damaged.tobytes())
    try:
        load(path)
    except GhostError:
        return True
    return False


def restored_tensors(weights: dict[str, np.ndarray]) -> np.ndarray:
    """Whether each of the small model's weights comes back from its file with the same bits."""
    given = {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ghost"
        save_packed(path, given, SMALL)
        read, config = load_packed(path)
    return np.array([*(same_values(read[name], value).all() for name, value in given.items()),
                     set(read) == set(given), config == SMALL])


def _small_weights(rng: Rng) -> dict[str, Any]:
    """Weights without -0, which integers on disk do not have."""
    weights = quantise(random_params(SMALL, rng), SMALL, ops)
    return {name: value + value.dtype.type(0) for name, value in weights.items()}


def _packed_file(rng: Rng, extensive: bool) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ghost"
        save_packed(path, _small_weights(rng), SMALL)
        file = np.frombuffer(path.read_bytes(), np.uint8)
    header = HEADER_BYTES + int.from_bytes(file[:HEADER_BYTES].tobytes(), "little")
    flips = [(p, 1 << int(rng.integers(8))) for p in (0, 7, 8, header - 1, header, len(file) - 1)]
    places = rng.integers(HEADER_BYTES, len(file), 200 if extensive else 20)
    flips += [(int(p), int(rng.integers(1, 256))) for p in places]
    cuts = [(p, 0) for p in (0, 1, 7, 8, header - 1, header, len(file) - 1)]
    yield Case("packed_file", "small model", FORWARD, {
        "file": file, "tokens": rng.integers(0, 256, 17).astype(np.uint8), "damage": np.array(flips + cuts, np.int64)})


def _packed_tensors(rng: Rng, extensive: bool) -> Iterator[Case]:
    yield Case("packed_tensors", "small model", FORWARD, {"weights": _small_weights(rng)})


_OWN = "conformance.components.files"
COMPONENTS = (
    Component("packed_file", f"{_OWN}:read_file", ("file", "tokens", "damage"), ("logits", "config", "refused"),
              _packed_file),
    Component("packed_tensors", f"{_OWN}:restored_tensors", ("weights",), ("same",), _packed_tensors,
              exact_arguments=("weights",)),
)
