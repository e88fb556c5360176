"""Single components of the runtime at every level: the reference's bits for all sizes, splits and values."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghost_ref import ops

native = pytest.importorskip("ghost_ref._native", reason="the C++ runtime is not built: run `make build`")
LEVELS = native.levels()
F = np.float32
SPECIAL = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-40, 3e38, -3e38, np.inf, -np.inf, np.nan, 1.0, -1.0], F)
SIZES = range(1, 34)  # features: less than a block of 16, whole blocks, and one more

pytestmark = [pytest.mark.parametrize("level", LEVELS), pytest.mark.filterwarnings("ignore::RuntimeWarning")]
seeds = st.integers(0, 2**32 - 1)
examples = settings(max_examples=60, deadline=None)


def assert_same_bits(actual, expected):
    """Equal shapes and bits; NaNs compare as a class."""
    assert actual.dtype == expected.dtype == F and actual.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


class Values:
    """Random float32 arrays; in every second generator some elements are zeros, denormals, infinities or NaN."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.special = self.rng.random() < 0.5
        self.finite = self.rng.random() < 0.5

    def __call__(self, *shape):
        x = (self.rng.normal(size=shape) * 10.0 ** self.rng.integers(-2, 2)).astype(F)
        if self.special:
            chosen = self.rng.random(shape) < 0.05
            special = SPECIAL[np.isfinite(SPECIAL) & (np.abs(SPECIAL) < 1e30)] if self.finite else SPECIAL
            x[chosen] = self.rng.choice(special, shape)[chosen]
        return x

    def size(self, largest=33):
        return int(self.rng.integers(1, largest + 1))

    def split(self, length):
        """Slices that cut 0..length into chunks, some of them empty."""
        cuts = np.sort(self.rng.integers(0, length + 1, self.rng.integers(0, 4)))
        edges = [0, *map(int, cuts), length]
        return [slice(*pair) for pair in pairwise(edges)]


# Per function of rows: its arguments for t rows of k features, and the reference.
ROWS = {
    "unit": (lambda v, t, k: (v(t, k),), lambda x: ops.unit(x)),
    "softmax": (lambda v, t, k: (v(t, k),), lambda x: ops.slot_softmax(x)),
    "log_softmax": (lambda v, t, k: (v(t, k),), lambda x: ops.log_softmax(x)),
    "lane_dot": (lambda v, t, k: (v(t, k), v(k)), lambda a, b: ops.row_dot(a, b)),
    "slot_sum": (lambda v, t, k: ((p := v(t, v.size())), v(p.shape[1], k)), lambda p, x: ops.slot_sum(p, x)),
    "swiglu": (lambda v, t, k: (v(t, k), v(t, k)), lambda gate, up: ops.silu(gate) * up),
}


@pytest.mark.parametrize("name", ROWS)
def test_functions_of_rows(level, name):
    make, reference = ROWS[name]
    for columns, seed in product(SIZES, range(6)):
        arguments = make(Values([seed, columns]), 3, columns)
        assert_same_bits(getattr(native, name)(*arguments, level), reference(*arguments))


@pytest.mark.parametrize("name", ROWS)
def test_functions_of_rows_on_special_values(level, name):
    """A whole row of the value, and one value at each end of a row of ordinary numbers."""
    make, reference = ROWS[name]
    for columns, value in product([1, 15, 16, 17, 37], SPECIAL):
        arguments = make(Values([7, columns]), 3, columns)
        arguments[0][0] = value
        arguments[0][1, 0] = value
        arguments[0][2, -1] = value
        assert_same_bits(getattr(native, name)(*arguments, level), reference(*arguments))


def test_a_slot_sum_starts_at_positive_zero(level):
    y = native.slot_sum(np.full((1, 2), -0.0, F), np.ones((2, 17), F), level)
    assert_same_bits(y, np.zeros((1, 17), F))


def conv_silu_reference(x, weight, bias, past):
    y, present = ops.causal_conv1d(x[None], weight, bias, past[None])
    return ops.silu(y[0]), present[0]


