"""Proof that the C++ runtime computes the very bits that the NumPy reference defines, on one packed file.

Every prompt is read once by the reference and then, in random pieces with the state carried, by the runtime at every
instruction-set level this CPU has and for several numbers of threads. Logits, hidden states and the final recurrent
state must be equal bit by bit; NaNs compare as a class, their bits differ between machines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ghost_ref.config import ModelConfig
from ghost_ref.errors import GhostError
from ghost_ref.ops.norm import unit_forward
from ghost_ref.runtime import Model, have_native, load

LEVELS = ("scalar", "avx2", "avxvnni", "avx512vnni", "neon", "neondot")
"""Every instruction-set level of the runtime, those of a processor slowest first."""

TEXTS = (
    b"What is the capital of France?\xfbParis\xff",
    b"list pods\xfbkubectl get pods\xff",
    "Wie heißt die Brücke? 你好, naïve café 🌉\n".encode(),
    b"First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n",
    b"def add(a, b):\n    return a + b\n\n" * 4,
    b"a" * 200,
    bytes(range(256)),
)
LARGEST_BANK = 20
MEAN_PIECE = 24  # bytes a split piece has on average

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Prompt:
    """One input: its bytes, where it is cut, and the bank snapshot shown to the memory layers or None."""

    data: bytes
    cuts: tuple[int, ...]
    memory: Arrays | None


def verify_file(path: str | Path, prompts: int = 64, seed: int = 0, levels: Sequence[str] | None = None,
                threads: Sequence[int] = (1, 2, 3), max_length: int = 300,
                on_progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Compare the runtime with the reference on `prompts` inputs of 1..max_length bytes: seven typical texts, the
    others random byte strings (all 256 values). Every second one with a random memory bank in view if the model has
    memory layers.

    Returns {"equal": bool, "prompts", "bytes", "logits_compared" per run, "runs": [...]}; each run has "level",
    "threads", "status" ("equal", "different" or "not run", then with the "reason") and "first_difference".
    Raises GhostError if the file is bad, a level unknown, or nothing at all could be compared."""
    if prompts < 1 or max_length < 1:
        raise GhostError("ghost verify needs at least one prompt of at least one byte.")
    if unknown := sorted(set(levels or ()) - set(LEVELS)):
        raise GhostError(f"There is no level {unknown[0]!r}; the levels are: {', '.join(LEVELS)}.")
    reference = load(path, backend="reference")
    if not have_native():
        raise GhostError("The C++ runtime is not built: there is nothing to compare with the reference; install Ghost "
                         "with a C++ compiler and without GHOST_PURE=1.")
    runs, models = open_levels(path, levels or LEVELS, threads)
    if not models:
        raise GhostError(f"None of the levels {', '.join(levels or LEVELS)} can run here: {runs[0]['reason']}")
    total = 0
    for number, prompt in enumerate(make_prompts(reference.config, prompts, seed, max_length)):
        expected = read_in_pieces(reference, Prompt(prompt.data, (), prompt.memory))
        total += len(prompt.data)
        for run, model in models:
            _compare_run(run, model, number, prompt, expected)
        if on_progress:
            on_progress(number + 1, prompts)
    return {"file": str(path), "seed": seed, "prompts": prompts, "bytes": total,
            "equal": all(run["status"] == "equal" for run, _ in models), "runs": runs}


@contextmanager
def all_threads() -> Iterator[None]:
    """Models loaded within compute with all their threads, always: every split is tested on a busy machine too."""
    before = os.environ.get("GHOST_TEAM")
    os.environ["GHOST_TEAM"] = "all"
    try:
        yield
    finally:
        if before is None:
            del os.environ["GHOST_TEAM"]
        else:
            os.environ["GHOST_TEAM"] = before


def open_levels(path: str | Path, levels: Sequence[str],
                threads: Sequence[int]) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], Model]]]:
    """A run record for each level and number of threads, and the models of those that this CPU can run."""
    runs, models = [], []
    for level in levels:
        for count in threads:
            run = {"level": level, "threads": count, "status": "equal", "logits_compared": 0}
            try:
                with all_threads():
                    models.append((run, load(path, backend="native", threads=count, level=level)))
            except GhostError as error:
                run = {"level": level, "threads": count, "status": "not run", "reason": str(error)}
            runs.append(run)
    return runs, models


