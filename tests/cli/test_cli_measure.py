"""`ghost eval`, `verify`, `bench` and `info`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from command_line import report, sentence
from models import SMALL

from ghost_ref import verify
from ghost_ref.checkpoint import FILE_NAME
from ghost_ref.cli import main


def test_eval_of_answers(path: str, capsys) -> None:
    result = report(capsys, "eval", path, "--data", "qa10")
    assert (result["protocol"], result["items"], result["data"]) == ("answers", 10, "qa10")
    assert result["wilson95"][0] <= result["share"] <= result["wilson95"][1]
    assert main(["eval", path, "--data", "qa10"]) == 0
    text = capsys.readouterr().out
    assert f"{result['right']} of 10" in text and text.count("wrong: ") == len(result["wrong"])


@pytest.mark.parametrize("protocol", ["p256", "ps"])
def test_eval_of_text(path: str, protocol: str, tmp_path, capsys) -> None:
    data = tmp_path / "text.txt"
    data.write_bytes(b"hello world, " * 40)
    flags = ["--protocol", protocol] if protocol == "ps" else []
    result = report(capsys, "eval", path, "--data", str(data), *flags)
    assert result["protocol"] == protocol and result["bytes"] == (512 if protocol == "p256" else 519)
    assert result["bits_per_byte"] == pytest.approx(result["nats_per_byte"] / np.log(2))
    assert main(["eval", path, "--data", str(data), *flags]) == 0
    assert f"{protocol}: {result['nats_per_byte']:.4f} nats" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.txt", b"", "is empty"), ("a.txt", b"abc\xc3(", "is not UTF-8"), ("a.txt", b"ab\xfbc", "0xFB at offset 2"),
    ("a.txt", b"short", "too few for p256"), ("a.csv", b"a,b", "no data set"), ("a.jsonl", b"", "is empty"),
    ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n', 'a.jsonl, line 2 lacks the key "completion"'),
    ("a.jsonl", b"{", "line 1 is not JSON")])
def test_bad_data(path: str, name: str, content: bytes, message: str, tmp_path, capsys) -> None:
    data = tmp_path / name
    data.write_bytes(content)
    assert message in sentence(capsys, "eval", path, "--data", str(data))


def test_a_protocol_for_other_data(path: str, tmp_path, capsys) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"hello" * 100)
    assert "use p256 or ps" in sentence(capsys, "eval", path, "--data", str(text), "--protocol", "answers")
    assert "use answers" in sentence(capsys, "eval", path, "--data", "qa10", "--protocol", "ps")
    assert "--data with pairs" in sentence(capsys, "eval", path, "--data", str(text), "--memory", "bank")


def test_verify_exits_with_1_on_a_difference(path: str, capsys, monkeypatch) -> None:
    run = {"level": "scalar", "threads": 1, "status": "equal", "logits_compared": 256}
    missing = {"level": "avx2", "threads": 1, "status": "not run", "reason": "This CPU has no AVX2."}
    wrong = {"level": "scalar", "threads": 2, "status": "different", "logits_compared": 256, "first_difference": {
        "prompt": 3, "array": "logits", "position": 5, "byte": 65, "expected": "1.0 (0x3f800000)", "got": "2.0"}}
    result = {"file": path, "prompts": 1, "bytes": 1, "equal": True, "runs": [run, missing]}
    monkeypatch.setattr(verify, "verify_file", lambda file, prompts, on_progress: {**result, "prompts": prompts})
    assert main(["verify", path, "--prompts", "7"]) == 0
    text = capsys.readouterr().out
    assert "7 prompts" in text and "NOT RUN: This CPU has no AVX2." in text and "equal, 256 logits" in text
    result |= {"equal": False, "runs": [run, wrong]}
    assert main(["verify", path]) == 1
    assert "DIFFERENT, first in logits of prompt 3, position 5, byte 65: expected 1.0" in capsys.readouterr().out
    assert report(capsys, "verify", path, code=1)["runs"][1]["first_difference"]["byte"] == 65


def test_verify_without_the_runtime(path: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr(verify, "have_native", lambda: False)
    assert "is not built" in sentence(capsys, "verify", path)


def test_bench(path: str, capsys) -> None:
    result = report(capsys, "bench", path, "--backend", "reference")
    assert result["level"] == "reference" and result["runs"][0]["decode"]["median"] > 0
    assert main(["bench", path, "--backend", "reference"]) == 0
    text = capsys.readouterr().out
    assert "decode bytes/s" in text and "level: the NumPy reference" in text


def test_info_of_a_file_adds_up_to_its_size(path: str, capsys) -> None:
    result = report(capsys, "info", path)
    size = os.path.getsize(path)
    assert result["bytes"] == size == result["storage"]["total"]
    assert sum(result["storage"].values()) == 2 * size
    assert result["config"] == SMALL.to_dict()
    assert main(["info", path]) == 0
    text = capsys.readouterr().out
    assert f"{result['parameters']:,} parameters" in text and f"{size:,}" in text


def test_info_of_a_run(run_dir: Path, capsys) -> None:
    result = report(capsys, "info", str(run_dir))
    assert result["progress"]["step"] == 2 and result["training"]["batch_size"] == 2
    assert result["config"]["d_model"] == 16
    assert result["files"][FILE_NAME] == (run_dir / FILE_NAME).stat().st_size
    assert result["storage"]["total"] == result["files"]["best.ghost"]
    assert main(["info", str(run_dir)]) == 0
    assert "progress" in capsys.readouterr().out


def test_info_of_a_directory_that_is_no_run(tmp_path, capsys) -> None:
    assert "there is no such file" in sentence(capsys, "info", str(tmp_path))
