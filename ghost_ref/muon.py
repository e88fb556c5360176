"""Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") on matrices, in place.

    m = momentum·m + g;   u = g + momentum·m                                        (Nesterov)
    X = u / (|u| + 1e-7), transposed where it has more rows than columns
    five times: A = X·Xᵀ;  B = b·A + c·(A·A);  X = a·X + B·X                        (Newton-Schulz, quintic)
    p = p·(1 - lr·decay) - (lr·sqrt(max(1, rows/columns)))·X

with every scalar factor computed in float64 and rounded once to float32. The iteration drives the singular values of u
towards 1 (into about 0.7 to 1.2): the update is nearly orthogonal. Fused projections are taken apart first.
"""

from __future__ import annotations

import math

import numpy as np

from ghost_ref.config import ModelConfig
from ghost_ref.parameters import CODEBOOK, TERNARY, parameter_specs

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c
ITERATIONS = 5
SMALLEST_NORM = 1e-7


def muon_matrices(config: ModelConfig) -> dict[str, int]:
    """{parameter: number of fused projections in its rows} of the hidden 2-D matrices: those of the layers that are
    stored ternary or by codebook. Embedding, heads, tokenizer, convolutions and A_log are AdamW's."""
    return {name: 2 if name.endswith(".in_proj.weight") else 1 for name, spec in parameter_specs(config).items()
            if name.startswith("layers.") and spec.storage in (TERNARY, CODEBOOK)}


def orthogonalise(u):
    """Newton-Schulz on u (rows, columns) (see the module's text)."""
    f = u.dtype.type
    a, b, c = (f(factor) for factor in COEFFICIENTS)
    tall = u.shape[0] > u.shape[1]
    x = u.T if tall else u
    x = x / (np.sqrt((x * x).sum()) + f(SMALLEST_NORM))
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if tall else x


def muon_update(p, g, m, lr, momentum, weight_decay, fused=1, clip=1.0) -> None:
    """One Muon step in place on float32 matrices p and m (rows, columns) with the gradient clip·g.

    fused: how many projections of rows/fused rows each lie in p; each is orthogonalised by itself."""
    f = np.float32
    if clip != 1.0:
        g = g * f(clip)
    m *= f(momentum)
    m += g
    u = g + f(momentum) * m
    rows = p.shape[0] // fused
    rate = f(lr * math.sqrt(max(1.0, rows / p.shape[1])))
    p *= f(1 - lr * weight_decay)
    for start in range(0, p.shape[0], rows):
        p[start : start + rows] -= rate * orthogonalise(u[start : start + rows])
