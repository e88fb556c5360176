"""The words that every form of a report shares: verdict, cells, margins, and the reasons of cells that did not run."""

from __future__ import annotations

import math

from conformance.results import DEVIATION, FAIL, NOT_RUN, PASS, RAN, Cell, Report, Result

LEGEND = ("A number is the worst |error| / hard bound; = bits: all bits equal; DEV: a known deviation; NR: NOT RUN; "
          "[n]: the reason below.")


def verdict(report: Report) -> str:
    """One sentence over the whole run."""
    ran = {r.backend for r in report.results if r.status in RAN}
    if not ran:
        return "NOTHING RAN, which is not a pass."
    counts = {status: sum(r.status == status for r in report.results) for status in RAN}
    cases = f"{sum(counts.values()):,} cases on {len(ran)} of {len(report.backends)} backends"
    absent = sum(b.name not in ran for b in report.backends)
    deviations = f", known deviations: {counts[DEVIATION]:,}" if counts[DEVIATION] else ""
    absences = f", backends NOT RUN: {absent}" if absent else ""
    if report.passed:
        return f"PASS: {cases}, none failed{deviations}{absences}."
    return f"FAIL: {counts[FAIL]:,} of {cases}{deviations}{absences}."


def number(margin: float) -> str:
    """A margin in two digits: 0.42, 3.1, 120, 1e5; a positive one never reads as 0."""
    if not math.isfinite(margin):
        return "inf" if margin > 0 else "nan"
    if 0.01 <= margin < 0.995 or 9.95 <= margin < 1000:
        return f"{margin:.2f}" if margin < 1 else f"{margin:.0f}"
    mantissa, e, exponent = f"{margin:.2g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def cell_text(cell: Cell, found: list[Result], short: bool = False) -> str:
    """A cell in a few characters; `short` leaves the word PASS to the legend.

    found: the cell's results, from which a failure inside the hard bound takes its tier."""
    if cell.status not in RAN:
        return "NR" if cell.status == NOT_RUN else cell.status
    if cell.status == PASS:
        return ("" if short else "PASS ") + (number(cell.margin) if cell.margin > 0 else "= bits")
    word = "FAIL" if cell.status == FAIL else "DEV"
    first = next(r for r in found if r.status == cell.status)
    # a margin inside the bound would not say why it failed: the tier does
    return f"{word} {number(cell.margin) if cell.margin > 1 else first.tier or number(cell.margin)}"


def place(result: Result) -> str:
    """Where it failed: y[3, 7]."""
    index = "" if result.index is None else f"[{', '.join(map(str, result.index))}]"
    return f"{result.output or ''}{index}"


class Reasons:
    """Numbers for reasons, the same number for the same words."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, reason: str) -> str:
        """`[n]`, or nothing for an empty reason."""
        return f"[{self.numbers.setdefault(reason, len(self.numbers) + 1)}]" if reason else ""

    def lines(self) -> list[str]:
        """Every reason with its number."""
        return [f"[{n}] {reason}" for reason, n in self.numbers.items()]
