"""`ghost pack --random`: an untrained model of any shape as a packed file."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import report, sentence

from ghost_ref.config import ModelConfig
from ghost_ref.packed import load_packed
from ghost_ref.presets import PRESETS

SMALL = ("--set", "d_model=16", "--set", "d_ff=24", "--set", "codebook_group=16", "--set", "n_layers=2")


def test_a_random_model_has_the_shape_asked_for(tmp_path: Path, capsys) -> None:
    file = tmp_path / "m.ghost"
    result = report(capsys, "pack", "--random", *SMALL, "-o", str(file))
    weights, config = load_packed(file)
    assert result["bytes"] == file.stat().st_size
    assert config == ModelConfig(d_model=16, d_ff=24, codebook_group=16, n_layers=2)
    report(capsys, "pack", "--random", *SMALL, "--seed", "1", "-o", str(tmp_path / "other.ghost"))
    other, _ = load_packed(tmp_path / "other.ghost")
    assert (other["layers.0.mixer.in_proj.trits"] != weights["layers.0.mixer.in_proj.trits"]).any()
    report(capsys, "pack", "--random", "--preset", "tiny", "--force", "-o", str(file))
    assert load_packed(file)[1] == PRESETS["tiny"]


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "a training run or --random"), (("run", "--random"), "one of the two"),
    (("run", "--seed", "0"), "belong to --random"), (("run", "--preset", "tiny"), "belong to --random"),
    (("--random", "--preset", "v99"), "no preset 'v99'"), (("--random", "--set", "lr=1"), "no setting 'lr'"),
    (("--random", "--set", "d_model=0"), "d_model must be in"), (("--random", "--set", "linear=float"), "Only ternary"),
])
def test_what_cannot_be_packed_is_refused(arguments, message, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert message in sentence(capsys, "pack", *arguments, "-o", str(tmp_path / "m.ghost"))
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
