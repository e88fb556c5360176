"""The kit's power, proved: faults planted in the reference, the native core, the MLX ops and the trainer's linear
layers, each of which it must catch, and clean backends which it must pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from conformance.mutation.clean import FalseFailures, false_failures
from conformance.mutation.judging import Judgements
from conformance.mutation.native_target import judge_native
from conformance.mutation.operator import Operator
from conformance.mutation.operators import TABLES
from conformance.mutation.outcome import MutationReport, Outcome
from conformance.mutation.python_targets import judge_mlx, judge_numpy, judge_training
from ghost_ref.errors import GhostError

__all__ = ["FalseFailures", "MutationReport", "Operator", "Outcome", "false_failures", "run", "select"]

Progress = Callable[[int, int], None]
JUDGES = {"numpy": judge_numpy, "native": judge_native, "mlx": judge_mlx, "training": judge_training}


def run(targets: Sequence[str] = ("numpy",), operators: Sequence[str] | None = None, seed: int = 0,
        on_progress: Progress | None = None) -> MutationReport:
    """Plant every fault of the targets' tables, one at a time, and judge the components that must show it.

    operators: only those of these names. GhostError for an unknown target or operator."""
    started = time.monotonic()
    chosen = [(t, o) for t in targets for o in select(t, operators)]
    if unknown := set(operators or ()) - {o.name for _, o in chosen}:
        raise GhostError(f"There is no fault {min(unknown)!r} in {', '.join(targets)}.")
    report = MutationReport(seed, list(targets))
    judgements = Judgements(seed)
    for number, (target, operator) in enumerate(chosen):
        report.outcomes += judge_operator(target, operator, judgements)
        if on_progress:
            on_progress(number + 1, len(chosen))
    report.seconds = time.monotonic() - started
    return report


def select(target: str, operators: Sequence[str] | None = None) -> list[Operator]:
    """The faults of a target's table, all or those named. GhostError for an unknown target."""
    if target not in TABLES:
        raise GhostError(f"There is no mutation target {target!r}; the targets are: {', '.join(TABLES)}.")
    return [o for o in TABLES[target] if operators is None or o.name in operators]


def judge_operator(target: str, operator: Operator, judgements: Judgements) -> list[Outcome]:
    """Plant one fault."""
    return JUDGES[target](operator, judgements)
