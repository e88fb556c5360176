"""The trainer's linear layers: the reference's bits forward, with and without the CPU's integer product, and bounded
gradients; and the bound on a step's memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghost_ref import ops
from ghost_ref.config import TrainingConfig
from ghost_ref.data import load_dataset
from ghost_ref.ops.codebook import codebook_linear_forward
from ghost_ref.ops.linear import quantised_linear_forward
from ghost_ref.ops.ternary import codebook_ternarise_forward, nearest_entry, ternarise_forward
from ghost_ref.presets import PRESETS
from ghost_ref.trainer import Trainer, new_checkpoint
from ghost_ref.training_memory import DEPTH, PANEL, step_bytes

train = pytest.importorskip("ghost_ref._train", reason="ghost_ref._train is not built")
from ghost_ref import training_linear as linear  # noqa: E402

U = 2.0**-24


@pytest.fixture(params=train.levels())
def level(request):
    """Every instruction set: those without an integer product, or products of panels, leave them to BLAS."""
    before = train.level()
    train.use_level(request.param)
    yield request.param
    train.use_level(before)


def weights(rng, n, k):
    return (rng.standard_normal((n, k)) * 0.1).astype(np.float32), rng.uniform(0.2, 1.3, n).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 23])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 4), (39, 31), (48, 64), (50, 130), (33, 7)])
def test_ternary_layers_have_the_references_bits(level, n, k, rows):
    rng = np.random.default_rng(n * k + rows)
    weight, threshold = weights(rng, n, k)
    scale = rng.uniform(0.01, 2, n).astype(np.float32)
    x = rng.standard_normal((rows, k)).astype(np.float32)
    if rows > 2:
        x[1], x[2, 0] = 0, np.inf
    (matrix, stored), _ = linear.Ternariser().ternarise_forward(weight, threshold, scale)
    (trits, expected_scale), _ = ternarise_forward(weight, threshold, scale)
    np.testing.assert_array_equal(matrix.weight, trits)
    np.testing.assert_array_equal(stored, expected_scale)
    y, _ = linear.quantised_linear_forward(x, matrix, stored)
    np.testing.assert_array_equal(y, quantised_linear_forward(x, trits, expected_scale)[0])


@pytest.mark.parametrize(("n", "k", "group"), [(20, 64, 16), (48, 100, 32), (7, 16, 16), (65, 40, 128)])
def test_codebook_layers_have_the_references_bits(level, n, k, group):
    rng = np.random.default_rng(n)
    weight, threshold = weights(rng, n, k)
    codebook = rng.uniform(0.01, 0.4, 256).astype(np.float32)
    x = rng.standard_normal((11, k)).astype(np.float32)
    (matrix, index), _ = linear.Ternariser().codebook_ternarise_forward(weight, threshold, codebook, group=group)
    (trits, _), _ = codebook_ternarise_forward(weight, threshold, codebook, group=group)
    np.testing.assert_array_equal(matrix.weight, trits)
    y, _ = linear.codebook_linear_forward(x, matrix, index, codebook, group=group)
    np.testing.assert_array_equal(y, codebook_linear_forward(x, trits, index, codebook, group=group)[0])


def test_int8_layers_have_the_references_bits_at_the_extremes(level):
    weight = np.full((17, 1030), 127, np.float32)
    weight[::2] *= -1
    x = np.full((9, 1030), -3, np.float32)
    scale = np.ones(17, np.float32)
    y, _ = linear.quantised_linear_forward(x, weight, scale, largest_weight=127)
    np.testing.assert_array_equal(y, quantised_linear_forward(x, weight, scale, largest_weight=127)[0])


@pytest.mark.parametrize("tokens", [0, 1, 6, 7, 40, 257, 530])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 64), (16, 65), (39, 31), (50, 130), (300, 17)])
def test_products_of_the_backward_pass_within_their_bounds(level, n, k, tokens):
    """dx = dy·W and dW = dyᵀ·x^: at most terms + 2 roundings, in any order."""
    rng = np.random.default_rng(n + k + tokens)
    weight, threshold = weights(rng, n, k)
    (matrix, stored), _ = linear.Ternariser().ternarise_forward(weight, threshold, rng.uniform(0.1, 1, n))
    x, dy = (rng.standard_normal((tokens + 1, c)).astype(np.float32) for c in (k, n))
    _, (saved, _) = linear.quantised_linear_forward(x, matrix.for_shard(0), stored)
    q, scale, *rest = saved
    dx, dweight = linear.linear_backward(dy[:tokens], (q[:tokens], scale[:tokens], *rest[:-1], (tokens, k)))
    seen = q[:tokens, :k].astype(np.float64) * scale[:tokens, None]
    effective = matrix.weight * stored[:, None].astype(np.float64)
    gradient = dy[:tokens].astype(np.float64)
    for found, a, b in ((dx, gradient, effective), (dweight, gradient.T, seen)):
        assert found.shape == (len(a), b.shape[1])
        assert (np.abs(found - a @ b) <= (a.shape[1] + 2) * U * (np.abs(a) @ np.abs(b)) * 1.01).all()


def test_the_products_refuse_what_does_not_fit():
    if not train.float_products_available():
        pytest.skip("this CPU has no AVX-512")
    dy, panels = np.zeros((3, 5), np.float32), np.zeros(5 * 64, np.float32)
    with pytest.raises(ValueError, match="no panels"):
        train.input_gradient(dy, panels[1:], 7)
    q, scale, dweight = np.zeros((3, 8), np.int8), np.zeros(3, np.float32), np.zeros((5, 7), np.float32)
    scratch = np.zeros(train.weight_gradient_scratch(5, 7), np.float32)
    for bad in ((dy[:2], q, scale, dweight, scratch), (dy, q[:2], scale, dweight, scratch),
                (dy, q, scale[:2], dweight, scratch), (dy, q, scale, dweight[:4], scratch),
                (dy, q, scale, np.zeros((5, 9), np.float32), scratch), (dy, q, scale, dweight, scratch[1:])):
        with pytest.raises(ValueError, match="do not fit"):
            train.weight_gradient(*bad)


def test_the_scales_gradient_from_the_weights_is_that_of_the_outputs():
    """dscale = Σ_k dŵ·trit, where the reference sums dy·y / scale: bounded by (M + k) roundings of Σ|dy|·|x|."""
    rng = np.random.default_rng(5)
    weight, threshold = weights(rng, 24, 40)
    scale = rng.uniform(0.1, 1, 24).astype(np.float32)
    x, dy = (rng.standard_normal((30, c)).astype(np.float32) for c in (40, 24))
    (matrix, stored), saved = linear.Ternariser().ternarise_forward(weight, threshold, scale)
    y, inner = linear.quantised_linear_forward(x, matrix.for_shard(0), stored)
    _, dweight, _ = linear.quantised_linear_backward(dy, inner)
    assert dweight is matrix.gradient(0)  # the shard's buffer, kept from step to step
    _, _, dscale = linear.Ternariser.ternarise_backward((dweight, None), saved)
    truth = (dy.astype(np.float64) * y).sum(0) / stored
    bound = (30 + 40 + 4) * U * (np.abs(dy).T @ np.abs(x)).sum(1) * 1.01
    assert (np.abs(dscale - truth) <= bound).all()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 16, 256]), st.booleans())
def test_the_nearest_entry_is_the_references(seed, size, ties):
    rng = np.random.default_rng(seed)
    codebook = rng.integers(0, 20, size).astype(np.float32) if ties else rng.uniform(0, 1, size).astype(np.float32)
    values = (rng.integers(0, 40, (5, 3)) / 2 if ties else rng.uniform(-0.2, 1.2, (5, 3))).astype(np.float32)
    np.testing.assert_array_equal(train.nearest_entries(values, codebook), nearest_entry(values, codebook))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (48, 64), (300, 65)])
def test_the_bound_counts_the_kernels_own_blocks(n, k):
    padded = -(-k // PANEL) * PANEL
    assert train.panel_columns(k) == padded and train.weight_gradient_scratch(n, k) == DEPTH * (n + padded)


@pytest.mark.parametrize("change", [{}, {"batch_size": 24}, {"optimizer": "muon"}, {"shards": 3}])
@pytest.mark.parametrize("config", [PRESETS["tiny"], PRESETS["tiny"].replace(d_model=64, n_layers=6, d_ff=256)],
                         ids=["tiny", "other"])
def test_a_steps_arrays_stay_within_the_bound(config, change):
    data = load_dataset("qa20")
    training = TrainingConfig.from_dict({"steps": 9, "seq_len": 256, **change})
    text = ops.__doc__ * 400
    data = type(data)("text", "text", (), text.encode(), "")
    tracemalloc.start()
    trainer = Trainer(new_checkpoint(config, training, data), data)
    for _ in range(4):
        trainer.step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    trainer.close()
    assert 0.3 * step_bytes(config, training) < peak <= step_bytes(config, training)
