"""From parameters to stored weights: trits, indices, int8 rows, float16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.arithmetic import Arithmetic, RunningError
from conformance.case import BACKWARD, FORWARD, Case, Component
from conformance.components.inputs import ODD_LENGTHS, SPECIAL, normal, uniform, wide
from conformance.components.margins import near, near_nearest, near_rounding16, near_ties
from ghost_ref.constants import SCALE_SMALLEST
from ghost_ref.ops import ternary

ROWS, WIDTH = 24, 96
FLOAT16_EDGES = np.array([65504, 65519.996, 65520, -65520, 1e6, -1e30, 2.0**-14, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25,
                          3 * 2.0**-25, -(2.0**-26), 2.0**-149, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-11 + 2.0**-23,
                          2047.5, 2049, 2051, 0.0, -0.0, 1 / 3], np.float32)
"""The largest, overflow, the smallest, and ties of rounding to float16."""


def _tracked(x: np.ndarray, arithmetic: Arithmetic) -> RunningError:
    return RunningError(RunningError.parts_of_exact(x.astype(np.float64)), arithmetic)


# --- float16, int8 rows -----------------------------------------------------------------------------------------------


def _round_float16(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    inputs = {"normal": normal(rng, 256), "wide": wide(rng, 512), "ties and edges": FLOAT16_EDGES,
              "special values": SPECIAL, "matrix": normal(rng, 3, 5, scale=100)}
    for label, x in inputs.items():
        yield Case("round_float16", label, FORWARD, {"x": x})
    scales = np.abs(wide(rng, 256, powers=(-40, 20)))
    yield Case("round_float16", "scales", FORWARD, {"x": scales}, {"smallest": SCALE_SMALLEST})
    yield Case("round_float16", "scales at zero and below", FORWARD,
               {"x": np.array([0.0, -0.0, -1.0, 2.0**-15, np.inf], np.float32)}, {"smallest": SCALE_SMALLEST})
    yield Case("round_float16", "straight through", BACKWARD, {"x": FLOAT16_EDGES},
               cotangents={"y": normal(rng, FLOAT16_EDGES.size)})


def _int8_rows(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    weights = {"normal": normal(rng, 300 if extensive else ROWS, WIDTH), "wide": wide(rng, 9, 33, powers=(-12, 12)),
               "ties": _int8_ties(), "zero rows": np.array([[0.0, -0.0], [0.0, 0.0], [1.0, -2.0]], np.float32),
               "scale below float16": wide(rng, 6, 5, powers=(-30, -18)),
               "largest scales": uniform(rng, -8e6, 8e6, 4, 9)}
    weights |= {f"k={k}": normal(rng, 3, k) for k in ODD_LENGTHS}
    for label, weight in weights.items():
        yield Case("int8_rows", label, FORWARD, {"weight": weight})
    yield Case("int8_rows", "straight through", BACKWARD, {"weight": normal(rng, 5, 9)},
               cotangents={"q": normal(rng, 5, 9)})


def _int8_ties() -> np.ndarray:
    """Rows of half-integers times a power of two, where both divisions are exact; then rows whose scale is one."""
    halves = np.concatenate([np.arange(-127, 127) + 0.5, [127.0]])
    return (np.exp2(np.arange(-6, 7))[:, None] * halves).astype(np.float32)


def _int8_undecided(case: Case, arithmetic: Arithmetic) -> dict[str, np.ndarray]:
    """Scales at a tie of float16, all codes of their rows, and codes at a tie of their own."""
    weight = _tracked(case.arguments["weight"], arithmetic)
    raw = np.abs(weight).max(1) / 127.0
    scale = near_rounding16(raw)
    with np.errstate(all="ignore"):
        code = near_ties(weight / raw.astype(np.float16)[:, None])
    return {"scale": scale, "q": code | scale[:, None]}


def _dequantise_rows(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    for label, n, k in (("rows", ROWS, WIDTH), *((f"k={k}", 3, k) for k in ODD_LENGTHS)):
        q = rng.integers(-127, 128, (n, k)).astype(np.float32)
        scale = uniform(rng, 1e-3, 0.1, n).astype(np.float16).astype(np.float32)
        yield Case("dequantise_rows", label, FORWARD, {"q": q, "scale": scale}, statistical=n * k > 256)
        yield Case("dequantise_rows", label, BACKWARD, {"q": q, "scale": scale}, cotangents={"y": normal(rng, n, k)})
    q, scale = np.array([[127, -127, 0, 1]] * 3, np.float32), np.array([0, 65504, 2.0**-24], np.float32)
    yield Case("dequantise_rows", "zero, largest and smallest scale", FORWARD, {"q": q, "scale": scale},
               statistical=False)


# --- trits ------------------------------------------------------------------------------------------------------------


def _thresholded(rng: np.random.Generator, extensive: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray, bool]]:
    """Weights and thresholds: (label, weight (n, k), threshold (n,), statistical)."""
    width = 512 if extensive else WIDTH
    yield "normal", normal(rng, ROWS, width, scale=0.05), uniform(rng, 0.3, 1.2, ROWS), True
    yield "thresholds outside their range", normal(rng, ROWS, 33), uniform(rng, -1, 3, ROWS), False
    yield "wide", wide(rng, 8, 33), uniform(rng, 0.3, 1.2, 8), False
    for k in ODD_LENGTHS:
        yield f"k={k}", normal(rng, 4, k), uniform(rng, 0.3, 1.2, 4), False
    # mean |w| and the threshold are powers of two: the threshold is exact, and some |w| are equal to it
    ties = np.tile(np.array([1, -1, 3, -3, 2, -2, 4, 0], np.float32), 4) * np.exp2(rng.integers(-9, 9, (6, 1)))
    yield "at the threshold", ties.astype(np.float32), np.array([0.5, 0.5, 1, 1, 0.75, 0.3], np.float32), False
    equal = np.array([[0.1], [1 / 3], [7e-5]], np.float32) * rng.choice([-1, 1], (3, 17))
    yield "threshold past the largest weight", equal.astype(np.float32), np.full(3, 1.2, np.float32), False
    zeros = np.concatenate([np.zeros((2, 9)), normal(rng, 1, 9)]).astype(np.float32)
    zeros[1] *= -1
    yield "zero rows", zeros, uniform(rng, 0.3, 1.2, 3), False


def _ternarise(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    for label, weight, threshold, statistical in _thresholded(rng, extensive):
        scale = wide(rng, len(weight), powers=(-18, 4))
        arguments = {"weight": weight, "threshold": threshold, "scale": scale}
        yield Case("ternarise", label, FORWARD, arguments)
        douts = {"trits": normal(rng, *weight.shape), "scale": normal(rng, len(weight))}
        yield Case("ternarise", label, BACKWARD, arguments, cotangents=douts, statistical=statistical)


def _trits_undecided(case: Case, arithmetic: Arithmetic) -> np.ndarray:
    """Weights whose |w| lies closer to the threshold than its error."""
    weight = _tracked(case.arguments["weight"], arithmetic)
    _, delta = ternary._threshold(weight, _tracked(case.arguments["threshold"], arithmetic))
    return near(abs(weight), delta[:, None])


def _ternarise_undecided(case: Case, arithmetic: Arithmetic) -> dict[str, np.ndarray]:
    return {"trits": _trits_undecided(case, arithmetic)}


# --- codebook ---------------------------------------------------------------------------------------------------------


def _entries(rng: np.random.Generator) -> np.ndarray:
    """A codebook, in no order, with entries that are equal."""
    entries = np.geomspace(1e-3, 1, 256).astype(np.float16).astype(np.float32)
    entries[100:110] = entries[50]
    return rng.permutation(entries)


def _codebook_ternarise(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def cases(label: str, weight: np.ndarray, threshold: np.ndarray, codebook: np.ndarray, group: int,
              statistical: bool = False) -> Iterator[Case]:
        arguments: dict[str, Any] = {"weight": weight, "threshold": threshold, "codebook": codebook}
        yield Case("codebook_ternarise", label, FORWARD, arguments, {"group": group})
        with np.errstate(all="ignore"):
            decided, _ = ternary.codebook_ternarise_forward(weight, threshold, codebook, group=group)
        yield Case("codebook_ternarise", label, BACKWARD, arguments, {"group": group, "forced": decided},
                   {"trits": normal(rng, *weight.shape)}, statistical)

    for label, weight, threshold, statistical in _thresholded(rng, extensive):
        group = 32 if statistical else 4
        yield from cases(label, weight, threshold, _entries(rng), group, statistical)
    yield from cases("ragged last group", normal(rng, 6, 90), uniform(rng, 0.3, 1.2, 6), _entries(rng), 32)
    yield from cases("one group, longer than k", normal(rng, 6, 33), uniform(rng, 0.3, 1.2, 6), _entries(rng), 128)
    # groups of one kept weight each, half-way between entries, and at entries that are there twice
    codebook = np.repeat(np.arange(0, 256, 2, dtype=np.float32), 2)
    weight = rng.permutation(np.arange(64, 254)).astype(np.float32)[None]
    yield from cases("between equal distances", weight, np.array([0.3], np.float32), rng.permutation(codebook), 1)


def _codebook_undecided(case: Case, arithmetic: Arithmetic) -> dict[str, np.ndarray]:
    """Trits as in ternarise; indices of groups with such a trit, or whose mean lies about half-way between entries."""
    group, codebook = case.statics["group"], case.arguments["codebook"].astype(np.float64)
    undecided = _trits_undecided(case, arithmetic)
    weight = _tracked(case.arguments["weight"], arithmetic)
    _, delta = ternary._threshold(weight, _tracked(case.arguments["threshold"], arithmetic))
    kept = np.abs(weight.parts[0]) > delta.parts[0][:, None]
    counts = ternary.group_sums(kept.astype(np.float64), group)
    mean = ternary.group_sums(np.abs(weight) * kept, group) / np.maximum(counts, 1)
    index = near_nearest(mean, codebook) & (counts > 0)
    return {"trits": undecided, "index": index | (ternary.group_sums(undecided.astype(np.float64), group) > 0)}


COMPONENTS = (
    Component("round_float16", "ghost_ref.ops.ternary:round_float16", ("x",), ("y",), _round_float16,
              gradients=("x",)),
    Component("int8_rows", "ghost_ref.ops.ternary:int8_rows", ("weight",), ("q", "scale"), _int8_rows,
              gradients=("weight",), decisions=("q", "scale"), undecided=_int8_undecided),
    Component("dequantise_rows", "ghost_ref.ops.ternary:dequantise_rows", ("q", "scale"), ("y",), _dequantise_rows,
              gradients=("q",), exact_arguments=("q",)),
    Component("ternarise", "ghost_ref.ops.ternary:ternarise", ("weight", "threshold", "scale"), ("trits", "scale"),
              _ternarise, differentiable=2, gradients=("weight", "threshold", "scale"), decisions=("trits",),
              undecided=_ternarise_undecided),
    Component("codebook_ternarise", "ghost_ref.ops.ternary:codebook_ternarise", ("weight", "threshold", "codebook"),
              ("trits", "index"), _codebook_ternarise, gradients=("weight", "threshold"), canonical=False,
              decisions=("trits", "index"), undecided=_codebook_undecided, exact_arguments=("forced",)),
)
