"""Known deviations of a backend: faults with a reason, a date and a size (conformance/deviations/README.md)."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from conformance.results import DEVIATION, FAIL, RAN, STALE, Result
from ghost_ref.errors import GhostError

DIRECTORY = Path(__file__).with_name("deviations")
GROWTH = 2.0
"""A deviation holds up to this many times its recorded margin; beyond, something new has broken."""


@dataclass(frozen=True)
class Deviation:
    """One entry of a file. case: a glob; margin: the observed |error| / bound, inf where none measures the fault;
    expiry: the last day it holds."""

    id: str
    component: str
    case: str
    reason: str
    margin: float
    expiry: date
    url: str = ""

    def matches(self, result: Result) -> bool:
        """Whether it names this case."""
        return self.component == result.component and fnmatchcase(result.case, self.case)


TYPES: dict[str, tuple[type, ...]] = {"id": (str,), "component": (str,), "case": (str,), "reason": (str,),
                                      "margin": (int, float), "expiry": (date,), "url": (str,)}
REQUIRED = tuple(f.name for f in fields(Deviation) if f.name != "url")


def load(path: Path) -> list[Deviation]:
    """The entries of one file; none if there is no such file. Raises GhostError naming file, entry and field."""
    if not path.exists():
        return []
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise GhostError(f"{path}: not a TOML file that can be read: {error}.") from None
    for key in document:
        if key != "deviation":
            raise GhostError(f"{path}: unknown field {key!r}; a file holds [[deviation]] entries only.")
    entries = document.get("deviation", [])
    if not isinstance(entries, list):
        raise GhostError(f"{path}: 'deviation' is no list; begin each entry with [[deviation]].")
    found = [_entry(path, number, entry) for number, entry in enumerate(entries, 1)]
    names = [d.id for d in found]
    for name in names:
        if names.count(name) > 1:
            raise GhostError(f"{path}: id {name!r} is used twice; give every entry its own.")
    return found


def _entry(path: Path, number: int, entry: Any) -> Deviation:
    where = f"{path}, entry {number}"
    if not isinstance(entry, dict):
        raise GhostError(f"{where}: not a table; begin each entry with [[deviation]].")
    for name in REQUIRED:
        if name not in entry:
            raise GhostError(f"{where}: the field {name!r} is missing.")
    for name, value in entry.items():
        if name not in TYPES:
            raise GhostError(f"{where}: unknown field {name!r}; the fields are {', '.join(TYPES)}.")
        # exact types: a bool is an int, a time stamp is a date, and neither is meant here
        if type(value) not in TYPES[name]:
            kind = " or ".join(t.__name__ for t in TYPES[name])
            raise GhostError(f"{where}: {name} must be {kind}, got {value!r}.")
        if value == "" and name != "url":
            raise GhostError(f"{where}: {name} is empty.")
    if not entry["margin"] > 0:  # NaN too
        raise GhostError(f"{where}: margin must be positive, got {entry['margin']!r}.")
    return Deviation(**entry)


def apply(results: Iterable[Result], today: date, *, components: Collection[str] | None = None,
          every_case: bool = True, directory: Path = DIRECTORY) -> list[Result]:
    """The results with each excused FAIL turned into a DEVIATION, and a FAIL for each entry that no longer holds.

    Only backends with results are looked at. components: those this run was asked for (None: all), whose entries are
    judged; every_case: False in a run of chosen cases, which cannot judge entries. Raises GhostError if a file is
    malformed."""
    results = list(results)
    known = {backend: load(directory / f"{backend}.toml") for backend in dict.fromkeys(r.backend for r in results)}
    found = [_excuse(result, known[result.backend], today) for result in results]
    if not every_case:
        return found
    for backend, entries in known.items():
        mine = [r for r in results if r.backend == backend]
        judged = [d for d in entries if components is None or d.component in components]
        found += [_stale(d, backend, why) for d in judged if (why := _why_stale(d, mine, today))]
    return found


def _excuse(result: Result, known: Sequence[Deviation], today: date) -> Result:
    """The result itself, or as a DEVIATION; a failure that an entry names but does not excuse says why."""
    matching = [d for d in known if d.matches(result)]
    if result.status != FAIL or not matching:
        return result
    refusals = []
    for deviation in matching:
        if why := _why_not_excused(deviation, result, today):
            refusals.append(f"the known deviation {deviation.id} does not excuse it: {why}")
        else:
            text = f"known deviation {deviation.id} until {deviation.expiry}: {deviation.reason}"
            return replace(result, status=DEVIATION, detail=_join(text, deviation.url, result.detail))
    return replace(result, detail=_join(result.detail, *refusals))


def _why_not_excused(deviation: Deviation, result: Result, today: date) -> str:
    if today > deviation.expiry:
        return f"it expired on {deviation.expiry}"
    if not result.margin <= GROWTH * deviation.margin:  # NaN fails
        return f"the margin {result.margin:.3g} is more than {GROWTH:g} times the recorded {deviation.margin:.3g}"
    return ""


def _why_stale(deviation: Deviation, results: Sequence[Result], today: date) -> str:
    matched = [r for r in results if r.status in RAN and deviation.matches(r)]
    if today > deviation.expiry:
        return f"it expired on {deviation.expiry}; mend the fault, or renew the entry with a new reason and date"
    if not matched:
        return f"no case that ran matches {deviation.component!r}, {deviation.case!r}; correct or remove it"
    if all(r.status != FAIL for r in matched):
        return f"all {len(matched)} cases it names pass; remove it"
    return ""


def _stale(deviation: Deviation, backend: str, why: str) -> Result:
    return Result(deviation.component, f"deviation {deviation.id}", backend, FAIL, tier=STALE,
                  detail=f"The known deviation {deviation.id} in {backend}.toml no longer holds: {why}.")


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
