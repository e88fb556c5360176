"""What a case's result may be: the float64 truth, the hard bound, the statistical scale and what honest rounding does.

Bounds come from running error analysis, scales from Monte-Carlo arithmetic, both through the reference's own code
(conformance/arithmetic). The tolerances of one case and arithmetic serve every backend with that arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.arithmetic import Arithmetic, MonteCarlo, RunningError, plain
from conformance.arithmetic.monte_carlo import Dice
from conformance.case import Case, Component, run_reference

RUNS, COMPOSITE_RUNS = 64, 16
SIGMAS = {RUNS: 6.0, COMPOSITE_RUNS: 10.0}  # Student's t is reached as rarely as 5.3 standard deviations, known exactly
ROOM = 1.01  # terms of second order in the unit
PEAK, RMS, MEAN_FLOOR = 4.0, 0.5, 0.05
LARGEST = 2.0**128 - 2.0**103  # what rounds to infinity in binary32
FEWEST = 16  # elements below which spread and mean say nothing


@dataclass(frozen=True)
class Statistics:
    """Of z = error / scale over an output: root mean square, mean, and the slope of the error on the truth."""

    rms: float
    mean: float
    gain: float


def statistics(error: np.ndarray, truth: np.ndarray, scale: np.ndarray) -> Statistics:
    """Statistics of one output's error."""
    used = scale > 0
    z, t, e = error[used] / scale[used], truth[used], error[used]
    power = float((t * t).sum())
    return Statistics(float(np.sqrt(np.mean(z * z))), float(z.mean()), float((e * t).sum() / power) if power else 0.0)


@dataclass(frozen=True)
class Tolerance:
    """Of one output. exact: every element must be equal (integers, masks, values moved about). bound: hard, per
    element. scale: two standard deviations of honest rounding, per element; None: judged by the hard bound only.
    limits: of the statistics. undecided: elements of a decision that may differ."""

    truth: np.ndarray
    bound: np.ndarray | None = None
    scale: np.ndarray | None = None
    limits: Statistics | None = None
    undecided: np.ndarray | None = None

    @property
    def exact(self) -> bool:
        return self.bound is None


def tolerances(component: Component, case: Case, arithmetic: Arithmetic) -> dict[str, Tolerance]:
    """The Tolerance of every output of a case."""
    if component.composite:
        return _composite_tolerances(component, case, arithmetic)
    tracked = run_reference(component, case, lambda x: RunningError(
        RunningError.parts_of_exact(x.astype(np.float64)), arithmetic))
    undecided = component.undecided(case, arithmetic) if component.undecided and case.direction == "forward" else {}
    found: dict[str, Tolerance] = {}
    for name, value in tracked.items():
        if name in component.decisions or not isinstance(value, RunningError):
            found[name] = Tolerance(np.asarray(plain(value)), undecided=undecided.get(name))
        else:
            bound = ROOM * value.bound
            found[name] = Tolerance(_overflow(value.parts[0]), None if not bound.any() else bound)
    if case.statistical:
        _add_scales(found, component, case, arithmetic)
    return found


def _composite_tolerances(component: Component, case: Case, arithmetic: Arithmetic) -> dict[str, Tolerance]:
    """Whole models. Their running-error bounds grow by a factor of ten a layer (measured), real errors do not: the hard
    bound is 8 standard deviations of honest rounding, normwise: of the element or of the whole output, the larger."""
    truths = run_reference(component, case, lambda x: x.astype(np.float64))
    undecided = component.undecided(case, arithmetic) if component.undecided else {}
    discrete = all(name.partition(".")[0] in component.decisions for name in truths)
    runs = [run_reference(component, case, disturbed(arithmetic, run))
            for run in range(0 if discrete else COMPOSITE_RUNS)]
    found: dict[str, Tolerance] = {}
    for name, value in truths.items():
        truth = np.asarray(value)
        errors = [plain(run[name]) - truth for run in runs if isinstance(run[name], MonteCarlo)]
        if not np.any(errors):
            found[name] = Tolerance(truth, undecided=undecided.get(name))
            continue
        deviation = np.sqrt(np.mean(np.square(errors), axis=0))
        typical = np.sqrt(np.mean(deviation**2))
        bound = 2 * PEAK * np.maximum(deviation, typical)
        scale = 2 * np.maximum(deviation, typical / 2)  # few runs: an element's own deviation may come out too small
        found[name] = Tolerance(truth, bound)
        if case.statistical and truth.size >= FEWEST:
            found[name] = Tolerance(truth, bound, scale, _limits(errors, truth, scale, arithmetic))
    return found


def disturbed(arithmetic: Arithmetic, run: int) -> Callable[[np.ndarray], MonteCarlo]:
    """What wraps the arrays of one numbered Monte-Carlo run."""
    dice = Dice.of_run(arithmetic, run)
    return lambda x: MonteCarlo((x.astype(np.float64),), dice)


def _overflow(truth: np.ndarray) -> np.ndarray:
    """Numbers that round to infinity in binary32 as infinities."""
    return np.where(np.abs(truth) >= LARGEST, np.copysign(np.inf, truth), truth)


def _add_scales(found: dict[str, Tolerance], component: Component, case: Case, arithmetic: Arithmetic) -> None:
    inexact = {name: t for name, t in found.items() if t.bound is not None and t.truth.size >= FEWEST}
    if not inexact:
        return
    errors: dict[str, list[np.ndarray]] = {name: [] for name in inexact}
    for run in range(RUNS):
        outputs = run_reference(component, case, disturbed(arithmetic, run))
        for name, t in inexact.items():
            errors[name].append(plain(outputs[name]) - t.truth)
    for name, t in inexact.items():
        assert t.bound is not None
        scale = np.minimum(2 * np.std(errors[name], axis=0), t.bound)
        found[name] = Tolerance(t.truth, t.bound, scale, _limits(errors[name], t.truth, scale, arithmetic))


def _limits(errors: list[np.ndarray], truth: np.ndarray, scale: np.ndarray,
            arithmetic: Arithmetic) -> Statistics | None:
    """What the statistics may reach, from what they are in the Monte-Carlo runs: errors of one output share causes (a
    row's scale), so that its rms and mean vary far more than those of as many independent ones."""
    if not (scale > 0).any():
        return None
    sigmas = SIGMAS[len(errors)]
    runs = [statistics(e, truth, scale) for e in errors]
    rms = [s.rms for s in runs]
    room = float(np.mean(rms) + sigmas * np.std(rms))
    mean = sigmas * float(np.std([s.mean for s in runs]))
    gain = sigmas * float(np.std([s.gain for s in runs]))
    return Statistics(max(RMS, room), max(mean, MEAN_FLOOR), gain + arithmetic.unit / 4)


def exact_tolerances(outputs: dict[str, Any]) -> dict[str, Tolerance]:
    """For canonical components on the runtime: the reference's float32 results, bit by bit."""
    return {name: Tolerance(np.asarray(value)) for name, value in outputs.items()}
