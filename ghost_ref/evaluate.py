"""Measuring a packed model: nats per byte on text (P256, PS) and exact answers, always with the protocol's name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ghost_ref.config import SamplingConfig
from ghost_ref.data import Pair
from ghost_ref.errors import GhostError
from ghost_ref.runtime import BATCH, Model

if TYPE_CHECKING:
    from ghost_ref.memory_bank import MemoryBank

WINDOW = 256
STREAM_CHUNK = 4096
Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927). Raises ValueError without trials."""
    if trials < 1:
        raise ValueError("an interval needs at least one trial")
    p, z2 = successes / trials, Z95 * Z95
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def evaluate_text(model: Model, text: bytes, protocol: str = "p256", limit: int | None = None,
                  on_progress: Callable[[int, int], None] | None = None, batch: int = BATCH) -> dict[str, Any]:
    """Mean nats per byte of a text.

    p256: consecutive windows of 256 bytes, zero state, every window predicts its next 256 bytes; `batch` windows are
    read together. ps: one stream, state carried, no updates. limit: use only this many bytes.
    A byte costs what `Model.losses` says; the costs are added without rounding (math.fsum), so the figure has the same
    bits for every batch, level and number of threads, and on the reference. Raises GhostError on a text too short."""
    if protocol not in ("p256", "ps"):
        raise GhostError(f"The protocol for a text is p256 or ps, not {protocol!r}.")
    content = np.frombuffer(text, np.uint8)[: None if limit is None else limit + 1]
    if len(content) < (WINDOW + 1 if protocol == "p256" else 2):
        raise GhostError(f"The text has only {len(content)} bytes, too few for {protocol}.")
    step, together = (WINDOW, batch) if protocol == "p256" else (STREAM_CHUNK, 1)
    usable = (len(content) - 1) // WINDOW * WINDOW if protocol == "p256" else len(content) - 1
    pieces = [content[start : min(start + step, usable) + 1] for start in range(0, usable, step)]
    states = [model.new_state()] if protocol == "ps" else None
    costs: list[float] = []
    for first in range(0, len(pieces), together):
        for cost in model.losses(pieces[first : first + together], states):
            costs += cost.tolist()
        if on_progress:
            on_progress(len(costs), usable)
    mean = math.fsum(costs) / usable
    return {"protocol": protocol, "bytes": usable, "nats_per_byte": mean, "bits_per_byte": mean / math.log(2)}


def evaluate_answers(model: Model, pairs: Sequence[Pair], bank: MemoryBank | None = None,
                     on_progress: Callable[[int, int], None] | None = None, batch: int = BATCH) -> dict[str, Any]:
    """Greedy answers compared byte by byte with the completions: exact share with its 95 % Wilson interval, over all
    and per kind, and the wrong ones. bank: a MemoryBank to answer with (ghost_ref.memory_bank.answer).
    `batch` questions are answered together; the answers do not depend on it."""
    if not pairs:
        raise GhostError("There are no question-answer pairs to evaluate.")
    results = []
    for first in range(0, len(pairs), batch):
        part = pairs[first : first + batch]
        results += [(pair, given, given == pair.completion.decode("utf-8"))
                    for pair, given in zip(part, _answers(model, part, bank), strict=True)]
        if on_progress:
            on_progress(len(results), len(pairs))
    report = {"protocol": "answers", **_share([right for _, _, right in results])}
    kinds = sorted({pair.kind for pair in pairs if pair.kind})
    if kinds:
        report["kinds"] = {kind: _share([right for pair, _, right in results if pair.kind == kind]) for kind in kinds}
    report["wrong"] = [{"prompt": pair.prompt.decode(), "expected": pair.completion.decode(), "given": given}
                       for pair, given, right in results if not right]
    return report


def _answers(model: Model, pairs: Sequence[Pair], bank: MemoryBank | None) -> list[str]:
    prompts, most = [pair.prompt for pair in pairs], [len(pair.completion) + 32 for pair in pairs]
    if bank is None:
        return model.generate_batch(prompts, max_bytes=most)
    from ghost_ref.memory_bank import answer_all

    return [text for text, _ in answer_all(model, bank, prompts, [SamplingConfig(max_bytes=n) for n in most])]


def _share(rights: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson_interval(sum(rights), len(rights))
    return {"items": len(rights), "right": sum(rights), "share": sum(rights) / len(rights), "wilson95": [low, high]}
