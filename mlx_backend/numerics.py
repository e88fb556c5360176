"""Elementary functions and sums in MLX, float32.

The ULP figures hold against float64 on MLX 0.32's CPU backend, measured over dense grids with some room
(tests/test_mlx_ops.py asserts them). A GPU's differ; the conformance kit measures those. mx.log and mx.log1p: 1 ULP.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ghost_ref.errors import GhostError
from ghost_ref.numerics import EXP_MAGIC, EXP_MAX, EXP_MIN, EXP_POLYNOMIAL, LN2_HIGH, LN2_LOW, LOG2_E
from mlx_backend.autodiff import op

LANES = 16


def as_array(x: Any) -> mx.array:
    """An MLX array of a NumPy array, a scalar or an MLX array."""
    return x if isinstance(x, mx.array) else mx.array(x)


@mx.compile
def _exp(x: mx.array) -> mx.array:
    """The algorithm of ghost_ref.numerics.exp, one fused kernel."""
    x = mx.minimum(mx.maximum(x, float(EXP_MIN)), float(EXP_MAX))
    shifted = x * float(LOG2_E) + float(EXP_MAGIC)
    n = shifted - float(EXP_MAGIC)
    r = (x - n * float(LN2_HIGH)) - n * float(LN2_LOW)
    low, *middle, high = (float(c) for c in EXP_POLYNOMIAL)
    y = r * high
    for coefficient in reversed(middle):
        y = (y + coefficient) * r
    y = ((y + low) * (r * r) + r) + 1.0
    bits = shifted.view(mx.int32)  # n + 254 in the low bits: two normal factors, so underflow is rounded once
    first = bits >> 1
    second = bits - first
    return (y * (first << 23).view(mx.float32)) * (second << 23).view(mx.float32)


def exp_forward(x):
    """e^x with the bits of ghost_ref.numerics.exp, at most 2 ULP (one more where a compiler contracts).

    mx.exp is off by up to 64 ULP far from zero, gives inf from 88.03 on and 0 below -87.7, and took ten times as long
    on a CPU."""
    y = _exp(x)
    return y, y


def exp_backward(dy, y):
    return (dy * y,)


exp = op(exp_forward, exp_backward)


def sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + exp(-x)) as e / (1 + e) with e = exp(x) for x < 0; at most 4 ULP."""
    e = exp(-mx.abs(x))
    return mx.where(x < 0, e, 1.0) / (1.0 + e)


def softplus(x: mx.array) -> mx.array:
    """log(1 + exp(x)) as max(x, 0) + log1p(exp(-|x|)); at most 4 ULP."""
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
