"""Linear layers of the NumPy trainer: the ops of ghost_ref.ops.linear, .codebook and .ternary on compiled kernels.

A ternary matrix is quantised once per step into a `Matrix`, which takes the place of the trits between `quantise` and
the linear layers: codes for the exact integer product of the forward pass, the effective float32 weight for the
gradient of the input, and one buffer per shard for the gradient of the weight, all of them kept from step to step.
n rows, k columns, M tokens.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ghost_ref import _train
from ghost_ref.constants import FLOAT16_LARGEST, SCALE_SMALLEST, THRESHOLD_RANGE
from ghost_ref.ops.linear import integer_matmul

Array = np.ndarray
TRIT_OFFSET, INT8_OFFSET = 1, 128
PACK = 4  # columns that a kernel reads at once
CACHE_LINE = 64  # bytes


class Scratch(threading.local):
    """Memory of one thread for `weight_gradient`, which grows to what the largest matrix needs."""

    def __init__(self) -> None:
        self.floats = np.empty(0, np.float32)

    def of(self, size: int) -> Array:
        """At least `size` floats of any value."""
        if len(self.floats) < size:
            self.floats = np.empty(0, np.float32)  # the smaller one goes before the larger one comes
            self.floats = aligned_zeros(size)
        return self.floats


SCRATCH = Scratch()


def aligned_zeros(size: int) -> Array:
    """Zeros that begin at a line of the cache: vectors of a whole line then never lie across two."""
    memory = np.zeros(size + CACHE_LINE // 4, np.float32)
    return memory[-memory.ctypes.data % CACHE_LINE // 4:][:size]


class Matrix:
    """Integer weights (n, k) with a magnitude per row and group of columns, in the forms that a step reads."""

    def __init__(self, shape: tuple[int, int], group: int, offset: int) -> None:
        n, k = shape
        self.shape, self.group, self.offset = shape, min(group, k), offset
        self.weight = np.empty(shape, np.int8)
        self.panels = _train.float_products_available()  # how `effective` lies
        self.effective = aligned_zeros(n * (_train.panel_columns(k) if self.panels else k))
        self.magnitude = np.zeros((-(-k // self.group), _train.padded_rows(n)), np.float32)
        self.codes = np.empty(_train.padded_rows(n) * (-(-k // PACK) * PACK), np.uint8)
        self.mean = self.delta = self.source = np.empty(0, np.float32)
        self.gradients: dict[int, Array] = {}

    def set_magnitude(self, magnitude: Array) -> None:
        """Take magnitudes (n, groups) for the weights that `weight` now holds."""
        self.magnitude[:, : self.shape[0]] = magnitude.T
        _train.pack_weights(self.weight, self.magnitude, self.group, self.offset, self.effective, self.codes,
                            self.panels)

    def for_shard(self, number: int) -> ShardMatrix:
        """The matrix as one shard sees it, with a gradient of its own."""
        return ShardMatrix(self, number)

    def gradient(self, number: int) -> Array:
        """The buffer (n, k) of a shard."""
        if number not in self.gradients:
            self.gradients[number] = np.empty(self.shape, np.float32)
        return self.gradients[number]


class ShardMatrix:
    """A Matrix as one shard sees it: its gradient, taken once, lies in the shard's buffer."""

    def __init__(self, matrix: Matrix, number: int) -> None:
        self.matrix, self.number = matrix, number
        self.buffer: Array | None = matrix.gradient(number)

    def take_buffer(self) -> Array | None:
        """The buffer, and None afterwards."""
        buffer, self.buffer = self.buffer, None
        return buffer


def integer_matrix(weight: Array, magnitude: Array, group: int, largest: int) -> Matrix:
    """A Matrix of integer-valued float weights (n, k), |w| <= largest, and magnitudes (n, groups)."""
    shape: Any = weight.shape
    matrix = Matrix(shape, group, TRIT_OFFSET if largest == 1 else INT8_OFFSET)
    matrix.weight[:] = weight
    matrix.set_magnitude(magnitude)
    return matrix


