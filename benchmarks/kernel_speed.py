"""Single kernels at every level beside what one core of this machine can do at most.

    python benchmarks/kernel_speed.py [--rounds N] [--json FILE]

Compiles `kernel_speed/*.cpp` and the core's kernels with g++ (or $CXX) into one library, so that nothing of Python is
in a measurement. Limits and kernels take turns; every share of a peak is a ratio of the same round. See README.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ghost_ref.bench import cpu_name
from ghost_ref.errors import GhostError

ROOT = Path(__file__).resolve().parents[1]
CORE, SOURCES, BUILD = ROOT / "ext" / "core", ROOT / "benchmarks" / "kernel_speed", ROOT / "build" / "kernel_speed"
FLAGS = ("-std=c++17 -O3 -g0 -fPIC -fno-fast-math -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror "
         "-Wno-psabi").split()
LIMITS = {"vnni512": "GMAC/s", "vnni256": "GMAC/s", "maddubs256": "GMAC/s", "lookup256": "GMAC/s",
          "fma512": "GFLOP/s", "muladd512": "GFLOP/s", "muladd256": "GFLOP/s"}
READS = {"read L1": 16 << 10, "read L2": 512 << 10, "read L3": 4 << 20, "read DRAM": 256 << 20}  # bytes
PEAKS = {"avx512vnni": "vnni512", "avxvnni": "vnni256", "avx2": "maddubs256"}
SHAPES = ((512, 256), (1024, 256), (256, 1024), (1024, 384), (2048, 1024), (4096, 4096))  # out x in
TOKENS = (1, 8, 64)
SCANS = ((1024, 16, 1), (1024, 16, 64), (512, 16, 64))  # channels, states, tokens
TURN = 0.004  # seconds
SLOWEST = 5e8  # products a case may have


class Problem:
    """One kernel and its data."""

    def __init__(self, library: ctypes.CDLL, kind: str, rows: int, columns: int, tokens: int) -> None:
        self.library = library
        self.pointer = library.ghost_problem(kind.encode(), rows, columns, tokens)
        if not self.pointer:
            raise GhostError(f"There is no kernel problem of kind {kind!r}.")

    def seconds(self, level: str, seconds: float, quantise: bool = False) -> float:
        """Seconds per call at a level, measured for about `seconds`; quantise: the quantisation of x is in it."""
        return self.library.ghost_seconds(self.pointer, level.encode(), seconds, int(quantise))

    def __del__(self) -> None:
        self.library.ghost_problem_free(self.pointer)


class Kernels:
    """The compiled kernels and limits of this machine."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(build()))
        number, text, count = ctypes.c_double, ctypes.c_char_p, ctypes.c_int
        for name, result, arguments in (("ghost_limit", number, (text, number)),
                                        ("ghost_read_rate", number, (number, number)),
                                        ("ghost_problem", ctypes.c_void_p, (text, count, count, count)),
                                        ("ghost_seconds", number, (ctypes.c_void_p, text, number, count)),
                                        ("ghost_problem_free", None, (ctypes.c_void_p,))):
            function = getattr(self.library, name)
            function.restype, function.argtypes = result, arguments

    def levels(self) -> list[str]:
        """The levels of this machine's architecture that its CPU can run, best last."""
        probe = self.problem("trits", 16, 16, 1)
        return [level for level, _ in units() if probe.seconds(level, 1e-6) > 0]

    def limit(self, name: str, seconds: float) -> float:
        """Multiply-accumulates or float operations per second of one core (ext/core/peaks.cpp); below 0 where this
        CPU cannot run the loop."""
        return self.library.ghost_limit(name.encode(), seconds)

    def read_rate(self, size: int, seconds: float) -> float:
        """Bytes per second that one core reads from `size` bytes, over and over."""
        return self.library.ghost_read_rate(size, seconds)

    def problem(self, kind: str, rows: int, columns: int, tokens: int) -> Problem:
        """kind: trits, codebook (groups of 128), codebook32, int8, or scan with channels and states."""
        return Problem(self.library, kind, rows, columns, tokens)


