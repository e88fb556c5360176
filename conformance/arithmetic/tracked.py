"""Duck arrays that run through the reference's NumPy code: a value and what is known about it, as parallel arrays.

A Tracked array stands for inexact numbers; a plain array meeting it stands for exact ones (codes, masks, constants).
Moving elements about (indexing, joining, selecting) does the same to every part; arithmetic is the subclass's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

Array = np.ndarray
DECISIONS = {"less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "isfinite", "isnan", "signbit",
             "rint", "sign", "floor", "ceil"}
"""Functions whose result is discrete: computed from the value, and exact from there on."""


def plain(x: Any) -> Any:
    """The value of a tracked array; anything else as it is."""
    return x.parts[0] if isinstance(x, Tracked) else x


class Tracked(np.lib.mixins.NDArrayOperatorsMixin):
    """parts[0] is the value in float64; the others are the subclass's. model: its settings, handed on to results."""

    __slots__ = ("model", "parts")

    def __init__(self, parts: tuple[Array, ...], model: Any) -> None:
        self.parts = tuple([p if type(p) is np.ndarray else np.asarray(p) for p in parts])
        self.model = model

    # --- what a subclass gives ----------------------------------------------------------------------------------------

    @classmethod
    def parts_of_exact(cls, x: Any) -> tuple[Array, ...]:
        """The parts of an exactly known array."""
        raise NotImplementedError

    def ufunc(self, name: str, operands: tuple[Self, ...]) -> Self:
        """One arithmetic operation on tracked operands."""
        raise NotImplementedError

    def sum(self, axis: Any = None, keepdims: bool = False, **ignored: Any) -> Self:
        """Sum in any order."""
        raise NotImplementedError

    def dot(self, name: str, subscripts: str, a: Self, b: Self) -> Self:
        """A sum of products in any order, by einsum's subscripts."""
        raise NotImplementedError

    # --- moving elements about ----------------------------------------------------------------------------------------

    def like(self, parts: tuple[Array, ...]) -> Self:
        return type(self)(parts, self.model)

    def lift(self, x: Any) -> Any:
        """x as a tracked array, exact if it is a plain one."""
        return x if isinstance(x, type(self)) else self.like(self.parts_of_exact(np.asarray(x, np.float64)))

    def each(self, function: Callable[[Array], Array]) -> Self:
        return self.like(tuple([function(p) for p in self.parts]))

    shape = property(lambda self: self.parts[0].shape)
    ndim = property(lambda self: self.parts[0].ndim)
    size = property(lambda self: self.parts[0].size)
    dtype = property(lambda self: np.dtype(np.float64))
    T = property(lambda self: self.each(lambda p: p.T))
    real = property(lambda self: self)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, key: Any) -> Self:
        return self.each(lambda p: p[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        for mine, new in zip(self.parts, self.lift(value).parts, strict=True):
            mine[key] = new

    def reshape(self, *shape: Any) -> Self:
        return self.each(lambda p: p.reshape(*shape))

    def transpose(self, *axes: Any) -> Self:
        return self.each(lambda p: p.transpose(*axes))

    def ravel(self) -> Self:
        return self.each(np.ravel)

    def copy(self) -> Self:
        return self.each(np.copy)

    def astype(self, dtype: Any, **ignored: Any) -> Any:
        """float16 rounds the value (a decision); other floats keep the number; integers and masks are plain."""
        if np.dtype(dtype) == np.float16:
            return self.lift(self.parts[0].astype(np.float16).astype(np.float64))
        return self if np.dtype(dtype).kind == "f" else self.parts[0].astype(dtype)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Self:
        total = self.sum(axis, keepdims)
        return total / (self.size / max(total.size, 1))

    def max(self, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Self:
        """Largest element: the other parts are those of the largest one."""
        flat = self if axis is not None else self.ravel()
        axis = -1 if axis is None else axis
        chosen = np.expand_dims(flat.parts[0].argmax(axis), axis)
        found = flat.each(lambda p: np.take_along_axis(p, chosen, axis))
        return found if keepdims else found.each(lambda p: p.squeeze(axis))

    # --- NumPy's protocols --------------------------------------------------------------------------------------------

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        raise TypeError("a tracked array would lose what is tracked: allocate with zeros_like(prototype, shape=...)")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        name = ufunc.__name__
        if method == "reduce":
            if name not in ("add", "maximum"):
                return NotImplemented
            reduced = self.sum if name == "add" else self.max
            return reduced(options.get("axis"), options.get("keepdims", False))
        if method == "reduceat":
            return self._reduceat(*inputs[1:], **options)
        if name in DECISIONS:
            return ufunc(*(plain(x) for x in inputs))
        if name == "matmul":
            result = self._matmul(*(self.lift(x) for x in inputs))
        else:
            result = self.ufunc(name, tuple(self.lift(x) for x in inputs))
        if out is None:
            return result
        out[0][...] = result
        return out[0]

    def _matmul(self, a: Self, b: Self) -> Self:
        left = "abcdefg"[: a.ndim - 1]
        return self.dot("matmul", f"{left}y,yz->{left}z", a, b)

    def _reduceat(self, starts: Any, axis: int = 0) -> Self:
        ends = [*starts[1:], self.shape[axis]]
        pieces = [np.take(np.arange(self.shape[axis]), range(s, e)) for s, e in zip(starts, ends, strict=True)]
        sums = [self[(slice(None),) * axis + (piece,)].sum(axis, keepdims=True) for piece in pieces]
        return self._np_concatenate(sums, axis)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = function.__name__
        handler = getattr(self, f"_np_{name}", None)
        if handler is None:
            return NotImplemented
        return handler(*args, **kwargs)

    def _each_of(self, arrays: Any, function: Callable[[list[Array]], Array]) -> Self:
        lifted = [self.lift(a).parts for a in arrays]
        return self.like(tuple(function(list(group)) for group in zip(*lifted, strict=True)))

    def _np_concatenate(self, arrays: Any, axis: int = 0) -> Self:
        return self._each_of(arrays, lambda group: np.concatenate(group, axis))

    def _np_stack(self, arrays: Any, axis: int = 0) -> Self:
        return self._each_of(arrays, lambda group: np.stack(group, axis))

    def _np_where(self, mask: Any, a: Any, b: Any) -> Self:
        return self._each_of((a, b), lambda group: np.where(mask, *group))

    def _np_clip(self, x: Any, low: Any, high: Any, out: Any = None, **ignored: Any) -> Self:
        clipped = np.minimum(np.maximum(x, low), high)
        if out is None:
            return clipped
        out[...] = clipped
        return out

    def _np_dot(self, a: Any, b: Any) -> Self:
        return self.dot("dot", "i,i->", self.lift(a), self.lift(b))

    def _np_zeros_like(self, x: Any, dtype: Any = None, shape: Any = None) -> Self:
        return self.like(self.parts_of_exact(np.zeros(x.shape if shape is None else shape)))

    _np_empty_like = _np_zeros_like

    def _np_ones_like(self, x: Any, dtype: Any = None, shape: Any = None) -> Self:
        return self.like(self.parts_of_exact(np.ones(x.shape if shape is None else shape)))

    def _np_result_type(self, *ignored: Any) -> Any:
        return np.dtype(np.float64)

    def _np_shape(self, x: Any) -> tuple[int, ...]:
        return x.shape

    def _np_iscomplexobj(self, x: Any) -> bool:
        return False

    def _np_take_along_axis(self, x: Any, indices: Any, axis: int = -1) -> Self:
        return x.each(lambda p: np.take_along_axis(p, indices, axis))

    def _np_put_along_axis(self, x: Any, indices: Any, values: Any, axis: int = -1) -> None:
        for mine, new in zip(x.parts, self.lift(values).parts, strict=True):
            np.put_along_axis(mine, indices, new, axis)

    def _np_copyto(self, target: Any, source: Any, where: Any = True) -> None:
        for mine, new in zip(target.parts, self.lift(source).parts, strict=True):
            np.copyto(mine, new, where=where)

    def _np_moveaxis(self, x: Any, source: Any, destination: Any) -> Self:
        return x.each(lambda p: np.moveaxis(p, source, destination))

    def _np_ascontiguousarray(self, x: Any) -> Self:
        return x.each(np.ascontiguousarray)

    def _np_repeat(self, x: Any, repeats: Any, axis: Any = None) -> Self:
        return x.each(lambda p: np.repeat(p, repeats, axis))

    def _np_argsort(self, x: Any, **options: Any) -> Array:
        return np.argsort(plain(x), **options)

    def _np_searchsorted(self, x: Any, values: Any) -> Array:
        return np.searchsorted(plain(x), plain(values))

    def _np_einsum(self, subscripts: str, a: Any, b: Any) -> Self:
        return self.dot("einsum", subscripts, self.lift(a), self.lift(b))

    def _np_bincount(self, index: Array, weights: Any, minlength: int = 0) -> Self:
        """Sums by bin: one product with a matrix of zeros and ones."""
        chosen = (np.arange(minlength)[:, None] == index).astype(np.float64)
        return self.dot("bincount", "bi,i->b", self.lift(chosen), weights)