def product(matrix: Matrix, q: Array, scale: Array, sums: Array) -> Array:
    """(Σ_g float(Σ_k w q) · magnitude_g) · scale with exact integer sums: the bits of the reference. -> (M, n)"""
    n, k = matrix.shape
    whole_packs = len(matrix.magnitude) == 1 or matrix.group % PACK == 0  # always so in a model
    if whole_packs and _train.integer_product_available():
        return _train.integer_product(matrix.codes, q, sums, matrix.magnitude, scale, n, matrix.group, matrix.offset)
    y = np.zeros((len(q), n), np.float32)
    largest = 1 if matrix.offset == TRIT_OFFSET else 127
    for g, start in enumerate(range(0, k, matrix.group)):
        span = slice(start, min(start + matrix.group, k))
        part = integer_matmul(q[:, span].astype(np.float32), matrix.weight[:, span].astype(np.float32), largest)
        y += part * matrix.magnitude[g, :n]
    return y * scale[:, None]


def linear_forward(x: Array, matrix: Matrix | ShardMatrix, forced: Array | None = None) -> tuple[Array, Any]:
    """y of rows quantised to int8.   x (..., k) -> (..., n)"""
    whole = matrix.matrix if isinstance(matrix, ShardMatrix) else matrix
    n, k = whole.shape
    q, scale, sums = _train.quantise_rows(x.reshape(-1, k), whole.group)
    if forced is not None:
        q[:, :k] = forced.reshape(-1, k)
        sums[:] = np.add.reduceat(q, np.arange(0, k, whole.group), axis=1, dtype=np.int32)
    y = product(whole, q, scale, sums)
    return y.reshape(*x.shape[:-1], n), (q, scale, matrix, x.shape)


def linear_backward(dy: Array, saved: Any) -> tuple[Array, Array]:
    """Gradients of x and of the effective weight, dyᵀ · (q · scale)."""
    q, scale, matrix, shape = saved
    whole, buffer = (matrix.matrix, matrix.take_buffer()) if isinstance(matrix, ShardMatrix) else (matrix, None)
    n, k = whole.shape
    flat = dy.reshape(-1, n)
    if not whole.panels:
        dx = np.matmul(flat, whole.effective.reshape(n, k))
        return dx.reshape(shape), np.matmul(flat.T, _train.dequantise_rows(q, scale, k), out=buffer)
    flat = np.ascontiguousarray(flat)
    dweight = np.empty((n, k), np.float32) if buffer is None else buffer
    _train.weight_gradient(flat, q, scale, dweight, SCRATCH.of(_train.weight_gradient_scratch(n, k)))
    return _train.input_gradient(flat, whole.effective, k).reshape(shape), dweight


# --- the pairs: arrays are what conformance and the tied head give, matrices are what a training step gives ----------

def quantised_linear_forward(x, weight, scale, *, largest_weight=1, forced=None):
    """ghost_ref.ops.linear.quantised_linear_forward; a matrix brings its own scale."""
    if isinstance(weight, Matrix | ShardMatrix):
        y, saved = linear_forward(x, weight, forced)
        return y, (saved, None)
    matrix = integer_matrix(weight, scale[:, None], weight.shape[1], largest_weight)
    y, saved = linear_forward(x, matrix, forced)
    return y, (saved, (y, scale))


def quantised_linear_backward(dy, saved):
    """dx, dweight of the effective weight, and for arrays dscale; a matrix gets it from dweight, in `ternarise`."""
    inner, arrays = saved
    dx, dweight = linear_backward(dy, inner)
    if arrays is None:
        return dx, dweight, None
    y, scale = arrays
    return dx, dweight, (dy * y).reshape(-1, len(scale)).sum(0) / scale


def codebook_linear_forward(x, trits, index, codebook, *, group, forced=None):
    """ghost_ref.ops.codebook.codebook_linear_forward; a matrix brings its own magnitudes."""
    if isinstance(trits, Matrix | ShardMatrix):
        y, saved = linear_forward(x, trits, forced)
        return y, (saved, None)
    y, saved = linear_forward(x, integer_matrix(trits, codebook[index], group, 1), forced)
    return y, (saved, (trits, index, codebook, group))


