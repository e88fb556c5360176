"""`ghost train` and `ghost pack`."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import GHOST, MINIATURE, ROOT, report, sentence, train

from ghost_ref import training
from ghost_ref.checkpoint import FILE_NAME
from ghost_ref.cli import main, training_display
from ghost_ref.runtime import load


def test_train_reports(tmp_path, capsys) -> None:
    result = report(capsys, "train", "--data", "qa10", "--out", str(tmp_path / "run"), "--steps", "2", *MINIATURE)
    assert (result["reason"], result["step"]) == ("done", 2)
    assert result["packed"] == str(tmp_path / "run" / "best.ghost") and result["best"].endswith("of 10 answers right")


def test_train_shows_plain_lines_without_a_terminal(tmp_path, capsys) -> None:
    assert train(tmp_path / "run") == 0
    captured = capsys.readouterr()
    assert "parameters, 2 steps on qa10" in captured.err and "step 1/2  loss " in captured.err
    assert "bits/byte" in captured.err and "bytes/s" in captured.err and "left" in captured.err
    assert "step 2: " in captured.err and "Stopped after step 2" in captured.out


def test_train_shows_a_bar_on_a_terminal(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    step = {"event": "step", "step": 3, "steps": 9, "loss": 1.5, "bpb": 2.164, "bytes_per_second": 12345.6,
            "seconds_left": 83}
    with training_display.display() as shown:
        shown.on_event({"event": "start", "parameters": 1000, "steps": 9, "data": "qa10"})
        shown.on_event(step)
        shown.on_event({"event": "evaluation", "step": 3, "best": True, "share": 0.5, "right": 5, "items": 10})
        shown.on_event({**step, "rejected": "layers.0.mixer.D"})
    screen = capsys.readouterr().err
    assert isinstance(shown, training_display.Bar) and shown.best == "5 of 10 answers right"
    for part in ("loss 1.500", "2.164 bits/byte", "12,346 bytes/s", "1:23 left", "3/9", "mixer.D is not finite"):
        assert part in screen


@pytest.mark.parametrize(("more", "message"), [
    (["--preset", "v99"], "no preset 'v99'"), (["--set", "speed=9"], "no setting 'speed'"),
    (["--set", "lr"], "needs key=value"), (["--set", "lr=-1"], "lr must be positive"),
    (["--set", "d_model=wide"], "d_model must be of type int"),
    (["--backend", "abacus"], "no training backend 'abacus'"),
    (["--steps", "-1"], "steps must be zero or more"), (["--seed", "x"], "invalid int value: 'x'"),
    (["--resume"], "no checkpoint to resume")])
def test_bad_training_requests(more: list[str], message: str, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert message in sentence(capsys, "train", "--data", "qa10", "--out", str(out), *more)
    assert not out.exists()


def test_out_that_exists_is_refused(run_dir: Path, capsys) -> None:
    before = (run_dir / FILE_NAME).read_bytes()
    assert "already exists" in sentence(capsys, "train", "--data", "qa10", "--out", str(run_dir), *MINIATURE)
    assert (run_dir / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize(("flags", "message"), [
    (["--data", "qa20", "--steps", "2"], "not the data this run was trained on"),
    (["--data", "qa10", "--steps", "9"], "steps=2, not 9"),
    (["--data", "qa10", "--steps", "2", "--set", "d_state=5"], "d_state=4, not 5"),
    (["--data", "qa10", "--steps", "2", "--seed", "5"], "seed=0, not 5")])
def test_resume_with_something_else_is_refused(flags, message, run_dir: Path, capsys) -> None:
    assert message in sentence(capsys, "train", "--out", str(run_dir), *MINIATURE, "--resume", *flags)


def test_ctrl_c_leaves_a_run_that_resumes_to_the_same_bits(tmp_path, capsys, monkeypatch) -> None:
    class Interrupted(training_display.Lines):
        def on_event(self, event: dict[str, Any]) -> None:
            super().on_event(event)
            if event["event"] == "step" and event["step"] == 1:
                raise KeyboardInterrupt

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole, steps=3) == 0
    with monkeypatch.context() as patch:
        patch.setattr(training_display, "Lines", Interrupted)
        assert train(broken, steps=3) == 130
    captured = capsys.readouterr()
    assert "interrupted, a checkpoint is saved" in captured.out and "--resume" in captured.out
    assert train(broken, "--resume", steps=3) == 0
    assert (broken / FILE_NAME).read_bytes() == (whole / FILE_NAME).read_bytes()


def test_ctrl_c_in_a_real_process(tmp_path) -> None:
    out = tmp_path / "run"
    endless = ["--steps", "1000000", *MINIATURE, "--set=eval_interval=1000000"]
    argv = ["train", "--data", "qa10", "--out", str(out), *endless]
    process = subprocess.Popen([*GHOST, *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 100
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=100)
    assert process.returncode == 130 and b"Traceback" not in errors and b"--resume" in printed
    assert (out / FILE_NAME).exists()


def test_pack(run_dir: Path, tmp_path, capsys) -> None:
    out = tmp_path / "model.ghost"
    result = report(capsys, "pack", str(run_dir), "-o", str(out))
    assert result == {"file": str(out), "bytes": out.stat().st_size}
    assert load(out, backend="reference").config.d_model == 16
    out.write_bytes(b"precious")
    assert "already exists" in sentence(capsys, "pack", str(run_dir), "-o", str(out))
    assert out.read_bytes() == b"precious"
    assert main(["pack", str(run_dir), "-o", str(out), "--force"]) == 0
    assert "bytes" in capsys.readouterr().out and load(out, backend="reference").config.d_model == 16


def test_pack_of_no_run(tmp_path, capsys) -> None:
    out = str(tmp_path / "m.ghost")
    assert "There is no directory" in sentence(capsys, "pack", str(tmp_path / "absent"), "-o", out)
    assert "there is no such file" in sentence(capsys, "pack", str(tmp_path), "-o", out)


@pytest.mark.parametrize(("number", "message"), [(errno.ENOSPC, "no space is left"), (errno.EACCES, "no permission")])
def test_pack_where_nothing_can_be_written(number, message, run_dir: Path, tmp_path, capsys, monkeypatch) -> None:
    def fail(*args: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    out = tmp_path / "m.ghost"
    assert main(["pack", str(run_dir), "-o", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_permission_for_the_run_directory(tmp_path, capsys, monkeypatch) -> None:
    def fail(self, *args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(training.Path, "mkdir", fail)
    assert "there is no permission" in sentence(capsys, "train", "--data", "qa10", "--out", str(tmp_path / "run"))
