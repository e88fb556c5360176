"""ghost.h: its functions, called through ctypes, against the NumPy reference. In C programs: test_c_programs.py."""

from __future__ import annotations

import ctypes as c
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from device_build import ROOT, build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import SMALL, random_weights

from ghost_ref import __version__
from ghost_ref.config import SamplingConfig
from ghost_ref.packed import estimate_storage, save_packed
from ghost_ref.parameters import parameter_count
from ghost_ref.runtime import load

HEADER = ROOT / "ext/capi/ghost.h"
OnByte = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_uint8)
OK, ERROR = 0, 1


class Error(c.Structure):
    _fields_ = (("text", c.c_char * 512),)


class Info(c.Structure):
    _fields_ = (("config_json", c.c_char_p), ("level", c.c_char_p), ("threads", c.c_int), ("d_model", c.c_int),
                ("n_layers", c.c_int), ("model_bytes", c.c_size_t), ("state_bytes", c.c_size_t),
                ("parameters", c.c_int64))


class Sampling(c.Structure):
    _fields_ = (("temp", c.c_float), ("top_k", c.c_int), ("top_p", c.c_float), ("min_p", c.c_float),
                ("seed", c.c_uint64))


@pytest.fixture(scope="module")
def folder() -> Path:
    return build()


@pytest.fixture(scope="module")
def library(folder) -> c.CDLL:
    library = c.CDLL(str(folder / "libghost.so.0"))
    for name in ("version", "level", "storage"):
        getattr(library, f"ghost_{name}").restype = c.c_char_p
    library.ghost_get_info.restype, library.ghost_greedy.restype = Info, Sampling
    for name in ("ghost_get_info", "ghost_free", "ghost_free_state"):
        getattr(library, name).argtypes = [c.c_void_p]
    return library


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("device") / "small.ghost"
    save_packed(file, random_weights(SMALL, 1), SMALL)
    return str(file)


@pytest.fixture(scope="module")
def reference(path):
    return load(path, backend="reference")


class Api:
    """The library with handles that are freed, and errors that are raised."""

    def __init__(self, library: c.CDLL, path: str, threads: int = 1, level: str = "") -> None:
        self.library, self.model = library, c.c_void_p()
        self.call("ghost_load", path.encode(), threads, level.encode(), c.byref(self.model))

    def call(self, name: str, *arguments) -> None:
        error = Error()
        if getattr(self.library, name)(*arguments, c.byref(error)) != OK:
            raise ValueError(error.text.decode())

    def state(self) -> c.c_void_p:
        state = c.c_void_p()
        self.call("ghost_new_state", self.model, c.byref(state))
        return state

    def fork(self, state: c.c_void_p) -> c.c_void_p:
        copy = c.c_void_p()
        self.call("ghost_fork", state, c.byref(copy))
        return copy

    def logits(self, state: c.c_void_p, data: bytes) -> np.ndarray:
        out = np.full((len(data), 256), np.nan, np.float32)
        self.call("ghost_logits", state, data, c.c_size_t(len(data)), out.ctypes.data_as(c.c_void_p))
        return out

    def feed(self, state: c.c_void_p, data: bytes) -> np.ndarray:
        out = np.full(256, np.nan, np.float32)
        self.call("ghost_feed", state, data, c.c_size_t(len(data)), out.ctypes.data_as(c.c_void_p))
        return out

    def step(self, states: list[c.c_void_p], data: bytes) -> np.ndarray:
        out = np.full((len(states), 256), np.nan, np.float32)
        self.call("ghost_step", (c.c_void_p * len(states))(*(s.value for s in states)), data,
                  c.c_size_t(len(states)), out.ctypes.data_as(c.c_void_p))
        return out

    def generate(self, state: c.c_void_p, data: bytes, sampling: Sampling | None, most: int, stop: int = -1) -> bytes:
        got = bytearray()

        def take(_, byte: int) -> int:
            got.append(byte)
            return int(len(got) == stop)

        self.call("ghost_generate", state, data, c.c_size_t(len(data)), sampling and c.byref(sampling),
                  c.c_size_t(most), OnByte(take), None, None)
        return bytes(got)


