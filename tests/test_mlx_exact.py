"""What must be exact in the MLX backend: sums, codes, trits, integer products, masks, routing; and its functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_params

mx = pytest.importorskip("mlx.core")

from ghost_ref import numerics as reference_numerics  # noqa: E402
from ghost_ref import ops as reference_ops  # noqa: E402
from ghost_ref.config import ModelConfig  # noqa: E402
from ghost_ref.ops import linear as reference_linear  # noqa: E402
from ghost_ref.ops import ternary as reference_ternary  # noqa: E402
from ghost_ref.presets import PRESETS  # noqa: E402
from ghost_ref.quantise import quantise  # noqa: E402
from mlx_backend import numerics, ops  # noqa: E402
from mlx_backend.ops import linear, routing, ternary  # noqa: E402

U = 2.0**-24
RNG = np.random.default_rng(12)
ENTRIES = np.geomspace(0.01, 4, 256, dtype=np.float32)
KEEP = np.array([[1, 0, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]], bool)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def probability(*shape: int) -> np.ndarray:
    return RNG.uniform(0.05, 1, shape).astype(np.float32)


def integers(low: int, high: int, *shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def trits(*shape: int) -> np.ndarray:
    return integers(-1, 2, *shape, dtype=np.float32)


def bits(a: Any) -> np.ndarray:
    return np.asarray(a, np.float32).view(np.uint32)


@pytest.mark.parametrize("shape", [(3, 1), (3, 15), (3, 16), (3, 17), (5, 100), (2, 3, 256), (7, 257), (700, 1024),
                                   (1, 4096), (20,)])
def test_lane_sum_gives_the_bits_of_the_reference(shape):
    x = normal(*shape) * np.exp(3 * normal(*shape))
    x[RNG.random(shape) < 0.1] = -0.0
    np.testing.assert_array_equal(bits(numerics.lane_sum(mx.array(x))), bits(reference_numerics.lane_sum(x)))
    np.testing.assert_array_equal(bits(numerics.lane_sum(mx.full(shape, -0.0))), bits(np.zeros(shape[:-1])))


@pytest.mark.parametrize(("name", "low", "high", "ulp"), [
    ("exp", -1, 0, 2), ("exp", -87.3, 88.7, 2), ("sigmoid", -87.3, 110, 4), ("softplus", -87.3, 110, 4),
])
def test_functions_are_as_good_as_they_say(name, low, high, ulp):
    x = np.linspace(low, high, 200_001).astype(np.float32)
    truth = getattr(reference_numerics, name)(x.astype(np.float64))
    result = np.asarray(getattr(numerics, name)(mx.array(x)), np.float64)
    error = np.abs(result - truth) / np.spacing(truth.astype(np.float32))
    assert not (not error.max() <= ulp), error.max()


@pytest.mark.parametrize("name", ["exp", "sigmoid", "softplus"])
def test_functions_at_the_ends_of_their_range(name):
    """Infinities, NaN, overflow and gradual underflow where the reference has them."""
    x = np.array([-np.inf, np.inf, np.nan, 0, -0.0, 88.72, 88.73, 200, -88, -100, -103.9, -104.1, -200], np.float32)
    result, expected = np.asarray(getattr(numerics, name)(mx.array(x))), getattr(reference_numerics, name)(x)
    special = ~np.isfinite(expected) | (expected == 0)
    np.testing.assert_array_equal(result[special], expected[special])
    np.testing.assert_allclose(result[~special], expected[~special], rtol=64 * 2 * U, atol=32 * 2.0**-149)


def test_quantised_activations_are_exact():
    x = np.concatenate([normal(40, 37), np.exp(30 * normal(20, 37)), np.zeros((1, 37), np.float32),
                        np.full((1, 37), 1e-45, np.float32)]).astype(np.float32)
    x[0, :8] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 3]  # ties
    x[0, 8:] = 0
    for row, value in ((5, np.nan), (6, np.inf), (7, -np.inf)):
        x[row, 3] = value
    for result, expected in zip(linear.quantise_activations(mx.array(x)), reference_linear.quantise_activations(x),
                                strict=True):
        np.testing.assert_array_equal(np.asarray(result), expected)
    assert np.isnan(np.asarray(ops.quantised_linear(mx.array(x), mx.array(trits(3, 37)), mx.ones(3))))[5:8].all()


@pytest.mark.parametrize(("k", "largest"), [(1040, 127), (1041, 127), (1100, 127), (2200, 127), (1100, 1)])
@pytest.mark.parametrize("extreme", [True, False])
def test_integer_products_are_exact(k, largest, extreme):
    q = np.full((3, k), 127) if extreme else RNG.integers(-127, 128, (3, k))
    weight = np.full((5, k), largest) if extreme else RNG.integers(-largest, largest + 1, (5, k))
    q[1] *= -1
    result = linear.integer_matmul(mx.array(q.astype(np.float32)), mx.array(weight.astype(np.float32)), largest)
    np.testing.assert_array_equal(np.asarray(result), (q @ weight.T).astype(np.float32))


def test_packed_evaluation_gives_the_bits_of_the_reference():
    """Integer sums, scales and the order of groups: quantised and codebook linears are equal bit by bit."""
    x = normal(9, 1100)
    cases = [("quantised_linear", (x, integers(-127, 128, 7, 1100, dtype=np.float32), probability(7)),
              {"largest_weight": 127}),
             ("quantised_linear", (x, trits(7, 1100), probability(7)), {}),
             ("codebook_linear", (x, trits(7, 1100), integers(0, 256, 7, 9), probability(256)), {"group": 128})]
    for name, arrays, static in cases:
        result = getattr(ops, name)(*map(mx.array, arrays), **static)
        np.testing.assert_array_equal(bits(result), bits(getattr(reference_ops, name)(*arrays, **static)))


def disturbed_params(config: ModelConfig) -> dict[str, np.ndarray]:
    """Random parameters whose thresholds, scales and codebooks lie inside and outside of their ranges."""
    rng, params = np.random.default_rng(3), random_params(config, 3)
    for name, p in params.items():
        if name.endswith(".threshold"):
            p += rng.normal(0, 0.2, p.shape).astype(np.float32)
        if name.endswith((".scale", ".codebook")):
            p *= np.exp(rng.normal(0, 0.3, p.shape)).astype(np.float32)
    params["layers.0.mixer.A_log"][3] = 0
    params["layers.0.mixer.in_proj.weight"][:2] = [[0], [0.25]]  # rows without contrast, whose threshold
    params["layers.0.mixer.in_proj.threshold"][:2] = 1.2  # would remove everything
    return params


@pytest.mark.parametrize("name", ["tiny", "v12"])
def test_stored_values_are_those_of_the_reference(name):
    """Every trit, int8 code and float16 value; every codebook index but those between two entries that are equally
    near up to the rounding of the group's mean, whose order of summation is not pinned."""
    config = PRESETS[name]
    params = disturbed_params(config)
    expected = quantise(params, config, reference_ops)
    found = quantise({k: mx.array(p) for k, p in params.items()}, config, ops)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        result = np.asarray(found[key])
        if not key.endswith(".index"):
            np.testing.assert_array_equal(result, value, err_msg=key)
            continue
        stem = key.removesuffix(".index")
        magnitude = group_means(params[f"{stem}.weight"], expected[f"{stem}.trits"], config.codebook_group)
        entries = expected[f"{stem.rpartition('.')[0]}.codebook"].astype(np.float64)
        there, here = (np.abs(entries[i] - magnitude) for i in (value, result))
        margin = 2 * (config.codebook_group + 2) * U * magnitude
        assert not (result != value)[~(np.abs(there - here) <= margin)].any(), key


