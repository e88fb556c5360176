"""The report on a terminal: components x backends, the reasons of what did not run, the failures, the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.reports.terminal import ReportConsole
from conformance.reports.words import LEGEND, Reasons, cell_text, number, place, verdict
from conformance.results import DEVIATION, FAIL, PASS, BackendInfo, Report, Result, repro_command

STYLES = {PASS: "green", FAIL: "bold white on red", DEVIATION: "yellow"}
MOST_FAILURES = 20
"""Failures shown, the worst first; `--json` holds all."""

Row = list[Text]


def print_matrix(report: Report, console: Console | None = None) -> None:
    """Print the whole report for a person; without colours where the output is no terminal."""
    console = console or ReportConsole()
    rows, reasons = _rows(report, short=False)
    headers = [backend.name for backend in report.backends]
    if _width(report, headers, rows) > console.width:  # numbers for names, and no word where a number says it
        console.print(_legend(report.backends))
        headers = [str(i) for i in range(1, len(report.backends) + 1)]
        rows, reasons = _rows(report, short=True)
    for block in _blocks(report, headers, rows, console.width):
        console.print(_table(report, headers, rows, block), "")
    for line in (LEGEND, *reasons.lines()):
        console.print(Text(line, style="dim"))
    for text in _failures(report):
        console.print(text, soft_wrap=True)  # a command must stay one line to be copied
    machine = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    console.print(Text(f"\nseed {report.seed}, {report.date}, {machine}"))
    style = "bold green" if report.passed else "bold red"
    console.print(Text(f"{verdict(report)} {report.seconds:.1f} s", style=style))


def _rows(report: Report, short: bool) -> tuple[list[Row], Reasons]:
    reasons = Reasons()
    return [[_cell(report, c, b, reasons, short) for b in report.backends] for c in report.components], reasons


def _cell(report: Report, component: str, backend: BackendInfo, reasons: Reasons, short: bool) -> Text:
    cell = report.cell(component, backend.name)
    words = cell_text(cell, report.of_cell(component, backend.name), short)
    told = short and cell.reason == backend.reason  # the legend tells why a whole backend did not run
    return Text(words, style=STYLES.get(cell.status, "dim")).append("" if told else reasons.mark(cell.reason), "dim")


def _widths(headers: Sequence[str], rows: Sequence[Row]) -> list[int]:
    return [max(len(header), *(len(row[i]) for row in rows), 1) + 2 for i, header in enumerate(headers)]


def _first(report: Report) -> int:
    return max(map(len, [*report.components, "component"]))


def _width(report: Report, headers: Sequence[str], rows: Sequence[Row]) -> int:
    return _first(report) + sum(_widths(headers, rows))


def _blocks(report: Report, headers: Sequence[str], rows: Sequence[Row], width: int) -> Iterator[list[int]]:
    """Runs of columns, each narrow enough for one table; every column is in exactly one."""
    block: list[int] = []
    used = _first(report)
    for i, own in enumerate(_widths(headers, rows)):
        if block and used + own > width:
            yield block
            block, used = [], _first(report)
        block.append(i)
        used += own
    yield block


def _table(report: Report, headers: Sequence[str], rows: Sequence[Row], block: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False, collapse_padding=True)
    table.add_column("component", no_wrap=True)
    for i in block:
        table.add_column(headers[i], no_wrap=True)
    for component, row in zip(report.components, rows):
        table.add_row(Text(component), *(row[i] for i in block))
    return table


def _legend(backends: Sequence[BackendInfo]) -> Text:
    lines = [f"{i:>2} {backend.name}: {backend.description}{f' (NOT RUN: {backend.reason})' if backend.reason else ''}"
             for i, backend in enumerate(backends, 1)]
    return Text("\n".join([*lines, ""]))


def _failures(report: Report) -> Iterator[Text]:
    failures = report.failures()
    for result in failures[:MOST_FAILURES]:
        yield _described(result, report)
    if len(failures) > MOST_FAILURES:
        yield Text(f"\nand {len(failures) - MOST_FAILURES:,} more; --json lists all.")
    for result in (r for r in report.results if r.status == DEVIATION):
        text = f"{result.backend} {result.component} {result.case}: margin {number(result.margin)}, {result.detail}"
        yield Text("\nDEVIATION ", style=STYLES[DEVIATION]).append(text, style="none")


def _described(result: Result, report: Report) -> Text:
    head = f" {result.backend} {result.component} {result.case}"
    facts = {"tier": result.tier, "at": place(result), "margin": number(result.margin), "expected": result.expected,
             "got": result.got, "detail": result.detail}
    lines = [f"  {name:<8} {value}" for name, value in facts.items() if value]
    text = Text("\nFAIL", style=STYLES[FAIL]).append(head, style="bold not reverse")
    return text.append("\n" + "\n".join([*lines, f"  repeat   {repro_command(result, report)}"]), style="none")
