"""Reports of the conformance kit, known deviations, and the commands that show them, on reports made by hand."""

from __future__ import annotations

import importlib
import io
import json
import math
import re
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from conformance import deviations, results
from conformance.__main__ import VERBS
from conformance.__main__ import main as conformance
from conformance.mutation.outcome import CAUGHT, SURVIVED, MutationReport, Outcome
from conformance.reports import words
from conformance.reports.html import html
from conformance.reports.junit import junit
from conformance.reports.matrix import MOST_FAILURES, print_matrix
from conformance.results import (
    DEVIATION,
    FAIL,
    NOT_APPLICABLE,
    NOT_RUN,
    PASS,
    BackendInfo,
    Cell,
    Report,
    Result,
    repro_command,
)
from ghost_ref.cli import main as ghost
from ghost_ref.errors import GhostError

NASTY = "<b onload='x'>&\"\x00\x1b[31m\ud800"
MAC = "it needs an Apple GPU; run `ghost verify` on a Mac"
TODAY = date(2026, 6, 1)


def result(status: str = PASS, margin: float = 0.42, component: str = "scan", backend: str = "cpu", case: str = "odd",
           **more: Any) -> Result:
    return Result(component, case, backend, status, margin, **more)


def failure(**more: Any) -> Result:
    given = {"tier": "hard", "output": "y", "index": (0, 3), "expected": "1.5", "got": "2.5", "detail": "too far"}
    return result(FAIL, 12.34, **{**given, **more})


def make(*found: Result, backends: int = 1, components: tuple[str, ...] = ("scan", "norm")) -> Report:
    infos = [BackendInfo("cpu", "the CPU"), BackendInfo("gpu", "the GPU", MAC)]
    infos += [BackendInfo(f"backend-number-{i}", f"the {i}th") for i in range(2, backends)]
    absent = {("norm", "cpu"): Cell(NOT_APPLICABLE, reason="it has no norm")}
    return Report(7, {"cpu": "x86"}, infos, list(components), list(found), absent, 1.5, "2026-06-01T10:00:00+00:00")


