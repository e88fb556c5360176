"""The causal convolution against a plain loop, complex-step derivatives, and itself on any split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghost_ref.ops.conv import causal_conv1d_backward, causal_conv1d_forward

TAPS = 4


def make(seed, batch, steps, channels, taps=TAPS, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = [(batch, steps, channels), (channels, taps), (channels,), (batch, taps - 1, channels)]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def plain_loop(x, weight, bias, past):
    batch, steps, channels = x.shape
    taps, window, y = weight.shape[1], np.concatenate([past, x], 1), np.empty_like(x)
    for b in range(batch):
        for t in range(steps):
            for e in range(channels):
                total = x.dtype.type(0)
                for k in range(taps):
                    total = total + weight[e, k] * window[b, t + k, e]
                y[b, t, e] = total + bias[e]
    return y, window[:, steps:]


def bits(a):
    return a.view(np.int32)


@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 7, 16, 33])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 9])
def test_equals_the_plain_loop_bit_for_bit(steps, channels, taps):
    arrays = make(1, 2, steps, channels, taps)
    (y, present), _ = causal_conv1d_forward(*arrays)
    expected, window = plain_loop(*arrays)
    assert y.dtype == present.dtype == np.float32
    np.testing.assert_array_equal(bits(y), bits(expected))
    np.testing.assert_array_equal(bits(present), bits(window))


def test_without_past_the_window_is_zero():
    x, weight, bias, past = make(2, 2, 5, 7)
    (y, present), _ = causal_conv1d_forward(x, weight, bias)
    (expected, window), _ = causal_conv1d_forward(x, weight, bias, np.zeros_like(past))
    np.testing.assert_array_equal(bits(y), bits(expected))
    np.testing.assert_array_equal(bits(present), bits(window))


def test_sums_start_at_plus_zero():
    x, weight, bias, past = (np.full_like(a, -0.0) for a in make(3, 1, 3, 2))
    (y, _), _ = causal_conv1d_forward(x, np.ones_like(weight), bias, past)
    assert not np.signbit(y).any()


@settings(deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(1, 5))
def test_any_split_gives_the_same_bits(seed, parts, taps):
    x, weight, bias, past = make(seed, 2, sum(parts), 5, taps)
    (whole, last), _ = causal_conv1d_forward(x, weight, bias, past)
    state, pieces, start = past, [], 0
    for part in parts:
        (y, state), _ = causal_conv1d_forward(x[:, start : start + part], weight, bias, state)
        pieces.append(y)
        start += part
    np.testing.assert_array_equal(bits(np.concatenate(pieces, 1)), bits(whole))
    np.testing.assert_array_equal(bits(state), bits(last))


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 9), st.integers(1, 5), st.data())
def test_length_equals_truncation(seed, steps, taps, data):
    x, weight, bias, past = make(seed, 3, steps, 5, taps)
    length = np.array(data.draw(st.lists(st.integers(0, steps), min_size=3, max_size=3)), np.int32)
    for b, kept in enumerate(length):
        x[b, kept:] = np.nan  # the tail must not leak into anything
    (y, present), _ = causal_conv1d_forward(x, weight, bias, past, length=length)
    for b, kept in enumerate(length):
        row = slice(b, b + 1)
        (expected, window), _ = causal_conv1d_forward(x[row, :kept], weight, bias, past[row])
        np.testing.assert_array_equal(bits(y[row, :kept]), bits(expected))
        np.testing.assert_array_equal(bits(present[row]), bits(window))
    assert np.isfinite(y).all()


def test_is_causal_to_the_bit():
    x, weight, bias, past = make(4, 2, 9, 7)
    (before, _), _ = causal_conv1d_forward(x, weight, bias, past)
    x[:, 5] += 1
    (after, _), _ = causal_conv1d_forward(x, weight, bias, past)
    np.testing.assert_array_equal(bits(before[:, :5]), bits(after[:, :5]))
    assert (before[:, 5:9] != after[:, 5:9]).all()


@pytest.mark.parametrize("length", [None, [0, 2, 6]])
@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_gradients_equal_the_complex_step_and_finite_differences(index, steps, length):
    arrays = make(5, 3, steps, 7, dtype=np.float64)
    length = None if length is None else np.minimum(length, steps)
    rng = np.random.default_rng(6)
    weights, direction = rng.standard_normal((3, steps, 7)), rng.standard_normal(arrays[index].shape)

    def loss(step, dtype):
        moved = [a.astype(dtype) for a in arrays]
        moved[index] += step * direction
        (y, _), _ = causal_conv1d_forward(*moved, length=length)
        return (y * weights).sum()

    _, saved = causal_conv1d_forward(*arrays, length=length)
    gradient = (causal_conv1d_backward(weights, saved)[index] * direction).sum()
    np.testing.assert_allclose(gradient, loss(1e-30j, np.complex128).imag / 1e-30, rtol=1e-11, atol=1e-13)
    central = (loss(1e-5, np.float64) - loss(-1e-5, np.float64)) / 2e-5
    np.testing.assert_allclose(gradient, central, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("length", [None, np.array([5, 0])])
def test_inputs_are_neither_changed_nor_aliased(length):
    arrays = make(7, 2, 5, 7)
    copies = [a.copy() for a in arrays]
    (_, present), saved = causal_conv1d_forward(*arrays, length=length)
    expected = causal_conv1d_backward(arrays[0], saved)
    present[...] = 7
    for gradient, before in zip(causal_conv1d_backward(arrays[0], saved), expected, strict=True):
        np.testing.assert_array_equal(gradient, before)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_mixed_dtypes_and_wrong_shapes_are_refused():
    x, weight, bias, past = make(8, 2, 5, 7)
    with pytest.raises(TypeError, match="same dtype"):
        causal_conv1d_forward(x, weight.astype(np.float64), bias, past)
    for bad in [(x, weight[1:], bias, past), (x, weight, bias[1:], past), (x, weight, bias, past[:, 1:])]:
        with pytest.raises(ValueError, match="do not fit"):
            causal_conv1d_forward(*bad)