@pytest.fixture(scope="module")
def api(library, path):
    api = Api(library, path, threads=2)
    yield api
    library.ghost_free(api.model)


def test_version(library):
    text = HEADER.read_text()
    parts = [re.search(rf"GHOST_VERSION_{part} (\d+)", text)[1] for part in ("MAJOR", "MINOR", "PATCH")]
    assert library.ghost_version().decode() == __version__ == ".".join(parts)


def test_info(api, reference):
    info = api.library.ghost_get_info(api.model)
    assert info.config_json.decode() == SMALL.to_json() and info.threads == 2
    assert (info.d_model, info.n_layers) == (SMALL.d_model, SMALL.n_layers)
    assert info.model_bytes > info.state_bytes > 1000 and info.parameters == parameter_count(SMALL)
    size = c.c_uint64()
    for index, (kind, expected) in enumerate(estimate_storage(SMALL).items()):
        assert api.library.ghost_storage(api.model, index, c.byref(size)) == kind.encode() and size.value == expected
    assert api.library.ghost_storage(api.model, index + 1, c.byref(size)) is None and not size.value
    assert api.library.ghost_storage(None, 0, None) is api.library.ghost_storage(api.model, -1, None) is None
    levels, missing = [], c.c_char_p()
    while name := api.library.ghost_level(len(levels), c.byref(missing)):
        levels.append(name.decode())
        assert missing.value is None or missing.value.startswith((b"this CPU", b"the operating"))
    assert levels[0] == "scalar" and info.level.decode() in levels
    assert api.library.ghost_level(-1, None) is None and api.library.ghost_level(0, None) == b"scalar"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=90), st.integers(0, 90))
def test_logits_are_those_of_the_reference(api, reference, data, cut):
    expected = reference.logits(data)
    state = api.state()
    fork = api.fork(state)
    pieces = [piece for piece in (data[:cut], data[cut:]) if piece]
    actual = np.concatenate([api.logits(state, piece) for piece in pieces])
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(api.feed(fork, data).view(np.uint32), expected[-1].view(np.uint32))
    api.call("ghost_reset", state)
    np.testing.assert_array_equal(api.logits(state, data).view(np.uint32), expected.view(np.uint32))
    api.library.ghost_free_state(state)
    api.library.ghost_free_state(fork)


@pytest.mark.parametrize("count", [1, 3, 70])
def test_a_step_of_many_states_is_that_of_each(api, reference, count):
    texts = [bytes((7 * i + j * j) % 200 for j in range(5)) for i in range(count)]
    states = [api.state() for _ in texts]
    for j in range(5):
        logits = api.step(states, bytes(text[j] for text in texts))
        for text, got in zip(texts[::9], logits[::9], strict=True):
            np.testing.assert_array_equal(got.view(np.uint32), reference.logits(text[: j + 1])[-1].view(np.uint32))
    fork = api.fork(states[0])
    with pytest.raises(ValueError, match=f"Streams 0 and {count + 1} have the same state"):
        api.step([fork, *states, fork], bytes(count + 2))
    with pytest.raises(ValueError, match=re.escape(f"states[{count}] is NULL.")):
        api.step([*states, c.c_void_p()], bytes(count + 1))
    after = api.step(states, bytes(count))  # the errors have changed none
    np.testing.assert_array_equal(after[-1].view(np.uint32), reference.logits(texts[-1] + b"\0")[-1].view(np.uint32))
    for state in (fork, *states):
        api.library.ghost_free_state(state)


def test_a_step_is_of_one_model(api, library, path):
    other = Api(library, path)
    states = [api.state(), other.state()]
    with pytest.raises(ValueError, match=re.escape("states[1] is of another model than states[0]")):
        api.step(states, b"ab")
    for state in states:
        library.ghost_free_state(state)
    library.ghost_free(other.model)


