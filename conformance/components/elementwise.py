"""Functions of one number, and gates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from conformance.case import BACKWARD, FORWARD, Case, Component, Maker
from conformance.components.inputs import ODD_LENGTHS, SPECIAL, normal, uniform, wide

SIZE, LARGE = 1024, 1 << 16


def _function_cases(name: str, low: float, high: float, derivative: bool) -> Maker:
    """Typical and wide arguments, the special values; gradients where the op has them."""
    def make(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
        size = LARGE if extensive else SIZE
        tiny = wide(rng, size // 4, powers=(-100, -5))
        ranges = {"around zero": uniform(rng, max(low, -2), min(high, 2), size), "wide": uniform(rng, low, high, size),
                  "tiny": np.abs(tiny) if low > 0 else tiny}
        for label, x in ranges.items():
            yield Case(name, label, FORWARD, {"x": x})
            if derivative:
                yield Case(name, label, BACKWARD, {"x": x}, cotangents={"y": normal(rng, x.size)})
        for n in ODD_LENGTHS:
            yield Case(name, f"n={n}", FORWARD, {"x": uniform(rng, max(low, -2), min(high, 2), n)}, statistical=False)
        yield Case(name, "special values", FORWARD, {"x": SPECIAL}, statistical=False)
    return make


def _function(name: str, low: float, high: float, module: str = "ghost_ref.ops.activation",
              derivative: bool = True) -> Component:
    return Component(name, f"{module}:{name}", ("x",), ("y",), _function_cases(name, low, high, derivative),
                     gradients=("x",) if derivative else ())


def _rint_cases(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    """All ties up to 130, what is next to them, and the largest arguments."""
    ties = (np.arange(-130, 130) + 0.5).astype(np.float32)
    beside = np.concatenate([np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))])
    edges = np.array([0.0, -0.0, 0.5, -0.5, 2.0**-149, 2.0**22 - 0.5, -(2.0**22) + 0.5, 2.0**22 - 1, 2.0**21 + 0.5,
                      np.inf, -np.inf, np.nan], np.float32)
    for label, x in (("ties", ties), ("beside ties", beside), ("edges", edges),
                     ("typical", uniform(rng, -127.5, 127.5, SIZE))):
        yield Case("rint", label, FORWARD, {"x": x}, statistical=False)


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
    Component("rint", "ghost_ref.numerics:rint", ("x",), ("y",), _rint_cases),
    Component("dropout", "ghost_ref.ops.activation:dropout", ("x", "mask"), ("y",), _dropout_cases, gradients=("x",),
              canonical=False),
)
