"""Training parameters -> the weights a packed file holds, differentiably (docs/semantics.md section 3).

Training runs ``forward(quantise(params))``, packing stores ``quantise(params)``: both compute with the same numbers.
"""

from __future__ import annotations

from typing import Any

from ghost_ref.config import ModelConfig
from ghost_ref.constants import SCALE_SMALLEST
from ghost_ref.parameters import CODEBOOK, INT8, TERNARY, Spec, parameter_specs

Weights = dict[str, Any]


def quantise(params: Weights, config: ModelConfig, ops: Any, specs: dict[str, Spec] | None = None) -> Weights:
    """The weights `forward` computes with, from training parameters; names as in the packed file.

    Ternary ``X.weight`` becomes ``X.trits`` and ``X.scale``; codebook ``X.weight`` becomes ``X.trits`` and
    ``X.index``; int8 ``X`` becomes integer rows ``X`` and ``X_scale``; vectors are rounded to float16. With
    ``linear="float"`` the parameters are used as they are. specs: of the parameters to quantise, all of them or one of
    `component_specs`."""
    if config.linear == "float":
        return dict(params)
    weights: Weights = {}
    for name, spec in (parameter_specs(config) if specs is None else specs).items():
        stem = name.removesuffix(".weight")
        if spec.storage == TERNARY:
            weights[f"{stem}.trits"], weights[f"{stem}.scale"] = ops.ternarise(
                params[name], params[f"{stem}.threshold"], params[f"{stem}.scale"])
        elif spec.storage == CODEBOOK:
            layer = stem.rpartition(".")[0]
            codebook = f"{layer}.codebook"
            if codebook not in weights:
                weights[codebook] = ops.round_float16(params[codebook], smallest=SCALE_SMALLEST)
            weights[f"{stem}.trits"], weights[f"{stem}.index"] = ops.codebook_ternarise(
                params[name], params[f"{stem}.threshold"], weights[codebook], group=config.codebook_group)
        elif spec.storage == INT8:
            weights[name], weights[f"{name}_scale"] = ops.int8_rows(params[name])
        elif not name.endswith((".threshold", ".scale", ".codebook")):
            weights[name] = ops.round_float16(params[name])
    return weights
