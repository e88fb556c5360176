"""The native runtime against the NumPy reference: every bit, at every level, for any threads and any split."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import SMALL, random_memory, random_weights

from ghost_ref import ops
from ghost_ref.cli.info import file_report
from ghost_ref.config import EOS, PAD, ModelConfig
from ghost_ref.model import forward
from ghost_ref.packed import load_packed, save_packed
from ghost_ref.presets import preset
from ghost_ref.runtime import describe_level
from ghost_ref.state import initial_state

native = pytest.importorskip("ghost_ref._native", reason="the C++ runtime is not built: run `make build`")
LEVELS = native.levels()
ROOT = Path(__file__).parents[1]


def assert_same_bits(actual, expected, name=""):
    """Equal dtypes, shapes and bits; NaNs compare as a class."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, name
    same = actual.view(np.uint32) == expected.view(np.uint32)
    if actual.dtype == np.float32:
        same |= np.isnan(actual) & np.isnan(expected)
    assert same.all(), f"{name}: {np.argwhere(~same)[:5].tolist()}"


def assert_same_state(state, expected):
    actual = state.to_dict()
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_same_bits(actual[name], value, name)


def random_tokens(rng, length):
    """Bytes with repetitions (low surprise) and some PAD."""
    tokens = rng.integers(0, 256, length)
    tokens[rng.random(length) < 0.4] = 97
    tokens[rng.random(length) < 0.05] = PAD
    return tokens.astype(np.uint8)


def reference(weights, config, tokens, memory=None):
    return forward(weights, config, tokens[None], initial_state(config), ops=ops, memory=memory)


def run_split(model, tokens, rng, parts):
    """Logits, hidden and the state of a random split of the input into calls."""
    state = model.new_state()
    cuts = np.sort(rng.integers(0, len(tokens) + 1, parts - 1))
    pieces = [model.forward(state, piece.copy(), hidden=True) for piece in np.split(tokens, cuts)]
    return *(np.concatenate(arrays) for arrays in zip(*pieces)), state


