"""Many streams stepped together: every stream gets the bits that it gets alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import SMALL, random_memory, random_weights

from ghost_ref.config import PAD
from ghost_ref.errors import GhostError
from ghost_ref.packed import save_packed
from ghost_ref.runtime import BATCH, have_native, load

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


STREAM = st.fixed_dictionaries({
    "prompt": st.binary(min_size=1, max_size=150), "temp": st.sampled_from([0.0, 0.7, 1.0, 100.0]),
    "top_k": st.sampled_from([0, 1, 40]), "top_p": st.sampled_from([0.5, 1.0]), "min_p": st.sampled_from([0.0, 0.05]),
    "seed": st.integers(0, 2**64 - 1), "max_bytes": st.integers(0, 40), "stop_after": st.integers(1, 60),
    "past": st.binary(max_size=5)})


@pytest.mark.skipif(not LEVELS, reason="the C++ runtime is not built: run `make build`")
@given(streams=st.lists(STREAM, min_size=1, max_size=8), repeats=st.integers(1, 12), threads=st.integers(1, 3),
       level=st.sampled_from(LEVELS), banked=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_generated_streams_are_as_if_alone(path, streams, repeats, threads, level, banked):
    """Every stream has its prompt, past, temperature, cuts, seed, most bytes, and a reader who may stop it; they end at
    different steps, some at EOS. Bytes, ends and states are those of single streams, bit for bit."""
    streams = [{**stream, "seed": (stream["seed"] + i) % 2**64} for i in range(repeats) for stream in streams]
    model = open_model(path, level, threads)
    if banked:
        model.set_memory(random_memory(SMALL, 5, 7))
    alone = [model.new_state() for _ in streams]
    for state, stream in zip(alone, streams, strict=True):
        if stream["past"]:
            model.logits(stream["past"], state)
    together = [model.fork(state) for state in alone]
    options = ("temp", "top_k", "top_p", "min_p", "seed", "max_bytes")
    expected = []
    for state, stream in zip(alone, streams, strict=True):
        left = iter(range(stream["stop_after"] - 1, -1, -1))
        expected.append(model.engine.model.generate(state, stream["prompt"], **{name: stream[name] for name in options},
                                                    on_byte=lambda byte, left=left: next(left) > 0))
    seen = [0] * len(streams)

    def take(stream: int, byte: int) -> bool:
        assert expected[stream][0][seen[stream]] == byte
        seen[stream] += 1
        return seen[stream] < streams[stream]["stop_after"]

    got = model.engine.model.generate_batch(together, [stream["prompt"] for stream in streams],
                                            [tuple(stream[name] for name in options) for stream in streams], take)
    assert got == expected
    assert_same_states(model, together, alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_generated_texts_are_those_of_the_reference(path, backend):
    """Options are shared, or one for each; some streams end at EOS, each at a step of its own."""
    reference, model = open_model(path, "reference"), open_model(path, backend, 2)
    prompts = [b"a", "ähnlich", b"list pods", b"x" * 70, b"?"] * 2
    options = {"temp": 1.0, "seed": list(range(10)), "max_bytes": 60}
    texts = [reference.generate(p, temp=1.0, seed=seed, max_bytes=60) for seed, p in enumerate(prompts)]
    assert model.generate_batch(prompts, **options) == texts
    lengths = [len(list(reference.generate_bytes(*reference._prepare(p, False, {**options, "seed": seed}))))
               for seed, p in enumerate(prompts)]
    assert len({n for n in lengths if n < 60}) > 1, "no stream ends at EOS; choose other seeds"
    assert model.generate_batch([]) == []
    with_eos = lengths.index(min(lengths))  # a stream that ends by itself may be allowed any number of bytes
    assert model.generate(prompts[with_eos], temp=1.0, seed=with_eos, max_bytes=10**30) == texts[with_eos]
    states = [model.new_state() for _ in range(2)]
    parts = [model.generate_batch(["q", b"r"], states=states, max_bytes=5, raw=True) for _ in range(2)]
    again = [model.new_state() for _ in range(2)]
    assert parts == [[model.generate(p, state=s, max_bytes=5, raw=True) for p, s in zip("qr", again, strict=True)]
                     for _ in range(2)]


@pytest.mark.skipif(not LEVELS, reason="the C++ runtime is not built: run `make build`")
def test_more_prompts_than_a_batch(path, monkeypatch):
    model = open_model(path, LEVELS[-1])
    prompts = [f"question {i}" for i in range(2 * BATCH + 3)]
    made = []
    monkeypatch.setattr(model, "new_state", lambda real=model.new_state: made.append(1) or real())
    texts = model.generate_batch(prompts, max_bytes=3, temp=1.0)
    assert len(made) == len(prompts) and texts == [model.generate(p, max_bytes=3, temp=1.0) for p in prompts]


@pytest.mark.skipif(not LEVELS, reason="the C++ runtime is not built: run `make build`")
@given(texts=st.lists(st.binary(min_size=2, max_size=150), min_size=1, max_size=9), threads=st.integers(1, 3),
       level=st.sampled_from(LEVELS))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_losses_are_those_of_the_reference(path, texts, threads, level):
    model, reference = open_model(path, level, threads), open_model(path, "reference")
    states, alone = [model.new_state() for _ in texts], [model.new_state() for _ in texts]
    for text, loss, expected, one in zip(texts, model.losses(texts, states), reference.losses(texts), alone,
                                         strict=True):
        assert loss.dtype == np.float32 and loss.tobytes() == expected.tobytes() and len(loss) == len(text) - 1
        assert model.losses([text], [one])[0].tobytes() == loss.tobytes()
    assert_same_states(model, states, alone)


@pytest.mark.skipif(not LEVELS, reason="the C++ runtime is not built: run `make build`")
def test_a_reader_that_raises_ends_the_batch(path):
    model = open_model(path, LEVELS[-1], 2)
    states = [model.new_state() for _ in range(3)]

    def take(stream, byte):
        raise KeyError(stream)

    options = (0.0, 0, 1.0, 0.0, 0, 10**6)
    with pytest.raises(KeyError):
        model.engine.model.generate_batch(states, [b"a"] * 3, [options] * 3, take)
    assert model.step_batch(states, b"abc").shape == (3, 256)  # no state is left in use


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
    with pytest.raises(GhostError, match="Streams 0 and 1 have the same state"):
        model.generate_batch(["x", "y"], states=[a, a])
    with pytest.raises(GhostError, match="Streams 0 and 1 have the same state"):
        model.losses([b"xy", b"yz"], [a, a])
    for call, sentence in ((lambda: model.generate_batch(["x"], states=[a, b]), "a state for every prompt"),
                           (lambda: model.generate_batch(["x", "y"], seed=[1]), "seed has 1 values for 2 prompts"),
                           (lambda: model.losses([b"xy"], [a, b]), "a state for every text"),
                           (lambda: model.losses([b"xy", b"y"]), "at least two bytes"),
                           (lambda: model.generate_batch(["x", ""]), "empty"),
                           (lambda: model.generate_batch(["x"], temp=float("nan")), "temp must be")):
        with pytest.raises(ValueError, match=sentence):
            call()
    if backend != "reference":
        native_model = model.engine.model
        for options in ((float("nan"), 0, 1, 0, 0, 1), (0, 257, 1, 0, 0, 1), (0, 0, 0, 0, 0, 1), (0, 0, 1, 2, 0, 1),
                        (0, 0, 1, 0, 0, -1)):
            with pytest.raises(ValueError, match="must be"):
                native_model.generate_batch([a], [b"x"], [options])
        for states, prompts, error in (([a], [], ValueError), ([None], [b"x"], TypeError), ([a], [b""], ValueError)):
            with pytest.raises(error):
                native_model.generate_batch(states, prompts, [(0, 0, 1, 0, 0, 1)] * len(states))
        for texts, error in (([np.zeros(1, np.uint8)], ValueError), ([b"xy"], TypeError), ([], ValueError)):
            with pytest.raises(error):
                native_model.judge([a], texts)
    assert_same_states(model, [a, b], [model.new_state(), model.new_state()])
    assert model.step_batch([a, b], b"xy").shape == (2, 256)
