"""The model as a whole: one function for prefill and decode, causality, skipping, training equals deployment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SMALL, random_memory, random_params, random_weights

from ghost_ref import ops
from ghost_ref.autodiff import value_and_grad
from ghost_ref.batches import Batch, pad_sequences
from ghost_ref.config import ModelConfig, TrainingConfig
from ghost_ref.model import forward
from ghost_ref.objective import objective
from ghost_ref.parameters import parameter_count
from ghost_ref.presets import PRESETS
from ghost_ref.quantise import quantise
from ghost_ref.state import initial_state, state_shapes
from ghost_ref.training_ops import training_ops

WEIGHTS = random_weights(SMALL, 1)
MEMORY = random_memory(SMALL, 2, 5)


def run(tokens, state=None, weights=WEIGHTS, config=SMALL, memory=MEMORY):
    state = initial_state(config) if state is None else state
    return forward(weights, config, np.asarray(tokens, np.uint8)[None], state, ops=ops, memory=memory)


def assert_same_bits(a, b):
    np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


def test_the_small_model_routes_some_tokens_each_way():
    """Guards the tests below: they mean nothing if a router keeps all or none."""
    routing = run(np.random.default_rng(0).integers(0, 256, 200)).routing
    assert sorted(routing) == [1, 2, 3]
    for layer in routing.values():
        assert 0.05 < layer.kept.mean() < 0.95


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 9), min_size=1, max_size=8), st.booleans())
def test_any_split_gives_the_same_bits(seed, lengths, with_memory):
    tokens = np.random.default_rng(seed).integers(0, 256, sum(lengths))
    memory = MEMORY if with_memory else None
    whole = run(tokens, memory=memory)
    state, pieces, start = initial_state(SMALL), [], 0
    for length in lengths:
        part = run(tokens[start : start + length], state, memory=memory)
        state, start = part.state, start + length
        pieces.append(part.logits)
    assert_same_bits(np.concatenate(pieces, 1), whole.logits)
    for name, value in whole.state.items():
        assert_same_bits(state[name], value)


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(0, 19))
def test_a_byte_changes_nothing_before_it(seed, position):
    tokens = np.random.default_rng(seed).integers(0, 256, 20)
    changed = tokens.copy()
    changed[position] ^= 1 + seed % 255
    before, after = run(tokens).logits, run(changed).logits
    assert_same_bits(before[:, :position], after[:, :position])
    assert not np.array_equal(before[:, position:], after[:, position:])


def test_a_skipped_token_leaves_the_layers_state_untouched():
    """Decode byte by byte: where a router skips, scan state, conv window and attention ring keep their bits."""
    state, skipped = initial_state(SMALL), 0
    for byte in np.random.default_rng(3).integers(0, 256, 80):
        out = run([byte], state)
        for i, routing in out.routing.items():
            own = [name for name in state if name.startswith(f"layers.{i}.")]
            assert own
            same = all(np.array_equal(state[name], out.state[name]) for name in own)
            assert same == (not routing.kept[0, 0])
            skipped += same
        state = out.state
    assert skipped > 40


def test_a_skipped_token_is_as_if_the_layer_never_saw_it():
    """Layer 1 alone, given only the tokens it kept, computes the same update for them."""
    from ghost_ref.model import Context, _block

    tokens = np.random.default_rng(4).integers(0, 256, (1, 40)).astype(np.uint8)
    h = np.random.default_rng(5).normal(size=(1, 40, SMALL.d_model)).astype(np.float32)
    keep = np.random.default_rng(6).random((1, 40)) < 0.5
    embedding = ops.dequantise_rows(WEIGHTS["embedding.weight"], WEIGHTS["embedding.weight_scale"])

    def context():
        return Context(WEIGHTS, SMALL, ops, initial_state(SMALL), {}, MEMORY, False, lambda x: x)

    compacted, index, _ = ops.compact(h, keep)
    together = _block(context(), 1, compacted, ops.select(tokens, index), embedding)
    alone = _block(context(), 1, h[:, keep[0]], tokens[:, keep[0]], embedding)
    assert_same_bits(together, alone)


def test_rows_of_a_batch_are_independent_streams():
    tokens = np.random.default_rng(7).integers(0, 256, (3, 11)).astype(np.uint8)
    batch = forward(WEIGHTS, SMALL, tokens, initial_state(SMALL, 3), ops=ops, memory=MEMORY)
    for b in range(3):
        alone = run(tokens[b])
        assert_same_bits(batch.logits[b], alone.logits[0])
        for name in alone.state:
            assert_same_bits(batch.state[name][b], alone.state[name][0])
    windows = forward(WEIGHTS, SMALL, tokens, ops=ops, memory=MEMORY)
    assert windows.state is None
    np.testing.assert_array_equal(windows.logits, batch.logits)


def test_state_has_its_documented_shapes():
    out = run(np.arange(7))
    for name, (shape, dtype) in state_shapes(SMALL).items():
        assert out.state[name].shape == shape and out.state[name].dtype == dtype, name
    assert set(out.state) == set(state_shapes(SMALL)) and out.state["position"][0] == 7


def test_an_empty_bank_is_no_bank():
    empty = random_memory(SMALL, 0, 0)
    assert_same_bits(run(np.arange(9), memory=empty).logits, run(np.arange(9), memory=None).logits)
    assert not np.array_equal(run(np.arange(9)).logits, run(np.arange(9), memory=None).logits)


def test_padding_on_the_right_changes_nothing():
    tokens = np.random.default_rng(8).integers(0, 128, (1, 12)).astype(np.uint8)
    padded = np.concatenate([tokens, np.full((1, 5), 0xFE, np.uint8)], 1)
    short = forward(WEIGHTS, SMALL, tokens, ops=ops, mod_top_k=True)
    long = forward(WEIGHTS, SMALL, padded, ops=ops, mod_top_k=True)
    assert_same_bits(long.logits[:, :12], short.logits)
    assert all(not routing.kept[0, 12:].any() for routing in long.routing.values())


def test_training_computes_what_is_deployed():
    """The objective's logits are those of the packed weights, bit for bit, given the same routing rule."""
    params = random_params(SMALL, 9)
    batch = pad_sequences([b"list pods\xfbkubectl get pods\xff", b"a\xfbb\xff"])
    training = TrainingConfig(steps=1)

    def loss(p):
        return objective(quantise(p, SMALL, ops), SMALL, training, batch, ops=ops, memory=MEMORY, counts=(10, 20))

    _, (_, output), grads = value_and_grad(loss, params)
    packed = forward(quantise(params, SMALL, ops), SMALL, batch.tokens, ops=ops, memory=MEMORY, mod_top_k=True)
    assert_same_bits(output.logits.value, packed.logits)
    assert all(np.isfinite(g).all() for g in grads.values())
    assert [name for name, g in grads.items() if not g.any()] == []


