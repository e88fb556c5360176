"""Muon over MLX arrays, as functions that return new arrays: formula and order of operations of ghost_ref.muon."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from ghost_ref.muon import COEFFICIENTS, ITERATIONS, SMALLEST_NORM
from mlx_backend.optimizer import row_sums


def orthogonalise(u: mx.array) -> mx.array:
    """Newton-Schulz on u (rows, columns)."""
    a, b, c = COEFFICIENTS  # MLX rounds a Python factor once to the array's float32
    tall = u.shape[0] > u.shape[1]
    x = u.T if tall else u
    x = x / (mx.sqrt(row_sums(x * x)) + SMALLEST_NORM)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if tall else x


def muon(p: mx.array, g: mx.array, m: mx.array, *, rate: mx.array, keep: mx.array, momentum: float,
         fused: int = 1) -> tuple[mx.array, mx.array]:
    """One Muon step of float32 matrices (rows, columns): the next (p, m).

    rate, keep: lr·sqrt(max(1, rows/columns)) of one projection and 1 - lr·decay, 0-d float32 (`muon_factors`)."""
    m = momentum * m + g
    u = g + momentum * m
    step = mx.concatenate([orthogonalise(part) for part in mx.split(u, fused)])
    return p * keep - rate * step, m


def muon_factors(lr: float, weight_decay: float, shapes: set[tuple[int, int]]) -> dict[str, mx.array]:
    """The factors that change from step to step: "muon_keep", and "muon_rate" (shapes,) of the sorted shapes (rows and
    columns of one projection)."""
    rates = [lr * math.sqrt(max(1.0, rows / columns)) for rows, columns in sorted(shapes)]
    return {"muon_rate": mx.array(np.array(rates).astype(np.float32)),
            "muon_keep": mx.array(np.array(1 - lr * weight_decay).astype(np.float32))}
