"""The Python API over loaded models, and the measurements built on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from models import SMALL, random_weights

import ghost_ref as ghost
from ghost_ref.data import Pair
from ghost_ref.errors import GhostError
from ghost_ref.evaluate import wilson_interval
from ghost_ref.packed import save_packed
from ghost_ref.presets import PRESETS
from ghost_ref.runtime import have_native

BACKENDS = ["reference", pytest.param("native", marks=pytest.mark.skipif(not have_native(), reason="not built"))]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "m.ghost"
    save_packed(file, random_weights(SMALL, 3), SMALL)
    return file


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_and_states(path, backend):
    model = ghost.load(path, backend=backend)
    assert model.config == SMALL
    logits = model.logits(b"hello world")
    assert logits.shape == (11, 256) and logits.dtype == np.float32
    state = model.new_state()
    first = model.logits(b"hello", state)
    copy = model.fork(state)
    np.testing.assert_array_equal(np.concatenate([first, model.logits(b" world", state)]), logits)
    np.testing.assert_array_equal(model.logits(np.frombuffer(b" world", np.uint8), copy), logits[5:])
    restored = model.load_state_dict(model.state_dict(state))
    np.testing.assert_array_equal(model.logits(b"!", restored), model.logits(b"!", state))
    assert model.hidden(b"abc").shape == (3, SMALL.d_model)


@pytest.mark.skipif(not have_native(), reason="not built")
def test_backends_generate_the_same_text(path):
    native, reference = ghost.load(path, threads=2), ghost.load(path, backend="reference")
    for options in ({}, {"temp": 1.0, "seed": 5}, {"temp": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 9}):
        texts = {m.generate("list pods", max_bytes=12, **options) for m in (native, reference)}
        assert len(texts) == 1
        assert "".join(native.stream("list pods", max_bytes=12, **options)) in texts
    assert native.generate("x", max_bytes=5, raw=True) == reference.generate("x", max_bytes=5, raw=True)


def test_misuse_gets_a_clear_error(path, tmp_path):
    model = ghost.load(path, backend="reference")
    for call, error, sentence in [
        (lambda: ghost.load(3), TypeError, "path must be a str"),
        (lambda: ghost.load(path, backend="cuda"), ValueError, "backend must be"),
        (lambda: ghost.load(path, threads=0), ValueError, "threads must be in"),
        (lambda: ghost.load(path, threads=1.0), TypeError, "threads must be an int"),
        (lambda: ghost.load(tmp_path / "none.ghost"), GhostError, "none.ghost"),
        (lambda: ghost.load(tmp_path), GhostError, "is a directory"),
        (lambda: model.logits("text"), TypeError, "data must be bytes"),
        (lambda: model.logits(np.zeros(3)), TypeError, "data must be bytes"),
        (lambda: model.logits(b""), ValueError, "at least one byte"),
        (lambda: model.generate(""), GhostError, "empty"),
        (lambda: model.generate("a", temperature=1), TypeError, "unknown option 'temperature'"),
        (lambda: model.generate("a", top_k=999), GhostError, "top_k must be in"),
        (lambda: model.generate(b"a\xff"), GhostError, "offset|byte"),
        (lambda: model.load_state_dict({}), ValueError, "a state of this model has the arrays"),
    ]:
        with pytest.raises(error, match=sentence):
            call()
    bad = model.state_dict(model.new_state())
    bad["position"] = bad["position"].astype(np.float32)
    with pytest.raises(ValueError, match="position must be int32"):
        model.load_state_dict(bad)


def test_memory_changes_the_answer_only_while_shown(path):
    model = ghost.load(path, backend="reference")
    before = model.logits(b"abc")
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(3, SMALL.d_model)).astype(np.float32)
    snapshot = {"keys": keys / np.linalg.norm(keys, axis=1, keepdims=True), "counts": np.full(3, 8, np.int32),
                "values": rng.integers(0, 256, (3, 8)).astype(np.uint8)}
    model.set_memory(snapshot)
    assert not np.array_equal(model.logits(b"abc"), before)
    model.set_memory(None)
    np.testing.assert_array_equal(model.logits(b"abc"), before)


def exact_nats(model, text):
    """-log softmax(logits)[byte] of every byte but the first, in float64."""
    z = model.logits(text[:-1]).astype(np.float64)
    return np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), np.frombuffer(text[1:], np.uint8)]


def test_text_protocols(path):
    model = ghost.load(path)
    text = bytes(np.random.default_rng(1).integers(32, 127, 600).astype(np.uint8))
    report = ghost.evaluate_text(model, text, "p256")
    windows = [exact_nats(model, text[i : i + 257]) for i in (0, 256)]
    assert report["bytes"] == 512 and math.isclose(report["nats_per_byte"], np.mean(windows), rel_tol=1e-6)
    assert math.isclose(report["bits_per_byte"], report["nats_per_byte"] / math.log(2))
    stream = ghost.evaluate_text(model, text, "ps")
    assert stream["bytes"] == 599
    assert math.isclose(stream["nats_per_byte"], exact_nats(model, text).mean(), rel_tol=1e-6)
    assert ghost.evaluate_text(model, text, "ps", limit=99)["bytes"] == 99
    for bad in (lambda: ghost.evaluate_text(model, b"ab", "p256"), lambda: ghost.evaluate_text(model, text, "p999")):
        with pytest.raises(GhostError):
            bad()


def test_a_figure_does_not_depend_on_what_computes_it(path):
    """The same bits of the mean for every batch, level, number of threads, and from the reference."""
    text = bytes(np.random.default_rng(2).integers(0, 256, 1500).astype(np.uint8))
    models = [ghost.load(path, backend="reference"), ghost.load(path), ghost.load(path, threads=3)]
    for protocol in ("p256", "ps"):
        figures = {ghost.evaluate_text(model, text, protocol, batch=batch)["nats_per_byte"]
                   for model in models for batch in (1, 3, 64)}
        assert len(figures) == 1


def test_answers_are_counted_by_kind(path, monkeypatch):
    model = ghost.load(path)
    given = {b"a": "right", b"b": "wrong", b"c": "yes"}
    monkeypatch.setattr(model, "generate_batch", lambda prompts, **options: [given[p] for p in prompts])
    pairs = [Pair(b"a", b"right", "typo"), Pair(b"b", b"right", "typo"), Pair(b"c", b"yes", "case")]
    report = ghost.evaluate_answers(model, pairs)
    assert (report["right"], report["items"]) == (2, 3)
    assert report["kinds"]["typo"]["right"] == 1 and report["kinds"]["case"]["share"] == 1
    assert report["wrong"] == [{"prompt": "b", "expected": "right", "given": "wrong"}]
    with pytest.raises(GhostError, match="no question-answer pairs"):
        ghost.evaluate_answers(model, [])


def test_wilson_interval():
    low, high = wilson_interval(20, 20)
    assert abs(low - 0.8389) < 1e-4 and high == 1.0  # Wilson 1927; 20 of 20 proves little
    low, high = wilson_interval(81, 263)
    assert abs(low - 0.2553) < 1e-4 and abs(high - 0.3662) < 1e-4  # Newcombe 1998, table I, method 3
    with pytest.raises(ValueError, match="at least one trial"):
        wilson_interval(0, 0)


@pytest.mark.slow
@pytest.mark.skipif(not have_native(), reason="not built")
def test_the_attention_ring_of_tiny_wraps_with_equal_bits(tmp_path):
    """2,500 bytes through a model that skips nothing fill the 32 slots (one per 64 bytes) and start again."""
    config = PRESETS["tiny"].replace(mod_layers=(), depth_layers=(), surprise_layers=())
    save_packed(tmp_path / "m.ghost", random_weights(config, 5), config)
    text = np.random.default_rng(6).integers(0, 256, 2500).astype(np.uint8)
    reference = ghost.load(tmp_path / "m.ghost", backend="reference")
    native = ghost.load(tmp_path / "m.ghost", threads=2)
    states = [m.new_state() for m in (reference, native)]
    np.testing.assert_array_equal(reference.logits(text, states[0]), native.logits(text, states[1]))
    ends = [m.state_dict(s) for m, s in zip((reference, native), states, strict=True)]
    assert ends[0]["layers.3.attention.count"][0] == 2500
    for name, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][name])
