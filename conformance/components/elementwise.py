"""Functions of one number, and gates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from conformance.case import BACKWARD, FORWARD, Case, Component, Maker
from conformance.components.inputs import SPECIAL, normal, uniform

SIZE, LARGE = 1024, 1 << 16


def _function_cases(name: str, low: float, high: float, derivative: bool) -> Maker:
    """Typical and wide arguments, the special values; gradients where the op has them."""
    def make(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
        size = LARGE if extensive else SIZE
        ranges = {"around zero": uniform(rng, max(low, -2), min(high, 2), size), "wide": uniform(rng, low, high, size)}
        for label, x in ranges.items():
            yield Case(name, label, FORWARD, {"x": x})
            if derivative:
                yield Case(name, label, BACKWARD, {"x": x}, cotangents={"y": normal(rng, size)})
        yield Case(name, "special values", FORWARD, {"x": SPECIAL}, statistical=False)
    return make


def _function(name: str, low: float, high: float, module: str = "ghost_ref.ops.activation",
              derivative: bool = True) -> Component:
    return Component(name, f"{module}:{name}", ("x",), ("y",), _function_cases(name, low, high, derivative),
                     gradients=("x",) if derivative else ())


def _dropout_cases(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    x, mask = normal(rng, SIZE), (rng.random(SIZE) < 0.75).astype(np.float32) * np.float32(1 / 0.75)
    yield Case("dropout", "a quarter dropped", FORWARD, {"x": x, "mask": mask})
    yield Case("dropout", "a quarter dropped", BACKWARD, {"x": x, "mask": mask}, cotangents={"y": normal(rng, SIZE)})


COMPONENTS = (
    _function("exp", -80, 80, "ghost_ref.numerics", derivative=False),
    _function("log", 1e-6, 1e6, "ghost_ref.numerics", derivative=False),
    _function("log1p", -0.999, 1e6, "ghost_ref.numerics", derivative=False),
    _function("sigmoid", -40, 40),
    _function("silu", -40, 40),
    _function("softplus", -40, 40),
    _function("negative_exp", -5, 5),
    Component("dropout", "ghost_ref.ops.activation:dropout", ("x", "mask"), ("y",), _dropout_cases, gradients=("x",),
              canonical=False),
)