def test_generation_and_choices(api, reference):
    prompt, options = b"list pods\xfb", {"temp": 0.9, "top_k": 50, "top_p": 0.95, "min_p": 0.01, "seed": 2**40 + 3}
    sampling, config = Sampling(*options.values()), SamplingConfig(**options, max_bytes=40)
    expected = bytes(reference.generate_bytes(prompt, config))
    state = api.state()
    assert api.generate(state, prompt, sampling, 40) == expected
    assert api.generate(api.state(), prompt, None, 40) == \
        bytes(reference.generate_bytes(prompt, SamplingConfig(max_bytes=40)))
    stopped = api.state()
    assert api.generate(stopped, prompt, sampling, 40, stop=5) == expected[:5]
    chosen, byte = bytearray(expected[:5]), c.c_uint8()
    logits = api.feed(api.state(), prompt + expected[:5])
    for step in range(5, len(expected)):  # it goes on where it was stopped
        api.call("ghost_choose", api.model, logits.ctypes.data_as(c.c_void_p), c.byref(sampling), c.c_uint64(step),
                 c.byref(byte))
        chosen.append(byte.value)
        logits = api.feed(stopped, bytes([byte.value]))
    assert bytes(chosen) == expected


class Spread(c.Structure):
    _fields_ = (("median", c.c_double), ("lowest", c.c_double), ("highest", c.c_double))


class Speed(c.Structure):
    _fields_ = (("prefill", Spread), ("decode", Spread), ("first_byte", Spread), ("products_per_byte", c.c_double),
                ("scan_updates_per_byte", c.c_double), ("instruction", c.c_char_p), ("integer_peak", Spread),
                ("float_peak", Spread), ("times_floor", Spread))


def test_speed(api, library, path):
    speed = Speed()
    api.call("ghost_measure", api.model, 2, c.byref(speed))
    for spread in (speed.prefill, speed.decode, speed.first_byte):
        assert 0 < spread.lowest <= spread.median <= spread.highest
    assert 0 < speed.scan_updates_per_byte < speed.products_per_byte
    assert (speed.instruction is None) == (speed.times_floor.median == 0) == (speed.integer_peak.median == 0)
    for sentence, *arguments in (("repeats must be in 1..1000, got 0", api.model, 0, c.byref(speed)),
                                 ("repeats must be in 1..1000, got 1001", api.model, 1001, c.byref(speed)),
                                 ("speed is NULL", api.model, 1, None), ("model is NULL", None, 1, c.byref(speed))):
        with pytest.raises(ValueError, match=sentence):
            api.call("ghost_measure", *arguments)


def test_a_model_lives_as_long_as_its_states(library, path, reference):
    api = Api(library, path)
    state = api.state()
    copy = api.fork(state)
    library.ghost_free(api.model)
    library.ghost_free_state(state)
    np.testing.assert_array_equal(api.feed(copy, b"still here"), reference.logits(b"still here")[-1])
    library.ghost_free_state(copy)
    library.ghost_free(None)
    library.ghost_free_state(None)


