"""AdamW (arXiv:1711.05101) over a flat dict of parameters, in place. The order of operations is pinned:

    m = beta1·m + (1 - beta1)·g;   v = beta2·v + ((1 - beta2)·g)·g
    p = p·(1 - lr·decay) - (lr·(m·c1)) / (sqrt(v·c2) + eps),   c = 1/(1 - beta^t)

with every scalar factor computed in float64 and rounded once to float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ghost_ref.config import ModelConfig
from ghost_ref.constants import SCALE_SMALLEST, THRESHOLD_RANGE
from ghost_ref.parameters import CODEBOOK, TERNARY, parameter_specs

Params = dict[str, np.ndarray]

SLOW_SHARE = 0.1  # learning rate, relative to the matrices', of what acts on whole rows or decides what is skipped
SLOW = (".threshold", ".scale", ".codebook", "depth.weight", "depth.bias", "byte_importance")
EPSILON = 1e-8


def parameter_groups(config: ModelConfig, weight_decay: float) -> dict[str, tuple[float, float]]:
    """{parameter: (learning-rate share, weight decay)}: decay on quantised matrices only."""
    return {name: (SLOW_SHARE if name.endswith(SLOW) else 1.0,
                   weight_decay if spec.storage in (TERNARY, CODEBOOK) else 0.0)
            for name, spec in parameter_specs(config).items()}


def adamw_update(p, g, m, v, lr, beta1, beta2, eps, weight_decay, c1, c2, clip=1.0) -> None:
    """One AdamW step in place on float32 arrays p, m, v with the gradient clip·g (see the module's text)."""
    f = np.float32
    if clip != 1.0:
        g = g * f(clip)
    m *= f(beta1)
    m += f(1 - beta1) * g
    v *= f(beta2)
    v += (f(1 - beta2) * g) * g
    step = f(lr) * (m * f(c1))
    step /= np.sqrt(v * f(c2)) + f(eps)
    p *= f(1 - lr * weight_decay)
    p -= step


def square_sum(grads: Iterable[np.ndarray]) -> float:
    """Σ g² over all gradients, accumulated per array in float32 BLAS and across arrays in float64."""
    return sum((np.dot(g.ravel(), g.ravel()).astype(np.float64) for g in grads), np.float64(0))


def global_norm(grads: Params) -> float:
    """sqrt(Σ g²) over all gradients."""
    return np.sqrt(square_sum(grads.values()))


def project(params: Params) -> None:
    """Keep thresholds in [0.3, 1.2] and scales and codebooks positive, in place."""
    for name, p in params.items():
        if name.endswith(".threshold"):
            np.clip(p, *THRESHOLD_RANGE, out=p)
        elif name.endswith((".scale", ".codebook")):
            np.maximum(p, np.float32(SCALE_SMALLEST), out=p)
