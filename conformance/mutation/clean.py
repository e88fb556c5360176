"""The other half of the proof: clean backends, judged again and again with new seeds, must never fail."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from conformance.results import RAN, Result
from conformance.run import run_kit

Progress = Callable[[int, int], None]


@dataclass
class FalseFailures:
    """judged: results per component over all seeds and backends; failures: (seed, result) of those that failed."""

    runs: int
    judged: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, Result]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Something was judged in every run, and nothing failed."""
        return bool(self.judged) and not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {"passed": self.passed, "runs": self.runs, "seconds": self.seconds, "judged": dict(self.judged),
                "failures": [{"seed": seed, **asdict(result)} for seed, result in self.failures]}

    def print(self, console: Console) -> None:
        """A table by component, and every failure."""
        failed = Counter(result.component for _, result in self.failures)
        table = Table("component", "results", "failures")
        for component, count in self.judged.items():
            table.add_row(component, str(count), f"[red]{failed[component]}[/]" if failed[component] else "0")
        console.print(table)
        for seed, r in self.failures:
            console.print(f"seed {seed}: {r.component} on {r.backend}, {r.case}, {r.output}: {r.tier}, {r.detail}")
        total = sum(self.judged.values())
        console.print(f"{len(self.failures)} of {total} results failed in {self.runs} runs, {self.seconds:.0f} s")


def false_failures(runs: int = 500, backends: Sequence[str] | None = None, components: Sequence[str] | None = None,
                   first_seed: int = 0, processes: int = 1, on_progress: Progress | None = None) -> FalseFailures:
    """Run the kit's fast set with the seeds first_seed, first_seed + 1, … and count what fails."""
    started = time.monotonic()
    found = FalseFailures(runs)
    judge = partial(_one_run, backends=backends, components=components)
    seeds = range(first_seed, first_seed + runs)
    with ProcessPoolExecutor(processes) as pool:
        for number, (judged, failures) in enumerate(pool.map(judge, seeds) if processes > 1 else map(judge, seeds)):
            found.judged += judged
            found.failures += failures
            if on_progress:
                on_progress(number + 1, runs)
    found.seconds = time.monotonic() - started
    return found


def _one_run(seed: int, backends: Sequence[str] | None,
             components: Sequence[str] | None) -> tuple[Counter[str], list[tuple[int, Result]]]:
    report = run_kit(backends, components, seed=seed)
    return Counter(r.component for r in report.results if r.status in RAN), [(seed, r) for r in report.failures()]
