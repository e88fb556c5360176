"""Losses: scalars, judged by their hard bounds; their gradients also by the statistics of their errors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from conformance.case import BACKWARD, FORWARD, Case, Component
from conformance.components.inputs import normal

VOCABULARY = 256


def _cases(rng: np.random.Generator, name: str, label: str, arguments: dict[str, np.ndarray], count: int,
           statistical: bool = True) -> Iterator[Case]:
    """Forward and backward, with a gradient of the loss that is not one."""
    dloss = np.array(rng.uniform(0.5, 2), np.float32)
    yield Case(name, label, FORWARD, arguments, {"count": count})
    yield Case(name, label, BACKWARD, arguments, {"count": count}, {"loss": dloss}, statistical)


def _masks(rng: np.random.Generator, batch: int, length: int) -> dict[str, np.ndarray]:
    some = rng.random((batch, length)) < 0.7
    some[0, 0], some[-1, -1] = True, False
    return {"all": np.ones((batch, length), bool), "some masked": some}


def _cross_entropy(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def cases(label: str, z: np.ndarray, mask: np.ndarray, count: int, **options: bool) -> Iterator[Case]:
        targets = rng.integers(0, z.shape[-1], mask.shape).astype(np.uint8)
        arguments = {"logits": z, "targets": targets, "mask": mask}
        yield from _cases(rng, "cross_entropy", label, arguments, count, **options)

    batch, length = (4, 64) if extensive else (2, 7)
    for label, mask in _masks(rng, batch, length).items():
        yield from cases(label, normal(rng, batch, length, VOCABULARY, scale=2), mask, int(mask.sum()))
    one = np.ones((1, 1), bool)
    yield from cases("one byte", normal(rng, 1, 1, VOCABULARY), one, 1)
    yield from cases("a part of a larger batch", normal(rng, 1, 3, VOCABULARY), np.ones((1, 3), bool), 1000)
    yield from cases("spread logits", normal(rng, 2, 3, VOCABULARY, scale=30), np.ones((2, 3), bool), 6,
                     statistical=False)
    yield from cases("far from zero", normal(rng, 1, 3, VOCABULARY) + np.float32(1e4), np.ones((1, 3), bool), 3,
                     statistical=False)
    for width in (1, 2, 17):
        yield from cases(f"V={width}", normal(rng, 2, 3, width), np.ones((2, 3), bool), 6, statistical=False)
    yield from cases("nothing counted", normal(rng, 1, 2, 5), np.zeros((1, 2), bool), 0, statistical=False)


def _binary_cross_entropy(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def cases(label: str, r: np.ndarray, mask: np.ndarray, count: int, **options: bool) -> Iterator[Case]:
        arguments = {"logits": r, "targets": rng.random(mask.shape) < 0.5, "mask": mask}
        yield from _cases(rng, "binary_cross_entropy", label, arguments, count, **options)

    for label, mask in _masks(rng, 4, 33).items():
        yield from cases(label, normal(rng, 4, 33, scale=2), mask, int(mask.sum()))
    yield from cases("a part of a larger batch", normal(rng, 1, 9), np.ones((1, 9), bool), 1000, statistical=False)
    for scale in (20, 60):
        yield from cases(f"spread {scale}", normal(rng, 1, 12, scale=scale), np.ones((1, 12), bool), 12,
                         statistical=False)
    for value in (0.0, -0.0, 40.0, -40.0, 1e4, -1e4):
        yield from cases(f"r={value}", np.full((1, 1), value, np.float32), np.ones((1, 1), bool), 1, statistical=False)
    yield from cases("nothing counted", normal(rng, 1, 2), np.zeros((1, 2), bool), 0, statistical=False)


def _masked_mean(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    for label, mask in _masks(rng, 4, 33).items():
        arguments = {"x": normal(rng, 4, 33), "mask": mask}  # the gradient is one number, with one error: no statistics
        yield from _cases(rng, "masked_mean", label, arguments, int(mask.sum()), statistical=False)
    for length in (1, 2, 17):
        arguments = {"x": normal(rng, 1, length), "mask": np.ones((1, length), bool)}
        yield from _cases(rng, "masked_mean", f"L={length}", arguments, length, statistical=False)
        yield from _cases(rng, "masked_mean", f"L={length} of a larger batch", arguments, 1000, statistical=False)
    arguments = {"x": normal(rng, 1, 3), "mask": np.zeros((1, 3), bool)}
    yield from _cases(rng, "masked_mean", "nothing counted", arguments, 0, statistical=False)


COMPONENTS = (
    Component("cross_entropy", "ghost_ref.ops.loss:cross_entropy", ("logits", "targets", "mask"), ("loss",),
              _cross_entropy, gradients=("logits",), canonical=False),
    Component("binary_cross_entropy", "ghost_ref.ops.loss:binary_cross_entropy", ("logits", "targets", "mask"),
              ("loss",), _binary_cross_entropy, gradients=("logits",), canonical=False),
    Component("masked_mean", "ghost_ref.ops.loss:masked_mean", ("x", "mask"), ("loss",), _masked_mean,
              gradients=("x",), canonical=False),
)
