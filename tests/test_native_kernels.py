"""The native kernels at every level against exact integers and the formulas of docs/semantics.md."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghost_ref.ops.linear import quantise_activations
from ghost_ref.ops.norm import rms_norm_forward
from ghost_ref.packed import pack_trits

native = pytest.importorskip("ghost_ref._native", reason="the C++ runtime is not built: run `make build`")
LEVELS = native.levels()
CORE = Path(__file__).parents[1] / "ext" / "core"
F = np.float32

pytestmark = pytest.mark.parametrize("level", LEVELS)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal shapes and bits; NaNs compare as a class."""
    assert actual.dtype == expected.dtype == F and actual.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


def quantised(x):
    """(q int64, s float32) by the reference's formula."""
    q, s = quantise_activations(x)
    return q.astype(np.int64), s


def ternary_truth(x, trits, scale):
    """(float(integer sum) · s_w) · s_x"""
    q, s = quantised(x)
    return ((q @ trits.T.astype(np.int64)).astype(F) * scale.astype(F)) * s


def codebook_truth(x, trits, index, codebook, group):
    """(Σ_g float(S_g)·m_g, index order) · s_x"""
    q, s = quantised(x)
    y = np.zeros((len(x), len(trits)), F)
    for g in range(index.shape[1]):
        part = slice(g * group, (g + 1) * group)
        y += (q[:, part] @ trits[:, part].T.astype(np.int64)).astype(F) * codebook.astype(F)[index[:, g]]
    return y * s


def random_case(rng, tokens, rows, columns):
    x = (rng.normal(size=(tokens, columns)) * 10.0 ** rng.integers(-3, 4)).astype(F)
    return x, rng.integers(-1, 2, (rows, columns)).astype(np.int8), rng.normal(size=rows).astype(np.float16)


sizes = st.tuples(st.integers(1, 13), st.integers(1, 40), st.integers(1, 300))


@given(sizes, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_ternary_linear(level, size, seed):
    x, trits, scale = random_case(np.random.default_rng(seed), *size)
    assert_same_bits(native.ternary_linear(x, pack_trits(trits), scale, level), ternary_truth(x, trits, scale))


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 31, 32, 33, 48])
@pytest.mark.parametrize("tokens", [1, 2, 4, 5, 8, 9])
def test_ternary_linear_block_edges(level, rows, tokens):
    x, trits, scale = random_case(np.random.default_rng(rows), tokens, rows, 257)
    assert_same_bits(native.ternary_linear(x, pack_trits(trits), scale, level), ternary_truth(x, trits, scale))


@pytest.mark.parametrize("columns", [256, 1024, 1040, 70000])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("tokens", [1, 4, 8])
def test_largest_sums_do_not_overflow(level, columns, sign, tokens):
    x = np.full((tokens, columns), sign * 3, F)
    scale = np.array([1, 0.5, 1], np.float16)
    trits = np.stack([np.ones(columns), -np.ones(columns), np.zeros(columns)]).astype(np.int8)
    expected = ternary_truth(x, trits, scale)
    assert expected[0, 0] == F(F(sign * 127 * columns) * (F(3) / F(127)))
    assert_same_bits(native.ternary_linear(x, pack_trits(trits), scale, level), expected)
    weight = np.full((256, columns), sign * 127, np.int8) if columns <= 1040 else None
    if weight is not None:
        q, s = quantised(x)
        expected = ((q @ weight.T.astype(np.int64)).astype(F) * F(1)) * s
        assert_same_bits(native.int8_linear(x, weight, np.ones(256, np.float16), level), expected)


@given(sizes, st.sampled_from([16, 32, 128]), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_codebook_linear(level, size, group, seed):
    rng = np.random.default_rng(seed)
    x, trits, _ = random_case(rng, *size)
    index = rng.integers(0, 256, (size[1], -(-size[2] // group))).astype(np.uint8)
    codebook = rng.normal(size=256).astype(np.float16)
    actual = native.codebook_linear(x, pack_trits(trits), index, codebook, group, level)
    assert_same_bits(actual, codebook_truth(x, trits, index, codebook, group))


@given(st.integers(1, 9), st.integers(1, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_int8_linear(level, tokens, columns, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, columns)).astype(F)
    weight = rng.integers(-127, 128, (256, columns)).astype(np.int8)
    scale = rng.normal(size=256).astype(np.float16)
    assert_same_bits(native.int8_linear(x, weight, scale, level), ternary_truth(x, weight, scale))


def test_zero_rows_and_zero_sums_are_positive_zero(level):
    """Codebook sums start at +0; a single scale keeps the sign that float(S)·s_w has."""
    x, trits = np.zeros((1, 20), F), np.ones((2, 20), np.int8)
    scale = np.array([-1, 1], np.float16)
    assert_same_bits(native.ternary_linear(x, pack_trits(trits), scale, level), np.array([[-0.0, 0.0]], F))
    codebook, index = np.full(256, -1, np.float16), np.zeros((2, 2), np.uint8)
    assert_same_bits(native.codebook_linear(x, pack_trits(trits), index, codebook, 16, level), np.zeros((1, 2), F))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 15, 16, 36])
def test_a_row_that_is_not_finite_is_nan_as_a_whole(level, bad, position):
    x, trits, scale = random_case(np.random.default_rng(0), 3, 17, 37)
    x[1, position] = bad
    y = native.ternary_linear(x, pack_trits(trits), scale, level)
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()
    assert_same_bits(y, ternary_truth(x, trits, scale))
    book = np.ones(256, np.float16)
    y = native.codebook_linear(x, pack_trits(trits), np.zeros((17, 3), np.uint8), book, 16, level)
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()


@pytest.mark.parametrize("columns", [1, 3, 16, 17, 100])
@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 1e-44, 3e-43, 1e-38, 1.0, 3e38])
def test_quantisation(level, columns, magnitude):
    x = (np.random.default_rng(columns).uniform(-1, 1, (6, columns)) * magnitude).astype(F)
    x[0, 0] = x[1, -1] = F(magnitude)  # the largest value at either end
    q, s = quantised(x)
    actual_q, actual_s = native.quantise_rows(x, level)
    np.testing.assert_array_equal(actual_q, q)
    assert_same_bits(actual_s, s[:, 0])
    assert np.abs(actual_q).max() <= 127


def test_quantisation_rounds_half_to_even(level):
    x = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]], F)
    q, _ = native.quantise_rows(x, level)
    assert q.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]]


