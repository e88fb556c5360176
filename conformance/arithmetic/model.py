"""What a backend promises about its floating-point arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arithmetic:
    """Rounding of + - * / sqrt: relative `unit` (2^-24 for binary32; 2^-11 for TF32 products). Elementary functions:
    exp within exp_ulp[0] + exp_ulp[1]·|x| ULP, typically exp_noise[0] + exp_noise[1]·|x| units, of which up to the share
    exp_bias may be common to all elements (a poor exp errs on one side); the others (log, log1p, tanh) within function_ulp, typically one unit. An ULP is at most 2·unit relative. Sums: any order of additions.
    tiny: what underflow may cost per operation (2^-126 where denormals may be flushed)."""

    name: str
    unit: float = 2.0**-24
    exp_ulp: tuple[float, float] = (2.0, 0.0)
    exp_noise: tuple[float, float] = (1.0, 0.0)
    exp_bias: float = 0.0
    function_ulp: float = 4.0
    tiny: float = 2.0**-126


BINARY32 = Arithmetic("binary32")
"""The canonical functions (docs/numerics.md) in IEEE binary32, and any library as good."""
