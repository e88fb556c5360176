"""The judgement of one result, in tiers that must all hold; every comparison is written so that NaN fails.

shape     same shape, and a float where floats are due
exact     discrete or exact outputs: equal bits, NaN as a class; a decision may differ where it is undecided
finite    NaN and infinities exactly where the truth has them
hard      |e| <= B everywhere
peak      |e/s| <= 4
rms       rms(e/s) <= 0.5, or what correlated honest errors reach
mean      no bias: |mean(e/s)| <= 6 standard deviations of it under honest rounding
gain      no bias proportional to the truth: slope of e on t within 6 standard deviations + a quarter of a unit
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.tolerance import PEAK, Tolerance, statistics


@dataclass(frozen=True)
class Verdict:
    """tier None: passed. margin: max |e|/B seen (inf where it cannot be computed)."""

    margin: float = 0.0
    tier: str | None = None
    output: str | None = None
    index: tuple[int, ...] | None = None
    expected: str | None = None
    got: str | None = None
    detail: str = ""


def judge(outputs: Mapping[str, Any], expected: Mapping[str, Tolerance]) -> Verdict:
    """The first output that fails, or the verdict with the largest margin."""
    worst = Verdict()
    for name, tolerance in expected.items():
        if name not in outputs:
            return Verdict(np.inf, "shape", name, detail="the backend gave no such output")
        verdict = judge_output(name, np.asarray(outputs[name]), tolerance)
        if verdict.tier:
            return verdict
        worst = max(worst, verdict, key=lambda v: v.margin)
    return worst


def judge_output(name: str, got: np.ndarray, tolerance: Tolerance) -> Verdict:
    """One output."""
    truth = tolerance.truth
    if got.shape != truth.shape:
        return Verdict(np.inf, "shape", name, detail=f"shape {got.shape} instead of {truth.shape}")
    if tolerance.exact:
        return _judge_exact(name, got, tolerance)
    if got.dtype.kind != "f":
        return Verdict(np.inf, "shape", name, detail=f"{got.dtype} instead of a float")
    return _judge_rounded(name, got.astype(np.float64), tolerance)


def _judge_exact(name: str, got: np.ndarray, tolerance: Tolerance) -> Verdict:
    truth = tolerance.truth
    same = same_values(got, truth)
    if tolerance.undecided is not None:
        same |= tolerance.undecided
    if same.all():
        return Verdict(0.0)
    index = _first(~same)
    tier = "exact" if tolerance.undecided is None else "decision"
    return Verdict(np.inf, tier, name, index, _show(truth, index), _show(got, index), f"{int((~same).sum())} differ")


def same_values(got: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Elementwise: equal bits for floats of one type, any NaN equal to any NaN; equal numbers otherwise."""
    if truth.dtype.kind == "f" and got.dtype == truth.dtype:
        bits = np.dtype(f"u{truth.itemsize}")
        same = np.ascontiguousarray(got).view(bits).reshape(got.shape) == \
            np.ascontiguousarray(truth).view(bits).reshape(truth.shape)
        return same | (np.isnan(got) & np.isnan(truth))
    same = np.asarray(got == truth)
    if truth.dtype.kind == "f" and got.dtype.kind == "f":
        same = same | (np.isnan(got) & np.isnan(truth))
    return same


def _judge_rounded(name: str, got: np.ndarray, tolerance: Tolerance) -> Verdict:
    truth, bound = tolerance.truth, tolerance.bound
    assert bound is not None
    finite = np.isfinite(truth)
    alike = np.where(finite, np.isfinite(got), same_values(got, truth))
    if not alike.all():
        index = _first(~alike)
        return Verdict(np.inf, "finite", name, index, _show(truth, index), _show(got, index))
    error = np.where(finite, got - np.where(finite, truth, 0), 0.0)
    bound = np.where(finite, bound, 0.0)
    with np.errstate(all="ignore"):
        ratio = np.where(error == 0, 0.0, np.abs(error) / bound)
    margin = float(ratio.max(initial=0))
    if not margin <= 1:
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(ratio)), ratio.shape))
        return Verdict(margin, "hard", name, index, _show(truth, index), _show(got, index),
                       f"|error| {abs(error[index]):.3g} > bound {bound[index]:.3g}")
    if tolerance.scale is None or tolerance.limits is None:
        return Verdict(margin)
    return _judge_statistics(name, got, error, tolerance, margin)


def _judge_statistics(name: str, got: np.ndarray, error: np.ndarray, tolerance: Tolerance, margin: float) -> Verdict:
    truth, scale, limits = tolerance.truth, tolerance.scale, tolerance.limits
    assert scale is not None and limits is not None
    with np.errstate(all="ignore"):
        z = np.where(scale > 0, np.abs(error) / scale, 0.0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(z)), z.shape))
    if not z.max() <= PEAK:
        return Verdict(margin, "peak", name, index, _show(truth, index), _show(got, index),
                       f"|e/s| {z.max():.3g} > {PEAK:g}")
    found = statistics(error, truth, scale)
    for tier in ("rms", "mean", "gain"):
        value, limit = getattr(found, tier), getattr(limits, tier)
        if not abs(value) <= limit:
            return Verdict(margin, tier, name, index, _show(truth, index), _show(got, index),
                           f"{tier} {value:.3g}, allowed {limit:.3g}")
    return Verdict(margin)


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0]) if mask.ndim else ()


def _show(x: np.ndarray, index: tuple[int, ...]) -> str:
    value = x[index]
    return f"{float(value)!r} ({float(value).hex()})" if x.dtype.kind == "f" else str(value)
