"""Linear layers as the NumPy trainer computes them: from float weights, in shards, all gradients from the weights' own.

A step quantises a matrix once and differentiates with respect to the effective weight Ŵ: dŴ = dyᵀ·x̂, summed over the
shards. What acts on whole rows then follows from it: dscale_o = Σ_k dŴ_ok·trit_ok and, per codebook entry, the sum over
its groups. In real numbers that is what `quantised_linear` gives, Σ dy·y / scale; in floating point it is another sum,
with a bound of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.case import BACKWARD, FORWARD, Case, Component
from conformance.components.inputs import ODD_LENGTHS, normal, uniform
from conformance.components.linear import far_from_ties, row_scales
from ghost_ref.ops.codebook import codebook_linear_backward, codebook_linear_forward
from ghost_ref.ops.linear import quantise_activations, quantised_linear_backward, quantised_linear_forward
from ghost_ref.ops.ternary import (
    codebook_ternarise_backward,
    codebook_ternarise_forward,
    group_sums,
    ternarise_backward,
    ternarise_forward,
)

TOKENS, ROWS, WIDTH = 24, 40, 96
MARGIN = 1e-3  # relative, of weights from their threshold and of magnitudes from the middle of two entries


def training_linear_forward(x, weight, threshold, scale, *, shards, forced=None):
    """y of the rows of x.   x (M, k), weight (n, k), threshold, scale (n,) -> (M, n).   forced: codes of x"""
    (trits, stored), quantised = ternarise_forward(weight, threshold, scale)
    y, saved = quantised_linear_forward(x, trits, stored, forced=forced)
    return y, (saved, quantised, trits)


def training_linear_backward(dy, saved):
    saved, quantised, trits = saved
    dx, deffective, _ = quantised_linear_backward(dy, saved)
    dscale = (deffective * trits).sum(1)
    return dx, *ternarise_backward((deffective, dscale), quantised)


def training_codebook_linear_forward(x, weight, threshold, codebook, *, group, shards, forced=None):
    """y of the rows of x.   x (M, k), weight (n, k), threshold (n,), codebook (256,) -> (M, n)"""
    (trits, index), quantised = codebook_ternarise_forward(weight, threshold, codebook, group=group)
    y, saved = codebook_linear_forward(x, trits, index, codebook, group=group, forced=forced)
    return y, (saved, quantised)


def training_codebook_linear_backward(dy, saved):
    saved, quantised = saved
    dx, deffective, _, dcodebook = codebook_linear_backward(dy, saved)
    dweight, dthreshold, _ = codebook_ternarise_backward(deffective, quantised)
    return dx, dweight, dthreshold, dcodebook


def _clear_weights(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, k) and thresholds (n,) that decide every trit by a wide margin. The largest weight of a row lies
    above its threshold, but for a row of one weight, whose threshold may be cut below it."""
    weight = rng.standard_normal((n, k)) * 0.1
    threshold = uniform(rng, 0.2, 1.3, n)  # stored ones lie in 0.3..1.2
    stored = np.clip(threshold, 0.3, 1.2).astype(np.float16).astype(np.float64)
    for _ in range(20):
        size = np.abs(weight)
        delta = (stored * size.mean(1))[:, None]
        weight = np.where(np.abs(size - delta) < 4 * MARGIN * delta, weight * 1.05, weight)
    return weight.astype(np.float32), threshold


def _with_empty_groups(weight: np.ndarray, threshold: np.ndarray, group: int) -> np.ndarray:
    """The weights with every third group a little below the row's threshold: nothing of it is kept, but its magnitude
    acts on the threshold's gradient."""
    stored = np.clip(threshold, 0.3, 1.2).astype(np.float16).astype(np.float64)
    empty = np.arange(weight.shape[1]) // group % 3 == 1
    lowered = weight.astype(np.float64)
    for _ in range(20):  # the threshold follows the mean
        delta = (stored * np.abs(lowered).mean(1))[:, None]
        near = np.abs(np.abs(lowered) - delta) < 4 * MARGIN * delta
        lowered = np.where(empty, np.copysign(0.9 * delta, weight), np.where(near, 1.05 * lowered, lowered))
    return lowered.astype(np.float32)


