"""Functions of a row of features, scores or logits: norms, softmax, dots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from conformance.case import BACKWARD, FORWARD, Case, Component
from conformance.components.inputs import ODD_LENGTHS, normal, wide

TOKENS = 24


def _rms_norm(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, x: np.ndarray, **options: bool) -> Iterator[Case]:
        arguments = {"x": x, "gain": normal(rng, x.shape[-1])}
        yield Case("rms_norm", label, FORWARD, arguments, **options)
        yield Case("rms_norm", label, BACKWARD, arguments, cotangents={"y": normal(rng, *x.shape)}, **options)

    for width in (64, 256, *((768, 2048) if extensive else ())):
        yield from case(f"d={width}", normal(rng, TOKENS, width))
    yield from case("small inputs, where epsilon counts", normal(rng, TOKENS, 64, scale=3e-3))
    yield from case("large inputs", normal(rng, TOKENS, 64, scale=1e4))
    for width in ODD_LENGTHS:
        yield from case(f"d={width}", normal(rng, 5, width), statistical=False)
    yield from case("wide range", wide(rng, TOKENS, 33), statistical=False)
    yield from case("zero row", np.zeros((2, 17), np.float32), statistical=False)


COMPONENTS = (
    Component("rms_norm", "ghost_ref.ops.norm:rms_norm", ("x", "gain"), ("y",), _rms_norm, gradients=("x", "gain")),
)