def group_means(weight: np.ndarray, kept: np.ndarray, group: int) -> np.ndarray:
    """Mean of the kept |w| of every group in float64."""
    starts = np.arange(0, weight.shape[1], group)
    total = np.add.reduceat((weight * kept).astype(np.float64), starts, axis=1)
    return total / np.maximum(np.add.reduceat(np.abs(kept), starts, axis=1), 1)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=9), st.lists(st.floats(0, 8), min_size=1, max_size=20))
@settings(max_examples=30)
def test_nearest_entry_is_that_of_the_reference(entries, values):
    entries, values = np.array(entries, np.float32), (np.round(np.array(values) * 4) / 4).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(ternary.nearest_entry(mx.array(values), mx.array(entries))),
                                  reference_ternary.nearest_entry(values, entries))


def test_the_surrogate_of_a_threshold_is_zero_where_the_reference_says():
    """The straight-through gradient reaches exactly the same weights' thresholds; weights get it unchanged."""
    weight, threshold, scale = normal(50, 3), RNG.uniform(0.2, 1.4, 50).astype(np.float32), probability(50)
    (_, _), saved = reference_ternary.ternarise_forward(weight, threshold, scale)
    dweight, dscale = normal(50, 3), normal(50)
    expected = reference_ternary.ternarise_backward((dweight, dscale), saved)
    _, found = mx.vjp(ops.ternarise, [mx.array(a) for a in (weight, threshold, scale)],
                      [mx.array(dweight), mx.array(dscale)])
    np.testing.assert_array_equal(np.asarray(found[0]), expected[0])
    np.testing.assert_array_equal(np.asarray(found[2]), expected[2])
    assert 5 < (expected[1] == 0).sum() < 45
    np.testing.assert_array_equal(np.asarray(found[1]) == 0, expected[1] == 0)


