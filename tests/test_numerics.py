"""Canonical numerics: accuracy, bit equality with the native twin, summation order, special values."""

from __future__ import annotations

import ctypes
import math
import platform
import zlib

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_ref import numerics
from ghost_ref.errors import GhostError

try:
    from ghost_ref import _native
except ImportError:
    _native = None

FUNCTIONS = ("exp", "log", "log1p", "sigmoid", "silu", "softplus")
MAX_ULP = {"exp": 2, "log": 2, "log1p": 4, "sigmoid": 4, "silu": 4, "softplus": 4}
LEVELS = _native.levels() if _native else []
CHUNK = 1 << 22
F = np.float32


def from_bits(bits: np.ndarray) -> np.ndarray:
    return bits.astype(np.uint32).view(F)


def sample_points() -> np.ndarray:
    """More than a million points: all exponents and signs, interesting ranges, edges, special values."""
    rng = np.random.default_rng(2024)
    stratified = from_bits(np.arange(0, 2**32, 4099, dtype=np.uint64))
    wide = rng.uniform(-110, 95, 1 << 18)
    normal = rng.normal(0, 2, 1 << 18)
    near_one = 1 + rng.normal(0, 1e-3, 1 << 16)
    near_minus_one = -1 + 2.0 ** -rng.uniform(0, 25, 1 << 16)
    edges = [
        0.0,
        1.0,
        0.5,
        1.5,
        2.5,
        88.72284,
        89.0,
        103.97208,
        104.0,
        2.0**-126,
        2.0**-149,
        2.0**24,
        3.4028235e38,
    ]
    edges = np.array([*edges, math.sqrt(0.5), math.log(2) / 2, math.inf], F)
    with np.errstate(all="ignore"):
        edges = np.concatenate([np.nextafter(edges, F(0)), edges, np.nextafter(edges, F(np.inf)), F([np.nan])])
    denormals = from_bits(np.arange(2048))
    parts = [stratified, wide, normal, near_one, near_minus_one, edges, -edges, denormals, -denormals]
    with np.errstate(all="ignore"):
        return np.concatenate([np.asarray(part).astype(F) for part in parts])


POINTS = sample_points()


def ordinal(x: np.ndarray) -> np.ndarray:
    """Consecutive floats get consecutive integers; +0 and -0 are both 0."""
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def ulp_errors(name: str, x: np.ndarray) -> np.ndarray:
    """Distance in floats from the correctly rounded float64 truth; 0 within the absolute bound of `silu`."""
    y = getattr(numerics, name)(x)
    with np.errstate(all="ignore"):
        truth64 = getattr(numerics, name)(x.astype(np.float64))
        truth = truth64.astype(F)
    assert y.dtype == F
    np.testing.assert_array_equal(np.isnan(y), np.isnan(truth))
    errors = np.abs(ordinal(y) - ordinal(truth))
    if name not in ("exp", "log"):
        with np.errstate(all="ignore"):
            errors[np.abs(y.astype(np.float64) - truth64) <= 128 * 2.0**-149] = 0
    errors[np.isnan(truth)] = 0
    return errors


def assert_same_bits(actual: np.ndarray, expected: np.ndarray, x: np.ndarray) -> None:
    same = (actual.view(np.int32) == expected.view(np.int32)) | (np.isnan(actual) & np.isnan(expected))
    assert same.all(), f"{(~same).sum()} differ, first at x = {x[~same][:4]}: {actual[~same][:4]}"


def lane_sum_by_definition(x: np.ndarray) -> np.float32:
    lanes = [F(0)] * 16
    with np.errstate(all="ignore"):
        for i, value in enumerate(x):
            lanes[i % 16] = lanes[i % 16] + value
        for step in (8, 4, 2, 1):
            for i in range(step):
                lanes[i] = lanes[i] + lanes[i + step]
    return lanes[0]


# Accuracy


def test_there_are_a_million_points() -> None:
    assert POINTS.size > 1_000_000


