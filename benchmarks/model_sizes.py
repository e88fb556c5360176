"""What a model of 1 million to 1 billion parameters costs: file, loading, memory, decode beside its floors.

    make ghost-run && python benchmarks/model_sizes.py [--sizes 11M 1B] [--rounds N] [--quick]

The models are untrained and have neither routers nor attention, so every byte reads every weight. Two floors, measured
in the same rounds: reading as many bytes as the 2-bit codes have, by as many threads, from wherever so many bytes lie
(caches; DRAM for the largest); and the integer products at the VNNI peak.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from kernel_speed import Kernels
from protocol import RESULTS, ROOT, Cell, Results, Turn, arguments, begin, progress, quickest, run, take_turns

from ghost_ref.bench import TEXT
from ghost_ref.config import ModelConfig
from ghost_ref.errors import GhostError
from ghost_ref.initialise import initial_weights
from ghost_ref.packed import save_packed
from ghost_ref.parameters import CODEBOOK, TERNARY, parameter_count, parameter_specs
from ghost_ref.runtime import load

QUICK_SIZES = ("1M", "11M")
SIZES = {
    "1M": ModelConfig(d_model=128, n_layers=4, dt_rank=8, d_ff=384),
    "11M": ModelConfig(),
    "100M": ModelConfig(d_model=768, n_layers=13, dt_rank=48, d_ff=1792),
    "300M": ModelConfig(d_model=1280, n_layers=14, dt_rank=80, d_ff=2944),
    "1B": ModelConfig(d_model=2048, n_layers=19, dt_rank=128, d_ff=4224),
}
STANDALONE = ROOT / "build" / "device" / "ghost-run"
SOURCE, LIBRARY = ROOT / "benchmarks" / "model_sizes" / "reading.cpp", ROOT / "build" / "model_sizes" / "reading.so"
FLAGS = "-std=c++17 -O3 -fPIC -shared -pthread -Wall -Wextra -Werror".split()
STREAMS = (1, 2, 4)
TURN, PEAK_TURN = 0.2, 0.02  # seconds


class Reading:
    """Memory of some size, and how long it takes to read it."""

    def __init__(self, size: int) -> None:
        self.library, self.size = ctypes.CDLL(str(build())), size
        self.library.ghost_reading_memory.restype = ctypes.c_void_p
        self.library.ghost_reading_memory.argtypes = [ctypes.c_size_t]
        self.library.ghost_reading_free.argtypes = [ctypes.c_void_p]
        self.library.ghost_reading_seconds.restype = ctypes.c_double
        self.library.ghost_reading_seconds.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int]
        self.memory = self.library.ghost_reading_memory(size)
        if self.memory is None:
            raise GhostError("There is no memory to read, or this CPU has no AVX2.")

    def turn(self, threads: int, streams: int) -> Turn:
        """Seconds to read all of it once."""
        def seconds(times: int) -> float:
            return self.library.ghost_reading_seconds(self.memory, self.size, threads, streams, times)

        times = max(1, int(TURN / 2 / seconds(1)))
        return lambda: seconds(times)

    def best(self, threads: int) -> Turn:
        turns = {str(streams): self.turn(threads, streams) for streams in STREAMS}
        return turns[quickest(turns)]

    def __del__(self) -> None:
        if getattr(self, "memory", None) is not None:
            self.library.ghost_reading_free(self.memory)


def build() -> Path:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise GhostError("The floor is measured by a program of its own: install g++ or set CXX.")
    if not LIBRARY.exists() or LIBRARY.stat().st_mtime < SOURCE.stat().st_mtime:
        LIBRARY.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(LIBRARY)], check=True)
    return LIBRARY


def matrices(config: ModelConfig) -> Iterator[tuple[int, int]]:
    """(rows, columns) of every ternary matrix."""
    for spec in parameter_specs(config).values():
        if spec.storage in (TERNARY, CODEBOOK):
            rows, columns = spec.shape
            yield rows, columns


def code_bytes(config: ModelConfig) -> int:
    """Bytes of the 2-bit codes in memory, all of which are read for every byte."""
    return sum(math.prod(-(-n // 16) * 16 for n in shape) for shape in matrices(config)) // 4


def model_file(name: str) -> Path:
    """The model, packed if it has not been before."""
    config, path = SIZES[name], RESULTS / "models" / f"{name}.ghost"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        progress(f"packing {path} ...")
        save_packed(path, initial_weights(config, 0), config)
    return path


def decode_turn(path: Path, threads: int) -> Turn:
    """Seconds per byte of a text read byte by byte, logits included."""
    model = load(path, backend="native", threads=threads)
    forward, state = model.engine.model.forward, model.new_state()  # type: ignore[attr-defined]
    tokens = np.frombuffer(TEXT, np.uint8)

    def turn() -> float:
        start, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < TURN or not count:
            forward(state, tokens[count % len(tokens)][None], "last")
            count += 1
        return elapsed / count

    turn()
    return turn


def whole_process(path: Path) -> dict[str, Any]:
    """Load time and peak memory of a fresh process that also reads 1024 bytes and decodes 256."""
    command = [str(STANDALONE), "bench", str(path), "--repeats", "1", "--threads", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise GhostError(done.stderr.strip())
    return json.loads(done.stdout)["runs"][0]


def load_turn(path: Path) -> Turn:
    """Seconds to load a file that is in the system's cache."""
    def turn() -> float:
        start = time.perf_counter()
        load(path, backend="native")
        return time.perf_counter() - start

    return turn