@pytest.mark.parametrize("exponents", [(-20, 20), (95, 106), (-106, -95), (-124, -118), (115, 127)])
def test_quantisation_beside_the_middles_of_codes(level, exponents):
    """A product with the reciprocal of the scale is not the quotient: here it is often on the middle's other side."""
    rng = np.random.default_rng(0)
    largest = np.ldexp(rng.uniform(1, 2, 300), rng.integers(*exponents, 300)).astype(F)[:, None]
    s = largest / F(127)
    middles = np.tile((np.arange(-127, 127) + 0.5) * s.astype(np.float64), (9, 1, 1)).astype(F)
    for step in range(4):
        middles[: 4 - step] = np.nextafter(middles[: 4 - step], F(-np.inf))
        middles[5 + step :] = np.nextafter(middles[5 + step :], F(np.inf))
    x = np.concatenate([middles.reshape(-1, 254), np.tile(largest, (9, 1))], axis=1)
    q, scale = quantised(x)
    with np.errstate(all="ignore"):
        assert (np.rint(x * (1 / scale)) != q).any() and (np.abs(x).max(axis=1) == x[:, -1]).all()
    actual_q, actual_s = native.quantise_rows(x, level)
    np.testing.assert_array_equal(actual_q, q)
    assert_same_bits(actual_s, scale[:, 0])


@given(st.integers(1, 100), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_rms_norm(level, columns, seed):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(3, columns)) * 10.0 ** rng.integers(-10, 10)).astype(F)
    gain = rng.normal(size=columns).astype(F)
    assert_same_bits(native.rms_norm(x, gain, level), rms_norm_forward(x, gain)[0])


def test_wrong_arguments(level):
    x, trits, scale = random_case(np.random.default_rng(0), 2, 3, 5)
    with pytest.raises(TypeError, match="x must be a float32 array of shape"):
        native.ternary_linear(x.astype(np.float64), pack_trits(trits), scale, level)
    with pytest.raises(ValueError, match="trits must be a uint8 array of shape"):
        native.ternary_linear(x, pack_trits(trits)[:-1], scale, level)
    with pytest.raises(ValueError, match="not C-contiguous"):
        native.quantise_rows(np.zeros((5, 4), F).T, level)


def build_flags(level: str) -> list[str]:
    """The instruction-set flags of a level, as every build reads them."""
    (flags,) = [row[2:] for row in map(str.split, (CORE / "levels.txt").read_text().splitlines()) if row[0] == level]
    return flags


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_instruction_set_units_leak_nothing(level, compiler, tmp_path):
    """No weak symbols (the linker might keep this unit's copy of a shared function for every CPU), no code that
    runs when the library is loaded, no fused multiply-add, and one exported function."""
    if not all(map(shutil.which, [compiler, "nm", "readelf", "objdump"])):
        pytest.skip(f"NOT RUN: no {compiler} or binutils")
    unit = tmp_path / "unit.o"
    flags = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-fPIC", "-Wall",
             "-Wextra", "-Werror", "-Wno-psabi", "-fno-exceptions", "-fno-rtti"]
    subprocess.run([compiler, *flags, *build_flags(level), "-c", CORE / f"kernels_{level}.cpp", "-o", unit], check=True)

    def output(*command):
        return subprocess.run([*command, unit], check=True, capture_output=True, text=True).stdout

    symbols = [line[17:] for line in output("nm", "-C").splitlines()]
    assert [s for s in symbols if s[0] not in "Utrdb"] == [f"T ghost::kernels_{level}()"]
    assert ".init_array" not in output("readelf", "-S")
    code = output("objdump", "-d")
    assert "vfmadd" not in code and "vfnmadd" not in code and "vfmsub" not in code