def small_configs():
    """Configurations with widths that are no multiples of 16, wrapping rings and every mix of features."""
    layers = st.lists(st.integers(0, 2), unique=True).map(lambda a: tuple(sorted(a)))
    routed = st.lists(st.integers(1, 2), unique=True).map(lambda a: tuple(sorted(a)))
    return st.builds(
        lambda width, **fields: ModelConfig(d_model=width[0], n_heads=width[1], n_layers=3, **fields),
        width=st.sampled_from([(12, 3), (16, 1), (20, 4), (48, 2), (34, 17)]),
        d_state=st.sampled_from([1, 4, 16]), d_conv=st.integers(2, 5), expand=st.integers(1, 3),
        dt_rank=st.integers(1, 18), d_ff=st.sampled_from([0, 8, 40, 64]), codebook_group=st.sampled_from([16, 32]),
        attention_layers=layers, attention_stride=st.sampled_from([1, 3]), attention_slots=st.integers(1, 3),
        memory_layers=layers, mod_layers=routed, depth_layers=routed, surprise_layers=routed,
        surprise_threshold=st.sampled_from([0.0, 5.3, 5.6]))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(path, weights, config) of a packed model with every component."""
    path = tmp_path_factory.mktemp("small") / "small.ghost"
    save_packed(path, random_weights(SMALL, 3), SMALL)
    return str(path), *load_packed(path)


@given(small_configs(), st.integers(0, 2**32 - 1), st.integers(1, 150), st.integers(0, 9))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_models_random_splits(tmp_path_factory, config, seed, length, entries):
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("random") / "m.ghost"
    save_packed(path, random_weights(config, seed), config)
    weights, _ = load_packed(path)
    tokens = random_tokens(rng, length)
    memory = random_memory(config, seed, entries) if entries else None
    expected = reference(weights, config, tokens, memory)
    for level in LEVELS:
        model = native.Model(str(path), int(rng.integers(1, 4)), level)
        if memory is not None:
            model.set_memory(**memory)
        logits, hidden, state = run_split(model, tokens, rng, int(rng.integers(1, 8)))
        assert_same_bits(logits, expected.logits[0])
        assert_same_bits(hidden, expected.hidden[0])
        assert_same_state(state, expected.state)


@pytest.mark.parametrize("wide", [{"d_conv": 16}, {"expand": 8}, {"d_ff": 400}, {}])
def test_branches_share_memory_whichever_is_the_widest(tmp_path, wide):
    """What a branch adds lies behind all that the tokenizer, the mixer, the FFN or attention still read."""
    config = SMALL.replace(**({"d_model": 48, "d_conv": 2, "expand": 1, "d_ff": 16} | wide))
    save_packed(tmp_path / "wide.ghost", random_weights(config, 4), config)
    weights, _ = load_packed(tmp_path / "wide.ghost")
    tokens, memory = random_tokens(np.random.default_rng(5), 129), random_memory(config, 6, 5)
    expected = reference(weights, config, tokens, memory)
    for threads in (1, 2, 3):
        model = native.Model(str(tmp_path / "wide.ghost"), threads, LEVELS[-1])
        model.set_memory(**memory)
        state = model.new_state()
        logits, hidden = model.forward(state, tokens, hidden=True)
        assert_same_bits(logits, expected.logits[0])
        assert_same_bits(hidden, expected.hidden[0])
        assert_same_state(state, expected.state)
        streams = [model.new_state() for _ in range(64)]
        together, _ = model.step(streams, tokens[:64])
        for token, row in zip(tokens, together):
            assert_same_bits(row, model.forward(model.new_state(), np.array([token]))[0][0])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_small_model(small, level, threads):
    path, weights, config = small
    rng = np.random.default_rng(5)
    tokens, memory = random_tokens(rng, 300), random_memory(config, 5, 7)
    expected = reference(weights, config, tokens, memory)
    model = native.Model(path, threads, level)
    model.set_memory(**memory)
    logits, hidden, state = run_split(model, tokens, rng, 5)
    assert_same_bits(logits, expected.logits[0])
    assert_same_bits(hidden, expected.hidden[0])
    assert_same_state(state, expected.state)
    kept = [int(expected.routing[i].kept.sum()) if i in expected.routing else 300 for i in range(config.n_layers)]
    assert state.processed() == (kept, 300)
    assert 0 < min(kept) < 300, "the routers of the test model must keep some tokens and drop some"
    model.set_memory(**random_memory(config, 5, 0))
    assert_same_bits(model.forward(model.new_state(), tokens)[0], reference(weights, config, tokens).logits[0])


@pytest.mark.parametrize("name", ["tiny", "v12"])
def test_presets(name, tmp_path):
    config, path = preset(name), tmp_path / "m.ghost"
    save_packed(path, random_weights(config, 1), config)
    weights, _ = load_packed(path)
    rng = np.random.default_rng(2)
    tokens = random_tokens(rng, 200)
    expected = reference(weights, config, tokens)
    for level in LEVELS:
        model = native.Model(str(path), 2, level)
        logits, _, state = run_split(model, tokens, rng, 3)
        assert_same_bits(logits, expected.logits[0])
        assert_same_state(state, expected.state)
        assert model.level == level and model.threads == 2 and json.loads(model.config_json) == config.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name,strings", [("tiny", 1000), ("v12", 100)])
def test_presets_on_many_strings(name, strings, tmp_path):
    config, path = preset(name), tmp_path / "m.ghost"
    save_packed(path, random_weights(config, 1), config)
    weights, _ = load_packed(path)
    models = [native.Model(str(path), threads, level) for level in LEVELS for threads in (1, 2, 3)]
    rng = np.random.default_rng(7)
    for _ in range(strings):
        tokens = random_tokens(rng, int(rng.integers(1, 301)))
        expected = reference(weights, config, tokens)
        for model in models:
            logits, _, state = run_split(model, tokens, rng, int(rng.integers(1, 5)))
            assert_same_bits(logits, expected.logits[0])
            assert_same_state(state, expected.state)


def test_which_positions(small):
    path, _, _ = small
    model, tokens = native.Model(path), random_tokens(np.random.default_rng(0), 150)
    logits, hidden = model.forward(model.new_state(), tokens, "all", True)
    last, last_hidden = model.forward(model.new_state(), tokens, "last", True)
    assert last.shape == (1, 256) and last_hidden.shape == (1, hidden.shape[1])
    assert_same_bits(last, logits[-1:])
    assert_same_bits(last_hidden, hidden[-1:])
    state = model.new_state()
    assert model.forward(state, tokens, "none") == (None, None)
    assert state.position == 150
    assert model.forward(state, tokens[:0])[0].shape == (0, 256)


def test_causality(small):
    path, _, _ = small
    model, tokens = native.Model(path), random_tokens(np.random.default_rng(1), 120)
    before = model.forward(model.new_state(), tokens)[0]
    for position in (0, 1, 63, 64, 65, 119):
        changed = tokens.copy()
        changed[position] ^= 0x55
        after = model.forward(model.new_state(), changed)[0]
        assert_same_bits(after[:position], before[:position])
        assert (after[position] != before[position]).any()


def test_state_round_trip_and_fork(small):
    path, weights, config = small
    model, other = native.Model(path, 2), native.Model(path, 1, LEVELS[0])
    tokens = random_tokens(np.random.default_rng(2), 90)
    state = model.new_state()
    assert_same_state(state, initial_state(config))
    model.forward(state, tokens[:50])
    saved, fork = state.to_dict(), state.fork()
    expected = model.forward(state, tokens[50:])[0]
    restored = other.new_state()
    restored.load_dict(saved)
    assert_same_bits(other.forward(restored, tokens[50:])[0], expected)
    assert_same_bits(model.forward(fork, tokens[50:])[0], expected)
    assert_same_bits(forward(weights, config, tokens[None, 50:], saved, ops=ops).logits[0], expected)
    assert_same_state(restored, state.to_dict())


def test_bad_states_and_arguments(small, tmp_path):
    path, _, config = small
    model = native.Model(path)
    state, tokens = model.new_state(), np.zeros(4, np.uint8)
    saved = state.to_dict()
    for broken, error, message in [
        ({k: v for k, v in saved.items() if k != "position"}, ValueError, "position'] is missing"),
        (saved | {"extra": saved["position"]}, ValueError, "does not know"),
        (saved | {"position": saved["position"].astype(np.int64)}, TypeError, "int32 array"),
        (saved | {"position": np.array([-1], np.int32)}, ValueError, "negative"),
        (saved | {"tokenizer.conv": saved["tokenizer.conv"][:, :-1]}, ValueError, "of shape"),
    ]:
        with pytest.raises(error, match=message):
            state.load_dict(broken)
    with pytest.raises(TypeError, match="tokens must be a uint8 array"):
        model.forward(state, [1, 2])
    with pytest.raises(TypeError, match="got int64"):
        model.forward(state, tokens.astype(np.int64))
    with pytest.raises(ValueError, match="shape"):
        model.forward(state, tokens[None])
    with pytest.raises(ValueError, match="'all', 'last' or 'none'"):
        model.forward(state, tokens, "some")
    with pytest.raises(ValueError, match="zero tokens"):
        model.forward(state, tokens[:0], "last")
    with pytest.raises(RuntimeError, match="another model"):
        native.Model(path).forward(state, tokens)
    state.load_dict(saved | {"position": np.array([2**31 - 3], np.int32)})
    with pytest.raises(RuntimeError, match="ends after"):
        model.forward(state, tokens)
    for threads in (0, -1, 257):
        with pytest.raises(ValueError, match="threads must be in"):
            native.Model(path, threads)
    memory = random_memory(config, 0, config.memory_capacity + 1)
    with pytest.raises(ValueError, match="memory holds 8 entries, got 9"):
        model.set_memory(**memory)
    memory = random_memory(config, 0, 2) | {"counts": np.array([0, 1], np.int32)}
    with pytest.raises(ValueError, match=r"counts must be in 1\.\.8"):
        model.set_memory(**memory)


def test_generation_is_choosing_and_feeding(small):
    model = native.Model(small[0])
    for seed in range(5):
        options = {"temp": 0.9, "top_k": 200, "top_p": 0.98, "min_p": 0.001, "seed": seed}
        state, got = model.new_state(), []
        out, reached_eos = model.generate(state, b"hello", **options, max_bytes=120, on_byte=got.append)
        assert bytes(got) == out and EOS not in out
        expected, by_hand = b"", model.new_state()
        logits = model.forward(by_hand, np.frombuffer(b"hello", np.uint8), "last")[0]
        while len(expected) < 120:
            byte = native.choose_byte(logits[0], *options.values(), len(expected), model.level)
            if byte == EOS:
                break
            expected += bytes([byte])
            logits = model.forward(by_hand, np.array([byte], np.uint8), "last")[0]
        assert (out, reached_eos) == (expected, len(expected) < 120)
        assert_same_state(state, by_hand.to_dict())


def test_generation_stops(small):
    path, _, _ = small
    model = native.Model(path)
    got = []

    def stop_at_three(byte):
        got.append(byte)
        return len(got) < 3

    def interrupt(byte):
        raise KeyboardInterrupt

    def use_the_state(byte):
        state.to_dict()

    out, reached_eos = model.generate(model.new_state(), b"a", temp=1.0, on_byte=stop_at_three)
    assert len(out) == 3 == len(got) and not reached_eos
    state = model.new_state()
    with pytest.raises(KeyboardInterrupt):
        model.generate(state, b"a", temp=1.0, on_byte=interrupt)
    assert state.position == 2
    with pytest.raises(RuntimeError, match="in use by another call"):
        model.generate(state, b"a", temp=1.0, on_byte=use_the_state)
    assert model.generate(state, b"a", max_bytes=0) == (b"", False)
    with pytest.raises(ValueError, match="prompt is empty"):
        model.generate(state, b"")
    with pytest.raises(ValueError, match="temp must be in"):
        model.generate(state, b"a", temp=-1.0)


def test_two_python_threads_share_a_model(small):
    path, _, _ = small
    model = native.Model(path, 2)
    inputs = [random_tokens(np.random.default_rng(i), 400) for i in range(4)]
    expected = [model.forward(model.new_state(), tokens)[0] for tokens in inputs]
    results: list[list[np.ndarray]] = [[] for _ in inputs]

    def work(i):
        for _ in range(3):
            state = model.new_state()
            pieces = [model.forward(state, part.copy())[0] for part in np.split(inputs[i], [1, 100, 101, 250])]
            results[i].append(np.concatenate(pieces))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for outputs, logits in zip(results, expected):
        assert len(outputs) == 3
        for output in outputs:
            assert_same_bits(output, logits)


FORKED = """
import os, sys, numpy as np
from ghost_ref import _native
models = [_native.Model(sys.argv[1], threads) for threads in (1, 2)]
states = [model.new_state() for model in models]
tokens = np.arange(10, dtype=np.uint8)
for model, state in zip(models, states):
    model.forward(state, tokens)