def units() -> list[tuple[str, list[str]]]:
    """(level, compiler flags) of this architecture, as in every build (ext/core/levels.txt)."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    rows = [line.split() for line in (CORE / "levels.txt").read_text().splitlines() if not line.startswith("#")]
    return [(level, flags) for level, where, *flags in rows if where in ("any", machine)]


@cache
def build() -> Path:
    """The library, compiled anew if anything that it is made from is newer. Raises GhostError if that fails."""
    library = BUILD / "kernels.so"
    sources = [*SOURCES.iterdir(), *CORE.iterdir()]
    if library.exists() and library.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return library
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise GhostError("The kernels' speed is measured on a library of its own: install g++ or set CXX.")
    BUILD.mkdir(parents=True, exist_ok=True)
    parts = [(CORE / f"kernels_{level}.cpp", flags) for level, flags in units()]
    parts += [(CORE / "dispatch.cpp", []), (CORE / "peaks.cpp", []), (SOURCES / "problems.cpp", [])]
    objects = []
    for source, flags in parts:
        objects.append(str(BUILD / f"{source.stem}.o"))
        _run([compiler, *FLAGS, *flags, f"-I{CORE}", "-c", str(source), "-o", objects[-1]])
    _run([compiler, "-shared", *objects, "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GhostError(f"{command[0]} failed: {done.stderr.strip()[:2000]}")


def measure(rounds: int) -> dict[str, Any]:
    """Every limit and case in `rounds` rounds. A sample is a rate and its share of the level's peak, measured
    right before and after it."""
    kernels = Kernels()
    limits = {name: [kernels.limit(name, TURN) / 1e9 for _ in range(rounds)] for name in LIMITS}
    limits |= {name: [kernels.read_rate(size, TURN) / 1e9 for _ in range(rounds)] for name, size in READS.items()}
    limits = {name: rates for name, rates in limits.items() if min(rates) > 0}
    levels = [level for level in kernels.levels() if level != "scalar"]
    cases = [("trits", rows, columns, n) for n in TOKENS for rows, columns in SHAPES if n * rows * columns < SLOWEST]
    cases += [(kind, 1024, 256, tokens) for kind in ("codebook", "codebook32") for tokens in TOKENS]
    cases += [("int8", 256, 256, tokens) for tokens in TOKENS] + [("scan", *shape) for shape in SCANS]
    found = []
    for kind, rows, columns, tokens in cases:
        problem, work = kernels.problem(kind, rows, columns, tokens), rows * columns * tokens
        samples: dict[str, list[dict[str, float]]] = {level: [] for level in levels}
        for _ in range(rounds):
            for level in levels:
                peaks = [kernels.limit(PEAKS[level], TURN / 4)] if level in PEAKS and kind != "scan" else []
                rate = work / problem.seconds(level, TURN)
                peaks += [kernels.limit(PEAKS[level], TURN / 4) for _ in peaks]
                samples[level].append({"rate": rate} | ({"share": rate / statistics.mean(peaks)} if peaks else {}))
        found.append({"kind": kind, "rows": rows, "columns": columns, "tokens": tokens, "samples": samples})
        if sys.stderr.isatty():
            print(f"\r{len(found)} of {len(cases)} cases", end="", file=sys.stderr)
    return {"cpu": cpu_name(), "rounds": rounds, "limits": limits, "cases": found}


def report(result: dict[str, Any]) -> str:
    """Median (lowest to highest) of every limit, and of every case with its share of the level's peak."""
    lines = [f"{result['cpu']}, one core, {result['rounds']} rounds: median (lowest to highest)", ""]
    for name, rates in result["limits"].items():
        lines.append(f"{name:12} {_spread(rates)} {LIMITS.get(name, 'GB/s')}")
    lines += ["", "GMAC/s, share of the level's own peak; the scan in ns per state update"]
    for case in result["cases"]:
        cells = []
        for level, samples in case["samples"].items():
            rates = [s["rate"] / 1e9 for s in samples]
            if case["kind"] == "scan":
                cells.append(f"{level} {_spread([1 / rate for rate in rates], '.3f')}")
                continue
            share = f", {statistics.median(s['share'] for s in samples):.0%}" if "share" in samples[0] else ""
            cells.append(f"{level} {_spread(rates)}{share}")
        shape = f"{case['kind']} {case['rows']} x {case['columns']}, n = {case['tokens']}"
        lines.append(f"{shape:28} " + "; ".join(cells))
    return "\n".join(lines)


def _spread(values: list[float], form: str = ".0f") -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        result = measure(options.rounds)
    except GhostError as error:
        print(error, file=sys.stderr)
        return 2
    print(report(result))
    if options.json:
        options.json.write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