@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy(name: str) -> None:
    errors = ulp_errors(name, POINTS)
    assert errors.max() <= MAX_ULP[name], POINTS[errors.argmax()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exp", "log"])
def test_accuracy_over_all_floats(name: str) -> None:
    for start in range(0, 2**32, CHUNK):
        x = from_bits(np.arange(start, start + CHUNK, dtype=np.uint64))
        errors = ulp_errors(name, x)
        assert errors.max() <= MAX_ULP[name], x[errors.argmax()]


MPMATH = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_truth_against_mpmath(name: str) -> None:
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.uniform(-100, 80, 300), rng.normal(0, 1, 300), rng.normal(0, 1e-5, 100)])
    if name in ("log", "log1p"):
        x = np.abs(x)
    y = getattr(numerics, name)(x)
    assert y.dtype == np.float64
    with mpmath.workprec(200):
        for point, value in zip(x, y):
            exact = MPMATH[name](mpmath.mpf(float(point)))
            assert abs(mpmath.mpf(float(value)) - exact) <= abs(exact) * 1e-15, point


@pytest.mark.parametrize("name", FUNCTIONS)
def test_complex_step_derivative(name: str) -> None:
    function = getattr(numerics, name)
    x = np.concatenate([np.linspace(-30, 30, 61), [1e-9, -1e-9, 0.3]])
    if name in ("log", "log1p"):
        x = x[x > 0]
    value = function(x + 1e-30j)
    assert value.dtype == np.complex128
    np.testing.assert_allclose(value.real, function(x), rtol=1e-15, atol=1e-40)
    with mpmath.workprec(200):
        exact = [float(mpmath.diff(MPMATH[name], mpmath.mpf(float(point)))) for point in x]
    np.testing.assert_allclose(value.imag / 1e-30, exact, rtol=1e-13)


# The bits themselves: any change to these is a change of the format

PINNED_CRC32 = {
    "exp": 0x687D0B9E,
    "log": 0xAC49C257,
    "log1p": 0x0107627A,
    "sigmoid": 0x38B9F6C9,
    "silu": 0xD902F0D9,
    "softplus": 0xBF83B759,
    "rint": 0x9ED57D09,
}


def checksum(y: np.ndarray) -> int:
    return zlib.crc32(np.where(np.isnan(y), F(np.nan), y).astype("<f4").tobytes())


@pytest.mark.parametrize("name", PINNED_CRC32)
def test_bits_are_pinned(name: str) -> None:
    grid = np.arange(-(2**19), 2**19, dtype=F) * F(2.0**-13)
    x = np.concatenate([from_bits(np.arange(0, 2**32, 8191, dtype=np.uint64)), grid])
    if name == "rint":
        x = x[np.abs(x) < 2.0**22]
    assert checksum(getattr(numerics, name)(x)) == PINNED_CRC32[name]


# The native twin


needs_native = pytest.mark.skipif(_native is None, reason="the extension ghost_ref._native is not built")


@needs_native
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", [*FUNCTIONS, "rint"])
def test_native_gives_the_same_bits(name: str, level: str) -> None:
    expected = getattr(numerics, name)(POINTS)
    assert_same_bits(_native.numerics_map(name, POINTS, level), expected, POINTS)


@needs_native
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_native_ragged_lengths(name: str, level: str) -> None:
    x = np.abs(np.random.default_rng(1).normal(0, 3, 40).astype(F))
    for length in range(x.size + 1):
        expected = getattr(numerics, name)(x[:length])
        assert_same_bits(_native.numerics_map(name, x[:length].copy(), level), expected, x[:length])


