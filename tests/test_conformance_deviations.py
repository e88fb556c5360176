"""Known deviations of a backend."""

from __future__ import annotations

import json
import math
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from made_reports import TODAY, failure, make, result

from conformance import deviations, results
from conformance.results import (
    DEVIATION,
    FAIL,
    NOT_RUN,
    PASS,
    repro_command,
)
from ghost_ref.errors import GhostError

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
