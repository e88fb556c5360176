"""The packed file: trits, storage costs to the byte, refusals of what does not fit its own config."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SMALL, random_weights

from ghost_ref import container, ops
from ghost_ref.config import ModelConfig
from ghost_ref.container import read_container, write_container
from ghost_ref.errors import GhostError
from ghost_ref.initialise import initial_weights, initialise
from ghost_ref.packed import (
    FORMAT,
    check_packed,
    estimate_storage,
    load_packed,
    pack_trits,
    packed_shapes,
    save_packed,
    unpack_trits,
)
from ghost_ref.parameters import parameter_count
from ghost_ref.presets import PRESETS
from ghost_ref.quantise import quantise


@given(st.integers(1, 9), st.integers(1, 23), st.integers(0, 2**32))
def test_trits_round_trip(rows, columns, seed):
    trits = np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.float32)
    packed = pack_trits(trits)
    assert packed.dtype == np.uint8 and packed.size == -(-rows * columns // 5) and packed.max() <= 242
    np.testing.assert_array_equal(unpack_trits(packed, (rows, columns)), trits)


def test_trit_codes_are_the_documented_ones():
    assert pack_trits(np.array([[1, 0, -1, -1, 1], [0, 1, 0, 0, 0]])).tolist() == [2 + 3 + 2 * 81, 1 + 6 + 9 + 27 + 81]
    assert pack_trits(np.array([[-1]])).tolist() == [0 + 3 + 9 + 27 + 81]
    with pytest.raises(ValueError, match="above 242"):
        unpack_trits(np.array([243], np.uint8), (1, 5))
    with pytest.raises(ValueError, match="padding"):
        unpack_trits(np.array([0], np.uint8), (1, 4))


small_configs = st.builds(
    ModelConfig, d_model=st.sampled_from([8, 12, 20]), n_layers=st.integers(1, 3), d_state=st.integers(1, 4),
    d_conv=st.integers(2, 5), expand=st.integers(1, 2), dt_rank=st.integers(1, 3), d_ff=st.sampled_from([0, 7, 16, 33]),
    codebook_group=st.sampled_from([16, 32]), attention_layers=st.sampled_from([(), (0,)]),
    memory_layers=st.sampled_from([(), (0,)]))


@settings(max_examples=15)
@given(small_configs, st.integers(0, 99))
def test_storage_is_estimated_to_the_byte_and_files_round_trip(tmp_path_factory, config, seed):
    path = tmp_path_factory.mktemp("packed") / "m.ghost"
    weights = random_weights(config, seed)
    assert save_packed(path, weights, config) == path.stat().st_size == estimate_storage(config)["total"]
    costs = estimate_storage(config)
    assert sum(v for k, v in costs.items() if k != "total") == costs["total"]
    loaded, stored = load_packed(path)
    assert stored == config and set(loaded) == set(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_v12_fits_its_budget():
    costs = estimate_storage(PRESETS["v12"])
    assert costs["total"] == 2_536_459 <= 2_600_000
    assert estimate_storage(PRESETS["tiny"])["total"] == 240_621


def tensors_of(config):
    sizes = {"U8": np.uint8, "I8": np.int8, "F16": np.float16}
    return {name: np.full(shape, 121 if name.endswith(".trits") else 0, sizes[dtype])
            for name, (dtype, shape) in packed_shapes(config).items()}


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda t: t.pop("norm_f.weight"), "norm_f.weight is missing"),
    (lambda t: t.update(extra=np.zeros(1, np.uint8)), "extra is not part of the model"),
    (lambda t: t.update({"norm_f.weight": np.zeros(3, np.float16)}), "norm_f.weight should be F16"),
    (lambda t: t.update({"norm_f.weight": np.zeros(20, np.float32)}), "norm_f.weight should be F16"),
    (lambda t: t["embedding.weight"].fill(-128), "embedding.weight holds -128"),
    (lambda t: t["surprise.head.trits"].fill(243), "holds a byte above 242"),
])
def test_files_that_do_not_fit_their_config_are_refused(tmp_path, change, sentence):
    tensors = tensors_of(SMALL)
    write_container(tmp_path / "good.ghost", tensors, format=FORMAT, config_json=SMALL.to_json())
    load_packed(tmp_path / "good.ghost")
    change(tensors)
    write_container(tmp_path / "bad.ghost", tensors, format=FORMAT, config_json=SMALL.to_json())
    with pytest.raises(GhostError, match=sentence):
        load_packed(tmp_path / "bad.ghost")


@pytest.mark.parametrize(("config", "sentence"), [
    ("{", "is not JSON"), ("[]", "missing or unknown fields"), ('{"d_model": 3}', "missing or unknown fields"),
    (SMALL.to_json().replace('"d_model":20', '"d_model":21'), "n_heads must be a divisor"),
    (SMALL.to_json().replace('"d_model":20', '"d_model":"20"'), "must be of type int"),
    (SMALL.to_json().replace('"d_state":5', '"d_state":4'), "should be"),
    (SMALL.to_json().replace('"ternary"', '"float"'), "Only ternary models"),
])
def test_bad_configs_are_refused(tmp_path, config, sentence):
    write_container(tmp_path / "m.ghost", tensors_of(SMALL), format=FORMAT, config_json=config)
    with pytest.raises(GhostError, match=sentence):
        load_packed(tmp_path / "m.ghost")


def test_weights_that_are_not_finite_are_not_packed(tmp_path):
    weights = random_weights(SMALL, 0)
    weights["norm_f.weight"] = weights["norm_f.weight"] * np.float32(np.nan)
    with pytest.raises(GhostError, match=r"norm_f\.weight holds a value that is not finite"):
        save_packed(tmp_path / "m.ghost", weights, SMALL)
    assert not list(tmp_path.iterdir())


@settings(max_examples=10, deadline=None)
@given(small_configs, st.integers(0, 99))
def test_a_streamed_file_is_the_same_to_the_byte(tmp_path_factory, config, seed):
    folder = tmp_path_factory.mktemp("streamed")
    weights = quantise(initialise(config, seed), config, ops)
    save_packed(folder / "streamed", initial_weights(config, seed), config)
    save_packed(folder / "backwards", reversed(weights.items()), config)
    tensors, _ = read_container(folder / "streamed", format=FORMAT)
    write_container(folder / "whole", tensors, format=FORMAT, config_json=config.to_json())
    for name, value in weights.items():
        np.testing.assert_array_equal(load_packed(folder / "streamed")[0][name], value)
    contents = {path.read_bytes() for path in folder.iterdir()}
    assert len(contents) == 1 and len(contents.pop()) == estimate_storage(config)["total"]


def interrupted():
    yield from itertools.islice(initial_weights(SMALL, 0), 9)
    raise KeyboardInterrupt


@pytest.mark.parametrize(("weights", "error", "sentence"), [
    (interrupted, KeyboardInterrupt, None),
    (lambda: itertools.islice(initial_weights(SMALL, 0), 9), ValueError, "never came"),
    (lambda: itertools.chain(initial_weights(SMALL, 0), [("norm_f.weight", np.ones(20))]), ValueError, "came before"),
    (lambda: [("norm_f.weight", np.full(20, np.inf))], GhostError, "not finite"),
])
@pytest.mark.parametrize("exists", [False, True])
def test_a_stream_that_fails_leaves_no_partial_file(tmp_path, weights, error, sentence, exists):
    path = tmp_path / "m.ghost"
    if exists:
        path.write_bytes(b"before")
    with pytest.raises(error, match=sentence):
        save_packed(path, weights(), SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["m.ghost"] * exists
    assert not exists or path.read_bytes() == b"before"


def test_a_large_model_is_packed_a_component_at_a_time(tmp_path):
    """Never as much as a quarter of the float32 parameters is in memory."""
    config = ModelConfig(d_model=128, n_layers=24, d_ff=256)
    save_packed(tmp_path / "warm", initial_weights(SMALL, 0), SMALL)
    tracemalloc.start()
    try:
        save_packed(tmp_path / "m", initial_weights(config, 0), config)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < parameter_count(config)


def test_checking_a_file_does_not_hold_it(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "PIECE", 1 << 12)
    config = ModelConfig(d_model=128, n_layers=24, d_ff=256)
    size = save_packed(tmp_path / "m", initial_weights(config, 0), config)
    check_packed(tmp_path / "m")
    tracemalloc.start()
    try:
        assert check_packed(tmp_path / "m") == config
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size / 2
