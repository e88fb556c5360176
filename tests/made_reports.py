"""Conformance reports made by hand, for tests."""

from __future__ import annotations

import importlib
import io
from datetime import date
from typing import Any

import pytest
from rich.console import Console

from conformance.reports.matrix import print_matrix
from conformance.results import (
    FAIL,
    NOT_APPLICABLE,
    PASS,
    BackendInfo,
    Cell,
    Report,
    Result,
)
from ghost_ref.cli import main as ghost

NASTY = "<b onload='x'>&\"\x00\x1b[31m\ud800"
MAC = "it needs an Apple GPU; run `ghost verify` on a Mac"
TODAY = date(2026, 6, 1)


def result(status: str = PASS, margin: float = 0.42, component: str = "scan", backend: str = "cpu", case: str = "odd",
           **more: Any) -> Result:
    return Result(component, case, backend, status, margin, **more)


def failure(**more: Any) -> Result:
    given = {"tier": "hard", "output": "y", "index": (0, 3), "expected": "1.5", "got": "2.5", "detail": "too far"}
    return result(FAIL, 12.34, **{**given, **more})


def make(*found: Result, backends: int = 1, components: tuple[str, ...] = ("scan", "norm")) -> Report:
    infos = [BackendInfo("cpu", "the CPU"), BackendInfo("gpu", "the GPU", MAC)]
    infos += [BackendInfo(f"backend-number-{i}", f"the {i}th") for i in range(2, backends)]
    absent = {("norm", "cpu"): Cell(NOT_APPLICABLE, reason="it has no norm")}
    return Report(7, {"cpu": "x86"}, infos, list(components), list(found), absent, 1.5, "2026-06-01T10:00:00+00:00")


def printed(report: Report, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_matrix(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def row(text: str, name: str) -> str:
    """The rest of the line of the matrix that begins with this name."""
    return next(line for line in text.splitlines() if line.startswith(name + " ")).removeprefix(name).strip()


def show(monkeypatch: pytest.MonkeyPatch, report: Report, *argv: str) -> int:
    """`ghost verify` with a kit that finds this report."""
    monkeypatch.setattr(importlib.import_module("conformance.run"), "run_kit", lambda *a: report)
    return ghost(["verify", *argv])