def codebook_linear_backward(dy, saved):
    """dx, dweight of the effective weight, and for arrays the gradient of the codebook."""
    inner, arrays = saved
    dx, dweight = linear_backward(dy, inner)
    if arrays is None:
        return dx, dweight, None, None
    trits, index, codebook, group = arrays
    per_group = np.add.reduceat(dweight * trits, np.arange(0, trits.shape[1], group), axis=1)
    return dx, dweight, None, _per_entry(index, per_group, codebook)


def _per_entry(index: Array, per_group: Array, codebook: Array) -> Array:
    return np.bincount(index.ravel(), per_group.ravel(), len(codebook)).astype(np.float32)


class Ternariser:
    """`ternarise` and `codebook_ternarise` as pairs that give a Matrix in place of trits, one per weight array."""

    def __init__(self) -> None:
        self.matrices: dict[int, Matrix] = {}

    def _matrix(self, weight: Array, group: int) -> Matrix:
        matrix = self.matrices.get(id(weight))
        if matrix is None or matrix.source is not weight:
            matrix = self.matrices[id(weight)] = Matrix(weight.shape, group, TRIT_OFFSET)
            matrix.source = weight  # keeps the array, and so its id, alive
        return matrix

    def ternarise_forward(self, weight, threshold, scale):
        """-> (Matrix, scale as float16 holds it)"""
        matrix = self._matrix(weight, weight.shape[1])
        matrix.mean, matrix.delta, _ = _train.ternarise_rows(weight, stored_threshold(threshold), matrix.weight)
        stored = np.clip(scale, SCALE_SMALLEST, FLOAT16_LARGEST).astype(np.float16).astype(np.float32)
        matrix.set_magnitude(stored[:, None])
        return (matrix, stored), matrix

    @staticmethod
    def ternarise_backward(douts, matrix):
        """Gradients of weight, threshold and scale, all from that of the effective weight."""
        dweight, dthreshold, dmagnitude = matrix_backward(douts[0], matrix)
        return dweight, dthreshold, dmagnitude[:, 0]

    def codebook_ternarise_forward(self, weight, threshold, codebook, *, group):
        """-> (Matrix, index (n, groups) uint8)"""
        matrix = self._matrix(weight, group)
        threshold = stored_threshold(threshold)
        matrix.mean, matrix.delta, kept = _train.ternarise_rows(weight, threshold, matrix.weight, matrix.group)
        assert kept is not None  # there is a group
        index = kept_index(kept, codebook)
        matrix.set_magnitude(codebook[index])
        return (matrix, index), (matrix, index, codebook)

    @staticmethod
    def codebook_ternarise_backward(dmatrix, saved):
        """Gradients of weight, threshold and codebook, all from that of the effective weight."""
        matrix, index, codebook = saved
        dweight, dthreshold, dmagnitude = matrix_backward(dmatrix, matrix)
        return dweight, dthreshold, _per_entry(index, dmagnitude, codebook)


def kept_index(kept: Array, codebook: Array) -> Array:
    """Index of the entry nearest to each mean kept magnitude, 0 where nothing is kept."""
    return np.where(kept == 0, np.uint8(0), _train.nearest_entries(kept, codebook))


def stored_threshold(threshold: Array) -> Array:
    """The thresholds as a packed file holds them."""
    return np.clip(threshold, *THRESHOLD_RANGE).astype(np.float16).astype(np.float32)


def matrix_backward(dweight: Array, matrix: Matrix) -> tuple[Array, Array, Array]:
    """dweight as it is, dthreshold (n,), dmagnitude (n, groups)."""
    dthreshold, dmagnitude = _train.ternarise_backward_rows(
        dweight, matrix.source, matrix.mean, matrix.delta, matrix.magnitude, matrix.group)
    return dweight, dthreshold, dmagnitude
