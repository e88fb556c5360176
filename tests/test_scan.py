"""The selective scan against a plain loop, complex-step derivatives, bounds, and itself on any split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_bounds import parallel_bound, sequential_bound

from ghost_ref import numerics
from ghost_ref.ops import scan
from ghost_ref.ops.scan import parallel_scan_forward, selective_scan_backward, selective_scan_forward

EXP_ULP = 2
FORWARDS = [selective_scan_forward, parallel_scan_forward]


def make(seed, batch, steps, channels, n, dtype=np.float32):
    """Inputs as in a trained layer: dt around 0.05 with a wide spread, A = -(1..N) with noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, steps, channels))
    dt = np.exp(rng.normal(-3, 1.5, (batch, steps, channels)))
    A = -np.arange(1, n + 1) * np.exp(rng.normal(0, 0.1, (channels, n)))
    Bm, Cm = rng.standard_normal((2, batch, steps, n))
    D, past = rng.standard_normal(channels), rng.standard_normal((batch, channels, n))
    return [a.astype(dtype) for a in (x, dt, A, Bm, Cm, D, past)]


def plain_loop(x, dt, A, Bm, Cm, D, past):
    """One scalar operation at a time, in the pinned order."""
    (batch, steps, channels), n = x.shape, A.shape[1]
    zero = x.dtype.type(0)
    decays = numerics.exp(dt[..., None] * A)
    y, h = np.empty_like(x), past.copy()
    for b in range(batch):
        for t in range(steps):
            for e in range(channels):
                u, total = dt[b, t, e] * x[b, t, e], zero
                for i in range(n):
                    h[b, e, i] = decays[b, t, e, i] * h[b, e, i] + u * Bm[b, t, i]
                    total = total + Cm[b, t, i] * h[b, e, i]
                y[b, t, e] = total + D[e] * x[b, t, e]
    return y, h


def bits(a):
    return np.ascontiguousarray(a).view(np.int32)


@pytest.mark.parametrize("n", [1, 3, 16, 17])
@pytest.mark.parametrize("channels", [1, 7, 16, 33])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_equals_the_plain_loop(steps, channels, n):
    arrays = make(1, 2, steps, channels, n)
    (y, present), _ = selective_scan_forward(*arrays)
    expected, state = plain_loop(*arrays)
    assert y.dtype == present.dtype == np.float32
    np.testing.assert_array_equal(bits(y), bits(expected))
    np.testing.assert_array_equal(bits(present), bits(state))
    arrays = [a.astype(np.float64) for a in arrays]
    expected, state = plain_loop(*arrays)
    for forward in FORWARDS:
        (y, present), _ = forward(*arrays)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(present, state, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("forward", FORWARDS)
def test_without_past_the_state_is_zero(forward):
    *arrays, past = make(2, 2, 5, 7, 3)
    (y, present), _ = forward(*arrays)
    (expected, state), _ = forward(*arrays, np.zeros_like(past))
    np.testing.assert_array_equal(bits(y), bits(expected))
    np.testing.assert_array_equal(bits(present), bits(state))


@settings(deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 70), min_size=1, max_size=4), st.sampled_from([1, 16]))
def test_any_split_gives_the_same_bits(seed, parts, n):
    x, dt, A, Bm, Cm, D, past = make(seed, 2, sum(parts), 5, n)
    (whole, last), _ = selective_scan_forward(x, dt, A, Bm, Cm, D, past)
    state, pieces, start = past, [], 0
    for part in parts:
        now = slice(start, start + part)
        (y, state), _ = selective_scan_forward(x[:, now], dt[:, now], A, Bm[:, now], Cm[:, now], D, state)
        pieces.append(y)
        start += part
    np.testing.assert_array_equal(bits(np.concatenate(pieces, 1)), bits(whole))
    np.testing.assert_array_equal(bits(state), bits(last))


def test_the_chunk_size_changes_no_bit(monkeypatch):
    arrays = make(3, 2, 37, 5, 3)
    (expected, state), _ = selective_scan_forward(*arrays)
    for elements in (1, 100, 350):
        monkeypatch.setattr(scan, "CHUNK_ELEMENTS", elements)
        (y, present), saved = selective_scan_forward(*arrays)
        np.testing.assert_array_equal(bits(y), bits(expected))
        np.testing.assert_array_equal(bits(present), bits(state))
        selective_scan_backward(y, saved)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 70), st.data())
def test_length_equals_truncation(seed, steps, data):
    x, dt, A, Bm, Cm, D, past = make(seed, 3, steps, 5, 3)
    past[0] = -0.0  # a masked step keeps even the sign of zero
    length = np.array(data.draw(st.lists(st.integers(0, steps), min_size=3, max_size=3)), np.int32)
    (y, present), _ = selective_scan_forward(x, dt, A, Bm, Cm, D, past, length=length)
    (_, parallel), _ = parallel_scan_forward(x, dt, A, Bm, Cm, D, past, length=length)
    for b, kept in enumerate(length):
        row = slice(b, b + 1)
        cut = (x[row, :kept], dt[row, :kept], A, Bm[row, :kept], Cm[row, :kept], D, past[row])
        (expected, state), _ = selective_scan_forward(*cut)
        np.testing.assert_array_equal(bits(y[row, :kept]), bits(expected))
        np.testing.assert_array_equal(bits(present[row]), bits(state))
        np.testing.assert_allclose(parallel[row], state, rtol=1e-4, atol=1e-5)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("forward", FORWARDS)