def printed(report: Report, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_matrix(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def row(text: str, name: str) -> str:
    """The rest of the line of the matrix that begins with this name."""
    return next(line for line in text.splitlines() if line.startswith(name + " ")).removeprefix(name).strip()


# --- a report --------------------------------------------------------------------------------------------------------


def test_what_did_not_run_is_no_pass() -> None:
    assert make().cell("scan", "cpu") == Cell(NOT_RUN, reason="no case of this component ran")
    assert make().cell("scan", "gpu") == Cell(NOT_RUN, reason=MAC)
    assert make(result(NOT_RUN, detail="no AVX2")).cell("scan", "cpu") == Cell(NOT_RUN, reason="no AVX2")
    assert not make().passed and not make(result(NOT_RUN)).passed and not make(result(NOT_APPLICABLE)).passed
    assert "NOTHING RAN" in words.verdict(make()) and "NOTHING RAN" in words.verdict(make(result(NOT_RUN)))
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


def show(monkeypatch: pytest.MonkeyPatch, report: Report, *argv: str) -> int:
    """`ghost verify` with a kit that finds this report."""
    monkeypatch.setattr(importlib.import_module("conformance.run"), "run_kit", lambda *a: report)
    return ghost(["verify", *argv])


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


# --- the commands ----------------------------------------------------------------------------------------------------


def test_verify_without_a_file_runs_the_kit(monkeypatch, capsys, tmp_path: Path) -> None:
    asked: list[Any] = []

    def run_kit(backends, components, cases, seed, extensive, on_progress):
        asked.append((backends, components, cases, seed, extensive))
        on_progress(1, 1)
        return make(result())

    monkeypatch.setattr(importlib.import_module("conformance.run"), "run_kit", run_kit)
    xml, page = tmp_path / "r.xml", tmp_path / "r.html"
    assert ghost(["verify"]) == 0
    assert "PASS 0.42" in capsys.readouterr().out
    flags = ["--backend", "cpu", "--backend", "gpu", "--component", "scan", "--seed", "7", "--extensive"]
    assert ghost(["verify", *flags, "--junit", str(xml), "--html", str(page)]) == 0
    assert conformance(["run", *flags, "--case", "odd*"]) == 0
    choice = (["cpu", "gpu"], ["scan"])
    assert asked == [(None, None, None, 0, False), (*choice, None, 7, True), (*choice, ["odd*"], 7, True)]
    assert ElementTree.parse(xml).getroot().tag == "testsuites" and "PASS 0.42" in page.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "r.xml"]


@pytest.mark.parametrize(("found", "code"), [((), 1), ((result(),), 0), ((result(), failure()), 1),
                                             ((result(DEVIATION),), 0), ((result(NOT_RUN),), 1)])
def test_exit_codes(found: tuple[Result, ...], code: int, monkeypatch, capsys) -> None:
    assert show(monkeypatch, make(*found)) == code
    assert show(monkeypatch, make(*found), "--json") == code


@pytest.mark.parametrize(("argv", "message"), [
    (["--prompts", "3"], "--prompts needs a model file"),
    (["m.ghost", "--junit", "r.xml"], "--junit belongs to the conformance kit"),
    (["m.ghost", "--html", "r.html"], "--html belongs to the conformance kit"),
    (["m.ghost", "--backend", "cpu"], "--backend belongs to the conformance kit"),
    (["m.ghost", "--component", "scan"], "leave out m.ghost"),
    (["m.ghost", "--seed", "0"], "--seed belongs"),
    (["m.ghost", "--extensive"], "--extensive belongs"),
    (["--backend", "nowhere"], "no backend 'nowhere'"),
    (["--component", "nothing"], "no component 'nothing'"),
    (["--seed", "-1"], "must be in 0.."),
])
def test_bad_requests_get_one_sentence(argv: list[str], message: str, capsys) -> None:
    assert ghost(["verify", *argv]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("ghost: ") and message in line


def test_a_file_that_cannot_be_written(monkeypatch, capsys, tmp_path: Path) -> None:
    assert show(monkeypatch, make(result()), "--junit", str(tmp_path / "no" / "r.xml")) == 2
    assert "does not exist; create it first" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["conformance", "conformance.run", "mlx"])
def test_verify_without_the_kit(name: str, monkeypatch, capsys) -> None:
    real = importlib.import_module

    def without(module: str) -> Any:
        if module.startswith("conformance"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(module)

    monkeypatch.setattr(importlib, "import_module", without)
    if name == "mlx":  # the kit is there, and something else is broken
        with pytest.raises(ModuleNotFoundError):
            ghost(["verify"])
        return
    assert ghost(["verify"]) == 2
    assert "conformance kit is not installed" in capsys.readouterr().err


def test_the_verbs_of_the_kit(monkeypatch, capsys, tmp_path: Path) -> None:
    assert conformance([]) == 0
    overview = capsys.readouterr().out
    assert all(f"  {verb} " in overview for verb in VERBS)
    for verb in VERBS:
        assert conformance([verb, "--help"]) == 0
        assert f"usage: python -m conformance {verb}" in capsys.readouterr().out
    assert conformance(["fly"]) == 2 and "no verb 'fly'" in capsys.readouterr().err
    assert conformance(["judge"]) == 2 and "DIR" in capsys.readouterr().err
    assert conformance(["run", "--component", "nothing"]) == 2
    assert "no component 'nothing'" in capsys.readouterr().err
    assert conformance(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "rms_norm" in listed["components"] and listed["backends"][0]["name"] == "reference"
    assert conformance(["list"]) == 0 and "rms_norm" in capsys.readouterr().out


def test_export_judge_and_mutate_reach_their_modules(monkeypatch, capsys) -> None:
    asked: list[Any] = []

    class Module:
        def export(self, *arguments: Any) -> int:
            asked.append(arguments)
            return 1234

        def judge_directory(self, *arguments: Any) -> Report:
            asked.append(arguments)
            return make(failure())

        def run(self, targets: Any, operators: Any, seed: int, on_progress: Any) -> MutationReport:
            asked.append((targets, operators, seed))
            on_progress(1, 1)
            outcome = Outcome("numpy", "wrong eps", "", "rms_norm", asked_status.pop(), margin=math.inf)
            return MutationReport(seed, ["numpy"], [outcome])

    asked_status = [CAUGHT, SURVIVED]
    real, fakes = importlib.import_module, ("conformance.vectors", "conformance.mutation")
    monkeypatch.setattr(importlib, "import_module", lambda name: Module() if name in fakes else real(name))
    assert conformance(["export", "out", "--seed", "3", "--component", "scan", "--largest", "9"]) == 0
    assert "1,234 cases" in capsys.readouterr().out
    assert conformance(["judge", "out"]) == 1 and "FAIL 12" in capsys.readouterr().out
    assert conformance(["mutate"]) == 1 and "SURVIVED" in capsys.readouterr().out
    assert conformance(["mutate", "--target", "native", "--fault", "wrong eps", "--seed", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"][0]["margin"] is None
    assert asked == [("out", 3, ["scan"], 9), ("out",), (("numpy",), None, 0), (["native"], ["wrong eps"], 4)]


# --- known deviations ------------------------------------------------------------------------------------------------

ENTRY: dict[str, Any] = {"id": "den", "component": "scan", "case": "odd*", "reason": "it flushes", "margin": 7.0,
                         "expiry": date(2026, 6, 1)}


def toml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (str, bool)) else str(value)


def write(directory: Path, *entries: dict[str, Any], backend: str = "cpu") -> Path:
    file = directory / f"{backend}.toml"
    tables = ["[[deviation]]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in entry.items()) for entry in entries]
    file.write_text("\n".join(tables))
    return file


def test_a_known_failure_is_a_deviation_until_it_expires(tmp_path: Path) -> None:
    write(tmp_path, {**ENTRY, "url": "https://example.org/1"})
    (found,) = deviations.apply([failure()], TODAY, directory=tmp_path)
    assert (found.status, found.margin, found.tier) == (DEVIATION, 12.34, "hard")
    for part in ("den", "it flushes", "2026-06-01", "https://example.org/1", "too far"):
        assert part in found.detail
    late, entry = deviations.apply([failure()], date(2026, 6, 2), directory=tmp_path)
    assert late.status == entry.status == FAIL and entry.tier == results.STALE
    assert "expired on 2026-06-01" in late.detail and "expired on 2026-06-01" in entry.detail


@pytest.mark.parametrize(("margin", "status"), [(12.34, DEVIATION), (14.0, DEVIATION), (14.1, FAIL), (math.inf, FAIL),
                                                (math.nan, FAIL), (0.3, DEVIATION)])
def test_a_deviation_may_double(margin: float, status: str, tmp_path: Path) -> None:
    write(tmp_path, ENTRY)
    (found,) = deviations.apply([result(FAIL, margin, tier="hard")], TODAY, directory=tmp_path)
    assert found.status == status
    assert status == DEVIATION or "more than 2 times the recorded 7" in found.detail


def test_an_infinite_margin_must_be_said(tmp_path: Path) -> None:
    write(tmp_path, {**ENTRY, "margin": math.inf})
    (found,) = deviations.apply([result(FAIL, math.inf, tier="exact")], TODAY, directory=tmp_path)
    assert found.status == DEVIATION
    assert deviations.apply([result(FAIL, math.nan)], TODAY, directory=tmp_path)[0].status == FAIL


def test_a_second_entry_may_excuse_what_the_first_does_not(tmp_path: Path) -> None:
    write(tmp_path, {**ENTRY, "margin": 1.0}, {**ENTRY, "id": "more"})
    (found,) = deviations.apply([failure()], TODAY, directory=tmp_path)
    assert found.status == DEVIATION and "known deviation more" in found.detail


def test_only_what_is_named_is_excused(tmp_path: Path) -> None:
    write(tmp_path, ENTRY)
    others = [failure(case="even"), failure(component="norm"), failure(backend="gpu"), failure(case="Odd")]
    found = deviations.apply([failure(), *others, result(case="odd 2")], TODAY, directory=tmp_path)
    assert [r.status for r in found] == [DEVIATION, FAIL, FAIL, FAIL, FAIL, PASS]
    assert found[1:5] == others  # in their order, untouched
    assert deviations.apply(others, TODAY, directory=tmp_path / "none") == others


def test_an_entry_that_holds_no_longer_is_a_failure(tmp_path: Path) -> None:
    write(tmp_path, ENTRY)
    passing, entry = deviations.apply([result()], TODAY, directory=tmp_path)
    assert passing == result() and entry.status == FAIL and entry.backend == "cpu" and entry.component == "scan"
    assert "all 1 cases it names pass; remove it" in entry.detail and entry.detail.endswith(".")
    assert "--case" not in repro_command(entry, make()) and "--component" not in repro_command(entry, make())
    for elsewhere in (result(case="even"), result(NOT_RUN), result(component="norm")):
        _, entry = deviations.apply([elsewhere], TODAY, directory=tmp_path)
        assert entry.status == FAIL and "no case that ran matches" in entry.detail
    assert not make(*deviations.apply([result()], TODAY, directory=tmp_path)).passed


def test_a_partial_run_judges_the_entries_it_can(tmp_path: Path) -> None:
    write(tmp_path, ENTRY, {**ENTRY, "id": "other", "component": "norm"})
    assert len(deviations.apply([failure()], TODAY, directory=tmp_path)) == 2
    (found,) = deviations.apply([failure()], TODAY, components=["scan"], directory=tmp_path)
    assert found.status == DEVIATION
    assert deviations.apply([result()], TODAY, every_case=False, directory=tmp_path) == [result()]
    (found,) = deviations.apply([failure()], TODAY, every_case=False, directory=tmp_path)
    assert found.status == DEVIATION
    assert deviations.apply([result(backend="gpu")], TODAY, directory=tmp_path) == [result(backend="gpu")]


@pytest.mark.parametrize(("change", "message"), [
    ({"id": None}, "entry 1: the field 'id' is missing"),
    ({"expiry": None}, "'expiry' is missing"),
    ({"expiry": "2026-06-01"}, "expiry must be date"),
    ({"margin": "7"}, "margin must be int or float"),
    ({"margin": True}, "margin must be int or float"),
    ({"margin": 0}, "margin must be positive"),
    ({"margin": math.nan}, "margin must be positive"),
    ({"reason": ""}, "reason is empty"),
    ({"until": "tomorrow"}, "unknown field 'until'"),
])
def test_a_malformed_entry_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = write(tmp_path, {k: v for k, v in {**ENTRY, **change}.items() if v is not None})
    with pytest.raises(GhostError, match=re.escape(message)) as raised:
        deviations.apply([result()], TODAY, directory=tmp_path)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(("text", "message"), [
    ("[[deviation", "not a TOML file"), ("deviations = []", "unknown field 'deviations'"),
    ("deviation = 3", "'deviation' is no list"), ("deviation = [3]", "entry 1: not a table"),
    ("[[deviation]]\nexpiry = 2026-06-01T00:00:00\n", "the field 'id' is missing")])
def test_a_malformed_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "cpu.toml"
    file.write_text(text)
    with pytest.raises(GhostError, match=re.escape(message)) as raised:
        deviations.load(file)
    assert str(file) in str(raised.value)


def test_other_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(GhostError, match="id 'den' is used twice"):
        deviations.load(write(tmp_path, ENTRY, ENTRY))
    with pytest.raises(GhostError, match="expiry must be date"):
        deviations.load(write(tmp_path, {**ENTRY, "expiry": "2026-06-01T00:00:00"}))
    (tmp_path / "cpu.toml").write_bytes(b"\xff")
    with pytest.raises(GhostError, match="not a TOML file"):
        deviations.load(tmp_path / "cpu.toml")


def test_the_documented_entry_is_valid(tmp_path: Path) -> None:
    """The example in conformance/deviations/README.md."""
    example = re.search(r"```toml\n(.*?)```", (deviations.DIRECTORY / "README.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "cpu.toml").write_text(example[1])
    (entry,) = deviations.load(tmp_path / "cpu.toml")
    assert entry.id == "exp-underflow" and entry.url


def test_the_files_of_this_project_are_well_formed() -> None:
    for file in deviations.DIRECTORY.glob("*.toml"):
        assert deviations.load(file)


@pytest.mark.parametrize("flag", ["--junit", "--html"])
def test_a_report_that_cannot_be_written_is_refused_before_the_kit_runs(flag, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.import_module("conformance.run"), "run_kit", lambda *a: pytest.fail("it ran"))
    for target in (tmp_path / "missing" / "report", tmp_path):
        assert conformance(["run", flag, str(target)]) == 2
        assert f"Cannot write {target}: " in capsys.readouterr().err


def test_the_command_repeats_an_extensive_run_and_a_judgement() -> None:
    report = make(failure())
    report.extensive = True
    assert repro_command(failure(), report).endswith("--extensive")
    report.answers = "my vectors"
    assert repro_command(failure(), report) == "python -m conformance judge my vectors"


def test_reseed_counts_failures_of_clean_backends(capsys) -> None:
    assert conformance(["reseed", "--runs", "2", "--component", "lane_sum", "--backend", "reference", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == 2 and document["judged"]["lane_sum"] > 10 and document["failures"] == []
