"""What the faults came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

CAUGHT, SURVIVED, EQUIVALENT, BROKEN = "caught", "SURVIVED", "equivalent", "BROKEN"
STYLES = {CAUGHT: "green", EQUIVALENT: "yellow", SURVIVED: "red", BROKEN: "red"}


@dataclass(frozen=True)
class Outcome:
    """One fault in one component on one backend.

    status: caught; SURVIVED; equivalent (survived, and the table holds the proof); BROKEN (the fault could not be
    judged: it did not build, raised an error, or nothing ran). case, tier, output, margin, detail: of the first
    failure, or the largest margin that was reached."""

    target: str
    operator: str
    description: str
    component: str
    status: str
    backend: str = ""
    case: str = ""
    tier: str = ""
    output: str = ""
    margin: float = 0.0
    detail: str = ""


@dataclass
class MutationReport:
    """All outcomes of a run."""

    seed: int
    targets: list[str]
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    def survivors(self) -> list[Outcome]:
        """Everything that was not caught and is not proved equivalent."""
        return [o for o in self.outcomes if o.status in (SURVIVED, BROKEN)]

    @property
    def passed(self) -> bool:
        """At least one fault was planted, and all were caught or are proved equivalent."""
        return bool(self.outcomes) and not self.survivors()

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        counts = {status: sum(o.status == status for o in self.outcomes) for status in STYLES}
        operators = {t: len({o.operator for o in self.outcomes if o.target == t}) for t in self.targets}
        return {"passed": self.passed, "seed": self.seed, "seconds": self.seconds, "operators": operators,
                "counts": counts, "outcomes": [asdict(o) for o in self.outcomes]}

    def print(self, console: Console) -> None:
        """A table with a row per fault and component, and what it comes to."""
        table = Table("target", "fault", "component", "verdict", "caught by", "margin")
        for o in self.outcomes:
            where = f"{o.case} {o.output} ({o.tier})" if o.tier else o.detail
            table.add_row(o.target, o.operator, o.component, f"[{STYLES[o.status]}]{o.status}[/]", where,
                          f"{o.margin:.3g}")
        console.print(table)
        counts = self.to_json()["counts"]
        console.print(f"{len({(o.target, o.operator) for o in self.outcomes})} faults in {len(self.outcomes)} "
                      "combinations with components: " + ", ".join(f"{n} {status}" for status, n in counts.items()))