def test_wrong_arguments(api, library, path, tmp_path):
    size, logits, model = c.c_size_t, np.zeros(256, np.float32), c.c_void_p(1)
    state, byte, out = api.state(), c.c_uint8(), c.c_void_p()
    for sentence, name, *arguments in (
            ("path is NULL", "ghost_load", None, 1, None, c.byref(model)),
            ("model is NULL", "ghost_load", path.encode(), 1, None, None),
            ("threads must be in 1..256, got 0", "ghost_load", path.encode(), 0, None, c.byref(model)),
            ("choose one of: scalar", "ghost_load", path.encode(), 1, b"vax", c.byref(model)),
            ("is a directory", "ghost_load", str(tmp_path).encode(), 1, None, c.byref(model)),
            ("model is NULL", "ghost_new_state", None, c.byref(out)),
            ("state is NULL", "ghost_new_state", api.model, None),
            ("state is NULL", "ghost_fork", None, c.byref(out)), ("copy is NULL", "ghost_fork", state, None),
            ("state is NULL", "ghost_reset", None),
            ("state is NULL", "ghost_feed", None, b"x", size(1), None),
            ("bytes is NULL", "ghost_feed", state, None, size(1), None),
            ("number of bytes must be in 1..", "ghost_feed", state, b"x", size(0), None),
            ("number of bytes must be in 1..", "ghost_feed", state, b"x", size(2**31), None),
            ("logits is NULL", "ghost_logits", state, b"x", size(1), None),
            ("states is NULL", "ghost_step", None, b"x", size(1), None),
            ("bytes is NULL", "ghost_step", c.byref(state), None, size(1), None),
            ("number of states must be in 1..", "ghost_step", c.byref(state), b"x", size(0), None),
            ("number of states must be in 1..", "ghost_step", c.byref(state), b"x", size(2**31), None),
            ("prompt is NULL", "ghost_generate", state, None, size(1), None, size(1), OnByte(), None, None),
            ("on_byte is NULL", "ghost_generate", state, b"x", size(1), None, size(1), OnByte(), None, None),
            ("not finite", "ghost_choose", api.model, np.full(256, np.nan, np.float32).ctypes.data_as(c.c_void_p),
             None, c.c_uint64(0), c.byref(byte)),
            *((f"{field} must be in", "ghost_choose", api.model, logits.ctypes.data_as(c.c_void_p),
               c.byref(Sampling(**{"top_p": 1.0, field: value})), c.c_uint64(0), c.byref(byte))
              for field, value in (("temp", -1), ("temp", np.nan), ("top_k", 257), ("top_k", -1), ("top_p", 0),
                                   ("top_p", 1.5), ("min_p", 2), ("min_p", np.nan)))):
        with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
            api.call(name, *arguments)
        assert str(caught.value).endswith(".")
    assert library.ghost_fork(None, c.byref(out), None) == ERROR  # error may be NULL
    assert not out.value
    library.ghost_free_state(state)
    with pytest.raises(ValueError) as caught:  # a sentence that is cut, between two characters
        Api(library, "ü" * 400)
    assert len(str(caught.value).encode()) in (510, 511)


def test_many_threads_share_a_model_but_not_a_state(api, reference):
    prompts = [bytes([65 + i]) * (3 + i) for i in range(6)]
    results: dict[int, np.ndarray] = {}

    def read(i: int) -> None:
        state = api.state()
        results[i] = api.logits(state, prompts[i])
        api.library.ghost_free_state(state)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, prompt in enumerate(prompts):
        np.testing.assert_array_equal(results[i], reference.logits(prompt))
    state, seen = api.state(), []

    def use_it_twice(_, byte: int) -> int:
        with pytest.raises(ValueError, match="in use by another call"):
            api.feed(state, b"x")
        seen.append(byte)
        return 0

    api.call("ghost_generate", state, b"x", c.c_size_t(1), None, c.c_size_t(3), OnByte(use_it_twice), None, None)
    assert 0 < len(seen) <= 3


def test_two_models_in_two_threads_and_use_after_an_error(library, path, reference):
    prompt, results = b"list pods\xfb", {}
    sampling, config = Sampling(1.0, 0, 1.0, 0.0, 3), SamplingConfig(temp=1.0, seed=3, max_bytes=60)

    def work(i: int) -> None:
        own = Api(library, path, threads=i + 1)
        state = own.state()
        with pytest.raises(ValueError, match="number of bytes"):
            own.call("ghost_feed", state, b"x", c.c_size_t(0), None)
        results[i] = own.generate(state, prompt, sampling, 60)  # an error has not changed the state
        library.ghost_free_state(state)
        library.ghost_free(own.model)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = bytes(reference.generate_bytes(prompt, config))
    assert results == {0: expected, 1: expected}
    assert library.ghost_get_info(None).threads == 0


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_hostile_files_are_refused(library, path, tmp_path_factory, data):
    content = bytearray(Path(path).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1) | st.integers(0, 400))] = data.draw(st.integers(0, 255))
    content = content[:data.draw(st.integers(0, len(content)))] + data.draw(st.binary(max_size=3))
    if content == Path(path).read_bytes():
        return
    file = tmp_path_factory.getbasetemp() / "hostile.ghost"
    file.write_bytes(content)
    with pytest.raises(ValueError):
        Api(library, str(file))
