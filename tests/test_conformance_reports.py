"""Reports of the conformance kit: verdicts, the matrix, JSON, JUnit, HTML; on reports made by hand."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_reports import MAC, NASTY, failure, make, printed, result, row, show

from conformance.reports import words
from conformance.reports.html import html
from conformance.reports.junit import junit
from conformance.reports.matrix import MOST_FAILURES
from conformance.results import (
    DEVIATION,
    FAIL,
    NOT_APPLICABLE,
    NOT_RUN,
    PASS,
    BackendInfo,
    Cell,
    Result,
    repro_command,
)

# --- a report --------------------------------------------------------------------------------------------------------


def test_what_did_not_run_is_no_pass() -> None:
    assert make().cell("scan", "cpu") == Cell(NOT_RUN, reason="no case of this component ran")
    assert make().cell("scan", "gpu") == Cell(NOT_RUN, reason=MAC)
    assert make(result(NOT_RUN, detail="no AVX2")).cell("scan", "cpu") == Cell(NOT_RUN, reason="no AVX2")
    assert not make().passed and not make(result(NOT_RUN)).passed and not make(result(NOT_APPLICABLE)).passed
    assert "NOTHING RAN" in words.verdict(make()) and "NOTHING RAN" in words.verdict(make(result(NOT_RUN)))
    mixed = make(result(NOT_APPLICABLE, detail="no such thing"), result(NOT_RUN, case="long", detail="no AVX2"))
    assert mixed.cell("scan", "cpu") == Cell(NOT_RUN, reason="no AVX2")
    partly = make(result(), result(NOT_RUN, case="long", detail="no AVX2")).cell("scan", "cpu")
    assert (partly.status, partly.cases, partly.reason) == (PASS, 1, "some cases NOT RUN: no AVX2")
    half = make(result())
    half.absent["scan", "cpu"] = Cell(NOT_RUN, reason="no backward here")
    assert half.cell("scan", "cpu").reason == "some cases NOT RUN: no backward here"


def test_a_cell_is_as_bad_as_its_worst_case() -> None:
    assert make(result(margin=0.1), result(margin=0.9)).cell("scan", "cpu") == Cell(PASS, 2, 0.9)
    assert make(result(), result(DEVIATION)).cell("scan", "cpu").status == DEVIATION
    assert make(result(DEVIATION), failure(), result()).cell("scan", "cpu").status == FAIL
    for order in ((math.nan, 0.5), (0.5, math.nan)):
        assert make(*(result(margin=m) for m in order)).cell("scan", "cpu").margin == math.inf


def test_failures_come_worst_first_and_fail_the_run() -> None:
    report = make(failure(case="a"), result(FAIL, math.nan, case="b"), result(FAIL, 3.0, case="c"), result())
    assert [r.case for r in report.failures()] == ["b", "a", "c"] and not report.passed
    assert make(result(), result(DEVIATION)).passed

# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("margin", "text"), [
    (0.0, "0"), (0.423, "0.42"), (0.994, "0.99"), (1.0, "1"), (3.14, "3.1"), (12.34, "12"), (999.4, "999"),
    (123456.0, "1.2e5"), (0.000012, "1.2e-5"), (5e-324, "4.9e-324"), (math.inf, "inf"), (math.nan, "nan")])
def test_margins_have_two_digits(margin: float, text: str) -> None:
    assert words.number(margin) == text


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_a_margin_reads_as_itself(margin: float) -> None:
    assert float(words.number(margin)) == pytest.approx(margin, rel=0.051)


@pytest.mark.parametrize(("found", "text", "short"), [
    (result(), "PASS 0.42", "0.42"), (result(margin=0.0), "PASS = bits", "= bits"), (failure(), "FAIL 12", "FAIL 12"),
    (result(FAIL, 0.3, tier="rms"), "FAIL rms", "FAIL rms"),
    (result(FAIL, math.inf, tier="exact"), "FAIL inf", "FAIL inf"),
    (result(FAIL, math.nan, tier="finite"), "FAIL inf", "FAIL inf"),
    (result(DEVIATION, 1.3), "DEV 1.3", "DEV 1.3"),
    (result(NOT_RUN), "NR", "NR"), (result(NOT_APPLICABLE), "n/a", "n/a")])
def test_the_text_of_a_cell(found: Result, text: str, short: str) -> None:
    report = make(found)
    assert words.cell_text(report.cell("scan", "cpu"), report.results) == text
    assert words.cell_text(report.cell("scan", "cpu"), report.results, short=True) == short

# --- the terminal ----------------------------------------------------------------------------------------------------


def test_the_matrix_names_every_cell_and_reason_once() -> None:
    text = printed(make(result(), result(margin=0.0, component="norm", backend="gpu")))
    assert row(text, "scan").split() == ["PASS", "0.42", "NR[1]"]
    assert row(text, "norm").split() == ["n/a[2]", "PASS", "=", "bits"]
    assert text.count(MAC) == 1 and text.count("[2] it has no norm") == 1
    assert "PASS: 2 cases on 2 of 2 backends, none failed. 1.5 s" in text and "seed 7" in text and "cpu x86" in text


def test_a_failure_is_described_with_its_command() -> None:
    text = printed(make(failure(), result()), 80)
    assert row(text, "scan").startswith("FAIL 12")
    for part in ("hard", "y[0, 3]", "1.5", "2.5", "too far", "FAIL: 1 of 2 cases on 1 of 2 backends"):
        assert part in text
    command = "python -m conformance run --backend cpu --component scan --case 'odd' --seed 7"
    assert any(line.endswith(command) for line in text.splitlines())  # in one line, to be copied


def test_many_failures_are_cut_and_counted() -> None:
    text = printed(make(*(failure(case=str(i)) for i in range(MOST_FAILURES + 3))))
    assert text.count("  repeat") == MOST_FAILURES and "and 3 more" in text


def test_deviations_are_listed() -> None:
    text = printed(make(result(DEVIATION, 1.3, detail="known deviation x: because")))
    assert "DEVIATION cpu scan odd: margin 1.3, known deviation x: because" in text and "known deviations: 1" in text


@pytest.mark.parametrize("width", [80, 100])
def test_twelve_backends_fit(width: int) -> None:
    report = make(backends=12, components=("selective_scan.backward", "scan"))
    report.results = [result(margin=0.01 * (10 + i), backend=b.name) for i, b in enumerate(report.backends)]
    report.results[5] = failure(backend=report.backends[5].name)
    text = printed(report, width)
    matrix = text.partition("A number is")[0]
    assert max(map(len, matrix.splitlines())) <= width
    assert " ".join(text.split()).count(MAC) == 1
    assert all(f"{i:>2} {b.name}: {b.description}" in matrix for i, b in enumerate(report.backends, 1))
    lines = [line for line in matrix.splitlines() if line.startswith("scan ")]
    cells = " ".join(lines).replace("scan", "").replace("FAIL 12", "FAIL").split()
    assert f"2 gpu: the GPU (NOT RUN: {MAC})" in " ".join(text.split())
    assert row(matrix, "selective_scan.backward").split()[:2] == ["NR[1]", "NR"]
    assert cells == ["FAIL" if i == 5 else f"{0.01 * (10 + i):.2f}" for i in range(12)]
    heads = [word for line in matrix.splitlines() if line.startswith("component ") for word in line.split()[1:]]
    assert heads == [str(i) for i in range(1, 13)]


def test_names_that_look_like_markup_are_kept() -> None:
    assert "[bold]odd[/bold]" in printed(make(failure(case="[bold]odd[/bold]")))

# --- JSON, JUnit, HTML -----------------------------------------------------------------------------------------------


def test_json_is_strict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report = make(result(FAIL, math.nan, case="a"), result(FAIL, math.inf, case="b", index=(1, 2)), result())
    assert show(monkeypatch, report, "--json") == 1

    def refuse(name: str) -> None:
        raise AssertionError(name)

    document = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert [r["margin"] for r in document["results"]] == [None, None, 0.42]
    assert document["results"][1]["index"] == [1, 2] and document["seed"] == 7 and not document["passed"]
    assert document["cells"]["scan"]["cpu"]["status"] == FAIL
    assert document["cells"]["norm"]["gpu"] == {"status": NOT_RUN, "cases": 0, "margin": 0.0, "reason": MAC}
    assert document["date"] == "2026-06-01T10:00:00+00:00"


def test_junit_has_a_suite_per_backend_and_counts_right() -> None:
    report = make(result(seconds=0.5), failure(case="even"), result(DEVIATION, case="den", detail="known"),
                  result(NOT_RUN, case="long", detail="no AVX2"))
    root = ElementTree.fromstring(junit(report))
    assert root.tag == "testsuites" and [s.get("name") for s in root] == ["cpu", "gpu"]
    cpu, gpu = root
    assert {k: cpu.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "1", "errors": "0", "skipped": "3"}
    assert {k: gpu.get(k) for k in ("tests", "failures", "skipped")} == {"tests": "2", "failures": "0", "skipped": "2"}
    assert root.get("tests") == "7" and root.get("failures") == "1"
    for suite in root:
        assert int(suite.get("tests") or 0) == len(suite.findall("testcase"))
        assert int(suite.get("skipped") or 0) == len(suite.findall("testcase/skipped"))
    case = cpu.find("testcase[@name='even']")
    assert case is not None and case.get("classname") == "conformance.cpu.scan"
    problem = case.find("failure")
    assert problem is not None and problem.get("type") == "hard" and "y[0, 3]" in (problem.get("message") or "")
    assert repro_command(failure(case="even"), make()) in (problem.text or "")
    assert [s.get("message") for s in gpu.iter("skipped")] == [f"NOT RUN: {MAC}"] * 2
    assert cpu.find("testcase[@name='odd']").get("time") == "0.500000"  # type: ignore[union-attr]


def test_junit_survives_any_text() -> None:
    report = make(failure(case=NASTY, detail=NASTY, expected=NASTY), result(NOT_RUN, component="norm", detail=NASTY))
    root = ElementTree.fromstring(junit(report))
    assert any("<b onload='x'>&\"" in (case.get("name") or "") for case in root.iter("testcase"))


class Page(HTMLParser):
    """Checks that every element is closed in order, and gathers addresses, identifiers and text."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_needs_nothing_else() -> None:
    report = make(failure(), result(case="even"), result(DEVIATION, 1.2, component="norm", backend="gpu"), backends=4)
    text = html(report).decode()
    page = Page(text)
    assert not re.search(r"https?:|//|url\(|@import", text)
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    links = [value or "" for name, value in page.attributes if name in ("href", "src")]
    targets = ["#" + (value or "") for name, value in page.attributes if name == "id"]
    assert sorted(links) == sorted(targets) == ["#cell-0-0", "#cell-1-1"]
    assert "prefers-color-scheme: dark" in text and "color-scheme: light dark" in text


def test_html_tells_all() -> None:
    page = Page(html(make(failure(), result(case="even"))).decode())
    for part in ("FAIL 12", "NR[1]", MAC, "n/a[2]", "it has no norm", "even", "too far", "2026-06-01", "x86", "y[0, 3]",
                 "FAIL: 1 of 2 cases", "Worst case", repro_command(failure(), make())):
        assert part in page.text, part


def test_html_escapes_text() -> None:
    nasty = failure(case=NASTY, detail=NASTY, got=NASTY, output=NASTY)
    report = make(nasty, result(component=NASTY), components=("scan", NASTY))
    report.machine[NASTY] = NASTY
    report.backends[1] = BackendInfo(NASTY, NASTY, NASTY)
    page = Page(html(report).decode())
    assert "b" not in page.tags and not any(name == "onload" for name, _ in page.attributes)
    shown = NASTY.partition("\x00")[0]
    assert any(name == "title" and (value or "").startswith(shown) for name, value in page.attributes)


def test_a_failure_outside_the_matrix_is_on_the_page() -> None:
    page = Page(html(make(result(), failure(component="typo"))).decode())
    assert "Failures outside the matrix" in page.text and "typo" in page.text
