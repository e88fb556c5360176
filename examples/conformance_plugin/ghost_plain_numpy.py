"""A third-party backend for Ghost's conformance kit: some components the way anybody would write them in NumPy.

The kit needs three things of a backend: what it promises about its arithmetic, which cases it takes, and their results.
It is found through the entry point in pyproject.toml and judged like Ghost's own backends, by derived error bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.arithmetic import BINARY32
from conformance.backend import Absence
from conformance.case import BACKWARD, Arrays, Case, Component
from conformance.results import BackendInfo

f32 = np.float32


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, f32(1)) / (f32(1) + e)


def rms_norm(x, gain):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + f32(1e-5)) * gain


def rms_norm_gradients(dy, x, gain):
    rms = np.sqrt(np.mean(x * x, -1, keepdims=True) + f32(1e-5))
    normed, dnormed = x / rms, dy * gain
    dx = (dnormed - normed * np.mean(dnormed * normed, -1, keepdims=True)) / rms
    return dx, (dy * normed).reshape(-1, gain.size).sum(0)


def slot_softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def slot_softmax_gradients(dp, z):
    p = slot_softmax(z)
    return (p * (dp - (dp * p).sum(-1, keepdims=True)),)


def row_dot(x, weight):
    return x @ weight


def row_dot_gradients(dy, x, weight):
    return dy[..., None] * weight, (dy[..., None] * x).reshape(-1, weight.size).sum(0)


# One line per component: the function of its arguments in order, and of (dy, arguments) for its gradients, or None.
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]] = {
    "sigmoid": (sigmoid, None),
    "rms_norm": (rms_norm, rms_norm_gradients),
    "slot_softmax": (slot_softmax, slot_softmax_gradients),
    "row_dot": (row_dot, row_dot_gradients),
}


class PlainNumpy:
    """One column of the matrix."""

    info = BackendInfo("plain-numpy", "a worked example: straightforward NumPy")
    arithmetic = BINARY32  # binary32, exp within 2 ULP: the bounds follow from this promise
    exact = False  # it does not claim the reference's bits

    def absence(self, component: Component, case: Case) -> Absence | None:
        """What is not covered is said, never skipped silently."""
        forward, gradients = FUNCTIONS.get(component.name, (None, None))
        if forward is None:
            return Absence("the example covers a few components only")
        if case.direction == BACKWARD and gradients is None:
            return Absence("the example has no gradient of it")
        return None

    def run(self, component: Component, case: Case) -> Arrays:
        """Outputs by name; of a backward case the gradients, as "d argument"."""
        forward, gradients = FUNCTIONS[component.name]
        arrays = [case.arguments[name] for name in component.arguments]
        with np.errstate(all="ignore"):
            if case.direction == BACKWARD:
                assert gradients is not None
                grads = gradients(case.cotangents[component.outputs[0]], *arrays)
                return {f"d {name}": g for name, g in zip(component.gradients, grads, strict=True)}
            return {component.outputs[0]: forward(*arrays)}


def backends() -> list[PlainNumpy | BackendInfo]:
    """What the entry point loads. A backend that cannot run here is a BackendInfo with the reason."""
    return [PlainNumpy()]
