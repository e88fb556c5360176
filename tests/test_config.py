"""Configurations: parsing, checks with a sentence, stable JSON."""

from __future__ import annotations

import json

import pytest

from ghost_ref.config import ModelConfig, SamplingConfig, TrainingConfig
from ghost_ref.errors import GhostError
from ghost_ref.parameters import parameter_specs
from ghost_ref.presets import PRESETS, preset


@pytest.mark.parametrize("config", [*PRESETS.values(), TrainingConfig(steps=3), SamplingConfig(temp=0.5)])
def test_json_round_trip(config):
    again = type(config).from_dict(json.loads(config.to_json()))
    assert again == config and again.to_json() == config.to_json()
    assert list(json.loads(config.to_json())) == sorted(json.loads(config.to_json()))


@pytest.mark.parametrize(("cls", "values", "sentence"), [
    (ModelConfig, {"colour": 1}, "has no field 'colour'"),
    (ModelConfig, {"d_model": "256"}, "d_model must be of type int"),
    (ModelConfig, {"d_model": True}, "d_model must be of type int"),
    (ModelConfig, {"d_model": 0}, "d_model must be in 1"),
    (ModelConfig, {"d_ff": -1}, "d_ff must be in 0..65536"),
    (ModelConfig, {"linear": "sepia"}, "linear must be 'ternary' or 'float'"),
    (ModelConfig, {"codebook_group": 20}, "codebook_group must be a multiple of 16"),
    (ModelConfig, {"n_heads": 7}, "n_heads must be a divisor"),
    (ModelConfig, {"mod_layers": [0]}, "mod_layers must be increasing layer indices in 1..7"),
    (ModelConfig, {"mod_layers": [3, 1]}, "mod_layers must be increasing"),
    (ModelConfig, {"attention_layers": 3}, "attention_layers must be a list of integers"),
    (ModelConfig, {"mod_capacity": 0.0}, "mod_capacity must be in"),
    (ModelConfig, {"surprise_threshold": float("nan")}, "surprise_threshold must be finite"),
    (TrainingConfig, {"lr": 0}, "lr must be positive"),
    (TrainingConfig, {"dropout": 1.0}, "dropout must be in"),
    (TrainingConfig, {"batch_size": 0}, "batch_size must be in"),
    (TrainingConfig, {"steps": 1.5}, "steps must be of type int"),
    (SamplingConfig, {"top_p": 0}, "top_p must be in"),
    (SamplingConfig, {"seed": -1}, "seed must be in"),
])
def test_bad_values_get_a_sentence(cls, values, sentence):
    with pytest.raises(GhostError, match=sentence):
        cls.from_dict(values)


def test_integers_are_accepted_for_floats_and_lists_for_tuples():
    config = ModelConfig.from_dict({"mod_capacity": 1, "mod_layers": [1, 3]})
    assert config.mod_capacity == 1.0 and config.mod_layers == (1, 3)
    assert config.replace(d_model=64).d_inner == 128


def test_presets_have_every_feature():
    for config in PRESETS.values():
        for feature in ("attention_layers", "memory_layers", "mod_layers", "depth_layers", "surprise_layers"):
            assert getattr(config, feature)
        assert all(i % 2 == 1 for i in config.mod_layers)
    with pytest.raises(GhostError, match="no preset 'v0'; the presets are: tiny, v12"):
        preset("v0")


def test_features_decide_which_parameters_exist():
    names = set(parameter_specs(ModelConfig()))
    assert not any(part in name for name in names for part in ("router", "attention", "memory", "depth", "surprise",
                                                               "byte_importance"))
    assert "byte_importance" in parameter_specs(ModelConfig(attention_layers=(0,)))
    mamba_only = set(parameter_specs(ModelConfig(d_ff=0)))
    assert mamba_only == {name for name in names if "ffn" not in name}
    floats = parameter_specs(PRESETS["tiny"].replace(linear="float"))
    assert not any(name.endswith((".threshold", ".scale", ".codebook")) for name in floats)
