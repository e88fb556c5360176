"""Monte-Carlo arithmetic (Parker 1997): every operation of the float64 run is disturbed by a random relative error of
at most one unit, so that the spread of many runs is the size of error that honest rounding gives.

A sum of n terms x (random or not, in index order) gets the error of its partial sums S_k: u/√3·sqrt(Σ S_k²), with
Σ S_k² ≈ n/2·Σ x² + n/3·(Σ x)² (exact in expectation for terms in random order, up to terms of lower degree in n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from conformance.arithmetic.model import Arithmetic
from conformance.arithmetic.running_error import _terms, in_binary32
from conformance.arithmetic.tracked import Array, Tracked


@dataclass(frozen=True)
class Dice:
    """An arithmetic and the random stream that disturbs it."""

    arithmetic: Arithmetic
    rng: np.random.Generator

    @classmethod
    def of_run(cls, arithmetic: Arithmetic, run: int) -> Dice:
        """The dice of one numbered run."""
        return cls(arithmetic, np.random.default_rng(run))

    def disturb(self, value: Array, relative: Any = 1.0) -> Array:
        """value·(1 + u·relative·ξ), ξ uniform in [-1, 1]."""
        factor = self.rng.random(np.shape(value))
        factor -= 0.5
        factor *= 2 * self.arithmetic.unit * relative
        factor += 1
        factor *= value
        return np.asarray(factor)

    def disturb_sum(self, total: Array, squares: Array, terms: int) -> Array:
        """A sum of `terms` terms with the error of its partial sums (see the module)."""
        if terms < 2:
            return total
        spread = np.sqrt(np.maximum(terms / 2 * squares + terms / 3 * total * total, 0))
        return total + self.arithmetic.unit * spread * self.rng.uniform(-1, 1, np.shape(total))


class MonteCarlo(Tracked):
    """parts: the disturbed value. model: Dice."""

    __slots__ = ()

    @classmethod
    def parts_of_exact(cls, x: Any) -> tuple[Array, ...]:
        return (np.array(x, np.float64),)

    def lift(self, x: Any) -> Any:
        """Exact numbers that binary32 has not are rounded to it: equal ones alike, so by one error in common."""
        if isinstance(x, MonteCarlo):
            return x
        lifted = super().lift(x)
        if in_binary32(lifted.parts[0]).all():
            return lifted
        v = lifted.parts[0]
        relative = self.model.arithmetic.unit * self.model.rng.uniform(-1, 1)
        return self.like((np.where(in_binary32(v), v, v * (1 + relative)),))

    def sum(self, axis: Any = None, keepdims: bool = False, **ignored: Any) -> Self:
        v = self.parts[0]
        total = v.sum(axis, keepdims=keepdims)
        terms = self.size // max(total.size, 1)
        return self.like((self.model.disturb_sum(total, (v * v).sum(axis, keepdims=keepdims), terms),))

    def dot(self, name: str, subscripts: str, a: Self, b: Self) -> Self:
        va, vb = a.parts[0], b.parts[0]
        total = np.einsum(subscripts, va, vb)
        squares = np.einsum(subscripts, va * va, vb * vb)
        terms = _terms(subscripts, a, b)
        products = self.model.arithmetic.unit * np.sqrt(squares) * self.model.rng.uniform(-1, 1, total.shape)
        return self.like((self.model.disturb_sum(total, squares, terms) + products,))

    def ufunc(self, name: str, operands: tuple[Self, ...]) -> Self:
        values = [x.parts[0] for x in operands]
        result = getattr(np, name)(*values)
        if name in ("negative", "absolute", "maximum", "minimum", "nextafter"):
            return self.like((result,))
        if name == "exp":
            return self.like((self.model.disturb(result, self.model.arithmetic.exp_ulp / 2),))
        return self.like((self.model.disturb(result),))
