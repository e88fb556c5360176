"""Checks of hand-written backward passes in float64: complex step where the op is holomorphic, else differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

COMPLEX_STEP = 1e-30
DIFFERENCE_STEP = 1e-5


def first(out):
    """The differentiable output of an op that also returns a state."""
    return out[0] if isinstance(out, tuple) else out


def directional_derivative(scalar: Callable, arrays: Sequence[np.ndarray], i: int, direction: np.ndarray,
                           holomorphic: bool) -> float:
    """d scalar / d arrays[i] along a direction, by complex step (exact) or fourth-order central differences."""
    def at(step: complex) -> complex:
        return scalar(*(a + step * direction if j == i else a for j, a in enumerate(arrays)))

    if holomorphic:
        return at(1j * COMPLEX_STEP).imag / COMPLEX_STEP
    h = DIFFERENCE_STEP
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def check_gradients(forward: Callable, backward: Callable, arrays: Sequence[np.ndarray], *, seed: int,
                    holomorphic: bool = True, skip: Sequence[int] = (), static: dict | None = None) -> None:
    """Every input gradient of a forward/backward pair against the derivative along random directions.

    Bound: 1e-9 relative for the complex step, 1e-7 for differences (step 1e-5: truncation h^4, rounding u/h)."""
    static = static or {}
    rng = np.random.default_rng(seed)
    out, saved = forward(*arrays, **static)
    weights = rng.normal(size=first(out).shape)
    grads = backward(weights, saved)

    def scalar(*values):
        return (first(forward(*values, **static)[0]) * weights).sum()

    assert len(grads) == len(arrays)
    for i, (array, grad) in enumerate(zip(arrays, grads, strict=True)):
        if i in skip:
            continue
        assert grad.shape == array.shape
        for _ in range(3):
            direction = rng.normal(size=array.shape)
            expected = directional_derivative(scalar, arrays, i, direction, holomorphic)
            size = np.abs(grad * direction).sum() + 1e-12
            tolerance = (1e-9 if holomorphic else 1e-7) * size
            assert abs((grad * direction).sum() - expected) <= tolerance, (i, (grad * direction).sum(), expected)
