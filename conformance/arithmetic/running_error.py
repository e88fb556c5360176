"""Running error analysis (Wilkinson; Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.3).

Each value v of the float64 run comes with the largest error that a rounded run of the same formula can have, for any
order of its additions. The parts are v; e, the error inherited and made in products; m, the sum of the absolute values
of the terms that v is a sum of; and k, how many additions deep that sum may be. Additions are charged when the sum is
used: whatever their order, they cost at most k·u·m (Higham, section 4.2), so |computed - v| <= e + k·u·m.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from conformance.arithmetic.tracked import Array, Tracked


class RunningError(Tracked):
    """parts: v, e, m, k (see the module). model: an Arithmetic."""

    __slots__ = ()

    @classmethod
    def parts_of_exact(cls, x: Any) -> tuple[Array, ...]:
        return x, np.zeros_like(x), np.abs(x), np.zeros_like(x)

    @property
    def bound(self) -> Array:
        """The largest error of every element."""
        _, e, m, k = self.parts
        with np.errstate(invalid="ignore"):
            return e + k * self.model.unit * m

    def sum(self, axis: Any = None, keepdims: bool = False, **ignored: Any) -> Self:
        v, e, m, k = self.parts
        total = v.sum(axis, keepdims=keepdims)
        terms = self.size // max(total.size, 1)
        depth = k.max(axis, keepdims=keepdims, initial=0) + max(terms - 1, 0)
        return self.like((total, e.sum(axis, keepdims=keepdims), m.sum(axis, keepdims=keepdims), depth))

    def dot(self, name: str, subscripts: str, a: Self, b: Self) -> Self:
        def product(x: Array, y: Array) -> Array:
            return np.einsum(subscripts, x, y)

        v, m = product(a.parts[0], b.parts[0]), product(a.parts[2], b.parts[2])
        e = product(a.parts[2], b.parts[1]) + product(a.parts[1], b.parts[2]) + product(a.parts[1], b.parts[1])
        terms = _terms(subscripts, a, b)
        e = e + self.model.unit * m + terms * self.model.tiny
        depth = terms - 1 + a.parts[3].max(initial=0) + b.parts[3].max(initial=0)
        return self.like((v, e, m, np.full_like(v, depth)))

    def ufunc(self, name: str, operands: tuple[Self, ...]) -> Self:
        with np.errstate(all="ignore"):
            return getattr(self, f"_{name}")(*operands)

    def fresh(self, value: Array, error: Array) -> Self:
        """A value that is no sum: its error is all in e."""
        return self.like((value, error, np.abs(value), np.zeros_like(value)))

    def _add(self, a: Self, b: Self, sign: float = 1.0) -> Self:
        (va, ea, ma, ka), (vb, eb, mb, kb) = a.parts, b.parts
        added = ((ma != 0) & (mb != 0)).astype(np.float64)  # adding an exact zero rounds nothing
        return self.like((va + sign * vb, ea + eb, ma + mb, np.maximum(ka, kb) + added))

    def _subtract(self, a: Self, b: Self) -> Self:
        return self._add(a, b, -1.0)

    def _multiply(self, a: Self, b: Self) -> Self:
        (va, ea, ma, ka), (vb, eb, mb, kb) = a.parts, b.parts
        m = ma * mb
        error = ma * eb + ea * mb + ea * eb + self.model.unit * m + np.where(m == 0, 0, self.model.tiny)
        return self.like((va * vb, error, m, ka + kb))

    def _divide(self, a: Self, b: Self) -> Self:
        q = a.parts[0] / b.parts[0]
        room = np.maximum(np.abs(b.parts[0]) - b.bound, 0)
        error = (a.bound + np.abs(q) * b.bound) / room + self.model.unit * np.abs(q) + self.model.tiny
        return self.fresh(q, np.where((a.bound == 0) & (a.parts[0] == 0), 0, error))

    _true_divide = _divide

    def _sqrt(self, a: Self) -> Self:
        v, root = a.parts[0], np.sqrt(a.parts[0])
        return self.fresh(root, root - np.sqrt(np.maximum(v - a.bound, 0)) + self.model.unit * root)

    def _exp(self, a: Self) -> Self:
        v, ulp = np.exp(a.parts[0]), self.model.exp_ulp
        allowed = 2 * self.model.unit * (ulp[0] + ulp[1] * np.abs(a.parts[0]))
        return self.fresh(v, v * (np.expm1(a.bound) + allowed * np.exp(a.bound)) + self.model.tiny)

    def _function(self, value: Array, slope_error: Array) -> Self:
        return self.fresh(value, slope_error + 2 * self.model.unit * self.model.function_ulp * np.abs(value)
                          + self.model.tiny)

    def _log(self, a: Self) -> Self:
        v = a.parts[0]
        return self._function(np.log(v), -np.log1p(-np.minimum(a.bound / np.abs(v), 1)))

    def _log1p(self, a: Self) -> Self:
        v = a.parts[0]
        return self._function(np.log1p(v), -np.log1p(-np.minimum(a.bound / np.abs(1 + v), 1)))

    def _tanh(self, a: Self) -> Self:
        return self._function(np.tanh(a.parts[0]), a.bound)

    def _logaddexp(self, a: Self, b: Self) -> Self:
        return self._function(np.logaddexp(a.parts[0], b.parts[0]), a.bound + b.bound)

    def _negative(self, a: Self) -> Self:
        v, e, m, k = a.parts
        return self.like((-v, e, m, k))

    def _absolute(self, a: Self) -> Self:
        return self.fresh(np.abs(a.parts[0]), a.bound)

    def _nextafter(self, a: Self, b: Self) -> Self:
        return self.fresh(a.parts[0], a.bound + 2 * self.model.unit * np.abs(a.parts[0]))

    def _maximum(self, a: Self, b: Self) -> Self:
        """Where the bounds overlap either operand may win."""
        return self._select(a, b, a.parts[0] >= b.parts[0])

    def _minimum(self, a: Self, b: Self) -> Self:
        return self._select(a, b, a.parts[0] <= b.parts[0])

    def _select(self, a: Self, b: Self, first: Array) -> Self:
        value = np.where(first, a.parts[0], b.parts[0])
        near = np.abs(a.parts[0] - b.parts[0]) <= a.bound + b.bound
        error = np.where(near, np.maximum(a.bound, b.bound), np.where(first, a.bound, b.bound))
        return self.fresh(value, error)

    def max(self, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Self:
        value = self.parts[0].max(axis, keepdims=keepdims)
        return self.fresh(value, self.bound.max(axis, keepdims=keepdims))


def _terms(subscripts: str, a: Tracked, b: Tracked) -> int:
    """How many products every element of an einsum adds up."""
    inputs, output = subscripts.split("->")
    sizes = {letter: n for names, x in zip(inputs.split(","), (a, b), strict=True)
             for letter, n in zip(names, x.shape, strict=True)}
    return int(np.prod([n for letter, n in sizes.items() if letter not in output], dtype=np.int64))
