"""Optimizers, as functions that return what they change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.case import FORWARD, Case, Component
from conformance.components.inputs import normal, uniform, wide
from ghost_ref import muon as muon_module
from ghost_ref import optimizer

SIZE = 512
SETTINGS = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": optimizer.EPSILON, "weight_decay": 0.1}


def adamw(p: Any, gradients: Any, m: Any, v: Any, *, lr: float, beta1: float, beta2: float, eps: float,
          weight_decay: float, applied: int) -> tuple[Any, Any, Any]:
    """p, m, v (n) after one AdamW step for each of the gradients (steps, n), the first of them the step numbered
    `applied` + 1."""
    p, m, v = p.copy(), m.copy(), v.copy()
    for step in range(len(gradients)):
        t = applied + step + 1
        optimizer.adamw_update(p, gradients[step], m, v, lr, beta1, beta2, eps, weight_decay, 1 / (1 - beta1**t),
                               1 / (1 - beta2**t))
    return p, m, v


def muon(p: Any, gradients: Any, m: Any, *, lr: float, momentum: float, weight_decay: float,
         fused: int) -> tuple[Any, Any]:
    """p, m (rows, columns) after one Muon step for each of the gradients (steps, rows, columns)."""
    p, m = p.copy(), m.copy()
    for step in range(len(gradients)):
        muon_module.muon_update(p, gradients[step], m, lr, momentum, weight_decay, fused)
    return p, m


def global_norm(a: Any, b: Any, c: Any) -> Any:
    """The norm of three gradients taken together."""
    return optimizer.global_norm({"a": a, "b": b, "c": c})


def project(threshold: Any, scale: Any, codebook: Any, weight: Any) -> tuple[Any, ...]:
    """The four parameters in their ranges."""
    params = {"x.threshold": threshold.copy(), "x.scale": scale.copy(), "x.codebook": codebook.copy(),
              "x.weight": weight.copy()}
    optimizer.project(params)
    return tuple(params.values())


def _adamw(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, gradients: np.ndarray, applied: int = 0, statistical: bool = True, **settings: float) -> Case:
        n = gradients.shape[1]
        m = normal(rng, n, scale=0.1) if applied else np.zeros(n, np.float32)
        v = np.square(normal(rng, n, scale=0.1)) + np.float32(1e-4) if applied else np.zeros(n, np.float32)
        arguments = {"p": normal(rng, n, scale=0.5), "gradients": gradients, "m": m, "v": v}
        return Case("adamw", label, FORWARD, arguments, {**SETTINGS, **settings, "applied": applied},
                    statistical=statistical)

    yield case("first step", normal(rng, 1, SIZE, scale=0.1))
    yield case("later step", normal(rng, 1, SIZE, scale=0.1), applied=999)
    yield case("no weight decay", normal(rng, 1, SIZE, scale=0.1), applied=10, weight_decay=0.0)
    yield case("large learning rate", normal(rng, 1, SIZE), applied=10, lr=0.3)
    yield case("five steps", normal(rng, 5, SIZE, scale=0.1))
    if extensive:
        yield case("fifty steps", normal(rng, 50, SIZE, scale=0.1))
    yield case("gradients about epsilon", normal(rng, 2, SIZE, scale=1e-8))
    yield case("zero gradients", np.zeros((3, 33), np.float32), statistical=False)
    yield case("zero gradients after others", np.zeros((3, 33), np.float32), applied=5, statistical=False)
    yield case("tiny to huge gradients", wide(rng, 3, 65, powers=(-100, 60)), statistical=False)
    for n in (1, 3, 17):
        yield case(f"n={n}", normal(rng, 2, n), statistical=False)


def _muon(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, gradients: np.ndarray, fused: int = 1, statistical: bool = False, **settings: float) -> Case:
        shape = gradients.shape[1:]
        arguments = {"p": normal(rng, *shape, scale=0.05), "gradients": gradients, "m": normal(rng, *shape, scale=0.1)}
        statics = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, **settings, "fused": fused}
        return Case("muon", label, FORWARD, arguments, statics, statistical=statistical)

    yield case("wide", normal(rng, 1, 8, 24), statistical=True)
    yield case("tall", normal(rng, 1, 24, 8), statistical=True)
    yield case("square", normal(rng, 1, 12, 12), statistical=True)
    yield case("fused", normal(rng, 1, 32, 8), fused=2)
    yield case("two steps", normal(rng, 2, 6, 16))
    yield case("no decay, no momentum", normal(rng, 1, 8, 16), weight_decay=0.0, momentum=0.0)
    yield case("one row", normal(rng, 1, 1, 17))
    yield case("tiny gradients", normal(rng, 1, 8, 16, scale=1e-9), momentum=0.0)
    yield case("zero gradients", np.zeros((1, 4, 8), np.float32), momentum=0.0)
    if extensive:
        yield case("large", normal(rng, 1, 48, 96))


def _global_norm(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Case:
        return Case("global_norm", label, FORWARD, {"a": a, "b": b, "c": c}, statistical=False)

    yield case("matrices and vectors", normal(rng, 24, 33), normal(rng, 7), normal(rng, 2, 3, 5))
    yield case("unlike sizes", normal(rng, 16, 16, scale=1e-6), normal(rng, 5, scale=1e3), normal(rng, 1))
    yield case("zeros", np.zeros((2, 3), np.float32), np.zeros(4, np.float32), np.zeros(1, np.float32))
    yield case("one element", np.zeros((1, 1), np.float32), np.array([3], np.float32), np.array([-4], np.float32))
    yield case("wide", wide(rng, 5, 7), wide(rng, 9), wide(rng, 1))
    for value in (np.inf, np.nan):
        yield case(f"a {value}", normal(rng, 2, 2), np.array([1, value], np.float32), normal(rng, 3))


def _project(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    edges = np.array([0.3, 1.2, 0, -0.0, -1, 0.29999998, 0.30000004, 1.2000001, 2.0**-14, 2.0**-15, 1e9], np.float32)
    for label, x in (("edges", edges), ("normal", normal(rng, 65)), ("inside", uniform(rng, 0.31, 1.19, 33))):
        yield Case("project", label, FORWARD, {"threshold": x, "scale": x, "codebook": x, "weight": x},
                   statistical=False)


COMPONENTS = (
    Component("adamw", f"{__name__}:adamw", ("p", "gradients", "m", "v"), ("p", "m", "v"), _adamw, canonical=False),
    Component("muon", f"{__name__}:muon", ("p", "gradients", "m"), ("p", "m"), _muon, canonical=False,
              composite=True),  # five cubings of the error bound would end in infinity
    Component("global_norm", f"{__name__}:global_norm", ("a", "b", "c"), ("norm",), _global_norm, canonical=False),
    Component("project", f"{__name__}:project", ("threshold", "scale", "codebook", "weight"),
              ("threshold", "scale", "codebook", "weight"), _project, canonical=False),
)