def float_problem(seed):
    """A float64 model without quantisation, surrogate gates and detached heads: differences give its gradient."""
    config = SMALL.replace(linear="float", surprise_layers=(), depth_layers=())
    params = {name: p.astype(np.float64) for name, p in random_params(config, seed).items()}
    tokens = np.random.default_rng(seed).integers(0, 256, (2, 13)).astype(np.uint8)
    mask = np.ones((2, 12), bool)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], mask, mask)
    memory = {**MEMORY, "keys": MEMORY["keys"].astype(np.float64)}
    return config, params, batch, memory


@pytest.mark.parametrize("vocabulary", [ops, training_ops(use_kernels=False)], ids=["reference", "training"])
@pytest.mark.parametrize("with_memory", [False, True])
def test_gradient_of_the_whole_model(vocabulary, with_memory):
    """Every parameter of the unquantised model in float64 against fourth-order differences.

    The values of memory entries are detached from the embedding, so with a bank the embedding is left out."""
    config, params, batch, memory = float_problem(11)

    def loss(p):
        return objective(quantise(p, config, vocabulary), config, TrainingConfig(steps=1), batch, ops=vocabulary,
                         memory=memory if with_memory else None, counts=(24, 24))

    _, _, grads = value_and_grad(loss, params)
    rng, h = np.random.default_rng(12), 1e-5
    checked = 0
    for name, p in params.items():
        if name == "embedding.weight" and with_memory:
            continue
        direction = rng.normal(size=p.shape)

        def at(step, name=name, p=p, direction=direction):
            return loss({**params, name: p + step * direction})[0]

        expected = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        size = np.abs(grads[name] * direction).sum() + 1e-6
        assert abs((grads[name] * direction).sum() - expected) <= 2e-6 * size + 1e-9, name
        checked += 1
    assert checked > 80


def test_presets_have_their_documented_size():
    assert parameter_count(PRESETS["v12"]) == 11_302_921
    assert 0.75e6 < parameter_count(PRESETS["tiny"]) < 0.95e6


@pytest.mark.parametrize("d_ff", [16, 0])
def test_minimal_config_runs(d_ff):
    """No router, no attention, no memory, and Mamba blocks alone: the plain network."""
    config = ModelConfig(d_model=16, n_layers=1, d_ff=d_ff, dt_rank=1, d_state=1, d_conv=2, codebook_group=16)
    out = forward(random_weights(config, 0), config, np.array([[1, 2, 3]], np.uint8), initial_state(config), ops=ops)
    assert out.logits.shape == (1, 3, 256) and np.isfinite(out.logits).all() and not out.routing
