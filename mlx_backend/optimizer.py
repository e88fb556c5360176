"""AdamW (arXiv:1711.05101) and its helpers over flat dicts of MLX arrays, as functions that return new arrays.

The order of operations is that of ghost_ref.optimizer, operation by operation:

    m = beta1·m + (1 - beta1)·g;   v = beta2·v + ((1 - beta2)·g)·g
    p = p·(1 - lr·decay) - (lr·(m·c1)) / (sqrt(v·c2) + eps),   c = 1/(1 - beta^t)

with every scalar factor computed on the host in float64 and rounded once to float32.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ghost_ref.constants import SCALE_SMALLEST, THRESHOLD_RANGE
from ghost_ref.optimizer import EPSILON

Params = dict[str, mx.array]
Group = tuple[float, float]  # of ghost_ref.optimizer.parameter_groups: learning-rate share, weight decay


def step_factors(groups: set[Group], lr: float, beta1: float, beta2: float, applied: int) -> dict[str, mx.array]:
    """The factors that change from step to step, as 0-d float32 arrays: a Python number would retrace the step.

    "c1", "c2": bias corrections of the applied-th update (from 1). "rate", "keep" (groups,), in sorted order of the
    groups: lr·share and 1 - lr·share·decay."""
    ordered = sorted(groups)
    return {"c1": _float32(1 / (1 - beta1**applied)), "c2": _float32(1 / (1 - beta2**applied)),
            "rate": _float32([lr * share for share, _ in ordered]),
            "keep": _float32([1 - lr * share * decay for share, decay in ordered])}


def _float32(values: float | list[float]) -> mx.array:
    return mx.array(np.array(values).astype(np.float32))


def adamw(p: mx.array, g: mx.array, m: mx.array, v: mx.array, *, rate: mx.array, keep: mx.array, beta1: float,
          beta2: float, c1: mx.array, c2: mx.array, eps: float = EPSILON) -> tuple[mx.array, mx.array, mx.array]:
    """One AdamW step of float32 arrays of one shape (see the module's text): the next (p, m, v)."""
    m = beta1 * m + (1 - beta1) * g  # MLX rounds a Python factor once to the array's float32
    v = beta2 * v + ((1 - beta2) * g) * g
    step = (rate * (m * c1)) / (mx.sqrt(v * c2) + eps)
    return p * keep - step, m, v


def square_sums(grads: Params) -> mx.array:
    """Σ g² of every gradient, (parameters,): not finite where a gradient is not."""
    return mx.stack([row_sums(mx.square(g)) for g in grads.values()])


def row_sums(x: mx.array) -> mx.array:
    """Σ x, last axis first: MLX adds one after the other on CPU, and two short sums lose less than a long one."""
    return x.sum(-1).sum()


def project(params: Params) -> Params:
    """Thresholds kept in [0.3, 1.2], scales and codebooks positive."""
    return {name: _project(name, p) for name, p in params.items()}


def _project(name: str, p: mx.array) -> mx.array:
    if name.endswith(".threshold"):
        return mx.clip(p, *THRESHOLD_RANGE)
    if name.endswith((".scale", ".codebook")):
        return mx.maximum(p, SCALE_SMALLEST)
    return p
