"""Canonical elementary functions and sums of Ghost.

For float32 input every function here is pinned: only correctly rounded ``+ - * /``, comparisons and integer
bit manipulation, in the order written, so that ``ext/core/numerics-inl.h`` gives the same bits on every
instruction set. For float64 and complex128 input the same functions are the truth that float32 is measured
against: they use NumPy's own exp and log, and choose branches by the real part, so that complex-step
derivatives work.
Algorithms, coefficients and error bounds: docs/numerics.md.

Every function accepts NaN and infinities and never warns. Other dtypes raise TypeError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ghost_ref.errors import GhostError

Array = np.ndarray[Any, np.dtype[Any]]

LANES = 16
# Elements that a float32 function works on at a time: its temporaries then stay in a core's cache.
BLOCK = 1 << 14

LOG2_E = np.float32(float.fromhex("0x1.715476p+0"))
# ln 2 in two parts; LN2_HIGH has 15 significant bits, so n * LN2_HIGH is exact for |n| < 512.
LN2_HIGH = np.float32(float.fromhex("0x1.62e4p-1"))
LN2_LOW = np.float32(float.fromhex("0x1.7f7d1cp-20"))

# Beyond these bounds the result is inf or 0 anyway; inside them the exponent fits the scaling below.
EXP_MIN, EXP_MAX = np.float32(-104.0), np.float32(89.0)
# Adding 1.5 * 2^23 rounds to an integer, which the low mantissa bits then hold; 254 is twice the bias.
EXP_MAGIC = np.float32(12582912.0 + 254.0)
EXP_POLYNOMIAL = tuple(
    np.float32(float.fromhex(c))
    for c in ("0x1.fffffcp-2", "0x1.55548cp-3", "0x1.555858p-5", "0x1.123dep-7", "0x1.6ac74ep-10")
)

LOG_POLYNOMIAL = tuple(
    np.float32(float.fromhex(c)) for c in ("0x1.55557ap-1", "0x1.995ed8p-2", "0x1.31e03cp-2")
)
SQRT_HALF_BITS = np.int32(0x3F3504F3)
MANTISSA_BITS = np.int32(0x007FFFFF)
MIN_NORMAL = np.float32(2.0**-126)

RINT_MAGIC = np.float32(12582912.0)

ZERO, HALF, ONE, TWO = (np.float32(v) for v in (0.0, 0.5, 1.0, 2.0))
INFINITY, NAN = np.float32(np.inf), np.float32(np.nan)


def require_float32(*arrays: Array) -> None:
    """Raise TypeError unless every array is float32: one float64 operand silently promotes a canonical op."""
    for array in arrays:
        if array.dtype != np.float32:
            raise TypeError(f"canonical operations need float32 arrays, got {array.dtype}")


def flush_check() -> None:
    """Raise GhostError if this thread flushes denormal numbers to zero, on output (FTZ) or on input (DAZ)."""
    smallest = np.array([1], np.int32).view(np.float32)
    with np.errstate(all="ignore"):
        result_kept = np.array([MIN_NORMAL], np.float32) * HALF
        input_kept = smallest * np.float32(2.0**24)
    # Compared as integers, because a comparison of floats would flush its inputs too.
    if result_kept.view(np.int32)[0] != 0x00400000 or input_kept.view(np.int32)[0] != 0x01000000:
        raise GhostError(
            "this process flushes denormal floating-point numbers to zero, so results would not be exact: "
            "a library loaded into the process enabled flush-to-zero (usually one built with -ffast-math); "
            "run without that library"
        )


def exp(x: Array) -> Array:
    """e^x, elementwise; at most 2 ULP. exp(+-0) = 1, overflow gives inf, underflow is gradual."""
    return _elementwise(_exp_float32, np.exp, x)


def log(x: Array) -> Array:
    """Natural logarithm, elementwise; at most 2 ULP. log(1) = +0, log(+-0) = -inf, log(x < 0) = NaN."""
    return _elementwise(_log_float32, np.log, x)


def log1p(x: Array) -> Array:
    """log(1 + x), elementwise; at most 4 ULP. log1p(+-0) = +-0, log1p(-1) = -inf, log1p(x < -1) = NaN."""
    return _elementwise(_log1p_float32, _log1p_truth, x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), elementwise, as e / (1 + e) with e = exp(x) for x < 0; at most 4 ULP."""
    return _elementwise(_sigmoid_float32, _sigmoid_truth, x)


