"""`ghost verify` without a file and `python -m conformance`."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_reports import failure, make, result, show

from conformance.__main__ import VERBS
from conformance.__main__ import main as conformance
from conformance.mutation.outcome import CAUGHT, SURVIVED, MutationReport, Outcome
from conformance.results import (
    DEVIATION,
    NOT_RUN,
    Report,
    Result,
    repro_command,
)
from ghost_ref.cli import main as ghost


def test_verify_without_a_file_runs_the_kit(monkeypatch, capsys, tmp_path: Path) -> None:
    asked: list[Any] = []

    def run_kit(backends, components, cases, seed, extensive, on_progress):
        asked.append((backends, components, cases, seed, extensive))
        on_progress(1, 1)
        return make(result())

    monkeypatch.setattr(importlib.import_module("conformance.run"), "run_kit", run_kit)
    xml, page = tmp_path / "r.xml", tmp_path / "r.html"
    assert ghost(["verify"]) == 0
    assert "PASS 0.42" in capsys.readouterr().out
    flags = ["--backend", "cpu", "--backend", "gpu", "--component", "scan", "--seed", "7", "--extensive"]
    assert ghost(["verify", *flags, "--junit", str(xml), "--html", str(page)]) == 0
    assert conformance(["run", *flags, "--case", "odd*"]) == 0
    choice = (["cpu", "gpu"], ["scan"])
    assert asked == [(None, None, None, 0, False), (*choice, None, 7, True), (*choice, ["odd*"], 7, True)]
    assert ElementTree.parse(xml).getroot().tag == "testsuites" and "PASS 0.42" in page.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "r.xml"]


@pytest.mark.parametrize(("found", "code"), [((), 1), ((result(),), 0), ((result(), failure()), 1),
                                             ((result(DEVIATION),), 0), ((result(NOT_RUN),), 1)])
def test_exit_codes(found: tuple[Result, ...], code: int, monkeypatch, capsys) -> None:
    assert show(monkeypatch, make(*found)) == code
    assert show(monkeypatch, make(*found), "--json") == code


@pytest.mark.parametrize(("argv", "message"), [
    (["--prompts", "3"], "--prompts needs a model file"),
    (["m.ghost", "--junit", "r.xml"], "--junit belongs to the conformance kit"),
    (["m.ghost", "--html", "r.html"], "--html belongs to the conformance kit"),
    (["m.ghost", "--backend", "cpu"], "--backend belongs to the conformance kit"),
    (["m.ghost", "--component", "scan"], "leave out m.ghost"),
    (["m.ghost", "--seed", "0"], "--seed belongs"),
    (["m.ghost", "--extensive"], "--extensive belongs"),
    (["--backend", "nowhere"], "no backend 'nowhere'"),
    (["--component", "nothing"], "no component 'nothing'"),
    (["--seed", "-1"], "must be in 0.."),
])
def test_bad_requests_get_one_sentence(argv: list[str], message: str, capsys) -> None:
    assert ghost(["verify", *argv]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("ghost: ") and message in line


def test_a_file_that_cannot_be_written(monkeypatch, capsys, tmp_path: Path) -> None:
    assert show(monkeypatch, make(result()), "--junit", str(tmp_path / "no" / "r.xml")) == 2
    assert "does not exist; create it first" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["conformance", "conformance.run", "mlx"])
def test_verify_without_the_kit(name: str, monkeypatch, capsys) -> None:
    real = importlib.import_module

    def without(module: str) -> Any:
        if module.startswith("conformance"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(module)

    monkeypatch.setattr(importlib, "import_module", without)
    if name == "mlx":  # the kit is there, and something else is broken
        with pytest.raises(ModuleNotFoundError):
            ghost(["verify"])
        return
    assert ghost(["verify"]) == 2
    assert "conformance kit is not installed" in capsys.readouterr().err


def test_the_verbs_of_the_kit(monkeypatch, capsys, tmp_path: Path) -> None:
    assert conformance([]) == 0
    overview = capsys.readouterr().out
    assert all(f"  {verb} " in overview for verb in VERBS)
    for verb in VERBS:
        assert conformance([verb, "--help"]) == 0
        assert f"usage: python -m conformance {verb}" in capsys.readouterr().out
    assert conformance(["fly"]) == 2 and "no verb 'fly'" in capsys.readouterr().err
    assert conformance(["judge"]) == 2 and "DIR" in capsys.readouterr().err
    assert conformance(["run", "--component", "nothing"]) == 2
    assert "no component 'nothing'" in capsys.readouterr().err
    assert conformance(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "rms_norm" in listed["components"] and listed["backends"][0]["name"] == "reference"
    assert conformance(["list"]) == 0 and "rms_norm" in capsys.readouterr().out


def test_export_judge_and_mutate_reach_their_modules(monkeypatch, capsys) -> None:
    asked: list[Any] = []

    class Module:
        def export(self, *arguments: Any) -> int:
            asked.append(arguments)
            return 1234

        def judge_directory(self, *arguments: Any) -> Report:
            asked.append(arguments)
            return make(failure())

        def run(self, targets: Any, operators: Any, seed: int, on_progress: Any) -> MutationReport:
            asked.append((targets, operators, seed))
            on_progress(1, 1)
            outcome = Outcome("numpy", "wrong eps", "", "rms_norm", asked_status.pop(), margin=math.inf)
            return MutationReport(seed, ["numpy"], [outcome])

    asked_status = [CAUGHT, SURVIVED]
    real, fakes = importlib.import_module, ("conformance.vectors", "conformance.mutation")
    monkeypatch.setattr(importlib, "import_module", lambda name: Module() if name in fakes else real(name))
    assert conformance(["export", "out", "--seed", "3", "--component", "scan", "--largest", "9"]) == 0
    assert "1,234 cases" in capsys.readouterr().out
    assert conformance(["judge", "out"]) == 1 and "FAIL 12" in capsys.readouterr().out
    assert conformance(["mutate"]) == 1 and "SURVIVED" in capsys.readouterr().out
    assert conformance(["mutate", "--target", "native", "--fault", "wrong eps", "--seed", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"][0]["margin"] is None
    assert asked == [("out", 3, ["scan"], 9), ("out",), (("numpy",), None, 0), (["native"], ["wrong eps"], 4)]


@pytest.mark.parametrize("flag", ["--junit", "--html"])
def test_a_report_that_cannot_be_written_is_refused_before_the_kit_runs(flag, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.import_module("conformance.run"), "run_kit", lambda *a: pytest.fail("it ran"))
    for target in (tmp_path / "missing" / "report", tmp_path):
        assert conformance(["run", flag, str(target)]) == 2
        assert f"Cannot write {target}: " in capsys.readouterr().err


def test_the_command_repeats_an_extensive_run_and_a_judgement() -> None:
    report = make(failure())
    report.extensive = True
    assert repro_command(failure(), report).endswith("--extensive")
    report.answers = "my vectors"
    assert repro_command(failure(), report) == "python -m conformance judge my vectors"


def test_reseed_counts_failures_of_clean_backends(capsys) -> None:
    assert conformance(["reseed", "--runs", "2", "--component", "lane_sum", "--backend", "reference", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == 2 and document["judged"]["lane_sum"] > 10 and document["failures"] == []


@pytest.mark.parametrize("command", [["conformance", "run", "--component", "rint", "--backend", "reference"],
                                     ["ghost_ref", "verify", "--component", "rint", "--backend", "reference"],
                                     ["conformance", "list"]])
def test_a_reader_that_leaves_is_no_failure(command: list[str]) -> None:
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == (b"", 141)
    process.stderr.close()
