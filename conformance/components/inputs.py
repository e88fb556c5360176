"""Input arrays that several components share."""

from __future__ import annotations

import numpy as np

SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 2.0**-149, -(2.0**-149), 2.0**-126, -(2.0**-126), 3.4e38,
                    -3.4e38, 1.0, -1.0, 88.7, 88.8, -88.8, 103.9, -103.9, 2.0**-24, 1 + 2.0**-23], np.float32)
"""Signed zeros, infinities, NaN, the smallest denormal and normal, the largest, edges of exp."""

ODD_LENGTHS = (1, 2, 3, 15, 16, 17, 31, 33)
"""Around the 16 lanes of canonical sums."""


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Normal float32 numbers."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> np.ndarray:
    """Uniform float32 numbers."""
    return rng.uniform(low, high, shape).astype(np.float32)


def wide(rng: np.random.Generator, *shape: int, powers: tuple[float, float] = (-30, 30)) -> np.ndarray:
    """Float32 numbers of either sign with magnitudes spread evenly over powers of two."""
    return (rng.choice([-1, 1], shape) * np.exp2(rng.uniform(powers[0], powers[1], shape))).astype(np.float32)