@given(seeds)
@examples
def test_conv_silu(level, seed):
    """Every split of the tokens gives the reference's bits, and the window after them."""
    v = Values(seed)
    channels, taps, length = v.size(), v.size(6), v.size(12)
    x, weight, bias, past = v(length, channels), v(channels, taps), v(channels), v(taps - 1, channels)
    expected, expected_past = conv_silu_reference(x, weight, bias, past)
    chunks = []
    for part in v.split(length):
        y, past = native.conv_silu(x[part], weight, bias, past, level)
        chunks.append(y)
    assert_same_bits(np.concatenate(chunks), expected)
    assert_same_bits(past, expected_past)


def test_conv_silu_sizes(level):
    for channels, taps in product(SIZES, [1, 4, 16]):
        v = Values([channels, taps])
        arguments = v(3, channels), v(channels, taps), v(channels), v(taps - 1, channels)
        for actual, expected in zip(native.conv_silu(*arguments, level), conv_silu_reference(*arguments), strict=True):
            assert_same_bits(actual, expected)


def scan_case(v, length, channels, states):
    tokens = [v(length, channels) for _ in range(3)]  # dt before the bias, x, z
    A = -np.abs(v(channels, states))
    return [*tokens, v(length, states), v(length, states)], (v(channels), A, v(channels)), v(channels, states)


def scan_native(tokens, weights, past, level):
    dt, x, z, Bm, Cm = tokens
    dt_bias, A, D = weights
    return native.scan_gated(dt, dt_bias, x, z, Bm, Cm, A, D, past, level)


def scan_reference(tokens, weights, past):
    dt, x, z, Bm, Cm = (a[None] for a in tokens)
    dt_bias, A, D = weights
    y, present = ops.selective_scan(x, ops.softplus(dt + dt_bias), A, Bm, Cm, D, past[None])
    return (y * ops.silu(z))[0], present[0]


@given(seeds)
@examples
def test_scan_gated(level, seed):
    """Every split of the tokens gives the reference's bits, and the state after them."""
    v = Values(seed)
    length = v.size(12)
    tokens, weights, past = scan_case(v, length, v.size(), v.size(5))
    expected, expected_past = scan_reference(tokens, weights, past)
    chunks = []
    for part in v.split(length):
        y, past = scan_native([a[part] for a in tokens], weights, past, level)
        chunks.append(y)
    assert_same_bits(np.concatenate(chunks), expected)
    assert_same_bits(past, expected_past)


def test_scan_gated_sizes(level):
    for channels, states in product(SIZES, [1, 3, 16, 17]):
        case = scan_case(Values([channels, states]), 3, channels, states)
        for actual, expected in zip(scan_native(*case, level), scan_reference(*case), strict=True):
            assert_same_bits(actual, expected)


def attention_chunk(tokens, part, ring, count, static, level):
    """The native attention of the tokens in `part` of a stream of which `count` came before the first."""
    q, k, v, bias = tokens
    strided = ops.strided_positions(count, len(q), static["stride"])
    new = slice(*np.searchsorted(strided, [part.start, part.stop]))
    out, *ring = native.strided_attention(q[part], k[new], v[new], bias[new], *ring, count + part.start,
                                          static["n_heads"], static["stride"], level)
    return out, ring


@given(seeds)
@examples
def test_strided_attention(level, seed):
    """Every split of the tokens gives the reference's bits, and the ring after them, from any filling of the ring."""
    v = Values(seed)
    heads, length, slots = v.size(4), v.size(40), v.size(5)
    d, static = heads * v.size(20), {"n_heads": heads, "stride": v.size(5)}
    count = int(v.rng.choice([0, v.size(40)]))
    new = len(ops.strided_positions(count, length, static["stride"]))
    tokens = v(length, d), v(new, d), v(new, d), v(new)
    ring = [v(slots, d), v(slots, d), v(slots)]
    past = {"keys": ring[0][None], "values": ring[1][None], "bias": ring[2][None], "count": count}
    expected, present = ops.strided_attention(*(a[None] for a in tokens), past, slots=slots, **static)
    chunks = []
    for part in v.split(length):
        out, ring = attention_chunk(tokens, part, ring, count, static, level)
        chunks.append(out)
    assert_same_bits(np.concatenate(chunks), expected[0])
    for name, actual in zip(("keys", "values", "bias"), ring, strict=True):
        assert_same_bits(actual, present[name][0])