def silu(x: Array) -> Array:
    """x * sigmoid(x), elementwise; at most 4 ULP or 128 * 2^-149. silu(-inf) = -inf * 0 = NaN."""
    return _elementwise(_silu_float32, _silu_truth, x)


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), elementwise, as max(x, 0) + log1p(exp(-|x|)); at most 4 ULP."""
    return _elementwise(_softplus_float32, _softplus_truth, x)


def rint(x: Array) -> Array:
    """Round half to even, elementwise, for |x| < 2^22; a zero result is +0. Real dtypes only."""
    if np.iscomplexobj(x):
        raise TypeError("rint needs a real array")
    return _elementwise(_rint_float32, lambda v: np.rint(v) + 0.0, x)


def lane_sum(x: Array) -> Array:
    """Sum over the last axis, (..., n) -> (...), in the canonical order of feature and vocabulary axes.

    Lane j of 16 starts at +0 and adds x[j], x[j + 16], ... in turn; then the lanes are added as a tree:
    lane i += lane i + 8, i + 4, i + 2, i + 1. Wider types, which serve as truth, are summed in NumPy's own order.
    """
    _require_supported(x)
    if x.dtype != np.float32:
        return x.sum(-1)
    length = x.shape[-1]
    whole = length - length % LANES
    blocks = x[..., :whole].reshape(*x.shape[:-1], whole // LANES, LANES)
    lanes = np.zeros((*x.shape[:-1], LANES), x.dtype)
    with np.errstate(all="ignore"):
        for block in range(whole // LANES):
            lanes += blocks[..., block, :]
        # A lane is never -0, so leaving a missing element out is the same as adding +0.
        lanes[..., : length - whole] += x[..., whole:]
        for step in (8, 4, 2, 1):
            lanes = lanes[..., :step] + lanes[..., step:]
    return lanes[..., 0]


def index_sum(x: Array) -> Array:
    """Sum over the last axis, (..., n) -> (...), starting at +0 and adding in index order; wider types as lane_sum."""
    _require_supported(x)
    if x.dtype != np.float32:
        return x.sum(-1)
    total = np.zeros(x.shape[:-1], x.dtype)
    with np.errstate(all="ignore"):
        for index in range(x.shape[-1]):
            total += x[..., index]
    return total[()]


def maximum_reduce(x: Array) -> Array:
    """Maximum over the last axis, (..., n) -> (...): m = x[0], then m = (x[i] > m) ? x[i] : m.

    By that expression a NaN at index 0 stays and any later NaN is passed over, and +0 never replaces -0.
    Complex numbers are compared by their real parts. Raises IndexError if the axis is empty.
    """
    _require_supported(x)
    if x.dtype == np.float64:
        return x.max(-1)
    largest = np.array(x[..., 0])
    for index in range(1, x.shape[-1]):
        candidate = x[..., index]
        np.copyto(largest, candidate, where=candidate.real > largest.real)
    return largest[()]


def _require_supported(x: Array) -> None:
    if x.dtype not in (np.float32, np.float64, np.complex128):
        raise TypeError(f"ghost_ref.numerics needs float32, float64 or complex128, got {x.dtype}")


def _elementwise(kernel: Callable[[Array], Array], truth: Callable[[Array], Array], x: Array) -> Array:
    """Apply the pinned kernel block by block to float32, or the truth at once to wider types."""
    _require_supported(x)
    with np.errstate(all="ignore"):
        if x.dtype != np.float32:
            return truth(x)
        source = x.reshape(-1)
        result = np.empty(source.shape, np.float32)
        for start in range(0, source.size, BLOCK):
            result[start : start + BLOCK] = kernel(source[start : start + BLOCK])
    return result.reshape(x.shape)[()]


def _exp_float32(x: Array) -> Array:
    """2^n e^r with n = rint(x / ln 2), |r| <= ln(2) / 2, and e^r = 1 + (r + r^2 P(r))."""
    x = np.clip(x, EXP_MIN, EXP_MAX)
    shifted = x * LOG2_E
    shifted += EXP_MAGIC
    n = shifted - EXP_MAGIC
    r = x
    r -= n * LN2_HIGH
    r -= n * LN2_LOW

    y = r * EXP_POLYNOMIAL[-1]
    for coefficient in EXP_POLYNOMIAL[-2:0:-1]:
        y += coefficient
        y *= r
    y += EXP_POLYNOMIAL[0]
    y *= r * r
    y += r
    y += ONE

    # The low bits of `shifted` hold n + 254. Two factors 2^a 2^b with a + b = n, both normal: the first
    # product is exact, so overflow and gradual underflow are rounded once, in the last product.
    second = shifted.view(np.int32)
    first = second >> 1
    second -= first
    first <<= 23
    second <<= 23
    y *= first.view(np.float32)
    y *= second.view(np.float32)
    return y


def _log_reduce(u: Array) -> tuple[Array, Array]:
    """Split positive normal u = 2^e (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2); returns e, f as float32."""
    bits = u.view(np.int32) - SQRT_HALF_BITS
    exponent = (bits >> 23).astype(np.float32)
    bits &= MANTISSA_BITS
    bits += SQRT_HALF_BITS
    f = bits.view(np.float32)
    f -= ONE
    return exponent, f


def _log_combine(exponent: Array, f: Array, low: Array) -> Array:
    """exponent ln 2 + log(1 + f), where `low` already holds the small terms exponent * LN2_LOW + correction.

    With s = f / (2 + f): log(1 + f) = 2 atanh(s) = f - (h - s (h + R(s^2))), h = f^2 / 2.
    """
    s = f + TWO
    np.divide(f, s, out=s)
    z = s * s
    y = z * LOG_POLYNOMIAL[2]
    y += LOG_POLYNOMIAL[1]
    y *= z
    y += LOG_POLYNOMIAL[0]
    y *= z
    half_square = f * f
    half_square *= HALF
    y += half_square
    y *= s
    y += low
    y -= half_square
    y += f
    exponent *= LN2_HIGH
    y += exponent
    return y


def _log_float32(x: Array) -> Array:
    tiny = x < MIN_NORMAL
    exponent, f = _log_reduce(x * np.where(tiny, np.float32(2.0**23), ONE))
    exponent -= np.where(tiny, np.float32(23.0), ZERO)
    y = _log_combine(exponent, f, exponent * LN2_LOW)
    np.copyto(y, x, where=~(x < INFINITY))
    np.copyto(y, -INFINITY, where=x == ZERO)
    np.copyto(y, NAN, where=x < ZERO)
    return y


def _log1p_float32(x: Array) -> Array:
    """log(u) + c / u, where u = fl(1 + x) and c = x - (u - 1) is what the addition rounded off."""
    u = x + ONE
    correction = u - ONE
    np.subtract(x, correction, out=correction)
    correction /= u
    exponent, f = _log_reduce(u)
    low = exponent * LN2_LOW
    low += correction
    y = _log_combine(exponent, f, low)
    np.copyto(y, x, where=~(x < INFINITY))
    np.copyto(y, x, where=x == ZERO)
    np.copyto(y, -INFINITY, where=x == -ONE)
    np.copyto(y, NAN, where=x < -ONE)
    return y


def _exp_minus_abs_float32(x: Array) -> Array:
    y = np.abs(x)
    return _exp_float32(np.negative(y, out=y))


def _sigmoid_float32(x: Array) -> Array:
    e = _exp_minus_abs_float32(x)
    y = np.where(x < ZERO, e, ONE)
    e += ONE
    y /= e
    return y


def _silu_float32(x: Array) -> Array:
    y = _sigmoid_float32(x)
    y *= x
    return y


def _softplus_float32(x: Array) -> Array:
    y = _log1p_float32(_exp_minus_abs_float32(x))
    y += np.where(x > ZERO, x, ZERO)
    return y


def _rint_float32(x: Array) -> Array:
    y = x + RINT_MAGIC
    y -= RINT_MAGIC
    return y


def _log1p_truth(x: Array) -> Array:
    if not np.iscomplexobj(x):
        return np.log1p(x)
    # NumPy's complex log1p loses small real parts. |1 + z|^2 = (1 + a)^2 (1 + (b / (1 + a))^2), for a > -1.
    ratio = x.imag / (1.0 + x.real)
    return np.log1p(x.real) + 0.5 * np.log1p(ratio * ratio) + 1j * np.arctan2(x.imag, 1.0 + x.real)


def _exp_minus_abs_truth(x: Array) -> Array:
    return np.exp(np.where(x.real > 0, -x, x))


def _sigmoid_truth(x: Array) -> Array:
    e = _exp_minus_abs_truth(x)
    return np.where(x.real > 0, 1.0, e) / (1.0 + e)


def _silu_truth(x: Array) -> Array:
    return x * _sigmoid_truth(x)


def _softplus_truth(x: Array) -> Array:
    return np.where(x.real > 0, x, 0.0) + _log1p_truth(_exp_minus_abs_truth(x))
