"""Backward passes of the pointwise, norm, linear, attention, routing and loss ops; their special cases."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import check_gradients
from hypothesis import given
from hypothesis import strategies as st

from ghost_ref.ops import activation, attention, codebook, embedding, linear, loss, norm, routing, ternary

RNG = np.random.default_rng(7)


def normal(*shape):
    return RNG.normal(size=shape)


@pytest.mark.parametrize(("module", "name", "shapes"), [
    (activation, "sigmoid", [(3, 5)]), (activation, "silu", [(3, 5)]), (activation, "softplus", [(3, 5)]),
    (activation, "negative_exp", [(3, 5)]), (activation, "slot_softmax", [(2, 3, 7)]),
    (norm, "rms_norm", [(2, 3, 20), (20,)]), (norm, "unit", [(2, 3, 20)]),
    (linear, "float_linear", [(2, 3, 5), (4, 5)]), (linear, "row_dot", [(2, 3, 20), (20,)]),
    (linear, "pairwise_dot", [(2, 3, 20), (6, 20)]), (linear, "slot_sum", [(2, 3, 6), (6, 5)]),
    (linear, "null_and_slots", [(2, 3), (2, 3, 4)]), (routing, "weighted_residual", [(2, 3, 5), (2, 3, 5), (2, 3)]),
    (embedding, "window", [(2, 6, 3)]), (activation, "log_softmax", [(2, 3, 20)]),
])
def test_backward_matches_the_complex_step(module, name, shapes):
    arrays = [normal(*shape) for shape in shapes]
    static = {"width": 4} if name == "window" else {}
    holomorphic = name != "log_softmax"  # its backward uses exp of the saved output: real only
    check_gradients(getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward"), arrays, seed=1,
                    static=static, holomorphic=holomorphic)


def test_take_backward_adds_up_repeated_bytes():
    tokens = np.array([[1, 2, 1], [1, 0, 3]], np.uint8)
    for table in (normal(5), normal(5, 4)):
        _, saved = embedding.take_forward(table, tokens)
        dy = normal(*tokens.shape, *table.shape[1:])
        expected = np.zeros_like(table)
        np.add.at(expected, tokens, dy)
        np.testing.assert_allclose(embedding.take_backward(dy, saved)[0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("length", "stride", "slots"), [(1, 64, 32), (10, 3, 8), (11, 3, 2), (7, 1, 3), (12, 4, 1)])
def test_strided_attention_backward(length, stride, slots):
    """Also where the ring wraps (slots 1, 2, 3)."""
    count = len(attention.strided_positions(0, length, stride))
    arrays = [normal(2, length, 12), normal(2, count, 12), normal(2, count, 12), normal(2, count)]
    static = {"n_heads": 3, "stride": stride, "slots": slots}
    check_gradients(attention.strided_attention_forward, attention.strided_attention_backward, arrays, seed=2,
                    static=static, holomorphic=False)


def test_strided_attention_by_its_definition():
    """Against a direct loop over tokens, slots and heads in float64."""
    length, stride, slots, heads, width = 14, 3, 2, 2, 4
    q, bias = normal(1, length, heads * width), normal(1, 5)
    k, v = normal(1, 5, heads * width), normal(1, 5, heads * width)
    (out, ring), _ = attention.strided_attention_forward(q, k, v, bias, n_heads=heads, stride=stride, slots=slots)
    for t in range(length):
        seen = list(range(t // stride + 1))[-slots:]
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            scores = np.array([q[0, t, part] @ k[0, j, part] / 2 + bias[0, j] for j in seen])
            p = np.exp(scores - scores.max())
            np.testing.assert_allclose(out[0, t, part], (p / p.sum()) @ v[0, seen, part], rtol=1e-12)
    assert ring["count"] == length
    np.testing.assert_array_equal(ring["keys"][0, 4 % slots], k[0, 4])


def test_gather_and_scatter_undo_each_other():
    keep = np.array([[True, False, True, True], [False, False, True, False]])
    h, update = normal(2, 4, 3), normal(2, 3, 3)
    index, length = routing.compaction_index(keep)
    assert index.tolist() == [[0, 2, 3], [2, 0, 1]]
    assert length.tolist() == [3, 1]
    out, saved = routing.scatter_forward(h, update, index, length)
    np.testing.assert_array_equal(out[~keep], h[~keep])
    np.testing.assert_array_equal(out[0, [0, 2, 3]], update[0])
    np.testing.assert_array_equal(out[1, 2], update[1, 0])
    dy = normal(2, 4, 3)
    dh, dupdate, _, _ = routing.scatter_backward(dy, saved)
    np.testing.assert_array_equal(dh, np.where(keep[..., None], 0, dy))
    np.testing.assert_array_equal(dupdate[1], [dy[1, 2], np.zeros(3), np.zeros(3)])
    compacted, saved = routing.gather_forward(h, index)
    np.testing.assert_array_equal(compacted[1, 0], h[1, 2])
    np.testing.assert_array_equal(routing.gather_backward(dupdate, saved)[0][0, 2], dupdate[0, 1])


def test_compact_keeps_the_stream_itself_when_nothing_is_skipped():
    h = normal(2, 3, 4)
    kept, index, length = routing.compact(h, np.ones((2, 3), bool))
    assert kept is h and index is None and length is None
    assert routing.restore(h, kept * 2, index, length) is not h


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12),
       st.sampled_from([0.25, 0.5, 1.0]))
def test_top_k_takes_the_best_survivors_and_breaks_ties_low(row, capacity):
    scores = np.array([[s for s, _ in row]], np.float32)
    survivors = np.array([[alive for _, alive in row]])
    chosen = routing.top_k_mask(scores, survivors, capacity)[0]
    wanted = sorted(np.flatnonzero(survivors[0]), key=lambda j: (-scores[0, j], j))
    k = int(np.ceil(capacity * survivors.sum()))
    assert sorted(np.flatnonzero(chosen)) == sorted(wanted[:k])


def test_depth_gate_is_the_identity_with_the_surrogate_gradient_of_a_sigmoid():
    skipped, processed, depth = normal(2, 3, 4), normal(2, 3, 4), normal(2, 3) + 2
    out, saved = routing.depth_gate_forward(skipped, processed, depth, layer=2)
    assert out is processed
    dy = normal(2, 3, 4)
    dskipped, dprocessed, ddepth = routing.depth_gate_backward(dy, saved)
    gate = 1 / (1 + np.exp(-5 * (depth - 2)))
    assert dskipped is None and dprocessed is dy
    np.testing.assert_allclose(ddepth, (dy * (processed - skipped)).sum(-1) * 5 * gate * (1 - gate), rtol=1e-12)


def test_losses():
    logits, targets = normal(2, 3, 256), RNG.integers(0, 256, (2, 3))
    mask = np.array([[True, False, True], [True, True, False]])

    def cross_entropy_forward(z):
        return loss.cross_entropy_forward(z, targets, mask, count=4)

    def backward(d, saved):
        return loss.cross_entropy_backward(d, saved)[:1]

    check_gradients(lambda z: _as_array(cross_entropy_forward(z)), backward, [logits], seed=3, holomorphic=False)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])[mask].mean()
    assert abs(cross_entropy_forward(logits)[0] - expected) < 1e-12
    scores, kept = normal(2, 3), mask.astype(float)
    check_gradients(lambda r: _as_array(loss.binary_cross_entropy_forward(r, kept, mask, count=4)),
                    lambda d, s: loss.binary_cross_entropy_backward(d, s)[:1], [scores], seed=4, holomorphic=False)
    check_gradients(lambda r: _as_array(loss.masked_mean_forward(r, mask, count=4)),
                    lambda d, s: loss.masked_mean_backward(d, s)[:1], [scores], seed=5, holomorphic=False)


def _as_array(pair):
    return np.asarray(pair[0]), pair[1]


def test_mean_value_embedding():
    table = normal(256, 4)
    values = np.array([[7, 8, 9], [1, 2, 3]], np.uint8)
    mean = embedding.mean_value_embedding(table, values, np.array([3, 1]))
    np.testing.assert_allclose(mean, [table[[7, 8, 9]].mean(0), table[1]], rtol=1e-12)


def test_quantised_linear_special_rows():
    x = np.array([[0.0, 0.0, -0.0], [np.inf, 1, 2], [np.nan, 1, 2], [1e-45, 0, 0], [3e38, -3e38, 1]], np.float32)
    trits, scale = np.array([[1, 0, -1], [1, 1, 1]], np.float32), np.array([0.5, 2], np.float32)
    y, _ = linear.quantised_linear_forward(x, trits, scale)
    assert y.dtype == np.float32
    assert (y[0] == 0).all() and np.isnan(y[1:3]).all() and (y[3] == 0).all() and np.isfinite(y[4]).all()


def test_integer_matmul_is_exact_beyond_float32():
    k = 5000
    q, w = np.full((1, k), 127, np.float32), np.full((2, k), 127, np.float32)
    w[1, ::2] = -127
    assert linear.integer_matmul(q, w, 127)[0].tolist() == [np.float32(127 * 127 * k), 0]
    mixed = RNG.integers(-127, 128, (3, k)).astype(np.float32)
    exact = (mixed.astype(np.int64) @ w.T.astype(np.int64)).astype(np.float32)
    np.testing.assert_array_equal(linear.integer_matmul(mixed, w, 127), exact)


def test_straight_through_gradients_of_the_quantised_linears():
    """dx, dŵ and the scales' gradients are those of y = x̂·ŵ, x̂ and ŵ the quantised values."""
    x, trits = normal(4, 40), RNG.integers(-1, 2, (6, 40)).astype(np.float64)
    scale, dy = np.abs(normal(6)) + 0.1, normal(4, 6)
    y, saved = linear.quantised_linear_forward(x, trits, scale)
    q, s = linear.quantise_activations(x)
    np.testing.assert_allclose(y, (q * s) @ (trits * scale[:, None]).T, rtol=1e-12)
    dx, dweight, dscale = linear.quantised_linear_backward(dy, saved)
    np.testing.assert_allclose(dx, dy @ (trits * scale[:, None]), rtol=1e-12)
    np.testing.assert_allclose(dweight, dy.T @ (q * s), rtol=1e-12)
    np.testing.assert_allclose(dscale, (dweight * trits).sum(1), rtol=1e-10)
    entries, index = np.abs(normal(256)) + 0.1, RNG.integers(0, 256, (6, 3)).astype(np.uint8)
    y, saved = codebook.codebook_linear_forward(x, trits, index, entries, group=16)
    effective = trits * np.repeat(entries[index], 16, axis=1)[:, :40]
    np.testing.assert_allclose(y, (q * s) @ effective.T, rtol=1e-12)
    dx, dweight, _, dentries = codebook.codebook_linear_backward(dy, saved)
    np.testing.assert_allclose(dx, dy @ effective, rtol=1e-12)
    expected = np.zeros(256)
    for row, group in np.ndindex(6, 3):
        span = slice(16 * group, 16 * group + 16)
        expected[index[row, group]] += (dweight[row, span] * trits[row, span]).sum()
    np.testing.assert_allclose(dentries, expected, rtol=1e-12, atol=1e-14)