def arguments_of(name):
    """Good arguments of every function, without the level."""
    v = Values(0)
    if name in ROWS:
        return list(ROWS[name][0](v, 3, 5))
    return {
        "conv_silu": [v(3, 5), v(5, 4), v(5), v(3, 5)],
        "scan_gated": [v(3, 5), v(5), v(3, 5), v(3, 5), v(3, 2), v(3, 2), -np.abs(v(5, 2)), v(5), v(5, 2)],
        "strided_attention": [v(3, 6), v(2, 6), v(2, 6), v(2), v(4, 6), v(4, 6), v(4), 0, 3, 2],
    }[name]


ALL = [*ROWS, "conv_silu", "scan_gated", "strided_attention"]


@pytest.mark.parametrize("name", ALL)
def test_wrong_arrays_are_refused(level, name):
    """Each array in turn: of float64, with an axis more, in column order, with a row more than the others ask for."""
    function, good = getattr(native, name), arguments_of(name)
    function(*good, level)
    any_rows = name not in ("swiglu", "scan_gated")  # nothing else fixes the rows of the first array
    for i, array in enumerate(good):
        if not isinstance(array, np.ndarray):
            continue
        bad = [array[None]]
        if array.ndim == 2:
            bad.append(np.asfortranarray(array))
        if i > 0 or not any_rows:
            bad.append(np.concatenate([array, array[:1]]))
        for wrong in bad:
            with pytest.raises(ValueError, match=r"^\w+ must .*\.$"):
                function(*good[:i], wrong, *good[i + 1:], level)
        with pytest.raises(TypeError, match=r"^\w+ must be a float32 array of shape .*\.$"):
            function(*good[:i], array.astype(np.float64), *good[i + 1:], level)


def test_a_scan_that_grows_is_refused(level):
    """A is -exp(A_log): the kernels' exp of dt A does without the bound that positive arguments need."""
    good = arguments_of("scan_gated")
    good[6][1, 1] = 2.0**-149
    with pytest.raises(ValueError, match=r"^A must not be positive\.$"):
        native.scan_gated(*good, level)


@pytest.mark.parametrize("name", ALL)
def test_empty_rows_and_unknown_levels_are_refused(level, name):
    function, good = getattr(native, name), arguments_of(name)
    with pytest.raises(ValueError, match="level"):
        function(*good, level + "x")
    with pytest.raises(ValueError, match=r"at least one column|shape"):
        function(good[0][:, :0].copy(), *good[1:], level)


@pytest.mark.parametrize("name", ["conv_silu", "scan_gated", "strided_attention"])
def test_no_tokens_leave_the_state_alone(level, name):
    good = arguments_of(name)
    tokens = {"conv_silu": [0], "scan_gated": [0, 2, 3, 4, 5], "strided_attention": [0, 1, 2, 3]}[name]
    none = [a[:0] if i in tokens else a for i, a in enumerate(good)]
    out, *state = getattr(native, name)(*none, level)
    assert out.shape == none[0].shape
    for actual, expected in zip(state, {"strided_attention": good[4:7]}.get(name, [good[-1]]), strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("change", [{7: -1}, {8: 0}, {8: 4}, {9: 0}], ids=str)
def test_wrong_numbers_of_attention_are_refused(level, change):
    good = arguments_of("strided_attention")
    for i, value in change.items():
        good[i] = value
    with pytest.raises(ValueError, match="must"):
        native.strided_attention(*good, level)


def test_more_taps_than_the_kernel_has(level):
    with pytest.raises(ValueError, match="1 to 16 columns"):
        native.conv_silu(np.ones((1, 2), F), np.ones((2, 17), F), np.ones(2, F), np.ones((16, 2), F), level)
