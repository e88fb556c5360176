"""The NumPy trainer's op vocabulary: compiled Cython kernels and BLAS dots laid over the reference by name."""

from __future__ import annotations

import numpy as np

from conformance.arithmetic import BINARY32
from conformance.backend import Backend
from conformance.backends.pairs import Pair, PairBackend
from conformance.results import BackendInfo
from ghost_ref import training_ops
from ghost_ref.ops.linear import pairwise_dot_backward, slot_sum_backward
from ghost_ref.trainer import add_in_order

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


def _in_shards(x, matrix, shards, forced, forward):
    """Rows of x in consecutive shards, each with the matrix as it sees it -> y, what the backward passes need."""
    codes = [None] * shards if forced is None else np.array_split(forced, shards)
    made = [forward(part, matrix.for_shard(i), codes[i]) for i, part in enumerate(np.array_split(x, shards))]
    return np.concatenate([y for y, _ in made]), [saved for _, saved in made]


def _back_in_shards(dy, shards):
    """dx and the sum of the shards' gradients of the effective weight, as the trainer adds them."""
    linear = training_linear()
    parts = [linear.linear_backward(part, saved) for part, (saved, _) in
             zip(np.array_split(dy, len(shards)), shards, strict=True)]
    return np.concatenate([dx for dx, _ in parts]), add_in_order([dweight for _, dweight in parts], in_place=True)


def _training_linear(x, weight, threshold, scale, *, shards, forced=None):
    linear = training_linear()
    (matrix, stored), saved = linear.Ternariser().ternarise_forward(weight, threshold, scale)
    y, parts = _in_shards(x, matrix, shards, forced, lambda part, seen, codes: linear.quantised_linear_forward(
        part, seen, stored, forced=codes))
    return y, (parts, saved)


def _training_linear_backward(dy, saved):
    parts, quantised = saved
    dx, deffective = _back_in_shards(dy, parts)
    return dx, *training_linear().Ternariser.ternarise_backward((deffective, None), quantised)


def _training_codebook_linear(x, weight, threshold, codebook, *, group, shards, forced=None):
    linear = training_linear()
    (matrix, index), saved = linear.Ternariser().codebook_ternarise_forward(weight, threshold, codebook, group=group)
    y, parts = _in_shards(x, matrix, shards, forced, lambda part, seen, codes: linear.codebook_linear_forward(
        part, seen, index, codebook, group=group, forced=codes))
    return y, (parts, saved)


def _training_codebook_linear_backward(dy, saved):
    parts, quantised = saved
    dx, deffective = _back_in_shards(dy, parts)
    return dx, *training_linear().Ternariser.codebook_ternarise_backward(deffective, quantised)


def training_linear():
    """The module, which needs the compiled kernels."""
    import ghost_ref.training_linear as module  # so written, mutation gives a faulty copy in its place

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
    pairs["training_linear"] = _training_linear, _training_linear_backward
    pairs["training_codebook_linear"] = _training_codebook_linear, _training_codebook_linear_backward
    pairs["pairwise_dot"] = training_ops.pairwise_dot_forward, pairwise_dot_backward
    pairs["slot_sum"] = training_ops.slot_sum_forward, slot_sum_backward
    pairs["adamw"] = _adamw, None
    return [PairBackend(BackendInfo(*INFO), BINARY32, pairs, SCOPE)]