@needs_native
@pytest.mark.parametrize("level", LEVELS)
def test_native_lane_sum_gives_the_same_bits(level: str) -> None:
    # RMSNorm is what shows the native lane sum of squares: (x / sqrt(sum / n + 1e-5)) * 1.
    rng = np.random.default_rng(3)
    for length in (*range(1, 100), 256, 1000, 4097):
        x = (rng.normal(0, 1, (4, length)) * 10.0 ** rng.integers(-4, 4, (4, length))).astype(F)
        mean = numerics.lane_sum(x * x) / F(length)
        expected = x / np.sqrt(mean + F(1e-5))[:, None]
        assert_same_bits(_native.rms_norm(x, np.ones(length, F), level), expected, x)


# Sums and maximum

floats32 = st.floats(width=32, allow_nan=False)


@given(st.lists(floats32, max_size=100))
def test_lane_sum_order(values: list[float]) -> None:
    x = np.array(values, F)
    expected = np.atleast_1d(lane_sum_by_definition(x))
    result = numerics.lane_sum(x)
    assert result.dtype == F
    assert_same_bits(np.atleast_1d(result), expected, expected)


@given(st.lists(floats32, max_size=100))
def test_index_sum_order(values: list[float]) -> None:
    x = np.array(values, F)
    expected = F(0)
    with np.errstate(all="ignore"):
        for value in x:
            expected = expected + value
    result = numerics.index_sum(x)
    assert result.dtype == F
    assert_same_bits(np.atleast_1d(result), np.atleast_1d(expected), np.atleast_1d(expected))


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_maximum_order(values: list[float]) -> None:
    x = np.array(values, F)
    expected = x[0]
    for value in x[1:]:
        expected = value if value > expected else expected
    result = numerics.maximum_reduce(x)
    assert result.dtype == F
    assert_same_bits(np.atleast_1d(result), np.atleast_1d(expected), np.atleast_1d(expected))


def test_maximum_of_zeros_and_nans() -> None:
    assert np.signbit(numerics.maximum_reduce(F([-0.0, 0.0])))
    assert not np.signbit(numerics.maximum_reduce(F([0.0, -0.0])))
    assert np.isnan(numerics.maximum_reduce(F([np.nan, 1.0])))
    assert numerics.maximum_reduce(F([1.0, np.nan, 2.0])) == 2.0


@pytest.mark.parametrize("name", ["lane_sum", "index_sum", "maximum_reduce"])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_reductions_do_not_depend_on_batch_or_layout(name: str, layout: str) -> None:
    reduce = getattr(numerics, name)
    x = np.asarray(np.random.default_rng(4).normal(0, 1, (3, 5, 37)).astype(F), order=layout)
    result = reduce(x)
    assert result.shape == (3, 5) and result.dtype == F
    rows = np.array([[reduce(x[i, j].copy()) for j in range(5)] for i in range(3)], F)
    assert_same_bits(result, rows, rows)


def test_empty_and_negative_zero_sums_are_positive_zero() -> None:
    for reduce in (numerics.lane_sum, numerics.index_sum):
        assert not np.signbit(reduce(np.zeros(0, F)))
        assert not np.signbit(reduce(np.full(17, -0.0, F)))
        assert reduce(np.zeros((2, 0), F)).shape == (2,)


def test_wide_reductions() -> None:
    z = np.random.default_rng(5).normal(0, 1, (2, 50)) + 1e-30j
    for array in (z, z.real.copy()):
        for reduce in (numerics.lane_sum, numerics.index_sum):
            assert reduce(array).dtype == array.dtype
            np.testing.assert_allclose(reduce(array), array.sum(-1), rtol=1e-12)
        largest = np.take_along_axis(array, array.real.argmax(-1)[:, None], -1)[:, 0]
        np.testing.assert_array_equal(numerics.maximum_reduce(array), largest)


# Special values, rint, dtypes

SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan]
SPECIAL_RESULTS = {
    "exp": [1.0, 1.0, math.inf, 0.0, math.nan],
    "log": [-math.inf, -math.inf, math.inf, math.nan, math.nan],
    "log1p": [0.0, -0.0, math.inf, math.nan, math.nan],
    "sigmoid": [0.5, 0.5, 1.0, 0.0, math.nan],
    "silu": [0.0, -0.0, math.inf, math.nan, math.nan],
    "softplus": [math.log(2), math.log(2), math.inf, 0.0, math.nan],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name: str) -> None:
    expected = np.array(SPECIAL_RESULTS[name], F)
    assert_same_bits(getattr(numerics, name)(np.array(SPECIAL, F)), expected, np.array(SPECIAL, F))


def test_ends_of_the_domains() -> None:
    def at(function, *x: float) -> list[float]:
        return [float(y) for y in function(np.array(x, F))]

    assert at(numerics.log1p, -1.0) == [-math.inf]
    assert np.isnan(at(numerics.log1p, -1.0000001, -2.0)).all()
    assert np.isnan(at(numerics.log, -(2.0**-149), -1.0)).all()
    assert at(numerics.log, 1.0) == [0.0] and not np.signbit(numerics.log(F([1.0])))[0]
    largest, overflows = at(numerics.exp, 88.72283172607422, 88.72283935546875)  # around log(2^128)
    assert 3.4027e38 < largest < math.inf and overflows == math.inf
    assert at(numerics.exp, -103.97207641601562, -103.97208404541016) == [2.0**-149, 0.0]  # log(2^-150)
    assert at(numerics.softplus, 3e38, -3e38) == [float(F(3e38)), 0.0]


def test_rint() -> None:
    x = POINTS[np.abs(POINTS) < 2.0**22]
    x = np.concatenate([x, np.arange(-300, 300, dtype=F) / 2, F([2.0**22 - 0.5, -(2.0**22) + 0.5])])
    y = numerics.rint(x)
    assert y.dtype == F
    np.testing.assert_array_equal(y, np.rint(x))
    assert not np.signbit(y[y == 0]).any()
    assert not np.signbit(numerics.rint(np.array([-0.25, -0.0]))).any()


@pytest.mark.parametrize("name", [*FUNCTIONS, "rint"])
def test_shapes_layouts_and_dtypes(name: str) -> None:
    function = getattr(numerics, name)
    x = np.random.default_rng(6).uniform(0.1, 9, (130, 257)).astype(F)
    kept = x.copy()
    y = function(x)
    assert y.shape == x.shape and y.dtype == F
    assert_same_bits(function(x[::2, ::-3]), y[::2, ::-3].copy(), x[::2, ::-3])
    assert_same_bits(function(np.asfortranarray(x)), y, x)
    assert function(x[0, 0]) == y[0, 0] and function(x[0, 0]).dtype == F
    assert function(np.zeros((0, 3), F)).shape == (0, 3)
    np.testing.assert_array_equal(x, kept)
    for dtype in (np.float16, np.int32):
        with pytest.raises(TypeError, match="float32"):
            function(np.ones(3, dtype))


def test_require_float32() -> None:
    numerics.require_float32(np.zeros(2, F), np.zeros(0, F))
    with pytest.raises(TypeError, match="float64"):
        numerics.require_float32(np.zeros(2, F), np.zeros(2))


# Flush to zero


def test_flush_check_passes_here() -> None:
    numerics.flush_check()


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="sets MXCSR through x86-64 glibc",
)
@pytest.mark.parametrize("bit", [0x8000, 0x0040], ids=["flush_to_zero", "denormals_are_zero"])
def test_flush_check_raises(bit: int) -> None:
    libm = ctypes.CDLL("libm.so.6")
    environment = (ctypes.c_uint32 * 8)()  # fenv_t: seven words of x87 state, then MXCSR
    assert libm.fegetenv(environment) == 0
    original = environment[7]
    environment[7] = original | bit
    try:
        libm.fesetenv(environment)
        with pytest.raises(GhostError, match="library loaded into the process enabled flush-to-zero"):
            numerics.flush_check()
    finally:
        environment[7] = original
        libm.fesetenv(environment)
    numerics.flush_check()
