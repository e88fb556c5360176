"""How every comparison here is made: contestants take turns in one run, and all samples are kept.

A *cell* is one problem ("GEMV 512 x 256, 1 thread"); its contestants are functions that run the problem for a short
while and return seconds per unit of work. A *round* lets every contestant have one turn; the next round starts with
the next contestant, so that none always runs in the wake of the same other. Ratios are taken turn by turn.

A topic's results are one JSON file: {"topic", "machine", "versions", "rounds", "cells": [{"problem": {...}, "unit",
"samples": {contestant: [seconds, ...]}, "notes": {contestant: text}}], "absent": {contestant: why}}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ghost_ref.bench import available_cpus, cpu_name
from ghost_ref.errors import GhostError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "bench"
Turn = Callable[[], float]  # seconds per unit of work, measured in one turn
PAUSE = 0.003  # seconds before a turn: the last contestant's spinning threads go to sleep


@dataclass
class Cell:
    """One problem and what its contestants took."""

    problem: dict[str, Any]
    unit: str  # what the seconds of a sample are for
    samples: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.samples[name])

    def best(self, name: str) -> float:
        return min(self.samples[name])

    def to_dict(self) -> dict[str, Any]:
        return {"problem": self.problem, "unit": self.unit, "notes": self.notes,
                "samples": {name: [float(f"{s:.4g}") for s in seconds] for name, seconds in self.samples.items()}}


@dataclass
class Results:
    """What one topic's run measured."""

    topic: str
    machine: dict[str, Any]
    versions: dict[str, str]
    cells: list[Cell] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)  # {contestant: why it did not run}

    def add(self, cell: Cell) -> None:
        """Append the cell, or its samples to those of the same problem."""
        for known in self.cells:
            if known.problem == cell.problem:
                for name, seconds in cell.samples.items():
                    known.samples.setdefault(name, []).extend(seconds)
                known.notes.update(cell.notes)
                return
        self.cells.append(cell)

    def find(self, **problem: Any) -> list[Cell]:
        """The cells whose problem has these values."""
        return [cell for cell in self.cells if all(cell.problem.get(k) == v for k, v in problem.items())]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"topic": self.topic, "machine": self.machine, "versions": self.versions, "absent": self.absent}
        cells = ",\n ".join(json.dumps(cell.to_dict()) for cell in self.cells)
        path.write_text(f"{json.dumps(content)[:-1]}, \"cells\": [\n {cells}\n]}}\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        try:
            content = json.loads(path.read_text())
            cells = [Cell(**cell) for cell in content.pop("cells")]
            return cls(**content, cells=cells)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GhostError(f"{path} does not hold results of these benchmarks ({error!r}); measure again.") from None


def take_turns(contestants: Mapping[str, Turn], rounds: int) -> dict[str, list[float]]:
    """{contestant: one sample per round}, every contestant once per round."""
    names, samples = list(contestants), {name: [] for name in contestants}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            samples[name].append(contestants[name]())
    return samples


def quickest(variants: Mapping[str, Turn], looks: int = 3) -> str:
    """The name of the variant with the lowest median of a few turns: a peer runs with the best of its options."""
    if len(variants) == 1:
        return next(iter(variants))
    samples = take_turns(variants, looks)
    return min(samples, key=lambda name: statistics.median(samples[name]))


def ratios(slower: list[float], faster: list[float]) -> dict[str, float]:
    """How many times faster `faster` is, turn by turn: median, lowest, highest."""
    values = [a / b for a, b in zip(slower, faster)]
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def spread(samples: list[float]) -> dict[str, float]:
    """Median, lowest, highest, and how far the highest is from the lowest, of the median."""
    middle = statistics.median(samples)
    return {"median": middle, "lowest": min(samples), "highest": max(samples),
            "relative": (max(samples) - min(samples)) / middle}


def seconds_per_call(body: Callable[[], Any], seconds: float) -> float:
    """Call for about `seconds` after one warm-up call; for work so long that Python's own time does not matter."""
    body()
    start, calls = time.perf_counter(), 0
    while True:
        body()
        calls += 1
        if (elapsed := time.perf_counter() - start) >= seconds:
            return elapsed / calls


def machine() -> dict[str, Any]:
    """What a reader needs to know of the machine."""
    from ghost_ref import _native

    return {"cpu": cpu_name(), "model": _cpu_model(), "cpus": available_cpus(), "caches": _caches(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "system": f"{platform.system()} {platform.release()}", "level": _native.default_level()}


def _cpu_model() -> str:
    """Family, model and stepping where the system tells them: virtual machines hide the name."""
    found = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    except OSError:
        return "unknown"
    return ", ".join(f"{key} {found[key]}" for key in ("cpu family", "model", "stepping") if key in found)


def _caches() -> str:
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return ", ".join(found) or "unknown"


def versions(*packages: str) -> dict[str, str]:
    """Versions of Ghost, Python, the C++ compiler and the named packages."""
    found = {"ghost": commit(), "python": platform.python_version()}
    try:
        compiler = subprocess.run([os.environ.get("CXX", "g++"), "-dumpfullversion"], capture_output=True, text=True)
        found["c++"] = f"{os.environ.get('CXX', 'g++')} {compiler.stdout.strip()}"
    except OSError:
        found["c++"] = "none"
    for package in ("numpy", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """Ghost's version, and the commit where the source is a checkout."""
    from ghost_ref import __version__

    try:
        asked = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True,
                               text=True)
    except OSError:
        return __version__
    return f"{__version__} ({asked.stdout.strip()})" if asked.returncode == 0 else __version__


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The flags that every topic has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of every contestant (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="few turns and small problems: does it run at all?")
    parser.add_argument("--more", action="store_true", help="add to the turns of an earlier run on this machine")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files (%(default)s)")
    return parser


def begin(topic: str, options: argparse.Namespace, *packages: str) -> Results:
    """Empty results, or with --more those of the earlier run."""
    fresh = Results(topic, machine(), versions(*packages))
    path = options.results / f"{topic}.json"
    if not options.more or not path.exists():
        return fresh
    earlier = Results.load(path)
    known = {name: earlier.versions.get(name) for name in fresh.versions}  # the others are the peers', told as they run
    if (earlier.machine, known) != (fresh.machine, fresh.versions):
        raise GhostError(f"{path} was measured on another machine or with other versions; measure without --more.")
    return earlier


def run(measure: Callable[[argparse.Namespace], Results], parser: argparse.ArgumentParser,
        quick_rounds: int = 3) -> int:
    """Parse the flags, measure a topic and keep its results; the exit code."""
    options = parser.parse_args()
    options.rounds = min(options.rounds, quick_rounds) if options.quick else options.rounds
    try:
        results = measure(options)
        path = options.results / f"{results.topic}.json"
        results.save(path)
    except GhostError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {path}", file=sys.stderr)
    return 0


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
