"""`ghost info` and `ghost bench` beside `ghost-run`: the same fields, and what they claim."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_build import ROOT, build
from models import SMALL, random_weights

from ghost_ref.config import ModelConfig
from ghost_ref.packed import save_packed
from ghost_ref.parameters import CODEBOOK, TERNARY, parameter_specs
from ghost_ref.presets import preset
from ghost_ref.runtime import have_native

if not have_native():
    pytest.skip("the C++ runtime is not built", allow_module_level=True)
from ghost_ref import _native as native

LEVELS = native.levels()
ALL_LEVELS = ("scalar", "avx2", "avxvnni", "avx512vnni", "neon", "neondot")


@pytest.fixture(scope="module")
def programs() -> dict[str, list[str]]:
    return {"ghost": [sys.executable, "-m", "ghost_ref"], "ghost-run": [str(build() / "ghost-run")]}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("reports") / 'a "model".ghost'
    save_packed(file, random_weights(SMALL, 1), SMALL)
    return str(file)


def call(command: list[str], *arguments: str, isa: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GHOST_ISA": isa}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, env=environment)


def reports(programs: dict[str, list[str]], *arguments: str, isa: str = "") -> list[dict[str, Any]]:
    """What each program reports, as JSON."""
    found = []
    for command in programs.values():
        done = call(command, *arguments, "--json", isa=isa)
        assert done.returncode == 0 and done.stderr == "", done
        found.append(json.loads(done.stdout))
    return found


@pytest.mark.parametrize("how", ["", *LEVELS])
def test_info_is_the_same(programs, path, how):
    """Content, level, reasons, threads and memory, for every level by flag and by environment."""
    for flags, isa, by in (([], how, "GHOST_ISA"), ([f"--level={how}"] if how else [], "", "--level")):
        python, device = reports(programs, "info", path, "--threads", "2", *flags, isa=isa)
        assert python == device
        runtime = python["runtime"]
        assert runtime["level"] == (how or LEVELS[-1]) and runtime["threads"] == 2
        assert runtime["chosen_by"] == (by if how else "default")
        better = LEVELS[LEVELS.index(runtime["level"]) + 1 :]
        assert {name: runtime["not_used"].get(name) for name in better} == \
            {name: f"{by} asks for {how}" for name in better}
        texts = [call(command, "info", path, *flags, isa=isa).stdout for command in programs.values()]
        tails = [text[text.index("\nlevel: ") :] for text in texts]
        assert tails[0] == tails[1] and "threads: 1 (this machine has " in tails[0]


@pytest.mark.parametrize("name", [*(level for level in ALL_LEVELS if level not in LEVELS), "vax"])
def test_a_level_that_cannot_run_here_gets_one_sentence(programs, path, name):
    for verb in ("info", "bench"):
        for flags, isa, by in (([], name, "GHOST_ISA"), ([f"--level={name}"], "", "level")):
            for program, command in programs.items():
                done = call(command, verb, path, *flags, isa=isa)
                assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
                assert done.stderr.startswith(f"{program}: {by} is '{name}', which this machine cannot run")
                assert done.stderr.endswith(f"; choose one of: {', '.join(LEVELS)}.\n")


def shape_of(value: Any) -> Any:
    """A report's keys, at every depth."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    return [shape_of(item) for item in value] if isinstance(value, list) else None


@pytest.mark.parametrize("level", ["", "scalar"])
def test_bench_has_the_same_fields(programs, path, level):
    flags = [f"--level={level}"] if level else []
    python, device = reports(programs, "bench", path, "--repeats", "2", "--threads", "2", *flags)
    for report in (python, device):
        for changing in ("not_used",):  # its keys are levels
            assert report[changing] == python[changing]
        (run,) = report["runs"]
        assert run["threads"] == 2 and 0 < run["model_bytes"] < run["peak_bytes"]
        if level == "scalar":
            assert run["floor"] is None
        else:
            assert run["floor"] and run["floor"]["times"]["lowest"] > 0
        for name in ("prefill", "decode", "first_byte"):
            assert 0 < run[name]["lowest"] <= run[name]["median"] <= run[name]["highest"]
    assert shape_of(python) == shape_of(device)
    same = ("file", "backend", "level", "chosen_by", "cpu", "cpus", "repeats")
    assert [python[name] for name in same] == [device[name] for name in same]
    work = ("products_per_byte", "scan_updates_per_byte")
    assert [python["runs"][0][name] for name in work] == pytest.approx([device["runs"][0][name] for name in work])
    for command in programs.values():
        text = call(command, "bench", path, "--repeats=1", "--threads=1", *flags).stdout
        assert "first byte ms" in text and ("no floor" if level else "the floor of a byte: ") in text


def counted(config: ModelConfig, processed: list[int], seen: int) -> tuple[float, float]:
    """Products and scan updates, from the list of parameters."""
    products = 256.0 * config.d_model * seen  # the head
    for name, spec in parameter_specs(config).items():
        if spec.storage not in (TERNARY, CODEBOOK) or ".memory." in name:
            continue
        times = processed[int(name.split(".")[1])] if name.startswith("layers.") else seen
        if name.endswith(("attention.k_proj.weight", "attention.v_proj.weight")):
            times = -(-times // config.attention_stride)
        products += spec.size * times
    return products, config.d_inner * config.d_state * sum(processed)


@pytest.mark.parametrize("config", [SMALL, preset("tiny")], ids=["small", "tiny"])
def test_work_is_what_the_parameters_say(config, tmp_path):
    save_packed(tmp_path / "m.ghost", random_weights(config, 3), config)
    model = native.Model(str(tmp_path / "m.ghost"))
    state = model.new_state()
    for n in (1, 70, 5):
        model.forward(state, np.random.default_rng(n).integers(0, 250, n).astype(np.uint8))
    fork = state.fork()
    processed, seen = state.processed()
    assert seen == 76 and min(processed) < max(processed) == 76
    assert state.work() == fork.work() == (76, *counted(config, processed, seen))
    assert state.bytes > 4 * config.d_inner * config.d_state * config.n_layers


def test_speed_needs_repeats(path):
    model = native.Model(path)
    for repeats in (0, -1, 1001):
        with pytest.raises(ValueError, match=r"repeats must be in 1\.\.1000"):
            model.speed(repeats)


def test_info_of_a_hundred_files_leaves_none_open(path):
    from ghost_ref.cli.info import file_report

    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(100):
        file_report(Path(path))
    assert not before or len(os.listdir("/proc/self/fd")) <= before + 1
