"""The op vocabulary of the NumPy trainer: ghost_ref.ops with faster twins laid over it by name.

Training needs no canonical order: dots go through BLAS, and the Cython kernels (ghost_ref._train), where built,
replace the NumPy pairs of the same name. Each twin is judged against the pair it replaces by an error bound.
With the kernels, `quantise` gives a `training_linear.Matrix` in place of every array of trits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import SimpleNamespace

from ghost_ref import ops
from ghost_ref.autodiff import op
from ghost_ref.ops.linear import pairwise_dot_backward, slot_sum_backward

KERNELS = ("selective_scan", "causal_conv1d", "silu", "softplus", "rms_norm")


def pairwise_dot_forward(x, keys):
    """y_j = x·key_j by BLAS.   x (..., d), keys (M, d) -> (..., M)"""
    return x @ keys.T, (x, keys)


def slot_sum_forward(p, values):
    """y = Σ_j p_j·v_j by BLAS.   p (..., M), values (M, d) -> (..., d)"""
    return p @ values, (p, values)


def have_kernels() -> bool:
    """Whether the compiled training kernels are installed."""
    return importlib.util.find_spec("ghost_ref._train") is not None


def describe_kernels() -> str:
    """Which training kernels run here, and why no better ones."""
    if not have_kernels():
        return "none, NumPy instead (slow): install Ghost with a C compiler and without GHOST_PURE=1"
    from ghost_ref import _train

    missing = ", ".join(_train.levels(missing=True))
    return f"{_train.level()} (the best this CPU has{missing and f'; it lacks {missing}'})"


def training_ops(use_kernels: bool = True) -> SimpleNamespace:
    """The vocabulary; with use_kernels the Cython twins where they are built."""
    table = {name: getattr(ops, name) for name in ops.__all__}
    table["pairwise_dot"] = op(pairwise_dot_forward, pairwise_dot_backward)
    table["slot_sum"] = op(slot_sum_forward, slot_sum_backward)
    if use_kernels and have_kernels():
        from ghost_ref import _train

        for name in KERNELS:
            table[name] = op(getattr(_train, f"{name}_forward"), getattr(_train, f"{name}_backward"))
        table |= linear_ops()
    return SimpleNamespace(**table)


def linear_ops() -> dict[str, Callable]:
    """The ops of the linear layers and their weights on compiled kernels, with matrices of their own."""
    from ghost_ref import training_linear as linear

    ternariser = linear.Ternariser()
    return {
        "quantised_linear": op(linear.quantised_linear_forward, linear.quantised_linear_backward),
        "codebook_linear": op(linear.codebook_linear_forward, linear.codebook_linear_backward),
        "ternarise": op(ternariser.ternarise_forward, ternariser.ternarise_backward, outputs=2),
        "codebook_ternarise": op(ternariser.codebook_ternarise_forward, ternariser.codebook_ternarise_backward),
    }
