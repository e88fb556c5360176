"""Running `ghost` in tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ghost_ref.cli import main

ROOT = Path(__file__).parents[2]
GHOST = [sys.executable, "-m", "ghost_ref"]
MINIATURE = [f"--set={setting}" for setting in (
    "d_model=16", "d_ff=16", "dt_rank=2", "d_state=4", "codebook_group=16", "batch_size=2", "eval_interval=2",
    "stop_when_solved=false")]


def train(out: Path, *more: str, data: str = "qa10", steps: int = 2) -> int:
    return main(["train", "--data", data, "--out", str(out), "--steps", str(steps), *MINIATURE, *more])


def sentence(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    """The one line on stderr of a command that must fail."""
    assert main(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("ghost: ") and line.endswith(".")
    return line


def report(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    """The JSON document of a command."""
    assert main([*argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def ghost(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*GHOST, *argv], cwd=ROOT, capture_output=True, timeout=120, **options)