def _clear_codebook(rng: np.random.Generator, weight: np.ndarray, threshold: np.ndarray, group: int) -> np.ndarray:
    """Entries (256,) such that none of the groups' mean kept magnitudes lies near the middle of two."""
    size = np.abs(weight.astype(np.float64))
    stored = np.clip(threshold, 0.3, 1.2).astype(np.float16).astype(np.float64)
    delta = np.minimum(stored * size.mean(1), np.nextafter(size.max(1), 0))[:, None]
    kept = size > delta
    mean = group_sums(size * kept, group) / np.maximum(group_sums(kept.astype(np.float64), group), 1)
    codebook = row_scales(rng, 256) * np.float32(0.25)
    for _ in range(50):
        distance = np.sort(np.abs(mean[..., None] - np.unique(codebook)), -1)
        near = (mean > 0) & (distance[..., 1] - distance[..., 0] < MARGIN * distance[..., 1])
        if not near.any():
            return codebook
        nearest = np.abs(mean[near][:, None] - codebook).argmin(1)
        codebook[nearest] = uniform(rng, 0.01, 0.5, len(nearest)).astype(np.float16)
    raise AssertionError("no codebook keeps its distance")


def _both(rng: np.random.Generator, name: str, label: str, arguments: dict[str, Any], statics: dict[str, Any],
          forced: bool, statistical: bool) -> Iterator[Case]:
    if forced:
        statics = statics | {"forced": quantise_activations(arguments["x"])[0]}
    dy = normal(rng, len(arguments["x"]), len(arguments["weight"]))
    yield Case(name, label, FORWARD, arguments, statics, statistical=statistical)
    yield Case(name, label, BACKWARD, arguments, statics, {"y": dy}, statistical=statistical)


def _training_linear(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def cases(label: str, x: np.ndarray, n: int, shards: int = 1, forced: bool = True,
              statistical: bool = False) -> Iterator[Case]:
        weight, threshold = _clear_weights(rng, n, x.shape[1])
        arguments = {"x": x, "weight": weight, "threshold": threshold, "scale": row_scales(rng, n)}
        yield from _both(rng, "training_linear", label, arguments, {"shards": shards}, forced, statistical)

    width = 512 if extensive else WIDTH
    yield from cases("one shard", normal(rng, TOKENS, width), ROWS, statistical=True)
    yield from cases("two shards", normal(rng, TOKENS, width), ROWS, 2, statistical=True)
    yield from cases("codes not forced", far_from_ties(rng, TOKENS, WIDTH), ROWS, 2, forced=False, statistical=True)
    yield from cases("more tokens than one block", normal(rng, 300, 20), 17, statistical=False)
    yield from cases("three ragged shards", normal(rng, 8, 33), 7, 3)
    for k in ODD_LENGTHS:
        yield from cases(f"k={k}", normal(rng, 5, k), 5, 2)


def _training_codebook_linear(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def cases(label: str, x: np.ndarray, n: int, group: int, shards: int = 2, forced: bool = True,
              statistical: bool = False, empty: bool = False) -> Iterator[Case]:
        weight, threshold = _clear_weights(rng, n, x.shape[1])
        weight = _with_empty_groups(weight, threshold, group) if empty else weight
        codebook = _clear_codebook(rng, weight, threshold, group)
        arguments = {"x": x, "weight": weight, "threshold": threshold, "codebook": codebook}
        yield from _both(rng, "training_codebook_linear", label, arguments, {"group": group, "shards": shards}, forced,
                         statistical)

    width = 512 if extensive else WIDTH
    yield from cases("groups of 32", normal(rng, TOKENS, width), ROWS, 32, statistical=True)
    yield from cases("codes not forced", far_from_ties(rng, TOKENS, WIDTH), ROWS, 16, forced=False, statistical=True)
    yield from cases("ragged last group", normal(rng, TOKENS, 90), 24, 32, 1, statistical=True)
    yield from cases("groups of which nothing is kept", normal(rng, TOKENS, WIDTH), 12, 8, empty=True)
    yield from cases("one group, longer than k", normal(rng, 4, 33), 8, 128)


COMPONENTS = (
    Component("training_linear", f"{__name__}:training_linear", ("x", "weight", "threshold", "scale"), ("y",),
              _training_linear, gradients=("x", "weight", "threshold", "scale"), canonical=False,
              exact_arguments=("forced",)),
    Component("training_codebook_linear", f"{__name__}:training_codebook_linear",
              ("x", "weight", "threshold", "codebook"), ("y",), _training_codebook_linear,
              gradients=("x", "weight", "threshold", "codebook"), canonical=False, exact_arguments=("forced",)),
)