def test_forced_decisions_are_used():
    x, weight = normal(2, 40), normal(3, 40)
    codes, given_trits, index = integers(-127, 128, 2, 40, dtype=np.float32), trits(3, 40), integers(0, 256, 3, 3)
    threshold, scale = np.full(3, 0.7, np.float32), probability(3)
    calls = [("quantised_linear", (x, given_trits, scale), {"forced": codes}),
             ("codebook_linear", (x, given_trits, index, ENTRIES), {"group": 16, "forced": codes}),
             ("ternarise", (weight, threshold, scale), {"forced": given_trits}),
             ("codebook_ternarise", (weight, threshold, ENTRIES), {"group": 16, "forced": (given_trits, index)}),
             ("int8_rows", (weight,), {"forced": (codes[:1], scale[:1])})]
    for name, arrays, static in calls:
        forced = static["forced"]
        converted = tuple(map(mx.array, forced)) if isinstance(forced, tuple) else mx.array(forced)
        result = getattr(ops, name)(*map(mx.array, arrays), **{**static, "forced": converted})
        expected = getattr(reference_ops, name)(*arrays, **static)
        pairs = zip(result, expected, strict=True) if isinstance(expected, tuple) else [(result, expected)]
        for a, b in pairs:
            np.testing.assert_array_equal(np.asarray(a), b)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12),
       st.sampled_from([0.125, 0.3, 0.5, 1.0]))
@settings(max_examples=40)
def test_top_k_is_that_of_the_reference(row, capacity):
    scores = np.array([[s for s, _ in row]] * 2, np.float32)
    survivors = np.array([[alive for _, alive in row], [True] * len(row)])
    np.testing.assert_array_equal(np.asarray(ops.top_k_mask(mx.array(scores), mx.array(survivors), capacity)),
                                  reference_ops.top_k_mask(scores, survivors, capacity))


@pytest.mark.parametrize("capacity", [0.125, 0.1, 0.3, 0.7, 1 / 3, 0.6, 1.0])
def test_the_count_of_top_k_rounds_up_as_in_the_reference(capacity):
    largest = 1 << 20
    table = routing.top_k_counts(largest, capacity)
    assert table.tolist() == [math.ceil(capacity * count) for count in range(largest + 1)]


@pytest.mark.parametrize("row", [[1, 0, 1, 1, 0], [1] * 5, [0] * 5])
def test_a_stream_that_carries_a_state_drops_its_tail(row):
    keep, h = np.array([row], bool), normal(1, 5, 3)
    kept, index, length = ops.compact(mx.array(h), mx.array(keep), drop_tail=True)
    np.testing.assert_array_equal(np.asarray(kept), h[keep][None])
    assert (index is None) == (length is None) == all(row)


def test_static_compaction_puts_the_kept_rows_first():
    h = normal(3, 7, 2)
    kept, index, length = ops.compact(mx.array(h), mx.array(KEEP))
    assert kept.shape == h.shape and np.asarray(length).tolist() == KEEP.sum(1).tolist()
    for b in range(3):
        np.testing.assert_array_equal(np.asarray(kept)[b, : int(length[b])], h[b, KEEP[b]])
        assert sorted(np.asarray(index)[b].tolist()) == list(range(7))


def test_masks_positions_and_joins():
    x = np.array([0.1, np.float32(0.1), 0.3, np.nan, -1], np.float32)
    for threshold in (0.1, 0.0):
        np.testing.assert_array_equal(np.asarray(ops.exceeds(mx.array(x), threshold)),
                                      reference_ops.exceeds(x, threshold))
    for count, length, stride in ((0, 10, 3), (7, 10, 3), (7, 1, 3), (6, 1, 3), (5, 4, 64)):
        assert np.asarray(ops.strided_positions(count, length, stride)).tolist() == \
            reference_ops.strided_positions(count, length, stride).tolist()
    rows = [normal(1, 3), normal(1, 3)]
    np.testing.assert_array_equal(np.asarray(ops.concatenate_rows([mx.array(rows[0]), rows[1]])), np.concatenate(rows))
    assert np.asarray(mx.grad(lambda v: (v * ops.detach(v)).sum())(mx.array(x[:3]))).tolist() == x[:3].tolist()