def test_ternarise_forward_and_surrogate():
    weight, threshold, scale = normal(5, 33), np.array([0.1, 0.3, 0.7, 1.2, 9.0]), np.abs(normal(5)) + 0.2
    (trits, stored), saved = ternary.ternarise_forward(weight, threshold, scale)
    mean = np.abs(weight).mean(1)
    delta = np.float16(np.clip(threshold, 0.3, 1.2)).astype(float) * mean
    np.testing.assert_array_equal(trits, np.sign(weight) * (np.abs(weight) > delta[:, None]))
    np.testing.assert_array_equal(stored, np.float16(scale))
    dweight = normal(5, 33)
    dw, dthreshold, dscale = ternary.ternarise_backward((dweight, scale), saved)
    assert dw is dweight and dscale is scale
    h = mean[:, None] / 4
    kernel = np.maximum(0, 1 - np.abs((np.abs(weight) - delta[:, None]) / h)) / h
    expected = -(dweight * stored[:, None] * np.sign(weight) * kernel).sum(1) * mean
    np.testing.assert_allclose(dthreshold, expected, rtol=1e-10)


def test_a_row_never_collapses_to_zero():
    """Equal magnitudes lie below 1.2 times their mean: the guard keeps them."""
    weight = np.full((1, 16), 0.5, np.float32)
    (trits, scale), _ = ternary.ternarise_forward(weight, np.array([1.2], np.float32), np.array([1e-9], np.float32))
    assert (trits == 1).all() and scale[0] == np.float32(2.0**-14)
    (trits, _), _ = ternary.ternarise_forward(weight * 0, np.array([0.7], np.float32), np.array([1e9], np.float32))
    assert (trits == 0).all()


