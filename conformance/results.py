"""What a run of the kit found: one Result per case and backend, gathered into a Report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

PASS, FAIL, NOT_RUN, NOT_APPLICABLE, DEVIATION = "PASS", "FAIL", "NOT RUN", "n/a", "DEVIATION"

TIERS = ("shape", "exact", "finite", "hard", "peak", "rms", "mean", "gain", "decision")
"""Why a result can fail, in the order in which the judge looks (conformance/judge.py)."""


@dataclass(frozen=True)
class Result:
    """One case on one backend.

    margin: the largest |error| / hard bound over all outputs (0 for exact results, infinite for NaN); tier, output,
    index, expected, got, detail: the first failure, with what the tier measured and what it allowed in words;
    seconds: of the backend's own call."""

    component: str
    case: str
    backend: str
    status: str
    margin: float = 0.0
    tier: str | None = None
    output: str | None = None
    index: tuple[int, ...] | None = None
    expected: str | None = None
    got: str | None = None
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class BackendInfo:
    """A column of the matrix. reason: why it did not run at all, empty if it ran."""

    name: str
    description: str
    reason: str = ""


@dataclass(frozen=True)
class Cell:
    """Component x backend: the verdict over all its cases. reason: why it is NOT RUN or n/a."""

    status: str
    cases: int = 0
    margin: float = 0.0
    reason: str = ""


@dataclass
class Report:
    """A whole run. notes: {(component, backend): reason} for the cells without results."""

    seed: int
    machine: dict[str, str]
    backends: list[BackendInfo]
    components: list[str]
    results: list[Result] = field(default_factory=list)
    absent: dict[tuple[str, str], Cell] = field(default_factory=dict)
    seconds: float = 0.0

    def cell(self, component: str, backend: str) -> Cell:
        """The verdict of a cell; a cell nobody filled is NOT RUN, never a pass."""
        found = [r for r in self.results if r.component == component and r.backend == backend]
        if not found:
            return self.absent.get((component, backend), Cell(NOT_RUN, reason="no case of this component ran"))
        worst = max(r.margin for r in found)
        failed = [r for r in found if r.status == FAIL]
        deviating = [r for r in found if r.status == DEVIATION]
        status = FAIL if failed else DEVIATION if deviating else PASS
        return Cell(status, len(found), worst)

    def failures(self) -> list[Result]:
        """Everything that failed, worst margin first."""
        return sorted((r for r in self.results if r.status == FAIL), key=lambda r: -r.margin)

    @property
    def passed(self) -> bool:
        """At least one case ran and none failed."""
        return bool(self.results) and not self.failures()

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        cells = {c: {b.name: asdict(self.cell(c, b.name)) for b in self.backends} for c in self.components}
        return {"passed": self.passed, "seed": self.seed, "seconds": self.seconds, "machine": self.machine,
                "backends": [asdict(b) for b in self.backends], "cells": cells,
                "results": [asdict(r) for r in self.results]}


def repro_command(result: Result, seed: int) -> str:
    """The command that runs this one case again on this backend."""
    return (f"python -m conformance run --backend {result.backend} --component {result.component} "
            f"--case '{result.case}' --seed {seed}")


def first_failure(results: Iterable[Result]) -> Result | None:
    """The first result that failed."""
    return next((r for r in results if r.status == FAIL), None)
