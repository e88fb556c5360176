"""The packed file: trits, storage costs to the byte, refusals of what does not fit its own config."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SMALL, random_weights

from ghost_ref.config import ModelConfig
from ghost_ref.container import write_container
from ghost_ref.errors import GhostError
from ghost_ref.packed import (
    FORMAT,
    estimate_storage,
    load_packed,
    pack_trits,
    packed_shapes,
    save_packed,
    unpack_trits,
)
from ghost_ref.presets import PRESETS


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