def test_is_causal_to_the_bit(forward):
    x, *rest = make(4, 2, 70, 7, 3)
    (before, _), _ = forward(x, *rest)
    x[:, 66] += 1
    (after, _), _ = forward(x, *rest)
    np.testing.assert_array_equal(bits(before[:, :66]), bits(after[:, :66]))
    assert (before[:, 66] != after[:, 66]).all()


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize(("steps", "length"), [(1, None), (2, None), (7, [0, 3, 7]), (70, None)])
@pytest.mark.parametrize("index", range(6))
def test_gradients_equal_the_complex_step_and_finite_differences(index, steps, length, forward):
    *arrays, past = make(5, 3, steps, 7, 3, np.float64)
    length = None if length is None else np.array(length)
    rng = np.random.default_rng(6)
    weights = rng.standard_normal((3, steps, 7))
    direction = rng.standard_normal(arrays[index].shape) * np.abs(arrays[index])

    def loss(step, dtype):
        moved = [a.astype(dtype) for a in arrays]
        moved[index] += step * direction
        (y, _), _ = forward(*moved, past.astype(dtype), length=length)
        return (y * weights).sum()

    _, saved = forward(*arrays, past, length=length)
    gradients = selective_scan_backward(weights, saved)
    assert [g.shape for g in gradients] == [a.shape for a in arrays]
    gradient = (gradients[index] * direction).sum()
    np.testing.assert_allclose(gradient, loss(1e-30j, np.complex128).imag / 1e-30, rtol=1e-11, atol=1e-12)
    central = (loss(1e-5, np.float64) - loss(-1e-5, np.float64)) / 2e-5
    np.testing.assert_allclose(gradient, central, rtol=1e-6, atol=1e-7)


def test_chunks_join_in_the_backward(monkeypatch):
    arrays = make(7, 2, 23, 5, 3, np.float64)
    dy = np.random.default_rng(8).standard_normal((2, 23, 5))
    _, saved = selective_scan_forward(*arrays)
    expected = selective_scan_backward(dy, saved)
    monkeypatch.setattr(scan, "CHUNK_ELEMENTS", 150)
    for one, other in zip(selective_scan_backward(dy, saved), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 3, 64, 65, 300])
@pytest.mark.parametrize("seed", range(3))
def test_float32_stays_within_the_derived_bounds(steps, seed):
    arrays = make(seed, 2, steps, 7, 16)
    arrays[3][:, ::7] *= 1e4  # inputs that cancel and dwarf each other
    truth = [a.astype(np.float64) for a in arrays]
    (y_true, h_true), _ = selective_scan_forward(*truth)
    bounds = {
        selective_scan_forward: sequential_bound(*truth, k=EXP_ULP),
        parallel_scan_forward: parallel_bound(*truth, k=EXP_ULP, chunk=scan.CHUNK_STEPS),
    }
    for forward, (y_bound, h_bound) in bounds.items():
        (y, present), _ = forward(*arrays)
        assert (np.abs(y - y_true) <= y_bound).all()
        assert (np.abs(present - h_true) <= h_bound).all()
        assert np.median(y_bound) < 1e-2 * np.median(np.abs(y_true))  # a bound that says something


@pytest.mark.parametrize("forward", FORWARDS)
def test_decays_that_underflow_give_no_nan(forward):
    x, dt, A, Bm, Cm, D, past = make(9, 2, 130, 5, 3)
    dt[:, ::3] = 1e4  # exp(dt·A) = 0
    dt[:, 1::3] = 60  # products of decays underflow
    (y, present), saved = forward(x, dt, A, Bm, Cm, D, past)
    assert np.isfinite(y).all() and np.isfinite(present).all()
    assert all(np.isfinite(g).all() for g in selective_scan_backward(np.ones_like(y), saved))


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("steps", [0, 5])
def test_inputs_are_neither_changed_nor_aliased(forward, n, steps):
    arrays = make(10, 1, steps, 1, n)
    copies = [a.copy() for a in arrays]
    (y, present), saved = forward(*arrays, length=np.array([steps // 2]))
    selective_scan_backward(np.ones_like(y), saved)
    y[...], present[...] = 7, 7
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("forward", FORWARDS)
def test_mixed_dtypes_and_wrong_shapes_are_refused(forward):
    arrays = make(11, 2, 5, 7, 3)
    for index in range(1, 7):
        bad = list(arrays)
        bad[index] = arrays[index].astype(np.float64)
        with pytest.raises(TypeError, match="same dtype"):
            forward(*bad)
        bad[index] = arrays[index][..., 1:]
        with pytest.raises(ValueError, match=r"do not fit"):
            forward(*bad)
