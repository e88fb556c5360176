"""`ghost memory`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import report, sentence
from models import SMALL, random_weights

from ghost_ref.cli import main
from ghost_ref.packed import save_packed


@pytest.fixture
def model_file(path: str, tmp_path: Path) -> str:
    copy = tmp_path / "own.ghost"
    copy.write_bytes(Path(path).read_bytes())
    return str(copy)


def test_memory_add_ask_list_forget(model_file: str, capsys) -> None:
    added = report(capsys, "memory", model_file, "add", "list pods", "kubectl get pods")
    assert (added["bank"], added["added"], added["entries"]) == (model_file + ".memory", 1, 1)
    assert main(["memory", model_file, "add", "bridge?", "Brücke", "--importance", "2.5"]) == 0
    assert "holds 2 of at most 8 entries" in capsys.readouterr().out
    assert main(["memory", model_file, "ask", "bridge?", "--min-similarity", "0.999"]) == 0
    assert capsys.readouterr().out == "Brücke\n"
    entries = report(capsys, "memory", model_file, "list")["entries"]
    assert [(e["prompt"], e["completion"], e["uses"]) for e in entries] == [
        ("list pods", "kubectl get pods", 0), ("bridge?", "Brücke", 1)]
    assert entries[1]["importance"] == 2.5
    assert main(["memory", model_file, "list"]) == 0
    assert "kubectl get pods" in capsys.readouterr().out
    assert report(capsys, "memory", model_file, "forget", "list pods")["entries"] == 1
    assert report(capsys, "memory", model_file, "forget", "--index", "0")["forgotten"] == 1
    assert report(capsys, "memory", model_file, "list")["entries"] == []


def test_memory_add_data_and_forget_all(model_file: str, tmp_path, capsys) -> None:
    bank = str(tmp_path / "elsewhere.bank")
    added = report(capsys, "memory", model_file, "add", "--data", "qa10", "--bank", bank)
    assert (added["added"], added["entries"], added["capacity"]) == (10, 8, 8)
    assert not os.path.exists(model_file + ".memory")
    result = report(capsys, "eval", model_file, "--data", "qa10", "--memory", bank)
    assert result["right"] >= 1 and result["memory"] == bank
    assert report(capsys, "memory", model_file, "forget", "--all", "--bank", bank)["forgotten"] == 8


def test_memory_adds_side_by_side_lose_nothing(model_file: str, capsys) -> None:
    calls = [subprocess.Popen([sys.executable, "-m", "ghost_ref", "memory", model_file, "add", f"q{i}", "c"])
             for i in range(4)]
    assert [call.wait() for call in calls] == [0] * 4
    assert {e["prompt"] for e in report(capsys, "memory", model_file, "list")["entries"]} == {"q0", "q1", "q2", "q3"}


def test_memory_ask_far_from_everything(model_file: str, capsys) -> None:
    assert main(["memory", model_file, "add", "a", "b"]) == 0
    capsys.readouterr()
    result = report(capsys, "memory", model_file, "ask", "zzz", "--min-similarity", "1.5", "--max-bytes", "4")
    assert result["from_memory"] is False and result["entry"] is None and isinstance(result["answer"], str)


@pytest.mark.parametrize(("argv", "message"), [
    (["ask", "q"], "There is no memory bank"), (["list"], "There is no memory bank"),
    (["forget", "q"], "There is no memory bank"), (["forget"], "needs one of"),
    (["forget", "q", "--all"], "needs one of"), (["add"], "needs either"), (["add", "q"], "needs either"),
    (["add", "q", "--data", "qa10"], "needs either"), (["add", "q", "c", "--data", "qa10"], "needs either"),
    (["add", "", "c"], "prompt is empty"), (["add", "q", ""], "completion is empty"),
    (["add", "q", "c", "--importance", "nan"], "must be finite"), (["add", "\udcfb", "c"], "reserved"),
    (["ask", "q", "--min-similarity", "nan"], "must be finite"),
    (["ask"], "required: PROMPT"), (["add", "--data", "qa11"], "no data set 'qa11'")])
def test_bad_memory_requests(argv: list[str], message: str, model_file: str, capsys) -> None:
    assert message in sentence(capsys, "memory", model_file, *argv)
    assert not os.path.exists(model_file + ".memory")


def test_memory_misses(model_file: str, tmp_path, capsys) -> None:
    assert main(["memory", model_file, "add", "a", "b"]) == 0
    capsys.readouterr()
    assert "has the prompt 'x'" in sentence(capsys, "memory", model_file, "forget", "x")
    assert "no entry 7" in sentence(capsys, "memory", model_file, "forget", "--index", "7")
    other = tmp_path / "other.ghost"
    save_packed(other, random_weights(SMALL, 2), SMALL)
    message = sentence(capsys, "memory", str(other), "ask", "a", "--bank", model_file + ".memory")
    assert "made with another model" in message