def make_prompts(config: ModelConfig, prompts: int, seed: int, max_length: int) -> Iterator[Prompt]:
    """The inputs of one seed; the first ones are the same however many are asked for."""
    for number in range(prompts):
        rng = np.random.default_rng((seed, number))
        if number < len(TEXTS):
            data = TEXTS[number][:max_length]
        else:
            data = rng.integers(0, 256, rng.integers(1, max_length + 1)).astype(np.uint8).tobytes()
        pieces = rng.integers(0, len(data) // MEAN_PIECE + 2)
        cuts = np.unique(rng.integers(1, len(data), pieces)) if len(data) > 1 else np.zeros(0, np.int64)
        with_memory = config.memory_layers and number % 2
        yield Prompt(data, tuple(cuts.tolist()), _random_bank(config, rng) if with_memory else None)


def _random_bank(config: ModelConfig, rng: np.random.Generator) -> Arrays:
    entries = int(rng.integers(1, min(LARGEST_BANK, config.memory_capacity) + 1))
    keys, _ = unit_forward(rng.standard_normal((entries, config.d_model)).astype(np.float32))
    return {"keys": keys, "values": rng.integers(0, 256, (entries, 8)).astype(np.uint8),
            "counts": rng.integers(1, 9, entries).astype(np.int32)}


def read_in_pieces(model: Model, prompt: Prompt) -> Arrays:
    """logits (L, 256), hidden (L, d) and every array of the final state, read in the prompt's pieces."""
    model.set_memory(prompt.memory)
    state = model.new_state()
    tokens = np.frombuffer(prompt.data, np.uint8)
    outputs = [model.engine.forward(state, piece, False) for piece in np.split(tokens, prompt.cuts)]
    return {"logits": np.concatenate([logits for logits, _ in outputs]),
            "hidden": np.concatenate([hidden for _, hidden in outputs]),
            **{f"state {name}": value for name, value in model.state_dict(state).items()}}


def _compare_run(run: dict[str, Any], model: Model, number: int, prompt: Prompt, expected: Arrays) -> None:
    got = read_in_pieces(model, prompt)
    run["logits_compared"] += expected["logits"].size
    if run["status"] == "different":
        return
    if difference := first_difference(expected, got):
        run["status"] = "different"
        run["first_difference"] = {"prompt": number, "data": prompt.data.hex(), "cuts": list(prompt.cuts),
                                   "memory_entries": len(prompt.memory["keys"]) if prompt.memory else 0, **difference}


def first_difference(expected: Arrays, got: Arrays) -> dict[str, Any] | None:
    """Where two results differ first, or None: array and index (of logits: position in the input and byte),
    and both values as decimal and as the hexadecimal of their bits."""
    for name, a in expected.items():
        b = got.get(name)
        if b is None or a.shape != b.shape or a.dtype != b.dtype:
            return {"array": name, "expected": f"{a.dtype} {a.shape}",
                    "got": "nothing" if b is None else f"{b.dtype} {b.shape}"}
        if (different := ~_same_bits(a, b)).any():
            index = tuple(int(i) for i in np.argwhere(different)[0])
            place = dict(zip(("position", "byte" if name == "logits" else "feature"), index)) \
                if name in ("logits", "hidden") else {"index": list(index)}
            return {"array": name, **place, "expected": _show(a[index]), "got": _show(b[index]),
                    "differing": int(different.sum())}
    return None


def _same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Elementwise equality of bits, any NaN equal to any NaN."""
    bits = np.dtype(f"u{a.dtype.itemsize}")
    same = np.ascontiguousarray(a).view(bits) == np.ascontiguousarray(b).view(bits)
    return same | (np.isnan(a) & np.isnan(b)) if a.dtype.kind == "f" else same


def _show(value: Any) -> str:
    return f"{value!s} (0x{value.tobytes()[::-1].hex()})"
