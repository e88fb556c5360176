"""Run components on backends and gather a Report."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from fnmatch import fnmatch

import numpy as np

from conformance import deviations
from conformance.backend import Backend, discover
from conformance.case import FORWARD, Case, Component, run_reference
from conformance.components import COMPONENTS
from conformance.judge import judge
from conformance.results import FAIL, NOT_APPLICABLE, NOT_RUN, PASS, BackendInfo, Cell, Report, Result
from conformance.tolerance import Tolerance, exact_tolerances, tolerances
from ghost_ref.errors import GhostError

Progress = Callable[[int, int], None]


def list_components() -> list[str]:
    """The rows of the matrix, in order."""
    return [c.name for c in COMPONENTS]


def list_backends() -> list[BackendInfo]:
    """The columns of the matrix, those that cannot run here with their reasons."""
    present, missing = discover()
    return [*(b.info for b in present), *missing]


def run_kit(backends: Sequence[str] | None = None, components: Sequence[str] | None = None,
            cases: Sequence[str] | None = None, seed: int = 0, extensive: bool = False,
            on_progress: Progress | None = None) -> Report:
    """Run every case of the components on every backend.

    cases: patterns of case names. extensive: more and larger cases. GhostError for unknown names, or if nothing
    matched."""
    started = time.monotonic()
    present, missing = discover(list(backends) if backends else None)
    chosen = choose_components(components)
    report = Report(seed, machine(), [*(b.info for b in present), *missing], [c.name for c in chosen],
                    extensive=extensive)
    report.absent = {(c.name, b.name): Cell(NOT_RUN, reason=b.reason) for c in chosen for b in missing}
    for number, component in enumerate(chosen):
        _run_component(component, present, report, cases, extensive)
        if on_progress:
            on_progress(number + 1, len(chosen))
    report.results = deviations.apply(report.results, date.today(), components=components or None, every_case=not cases)
    report.seconds = time.monotonic() - started
    if not report.results and present:
        raise GhostError("No case matches: nothing was run.")
    return report


def choose_components(names: Sequence[str] | None) -> list[Component]:
    """The components of these names, all of them without. GhostError for an unknown one."""
    if unknown := [name for name in names or [] if name not in list_components()]:
        raise GhostError(f"There is no component {unknown[0]!r}; the components are: {', '.join(list_components())}.")
    return [c for c in COMPONENTS if not names or c.name in names]


def machine() -> dict[str, str]:
    """Where a run took place."""
    return {"system": platform.platform(), "machine": platform.machine(), "python": platform.python_version(),
            "numpy": np.__version__}


def _run_component(component: Component, backends: list[Backend], report: Report, patterns: Sequence[str] | None,
                   extensive: bool) -> None:
    for case in component.cases(report.seed, extensive):
        if patterns and not any(fnmatch(case.name, pattern) for pattern in patterns):
            continue
        judgement = CaseJudgement(component, case)
        for backend in backends:
            absence = backend.absence(component, case)
            if absence is None:
                report.results.append(judgement.result(backend))
            else:
                status = NOT_RUN if absence.applicable else NOT_APPLICABLE
                report.results.append(Result(component.name, case.name, backend.info.name, status,
                                             detail=absence.reason))


def spoil_freed_memory(expected: Mapping[str, Tolerance]) -> None:
    """Write NaN where the next outputs will lie. Allocators hand freed memory out again, so that an element that a
    backend forgets to write could hold the right answer, left by the backend before it (seen: a lost tail of exp).
    NumPy keeps up to 7 freed blocks of one size, the C library as many."""
    sizes = {t.truth.size * width for t in expected.values() for width in (1, 4, 8)}
    for size in sizes:
        blocks = [np.empty(size, np.uint8) for _ in range(8)]
        for block in blocks:
            block.fill(0xFF)


class CaseJudgement:
    """A case and what its results are judged by, computed once per kind of arithmetic."""

    def __init__(self, component: Component, case: Case) -> None:
        self.component, self.case = component, case
        self.known: dict[str, dict[str, Tolerance]] = {}

    def expected(self, backend: Backend) -> dict[str, Tolerance]:
        exact = backend.exact and self.component.canonical and self.case.direction == FORWARD
        key = "exact" if exact else backend.arithmetic.name
        if key not in self.known:
            self.known[key] = (exact_tolerances(run_reference(self.component, self.case, lambda x: x)) if exact
                               else tolerances(self.component, self.case, backend.arithmetic))
        return self.known[key]

    def result(self, backend: Backend) -> Result:
        """Run and judge. What a backend raises is a failure of this case, told in full."""
        expected = self.expected(backend)
        spoil_freed_memory(expected)
        started = time.monotonic()
        try:
            outputs = backend.run(self.component, self.case)
            seconds = time.monotonic() - started
            verdict = judge(outputs, expected)
        except Exception as error:
            return Result(self.component.name, self.case.name, backend.info.name, FAIL, float("inf"), "error",
                          detail=f"{type(error).__name__}: {error}", seconds=time.monotonic() - started)
        return Result(self.component.name, self.case.name, backend.info.name, FAIL if verdict.tier else PASS,
                      verdict.margin, verdict.tier, verdict.output, verdict.index, verdict.expected, verdict.got,
                      verdict.detail, seconds)
