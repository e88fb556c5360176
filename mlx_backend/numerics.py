"""Elementary functions and sums in MLX, float32.

The ULP figures hold against float64 on MLX 0.32's CPU backend, measured over dense grids with some room
(tests/test_mlx_ops.py asserts them). A GPU's differ; the conformance kit measures those. mx.log and mx.log1p: 1 ULP.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

from ghost_ref.errors import GhostError

LANES = 16
EXP_MIN, EXP_MAX = -120.0, 100.0  # beyond these exp is 0 or inf, and mx.exp of what is left stays in range
EXP_SHIFT = 64.0  # x ± 64 is exact for 64 < |x| < 128
EXP_UP, EXP_DOWN = math.exp(EXP_SHIFT), math.exp(-EXP_SHIFT)


def as_array(x: Any) -> mx.array:
    """An MLX array of a NumPy array, a scalar or an MLX array."""
    return x if isinstance(x, mx.array) else mx.array(x)


def exp(x: mx.array) -> mx.array:
    """e^x; at most 2 ULP on [-1, 0], 20 for |x| <= 20, 64 beyond (mx.exp loses with |x|), 32·2^-149 below 2^-126.

    mx.exp itself gives inf from 88.03 on and 0 below -87.7: far arguments are shifted by 64."""
    x = mx.clip(x, EXP_MIN, EXP_MAX)
    high, low = x > EXP_SHIFT, x < -EXP_SHIFT
    shift = mx.where(high, EXP_SHIFT, mx.where(low, -EXP_SHIFT, 0.0))
    return mx.exp(x - shift) * mx.where(high, EXP_UP, mx.where(low, EXP_DOWN, 1.0))


def sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + exp(-x)) as e / (1 + e) with e = exp(x) for x < 0; at most 16 ULP for |x| <= 10, 64 beyond."""
    e = exp(-mx.abs(x))
    return mx.where(x < 0, e, 1.0) / (1.0 + e)


def softplus(x: mx.array) -> mx.array:
    """log(1 + exp(x)) as max(x, 0) + log1p(exp(-|x|)); at most 16 ULP for |x| <= 10, 64 beyond."""
    return mx.maximum(x, 0.0) + mx.log1p(exp(-mx.abs(x)))


def lane_sum(x: mx.array) -> mx.array:
    """Sum over the last axis, (..., n) -> (...): 16 lanes in block order, then a tree (docs/semantics.md section 1).

    The reference's bits on MLX's CPU backend; a GPU adds the blocks in another order."""
    n = x.shape[-1]
    blocks = -(-n // LANES)
    if n % LANES:
        x = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, blocks * LANES - n)])
    lanes = x.reshape(*x.shape[:-1], blocks, LANES).sum(-2)
    for step in (8, 4, 2, 1):
        lanes = lanes[..., :step] + lanes[..., step:]
    return lanes[..., 0] + 0.0  # a lane of the reference is never -0


def total(x: mx.array) -> mx.array:
    """The sum of a matrix in two stages, columns then rows: its error grows with their sum, not their product."""
    return lane_sum(lane_sum(x))


def require_float32_matmul() -> None:
    """Raise GhostError if this process multiplies float32 matrices with reduced precision (TF32)."""
    exact = 1 + 2.0**-20
    matrix = mx.full((128, 128), exact)
    if not bool((matrix @ mx.eye(128) == exact).all()):
        raise GhostError("this process multiplies float32 matrices in TF32, so results would be outside every bound: "
                         "set the environment variable MLX_ENABLE_TF32=0 before Python starts.")


def float32_below(x: mx.array) -> mx.array:
    """The float32 before x > 0 on the way to zero; 0 stays."""
    return mx.where(x > 0, (x.view(mx.int32) - 1).view(mx.float32), x)
