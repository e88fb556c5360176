"""The NumPy trainer's op vocabulary: compiled Cython kernels and BLAS dots laid over the reference by name."""

from __future__ import annotations

import numpy as np

from conformance.arithmetic import BINARY32
from conformance.backend import Backend
from conformance.backends.pairs import Pair, PairBackend
from conformance.results import BackendInfo
from ghost_ref import training_ops
from ghost_ref.ops.linear import pairwise_dot_backward, slot_sum_backward

INFO = ("cython", "the NumPy trainer's compiled kernels and BLAS dots")
SCOPE = "the NumPy trainer uses the reference here"


def _adamw(p, gradients, m, v, *, lr, beta1, beta2, eps, weight_decay, applied):
    """One compiled AdamW step for each of the gradients."""
    from ghost_ref import _train

    p, m, v = p.copy(), m.copy(), v.copy()
    for step, gradient in enumerate(gradients, applied + 1):
        _train.adamw_update(p, gradient, m, v, lr, beta1, beta2, eps, weight_decay, 1 / (1 - beta1**step),
                            1 / (1 - beta2**step))
    return (p, m, v), None


def _ternarise(weight, threshold, scale, *, forced=None):
    """The trainer's matrix as the reference's arrays. forced: trits given, from which the gradients do not follow."""
    (matrix, stored), saved = training_linear().Ternariser().ternarise_forward(weight, threshold, scale)
    return (matrix.weight.astype(np.float32) if forced is None else forced, stored), saved


def _ternarise_backward(douts, saved):
    """The reference's gradients: that of the scale is passed on."""
    dweight, dscale = douts
    dweight, dthreshold, _ = training_linear().matrix_backward(np.ascontiguousarray(dweight), saved)
    return dweight, dthreshold, dscale


def _codebook_ternarise(weight, threshold, codebook, *, group, forced=None):
    (matrix, index), saved = training_linear().Ternariser().codebook_ternarise_forward(
        weight, threshold, codebook, group=group)
    if forced is None:
        return (matrix.weight.astype(np.float32), index), saved
    matrix.set_magnitude(codebook[forced[1]])
    return forced, saved


def _codebook_ternarise_backward(dweight, saved):
    dweight, dthreshold, _ = training_linear().matrix_backward(np.ascontiguousarray(dweight), saved[0])
    return dweight, dthreshold, None


def training_linear():
    """The module, which needs the compiled kernels."""
    from ghost_ref import training_linear as module

    return module


def backends() -> list[Backend | BackendInfo]:
    if not training_ops.have_kernels():
        return [BackendInfo(*INFO, "the compiled kernels are not built; install Ghost without GHOST_PURE=1")]
    from ghost_ref import _train

    pairs: dict[str, Pair] = {name: (getattr(_train, f"{name}_forward"), getattr(_train, f"{name}_backward"))
             for name in training_ops.KERNELS}
    linear = training_linear()
    pairs["quantised_linear"] = linear.quantised_linear_forward, linear.quantised_linear_backward
    pairs["codebook_linear"] = linear.codebook_linear_forward, linear.codebook_linear_backward
    pairs["ternarise"] = _ternarise, _ternarise_backward
    pairs["codebook_ternarise"] = _codebook_ternarise, _codebook_ternarise_backward
    pairs["pairwise_dot"] = training_ops.pairwise_dot_forward, pairwise_dot_backward
    pairs["slot_sum"] = training_ops.slot_sum_forward, slot_sum_backward
    pairs["adamw"] = _adamw, None
    return [PairBackend(BackendInfo(*INFO), BINARY32, pairs, SCOPE)]
