"""The shared model and objective on MLX ops against NumPy: logits, every gradient, streams; eager and compiled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from models import SMALL, random_memory, random_params

mx = pytest.importorskip("mlx.core")

from ghost_ref import ops as reference_ops  # noqa: E402
from ghost_ref.autodiff import value_and_grad  # noqa: E402
from ghost_ref.batches import Batch  # noqa: E402
from ghost_ref.config import PAD, ModelConfig, TrainingConfig  # noqa: E402
from ghost_ref.model import forward  # noqa: E402
from ghost_ref.objective import objective  # noqa: E402
from ghost_ref.quantise import quantise  # noqa: E402
from ghost_ref.state import initial_state  # noqa: E402
from mlx_backend import ops  # noqa: E402

TRAINING = TrainingConfig()
PARAMS = random_params(SMALL, 9)  # no code or route lies so near to a decision that rounding could change it
MEMORY = random_memory(SMALL, 2, 5)


def to_mlx(arrays: dict) -> dict:
    return {name: mx.array(a) for name, a in arrays.items()}


def make_batch(length: int = 24) -> Batch:
    """Random bytes, the end of the second row PAD."""
    tokens = np.random.default_rng(3).integers(0, 248, (2, length + 1)).astype(np.uint8)
    tokens[1, length - 3 :] = PAD
    valid = tokens[:, 1:] != PAD
    return Batch(tokens[:, :-1], tokens[:, 1:], valid & (np.arange(length) > 2), valid)


BATCH = make_batch()
COUNTS = int(BATCH.loss_mask.sum()), int(BATCH.valid.sum())
MLX_BATCH = Batch(*(mx.array(a) for a in (BATCH.tokens, BATCH.targets, BATCH.loss_mask, BATCH.valid)))


def reference_gradients(config: ModelConfig, params: dict, dtype: type) -> tuple:
    """(loss, output, gradients) of the NumPy reference."""
    params = {name: p.astype(dtype) for name, p in params.items()}
    memory = {**MEMORY, "keys": MEMORY["keys"].astype(dtype)}
    loss, (_, output), grads = value_and_grad(
        lambda p: objective(quantise(p, config, reference_ops), config, TRAINING, BATCH, ops=reference_ops,
                            counts=COUNTS, memory=memory), params)
    return loss, output, grads


def mlx_gradients(config: ModelConfig, params: dict) -> tuple:
    """(loss, logits, {layer: kept}, gradients) in MLX; traceable."""
    def loss(params):
        weights = quantise(params, config, ops)
        return objective(weights, config, TRAINING, MLX_BATCH, ops=ops, counts=COUNTS, memory=to_mlx(MEMORY))

    (value, (_, output)), grads = mx.value_and_grad(loss)(params)
    return value, output.logits, {i: routing.kept for i, routing in output.routing.items()}, grads


def relative(result, truth: np.ndarray) -> float:
    """Largest error in units of the largest true magnitude."""
    return float(np.abs(np.asarray(result) - truth).max() / max(np.abs(truth).max(), 1e-30))


# Largest errors over 11 seeds without a changed decision, in units of the largest entry: logits 1.9e-7, gradients
# 8.1e-5 (a scalar whose gradient is a sum that cancels; the NumPy float32 run has 1.3e-5), loss 7.5e-8 relative.
LOSS_TOLERANCE, LOGITS_TOLERANCE, GRADIENT_TOLERANCE = 2e-7, 1e-6, 2e-4


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"])
def test_loss_logits_and_every_gradient(compiled):
    """Against the float64 reference; routes must be equal, so that only rounding differs."""
    loss, output, grads = reference_gradients(SMALL, PARAMS, np.float64)

    def run(params):
        return mlx_gradients(SMALL, params)

    value, logits, kept, found = (mx.compile(run) if compiled else run)(to_mlx(PARAMS))
    assert len(kept) == 3
    for i, mask in kept.items():
        np.testing.assert_array_equal(np.asarray(mask), output.routing[i].kept)
        assert 0.05 < np.asarray(mask).mean() < 0.95
    assert not (not abs(value.item() - loss) <= LOSS_TOLERANCE * abs(loss))
    assert not (not relative(logits, output.logits.value) <= LOGITS_TOLERANCE)
    assert found.keys() == grads.keys()
    for name, grad in grads.items():
        assert found[name].shape == grad.shape, name
        assert not (not relative(found[name], grad) <= GRADIENT_TOLERANCE), (name, relative(found[name], grad))


@pytest.mark.parametrize("d_ff", [SMALL.d_ff, 0])
def test_the_float_model_differentiates_too(d_ff):
    """linear="float", without any quantisation, with and without an FFN."""
    config = replace(SMALL, linear="float", d_ff=d_ff)
    params = random_params(config, 1)
    loss, output, grads = reference_gradients(config, params, np.float64)
    value, logits, _, found = mlx_gradients(config, to_mlx(params))
    assert not (not abs(value.item() - loss) <= LOSS_TOLERANCE * abs(loss))
    assert not (not relative(logits, output.logits.value) <= 10 * LOGITS_TOLERANCE)
    for name, grad in grads.items():
        assert not (not relative(found[name], grad) <= GRADIENT_TOLERANCE), (name, relative(found[name], grad))


# ---- streams

WEIGHTS = quantise(PARAMS, SMALL, reference_ops)
MLX_WEIGHTS = to_mlx(WEIGHTS)
TOKENS = np.random.default_rng(4).integers(0, 248, (1, 40)).astype(np.uint8)
STREAM_TOLERANCE = 2e-6  # of logits and states, relative to the largest entry; measured 2e-7


def stream(tokens: np.ndarray, lengths: list[int], memory: dict | None = MEMORY) -> tuple:
    """(logits, last state) of the tokens read in chunks."""
    state, logits, start = to_mlx(initial_state(SMALL, len(tokens))), [], 0
    for length in lengths:
        chunk = mx.array(tokens[:, start : start + length])
        out = forward(MLX_WEIGHTS, SMALL, chunk, state, ops=ops, memory=memory and to_mlx(memory))
        state, start = out.state, start + length
        logits.append(np.asarray(out.logits))
    return np.concatenate(logits, 1), state


def assert_same_stream(result: tuple, expected: tuple) -> None:
    assert not (not relative(result[0], np.asarray(expected[0])) <= STREAM_TOLERANCE)
    assert result[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        value, found = np.asarray(value), np.asarray(result[1][name])
        assert found.shape == value.shape and found.dtype == value.dtype, name
        assert not (not relative(found, value) <= STREAM_TOLERANCE), (name, relative(found, value))


@pytest.mark.parametrize("memory", [MEMORY, None], ids=["memory", "no memory"])
def test_a_stream_is_that_of_the_reference(memory):
    """Logits and every array of the state, the rings' contents included."""
    expected = forward(WEIGHTS, SMALL, TOKENS, initial_state(SMALL), ops=reference_ops, memory=memory)
    assert_same_stream(stream(TOKENS, [40], memory), (expected.logits, expected.state))


@pytest.mark.parametrize("lengths", [[1] * 40, [7, 1, 20, 12], [39, 1]], ids=str)
def test_any_split_gives_the_same_stream(lengths):
    assert_same_stream(stream(TOKENS, lengths), stream(TOKENS, [40]))


def test_streams_of_a_batch_do_not_mix():
    tokens = np.concatenate([TOKENS, TOKENS[:, ::-1]])
    together = stream(tokens, [11, 29])
    for b in range(2):
        logits, state = stream(tokens[b : b + 1], [11, 29])
        assert_same_stream((together[0][b : b + 1], {k: v[b : b + 1] for k, v in together[1].items()}),
                           (logits, state))


def test_the_tail_of_skipped_tokens_is_harmless():
    """Static shapes (no state) keep skipped tokens behind the kept ones, a stream drops them: the same logits."""
    out = forward(MLX_WEIGHTS, SMALL, mx.array(TOKENS), ops=ops, memory=to_mlx(MEMORY))
    kept = [float(np.asarray(routing.kept).mean()) for routing in out.routing.values()]
    assert all(0 < share < 1 for share in kept), kept
    assert not (not relative(out.logits, stream(TOKENS, [40])[0]) <= STREAM_TOLERANCE)
