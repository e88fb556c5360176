"""Many streams stepped together: every stream gets the bits that it gets alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import SMALL, random_memory, random_weights

from ghost_ref.config import EOS, PAD
from ghost_ref.errors import GhostError
from ghost_ref.packed import save_packed
from ghost_ref.runtime import have_native, load

LEVELS = []
if have_native():
    from ghost_ref import _native as native

    LEVELS = native.levels()
BACKENDS = ["reference", *LEVELS]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A packed model with every component; its routers keep different bytes of different streams."""
    path = tmp_path_factory.mktemp("batch") / "small.ghost"
    save_packed(path, random_weights(SMALL, 3), SMALL)
    return path


def open_model(path, backend, threads=1):
    return load(path, backend="reference") if backend == "reference" else load(path, "native", threads, backend)


def assert_same_states(model, states, expected):
    for state, other in zip(states, expected, strict=True):
        ours, theirs = model.state_dict(state), model.state_dict(other)
        for name, value in theirs.items():
            assert ours[name].tobytes() == value.tobytes(), name


@pytest.mark.skipif(not LEVELS, reason="the C++ runtime is not built: run `make build`")
@given(seed=st.integers(0, 2**32 - 1), streams=st.integers(1, 140), threads=st.integers(1, 3), banked=st.booleans())
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_stream_is_as_if_alone(path, seed, streams, threads, banked):
    """Ragged streams: each one has a past of its own, and every step reads a byte in a random part of them."""
    rng = np.random.default_rng(seed)
    for level in LEVELS:
        model = open_model(path, level, threads)
        if banked:
            model.set_memory(random_memory(SMALL, 5, 7))
        states = [model.new_state() for _ in range(streams)]
        for state in states[: streams // 2]:
            model.logits(rng.integers(0, 256, rng.integers(1, 9)).astype(np.uint8), state)
        alone = [model.fork(state) for state in states]
        for _ in range(4):
            chosen = np.flatnonzero(rng.random(streams) < 0.7)
            if not len(chosen):
                continue
            tokens = rng.choice(np.array([PAD, 97, 98, 200], np.uint8), len(chosen))
            together = model.step_batch([states[i] for i in chosen], tokens)
            expected = np.concatenate([model.logits(tokens[k : k + 1], alone[i]) for k, i in enumerate(chosen)])
            assert together.tobytes() == expected.tobytes()
        assert_same_states(model, states, alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_levels_agree_with_the_reference(path, backend):
    reference, model = open_model(path, "reference"), open_model(path, backend, 2)
    tokens = np.random.default_rng(1).integers(0, 250, (5, 9)).astype(np.uint8)
    states, expected = [model.new_state() for _ in range(9)], [reference.new_state() for _ in range(9)]
    for row in tokens:
        assert model.step_batch(states, row).tobytes() == reference.step_batch(expected, row).tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_generated_texts_are_those_of_one_prompt_at_a_time(path, backend, monkeypatch):
    """The streams end at different steps: 120 is made the end of a text."""
    prompts = [b"a", "ähnlich", b"list pods", b"x" * 70, b"?"]
    model = open_model(path, backend, 2)
    options = {"temp": 1.0, "seed": 4, "max_bytes": 12}
    assert model.generate_batch(prompts, **options) == [model.generate(p, **options) for p in prompts]
    assert model.generate_batch([]) == []
    import ghost_ref.runtime

    texts = [list(model.generate_bytes(*model._prepare(p, False, options))) for p in prompts]
    end = texts[0][3]
    monkeypatch.setattr(ghost_ref.runtime, "choose_byte", lambda *a, real=ghost_ref.runtime.choose_byte: EOS
                        if real(*a) == end else real(*a))
    cut = [bytes(t[: t.index(end)] if end in t else t).decode("utf-8", "replace") for t in texts]
    assert len({len(c) for c in cut}) > 1
    assert model.generate_batch(prompts, **options) == cut


@pytest.mark.parametrize("backend", BACKENDS)
def test_mistakes_get_a_sentence(path, backend):
    model = open_model(path, backend)
    a, b = model.new_state(), model.new_state()
    with pytest.raises(GhostError, match="Streams 0 and 2 have the same state"):
        model.step_batch([a, b, a], b"xyz")
    for states, tokens in (([a], b"xy"), ([], b""), ([a], np.zeros(1, np.int32))):
        with pytest.raises(ValueError, match="one byte for every state"):
            model.step_batch(states, tokens)
    if backend != "reference":
        with pytest.raises(GhostError, match="another model"):
            model.step_batch([a, open_model(path, backend).new_state()], b"xy")
    assert_same_states(model, [a, b], [model.new_state(), model.new_state()])
    assert model.step_batch([a, b], b"xy").shape == (2, 256)