def measure_size(results: Results, kernels: Kernels, name: str, rounds: int) -> None:
    path, config = model_file(name), SIZES[name]
    products = sum(math.prod(shape) for shape in matrices(config)) + 256 * config.d_model
    codes, reading = code_bytes(config), Reading(code_bytes(config))
    notes = {"parameters": str(parameter_count(config)), "file_bytes": str(path.stat().st_size),
             "code_bytes": str(codes)}
    for threads in (1, 2):
        turns = {"ghost": decode_turn(path, threads), "reading": reading.best(threads)}
        if kernels.limit("vnni512", PEAK_TURN) > 0:
            turns["products"] = lambda threads=threads: products / kernels.limit("vnni512", PEAK_TURN) / threads
        samples = take_turns(turns, rounds)
        results.add(Cell({"what": "decode", "model": name, "threads": threads}, "byte", samples, notes))
    del reading
    results.add(Cell({"what": "load", "model": name}, "load", take_turns({"ghost": load_turn(path)}, rounds), notes))
    if not STANDALONE.exists():
        results.absent["ghost-run"] = "not built; make ghost-run"
        return
    run = whole_process(path)
    results.add(Cell({"what": "process", "model": name}, "load", {"ghost-run": [run["load_seconds"]]},
                     notes | {"peak_bytes": str(run["peak_bytes"])}))


def report(results: Results) -> str:
    """A line per model and number of threads."""
    lines = []
    for cell in results.find(what="decode"):
        name, peak = cell.problem["model"], ""
        for process in results.find(what="process", model=name):
            peak = f", peak {int(process.notes['peak_bytes']) / int(cell.notes['code_bytes']):.2f} x codes"
        ghost = cell.samples["ghost"]
        shares = [f"{floor} {100 * min(values := sorted(f / g for f, g in zip(cell.samples[floor], ghost))):.0f}.."
                  f"{100 * values[len(values) // 2]:.0f}..{100 * values[-1]:.0f} %"
                  for floor in ("reading", "products") if floor in cell.samples]
        loading = ", ".join(f"load {1000 * other.median('ghost'):.1f} ms"
                            for other in results.find(what="load", model=name))
        lines.append(f"{name:>5} {cell.problem['threads']} threads: {1 / cell.median('ghost'):,.0f} "
                     f"({1 / max(ghost):,.0f}..{1 / min(ghost):,.0f}) bytes/s; of the floors: {', '.join(shares)}; "
                     f"file {int(cell.notes['file_bytes']):,}, {loading}{peak}")
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> Results:
    sizes = [size for size in options.sizes if size in QUICK_SIZES] if options.quick else options.sizes
    results = begin("model_sizes", options)
    kernels = Kernels()
    for name in sizes:
        progress(f"{name} ...")
        measure_size(results, kernels, name, options.rounds)
    print(report(results))
    return results


def flags() -> argparse.ArgumentParser:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES), help="these models alone")
    return parser


if __name__ == "__main__":
    sys.exit(run(measure, flags()))
