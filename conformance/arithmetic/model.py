"""What a backend promises about its floating-point arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arithmetic:
    """Rounding of + - * / sqrt: relative `unit` (2^-24 for binary32; 2^-11 for TF32 products). exp is within exp_ulp
    ULP, typically a quarter of that; log, log1p and tanh within function_ulp, typically one unit. An ULP is at most
    2·unit relative. Sums: any order of additions. tiny: what underflow may cost per operation (2^-126 where denormals
    may be flushed)."""

    name: str
    unit: float = 2.0**-24
    exp_ulp: float = 2.0
    function_ulp: float = 4.0
    tiny: float = 2.0**-126


BINARY32 = Arithmetic("binary32")
"""The canonical functions (docs/numerics.md) in IEEE binary32, and any library as good."""
