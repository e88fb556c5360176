"""Packed files that the native runtime must refuse, with a sentence that names the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from models import SMALL, random_weights

from ghost_ref.config import ModelConfig
from ghost_ref.container import read_container, write_container
from ghost_ref.packed import FORMAT, save_packed

native = pytest.importorskip("ghost_ref._native", reason="the C++ runtime is not built: run `make build`")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A packed model with every component."""
    path = tmp_path_factory.mktemp("small") / "small.ghost"
    save_packed(path, random_weights(SMALL, 3), SMALL)
    return str(path)


def test_refused_files(path, tmp_path):
    bad = tmp_path / "bad.ghost"

    def refused(message):
        with pytest.raises(ValueError, match=message) as error:
            native.Model(str(bad))
        assert str(bad) in str(error.value) and str(error.value).endswith(".")

    refused("No such file")
    bad.write_bytes(b"")
    refused("bad.ghost")
    tensors, metadata = read_container(path, format=FORMAT)

    def write(changes=None, config_json=None, drop=()):
        kept = {k: v for k, v in (tensors | (changes or {})).items() if k not in drop}
        write_container(bad, kept, format=FORMAT, config_json=config_json or metadata["config"])

    write()
    assert native.Model(str(bad)).config_json == SMALL.to_json()
    write(drop=["norm_f.weight"])
    refused("tensor norm_f.weight is missing")
    write({"extra": tensors["norm_f.weight"]})
    refused("not part of the model")
    write({"norm_f.weight": tensors["norm_f.weight"].astype(np.float32)})
    refused(r"norm_f.weight should be F16 \[20\]")
    write({"norm_f.weight": tensors["norm_f.weight"][:-1]})
    refused(r"norm_f.weight should be F16 \[20\]")
    trits = tensors["layers.1.mixer.x_proj.trits"].copy()
    trits[-1] = 243
    write({"layers.1.mixer.x_proj.trits": trits})
    refused("byte above 242")
    rows = tensors["embedding.weight"].copy()
    rows[7, 7] = -128
    write({"embedding.weight": rows})
    refused("holds -128")


@pytest.mark.parametrize("width", [12, 34])  # 1 or 4 trits in the last byte of in_proj, (4 d, d)
def test_refused_padding_trits(tmp_path, width):
    config, bad = SMALL.replace(d_model=width, n_heads=2), tmp_path / "bad.ghost"
    save_packed(bad, random_weights(config, 0), config)
    native.Model(str(bad))
    tensors, metadata = read_container(str(bad), format=FORMAT)
    name = "layers.0.mixer.in_proj.trits"
    used = 4 * width * width % 5
    assert used
    for position in range(used, 5):
        trits = tensors[name].copy()
        trits[-1] += 3**position  # the padding code 1 becomes 2
        write_container(bad, tensors | {name: trits}, format=FORMAT, config_json=metadata["config"])
        with pytest.raises(ValueError, match="padding trits"):
            native.Model(str(bad))


def test_every_changed_byte_and_every_truncation_is_refused(tmp_path):
    config = ModelConfig(d_model=4, n_layers=1, n_heads=1, d_state=1, d_conv=2, expand=1, dt_rank=1, d_ff=4)
    good, bad = tmp_path / "good.ghost", tmp_path / "bad.ghost"
    save_packed(good, random_weights(config, 0), config)
    data = bytearray(good.read_bytes())
    rng = np.random.default_rng(0)
    native.Model(str(good))
    for position in range(len(data)):
        changed = data.copy()
        changed[position] ^= int(rng.integers(1, 256))
        for content in (changed, data[:position]):
            bad.write_bytes(content)
            with pytest.raises(ValueError, match=r"bad\.ghost"):
                native.Model(str(bad))


@pytest.mark.parametrize("change,message", [
    ({"d_model": 20.0}, r"d_model must be in 1\.\.16384"), ({"d_model": True}, "d_model"), ({"d_model": 0}, "d_model"),
    ({"n_layers": 1025}, "n_layers"), ({"n_heads": 3}, "divisor"), ({"codebook_group": 24}, "multiple of 16"),
    ({"linear": "float"}, "ternary"), ({"linear": 3}, "linear"), ({"mod_capacity": 0}, "mod_capacity"),
    ({"surprise_threshold": -1}, "surprise_threshold"), ({"surprise_threshold": None}, "surprise_threshold"),
    ({"mod_layers": [0]}, "mod_layers"), ({"memory_layers": [2, 0]}, "memory_layers"),
    ({"attention_layers": [1, 1]}, "attention_layers"), ({"depth_layers": [4]}, "depth_layers"),
    ({"surprise_layers": [1.5]}, "surprise_layers"), ({"new_field": 1}, "does not know"), ({"d_ff": None}, "d_ff"),
    ({"d_ff": -1}, r"d_ff must be in 0\.\.65536"), ({"d_ff": 0}, "not part of the model"),
])
def test_refused_configs(path, tmp_path, change, message):
    tensors, metadata = read_container(path, format=FORMAT)
    bad = str(tmp_path / "bad.ghost")
    write_container(bad, tensors, format=FORMAT, config_json=json.dumps(json.loads(metadata["config"]) | change))
    with pytest.raises(ValueError, match=message):
        native.Model(bad)


@pytest.mark.parametrize("missing", ["d_model", "linear", "mod_capacity", "depth_layers"])
def test_missing_config_fields(path, tmp_path, missing):
    tensors, metadata = read_container(path, format=FORMAT)
    bad, values = str(tmp_path / "bad.ghost"), json.loads(metadata["config"])
    del values[missing]
    write_container(bad, tensors, format=FORMAT, config_json=json.dumps(values))
    with pytest.raises(ValueError, match=missing):
        native.Model(bad)
