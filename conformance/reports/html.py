"""The report as one page that needs nothing else: no script, no font, no image, no network."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from conformance.reports.words import LEGEND, Reasons, cell_text, number, place, verdict
from conformance.results import DEVIATION, FAIL, NOT_APPLICABLE, NOT_RUN, PASS, Report, Result, repro_command

CLASSES = {PASS: "pass", FAIL: "fail", DEVIATION: "deviation", NOT_RUN: "absent", NOT_APPLICABLE: "absent"}

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --page: #ffffff; --line: #d0d7de; --muted: #57606a;
  --pass: #d7f0dc; --fail: #b3261e; --on-fail: #ffffff; --deviation: #fbe7b0; --absent: #eef0f2; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ec; --page: #14171a; --line: #3a4148; --muted: #9aa4ad;
    --pass: #17402a; --fail: #e5675c; --on-fail: #14171a; --deviation: #55430d; --absent: #23282d; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 2rem auto;
  max-width: 90rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border: 1px solid var(--line); padding: .25rem .5rem; text-align: left; vertical-align: top; }
td a { display: block; color: inherit; text-decoration: none; white-space: nowrap; }
td a:hover, td a:focus { text-decoration: underline; }
.pass { background: var(--pass); } .deviation { background: var(--deviation); } .absent { background: var(--absent); }
.fail { background: var(--fail); color: var(--on-fail); font-weight: bold; }
.muted { color: var(--muted); }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; white-space: pre-wrap; overflow-wrap: anywhere; }
section.cell { display: none; } section.cell:target { display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dd { margin: 0; }
"""


def html(report: Report) -> bytes:
    """The page: verdict, worst case, matrix, and for every cell its cases, which a click on the cell shows."""
    return "\n".join(_page(report)).encode("utf-8", "replace")


def _page(report: Report) -> Iterator[str]:
    yield f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ghost conformance: {escape(verdict(report))}</title><style>{STYLE}</style></head><body>
<h1>Ghost conformance</h1>
<p class="{'pass' if report.passed else 'fail'}">{escape(verdict(report))}</p>"""
    facts = {"date": report.date, "seed": report.seed, "seconds": f"{report.seconds:.1f}", **report.machine}
    yield _facts({str(name): escape(str(value)) for name, value in facts.items()})
    yield from _worst(report)
    reasons = Reasons()
    yield from _matrix(report, reasons)
    yield f'<p class="muted">{escape(LEGEND)} Select a cell to see its cases below.</p>'
    yield "".join(f'<p class="muted">{escape(line)}</p>' for line in reasons.lines())
    yield from _cells(report)
    yield from _outside(report)
    yield from _backends(report)
    yield "</body></html>"


def _facts(facts: dict[str, str]) -> str:
    """A list of names and values; the values are HTML."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in facts.items()) + "</dl>"


def _worst(report: Report) -> Iterator[str]:
    ran = [r for r in report.results if r.status in (PASS, DEVIATION)]
    worst = next(iter(report.failures()), None) or max(ran, key=lambda r: r.margin, default=None)
    if worst is not None:
        yield f"<h2>Worst case</h2>{_described(worst, report)}"


def _described(result: Result, report: Report) -> str:
    facts = {"verdict": result.status, "case": f"{result.component}, {result.case}", "backend": result.backend,
             "margin": number(result.margin), "tier": result.tier, "at": place(result), "expected": result.expected,
             "got": result.got, "detail": result.detail}
    shown = {name: escape(value) for name, value in facts.items() if value}
    return _facts({**shown, "repeat": f"<code>{escape(repro_command(result, report))}</code>"})


def _matrix(report: Report, reasons: Reasons) -> Iterator[str]:
    heads = "".join(f'<th scope="col">{escape(b.name)}</th>' for b in report.backends)
    yield f'<h2>Components and backends</h2><div class="wide"><table><tr><th scope="col">component</th>{heads}</tr>'
    for row, component in enumerate(report.components):
        cells = []
        for column, backend in enumerate(report.backends):
            cell, found = report.cell(component, backend.name), report.of_cell(component, backend.name)
            text = escape(cell_text(cell, found) + reasons.mark(cell.reason))
            link = f'<a href="#cell-{row}-{column}">{text}</a>' if found else text
            cells.append(f'<td class="{CLASSES[cell.status]}" title="{escape(cell.reason)}">{link}</td>')
        yield f'<tr><th scope="row">{escape(component)}</th>{"".join(cells)}</tr>'
    yield "</table></div>"


def _cells(report: Report) -> Iterator[str]:
    """One section per cell, hidden until its address is chosen."""
    for row, component in enumerate(report.components):
        for column, backend in enumerate(report.backends):
            if found := report.of_cell(component, backend.name):
                yield f'<section class="cell" id="cell-{row}-{column}">'
                yield f"<h2>{escape(component)} on {escape(backend.name)}</h2>"
                yield from _cases(found, report)
                yield "</section>"


def _cases(results: list[Result], report: Report) -> Iterator[str]:
    yield "<table><tr><th>case</th><th>verdict</th><th>margin</th><th>ms</th><th>what was found</th></tr>"
    for result in results:
        if result.status == FAIL:
            detail = _described(result, report)
        else:
            detail = escape(result.detail)
        yield (f'<tr><td>{escape(result.case)}</td><td class="{CLASSES[result.status]}">{result.status}</td>'
               f"<td>{number(result.margin)}</td><td>{result.seconds * 1000:.1f}</td><td>{detail}</td></tr>")
    yield "</table>"


def _outside(report: Report) -> Iterator[str]:
    """Failures that belong to no cell, as of deviations for components that do not exist."""
    names = {b.name for b in report.backends}
    found = [r for r in report.failures() if r.component not in report.components or r.backend not in names]
    if found:
        yield "<h2>Failures outside the matrix</h2>"
        yield from _cases(found, report)


def _backends(report: Report) -> Iterator[str]:
    yield "<h2>Backends</h2><table><tr><th>name</th><th>what it is</th><th>NOT RUN because</th></tr>"
    for b in report.backends:
        yield f"<tr><td>{escape(b.name)}</td><td>{escape(b.description)}</td><td>{escape(b.reason)}</td></tr>"
    yield "</table>"