child = os.fork()
if child == 0:
    models[0].forward(states[0], tokens)
    try:
        models[1].forward(states[1], tokens)
    except RuntimeError as error:
        assert "forked" in str(error)
        del models, states  # must not wait for threads that are not there
        os._exit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
models[1].forward(states[1], tokens)
"""


def test_fork_of_the_process(small):
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED, small[0]], check=True, cwd=ROOT, timeout=60)


def test_level_choice(small, monkeypatch):
    path, _, _ = small
    assert LEVELS[0] == "scalar"
    monkeypatch.delenv("GHOST_ISA", raising=False)
    assert native.default_level() == LEVELS[-1] == native.Model(path).level
    for level in LEVELS:
        monkeypatch.setenv("GHOST_ISA", level)
        assert native.default_level() == level == native.Model(path).level
    assert native.Model(path, level="scalar").level == "scalar"
    monkeypatch.setenv("GHOST_ISA", "neon9")
    choices = ", ".join(LEVELS)
    with pytest.raises(ValueError, match=f"GHOST_ISA is 'neon9'.*choose one of: {choices}"):
        native.Model(path)
    with pytest.raises(ValueError, match=f"level is 'fast'.*choose one of: {choices}"):
        native.Model(path, level="fast")


def test_better_levels_are_named_with_the_reason(small, monkeypatch):
    path, _, _ = small
    monkeypatch.delenv("GHOST_ISA", raising=False)
    lacking = native.levels_not_used()
    assert not set(lacking) & set(LEVELS)
    assert all(re.match("this CPU has no |the operating system does not ", reason) for reason in lacking.values())
    monkeypatch.setenv("GHOST_ISA", "scalar")
    assert native.levels_not_used() == {**dict.fromkeys(LEVELS[1:], "GHOST_ISA asks for scalar"), **lacking}
    assert native.levels_not_used(LEVELS[-1]) == lacking
    report = file_report(Path(path))
    chosen = {"level": "scalar", "chosen_by": "GHOST_ISA", "not_used": native.levels_not_used()}
    assert report["runtime"].items() >= chosen.items()
    text = describe_level(report["runtime"])
    assert text.startswith("level: scalar (set by GHOST_ISA)")
    assert text.count("not ") >= len(LEVELS) - 1


FLUSHED = """
import ctypes, sys, numpy as np
from ghost_ref import _native
model = _native.Model(sys.argv[1], 2, sys.argv[3])
tokens = np.arange(100, dtype=np.uint8)
before = model.forward(model.new_state(), tokens)[0]
tiny = np.array([1e-41, 1e-40], np.float32)
ctypes.CDLL(sys.argv[2])
assert (tiny * np.float32(1) == 0).all(), "the library did not switch denormals off"
after = model.forward(model.new_state(), tokens)[0]
assert (before.view(np.uint32) == after.view(np.uint32)).all()
assert _native.numerics_map("silu", tiny, sys.argv[3]).view(np.uint32).all(), "denormals were flushed"
assert (tiny * np.float32(1) == 0).all(), "the caller's control word was not restored"
"""


@pytest.mark.parametrize("level", LEVELS)
def test_flush_to_zero_in_the_process_changes_nothing(small, level, tmp_path):
    compiler = shutil.which("gcc")
    if compiler is None or os.uname().machine != "x86_64":
        pytest.skip("NOT RUN: needs gcc on x86-64")
    library = tmp_path / "flush.so"
    (tmp_path / "empty.c").write_text("")
    subprocess.run([compiler, "-shared", "-fPIC", "-ffast-math", tmp_path / "empty.c", "-o", library], check=True)
    subprocess.run([sys.executable, "-W", "ignore", "-c", FLUSHED, small[0], library, level], check=True, cwd=ROOT)
