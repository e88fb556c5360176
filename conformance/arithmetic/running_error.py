"""Running error analysis (Wilkinson; Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.3).

Each value v of the float64 run comes with the largest error that a rounded run of the same formula can have, for any
order of its additions. The parts are v; e, the error inherited and made in products; m, the sum of the absolute values
of the terms that v is a sum of; and k, how many additions deep that sum may be. Additions are charged when the sum is
used: whatever their order, they cost at most k·u·m (Higham, section 4.2), so |computed - v| <= e + k·u·m.

Nothing is charged where nothing can be rounded: adding an exact zero, a product with -1, 0 or 1, a product or quotient
of exact numbers that is a binary32 number (a relative error of at most 2^-24 cannot reach the next one), a sum of exact
numbers that are integers on the scale of their sum.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from conformance.arithmetic.tracked import Array, Tracked

BINARY32_UNIT = 2.0**-24
SIGNS = (-1.0, 0.0, 1.0)


class RunningError(Tracked):
    """parts: v, e, m, k (see the module). model: an Arithmetic."""

    __slots__ = ()

    @classmethod
    def parts_of_exact(cls, x: Any) -> tuple[Array, ...]:
        """A number that binary32 has not (a constant such as 1e-5, a long integer sum) is rounded to it."""
        return x, np.where(in_binary32(x), 0, BINARY32_UNIT * np.abs(x)), np.abs(x), np.zeros_like(x)

    @property
    def bound(self) -> Array:
        """The largest error of every element."""
        _, e, m, k = self.parts
        with np.errstate(invalid="ignore"):
            return np.where(k == 0, e, e + k * self.model.unit * m)

    def sum(self, axis: Any = None, keepdims: bool = False, **ignored: Any) -> Self:
        v, e, m, k = self.parts
        total = v.sum(axis, keepdims=keepdims)
        terms = ((m != 0) | (e != 0)).sum(axis, keepdims=keepdims)
        depth = k.max(axis, keepdims=keepdims, initial=0) + np.maximum(terms - 1, 0)
        depth = np.where(self._on_a_grid(axis, keepdims), 0, depth)
        return self.like((total, e.sum(axis, keepdims=keepdims), m.sum(axis, keepdims=keepdims), depth))

    def _on_a_grid(self, axis: Any, keepdims: bool) -> Any:
        """Where exact terms are all multiples of the binary32 spacing at the sum of their magnitudes: then so is every
        partial sum, and none is rounded."""
        if self.model.unit > BINARY32_UNIT:
            return False
        v, _, m, _ = self.parts
        with np.errstate(all="ignore"):
            steps = v / np.exp2(np.floor(np.log2(m.sum(axis, keepdims=True))) - 23)
            return (self.exact & (steps == np.rint(steps))).all(axis, keepdims=keepdims)

    def dot(self, name: str, subscripts: str, a: Self, b: Self) -> Self:
        def product(x: Array, y: Array) -> Array:
            return np.einsum(subscripts, x, y)

        v, m = product(a.parts[0], b.parts[0]), product(a.parts[2], b.parts[2])
        e = product(a.parts[2], b.parts[1]) + product(a.parts[1], b.parts[2]) + product(a.parts[1], b.parts[1])
        if not (a.signs_only or b.signs_only):
            e = e + self.model.unit * m + _terms(subscripts, a, b) * self.model.tiny
        added = np.maximum(product(a.present, b.present) - 1, 0)
        return self.like((v, e, m, added + a.parts[3].max(initial=0) + b.parts[3].max(initial=0)))

    @property
    def present(self) -> Array:
        """1 for what takes part in a sum, 0 for exact zeros."""
        return ((self.parts[2] != 0) | (self.parts[1] != 0)).astype(np.float64)

    @property
    def exact(self) -> Array:
        """Where the computed number is the true one."""
        return (self.parts[1] == 0) & ((self.parts[3] == 0) | (self.parts[2] == 0))

    @property
    def signs_only(self) -> bool:
        """Exactly -1, 0 and 1."""
        return bool(self.exact.all()) and bool(np.isin(self.parts[0], SIGNS).all())

    def rounding(self, v: Array, a: Self, b: Self) -> Array:
        """What rounding a product or quotient v of a and b costs."""
        kept = a.exact & (a.parts[0] == 0)
        if self.model.unit <= BINARY32_UNIT:
            kept = kept | (a.exact & b.exact & in_binary32(v))
        return np.where(kept, 0, self.model.unit * np.abs(v) + self.model.tiny)

    def ufunc(self, name: str, operands: tuple[Self, ...]) -> Self:
        with np.errstate(all="ignore"):
            return getattr(self, f"_{name}")(*operands)

    def fresh(self, value: Array, error: Array) -> Self:
        """A value that is no sum: its error is all in e."""
        return self.like((value, error, np.abs(value), np.zeros_like(value)))

    def _add(self, a: Self, b: Self, sign: float = 1.0) -> Self:
        (va, ea, ma, ka), (vb, eb, mb, kb) = a.parts, b.parts
        added = a.present * b.present
        return self.like((va + sign * vb, ea + eb + self.model.tiny * added, ma + mb, np.maximum(ka, kb) + added))

    def _subtract(self, a: Self, b: Self) -> Self:
        return self._add(a, b, -1.0)

    def _multiply(self, a: Self, b: Self) -> Self:
        (va, ea, ma, ka), (vb, eb, mb, kb) = a.parts, b.parts
        m = ma * mb
        kept = (a.exact & np.isin(va, SIGNS)) | (b.exact & np.isin(vb, SIGNS))
        rounding = np.where(kept, 0, self.rounding(va * vb, a, b) + self.model.unit * (m - np.abs(va * vb)))
        return self.like((va * vb, ma * eb + ea * mb + ea * eb + rounding, m, ka + kb))

    def _divide(self, a: Self, b: Self) -> Self:
        q = a.parts[0] / b.parts[0]
        room = np.maximum(np.abs(b.parts[0]) - b.bound, 0)
        return self.fresh(q, (a.bound + np.abs(q) * b.bound) / room + self.rounding(q, a, b))

    _true_divide = _divide

    def _sqrt(self, a: Self) -> Self:
        v, root = a.parts[0], np.sqrt(a.parts[0])
        low, high = np.sqrt(np.maximum(v - a.bound, 0)), np.sqrt(v + a.bound)
        return self.fresh(root, np.maximum(root - low, high - root) + self.model.unit * high)

    def _exp(self, a: Self) -> Self:
        v, allowed = np.exp(a.parts[0]), 2 * self.model.unit * self.model.exp_ulp
        error = v * (np.expm1(a.bound) + allowed * np.exp(a.bound)) + self.model.tiny
        vanishes = np.isneginf(a.parts[0]) & np.isfinite(a.parts[1])  # an infinity in every arithmetic
        return self.fresh(v, np.where(vanishes, 0, error))

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
        return self.like((-v, e.copy(), m.copy(), k.copy()))

    def _absolute(self, a: Self) -> Self:
        return self.fresh(np.abs(a.parts[0]), a.bound)

    def _nextafter(self, a: Self, b: Self) -> Self:
        """The next binary32 number: of a number known exactly, itself exact."""
        v = a.parts[0].astype(np.float32)
        step = np.abs(np.nextafter(v, b.parts[0].astype(np.float32)).astype(np.float64) - v)
        near = np.where(a.exact & in_binary32(a.parts[0]), 0, a.bound + 2 * step)
        return self.fresh(v + np.sign(b.parts[0] - v) * step, near)

    def _maximum(self, a: Self, b: Self) -> Self:
        """Where the bounds overlap either operand may win."""
        return self._select(a, b, (a.parts[0] >= b.parts[0]) | np.isnan(a.parts[0]))

    def _minimum(self, a: Self, b: Self) -> Self:
        return self._select(a, b, (a.parts[0] <= b.parts[0]) | np.isnan(a.parts[0]))

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


def in_binary32(x: Array) -> Array:
    """Which numbers binary32 has."""
    with np.errstate(all="ignore"):
        return (np.asarray(x, np.float32) == x) | np.isnan(x)