@given(st.lists(st.integers(1, 6), min_size=2, max_size=9), st.lists(st.floats(0, 8), min_size=1, max_size=20))
def test_nearest_entry_breaks_ties_to_the_lowest_index(entries, values):
    entries, values = np.array(entries, float), np.round(np.array(values) * 4) / 4
    expected = [min(range(len(entries)), key=lambda j: (abs(entries[j] - v), j)) for v in values]
    assert ternary.nearest_entry(values, entries).tolist() == expected


def test_codebook_ternarise():
    weight, threshold = normal(4, 40).astype(np.float32), np.full(4, 0.7, np.float32)
    weight[2, :16] = 0  # a group that keeps nothing
    entries = np.geomspace(0.01, 4, 256).astype(np.float32)
    (trits, index), saved = ternary.codebook_ternarise_forward(weight, threshold, entries, group=16)
    assert index.shape == (4, 3) and index.dtype == np.uint8 and index[2, 0] == 0
    kept = np.abs(weight[1, 32:])[trits[1, 32:] != 0]
    assert index[1, 2] == np.abs(entries - kept.mean()).argmin()
    dw, dthreshold, none = ternary.codebook_ternarise_backward(np.ones_like(weight), saved)
    assert none is None and dthreshold.shape == (4,) and (dw == 1).all()


def test_int8_rows():
    weight = np.array([[1.0, -0.5, 0.25], [0, 0, 0], [1e-3, 2e-3, -4e-3]], np.float32)
    (q, scale), _ = ternary.int8_rows_forward(weight)
    np.testing.assert_array_equal(scale, np.float16(np.abs(weight).max(1) / np.float32(127)))
    assert np.abs(q).max() <= 127 and (q[1] == 0).all()
    value, _ = ternary.dequantise_rows_forward(q, scale)
    np.testing.assert_allclose(value, weight, atol=float(scale.max()) / 2 + 1e-6)
