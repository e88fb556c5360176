"""What a run of the kit found: one Result per case and backend, gathered into a Report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

PASS, FAIL, NOT_RUN, NOT_APPLICABLE, DEVIATION = "PASS", "FAIL", "NOT RUN", "n/a", "DEVIATION"

RAN = (PASS, FAIL, DEVIATION)
"""The statuses of a case that was computed and judged."""


STALE = "deviation"
"""The tier of a failure that no backend made: an entry of conformance/deviations/ which no longer holds."""


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
    """Component x backend: the verdict over its cases. reason: why it, or some of its cases, are NOT RUN or n/a."""

    status: str
    cases: int = 0
    margin: float = 0.0
    reason: str = ""


@dataclass
class Report:
    """A whole run. absent: the cells without results; date: UTC, ISO 8601; extensive: of an extensive run; answers: the
    directory of vectors whose answers were judged, empty otherwise."""

    seed: int
    machine: dict[str, str]
    backends: list[BackendInfo]
    components: list[str]
    results: list[Result] = field(default_factory=list)
    absent: dict[tuple[str, str], Cell] = field(default_factory=dict)
    seconds: float = 0.0
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    extensive: bool = False
    answers: str = ""

    def of_cell(self, component: str, backend: str) -> list[Result]:
        """Every result of a cell."""
        return [r for r in self.results if r.component == component and r.backend == backend]

    def cell(self, component: str, backend: str) -> Cell:
        """The verdict of a cell; a cell in which no case ran is NOT RUN or n/a, never a pass."""
        found = self.of_cell(component, backend)
        absent = self.absent.get((component, backend))
        ran = [r for r in found if r.status in RAN]
        skipped = [r for r in found if r.status not in RAN]
        if not ran:
            if skipped:  # what could run elsewhere is told before what no machine has
                first = next((r for r in skipped if r.status == NOT_RUN), skipped[0])
                return Cell(first.status, reason=first.detail or "none of its cases ran")
            reasons = [b.reason for b in self.backends if b.name == backend and b.reason]
            nobody = Cell(NOT_RUN, reason=(reasons or ["no case of this component ran"])[0])
            return absent or nobody
        statuses = {r.status for r in ran}
        status = FAIL if FAIL in statuses else DEVIATION if DEVIATION in statuses else PASS
        unseen = [r.detail for r in skipped if r.status == NOT_RUN]
        unseen += [absent.reason] if absent and absent.status == NOT_RUN else []
        reason = f"some cases NOT RUN: {unseen[0]}" if unseen else ""
        return Cell(status, len(ran), max(_ordered(r.margin) for r in ran), reason)

    def failures(self) -> list[Result]:
        """Everything that failed, worst margin first."""
        return sorted((r for r in self.results if r.status == FAIL), key=lambda r: -_ordered(r.margin))

    @property
    def passed(self) -> bool:
        """At least one case ran and none failed."""
        return any(r.status in RAN for r in self.results) and not self.failures()

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        cells = {c: {b.name: asdict(self.cell(c, b.name)) for b in self.backends} for c in self.components}
        return {"passed": self.passed, "date": self.date, "seed": self.seed, "seconds": self.seconds,
                "machine": self.machine, "backends": [asdict(b) for b in self.backends],
                "cells": cells, "results": [asdict(r) for r in self.results]}


def repro_command(result: Result, report: Report) -> str:
    """The command that runs this one case again on this backend; a stale deviation needs the whole backend."""
    if report.answers:
        return f"python -m conformance judge {report.answers}"
    options = f"--seed {report.seed}{' --extensive' if report.extensive else ''}"
    if result.tier == STALE:
        return f"python -m conformance run --backend {result.backend} {options}"
    return (f"python -m conformance run --backend {result.backend} --component {result.component} "
            f"--case '{result.case}' {options}")


def _ordered(margin: float) -> float:
    """A margin that sorts: NaN is the worst there is."""
    return math.inf if math.isnan(margin) else margin
