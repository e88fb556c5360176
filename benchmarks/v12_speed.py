"""`v12` with its routers: decode beside its floor, and the first byte of a fresh process.

    make ghost-run && python benchmarks/v12_speed.py [--model FILE.ghost] [--rounds N] [--quick]

The floor is what the work counted in the very same run would take at this CPU's peaks: integer multiply-accumulates
over the VNNI peak plus 26 float operations per scan update over the peak of unfused 512-bit multiplications and
additions. Beside it stands a second limit: reading once what a byte reads at least, from the caches that hold it.
Without --model the weights are a training run's first values, which skip fewer bytes than trained ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from endless_model import endless_model
from kernel_speed import Kernels
from protocol import ROOT, Cell, Results, Turn, arguments, begin, progress, run, take_turns

from ghost_ref.bench import TEXT
from ghost_ref.errors import GhostError
from ghost_ref.runtime import load

PROMPT = 64  # bytes
SCAN_OPERATIONS = 26  # float operations of one canonical state update
READ_BY_UPDATE = 8  # bytes: a state and its A, float32
PEAK_TURN = 0.02  # seconds
STANDALONE = ROOT / "build" / "device" / "ghost-run"
PYTHON = ("import sys; from ghost_ref.runtime import load; from ghost_ref.config import SamplingConfig; "
          "model = load(sys.argv[1]); "
          "print(next(model.generate_bytes(sys.argv[2].encode(), SamplingConfig(max_bytes=1)), None), flush=True)")


def decode_turn(model: Any, counted: dict[str, float]) -> Turn:
    """Seconds per byte of the runtime's own loop (ext/core/measure.h): a fixed text read byte by byte, logits included,
    and a byte chosen after each; leaves a byte's products and updates."""
    def turn() -> float:
        found = model.engine.model.speed(1)
        counted.update(products=found["products_per_byte"], updates=found["scan_updates_per_byte"])
        return 1 / found["decode"]["median"]

    return turn


def first_byte_turn(command: list[str]) -> Turn:
    """Seconds from starting the process to its first byte of output."""
    def turn() -> float:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            first = process.stdout.read(1)
            seconds = time.perf_counter() - start
            process.stdout.read()
        if not first or process.returncode:
            raise GhostError(f"{command[0]} gave no byte (status {process.returncode}).")
        return seconds

    return turn


def floor_turn(kernels: Kernels, counted: dict[str, float], threads: int) -> Turn:
    """Seconds that a byte's products and updates would take at the CPU's peaks."""
    def turn() -> float:
        integers = counted["products"] / kernels.limit("vnni512", PEAK_TURN)
        floats = counted["updates"] * SCAN_OPERATIONS
        return (integers + floats / kernels.limit("muladd512", PEAK_TURN)) / threads

    return turn


def reading(kernels: Kernels, size: int) -> float:
    """Seconds in which one core reads `size` bytes that it reads over and over."""
    return size / kernels.read_rate(size, PEAK_TURN)


def measure_decode(results: Results, path: Path, options: argparse.Namespace) -> None:
    kernels, counted = Kernels(), dict[str, float]()
    levels = [level for level in kernels.levels() if level != "scalar"]
    for threads in (1, 2):
        turns = {f"ghost {level}": decode_turn(load(path, threads=threads, level=level), counted) for level in levels}
        for turn in turns.values():
            turn()  # warm, and counted
        notes = {}
        if kernels.limit("vnni512", PEAK_TURN) > 0:
            turns["floor"] = floor_turn(kernels, counted, threads)
            notes["floor"] = (f"{counted['products'] / 1e6:.2f}M multiply-accumulates, {counted['updates']:,.0f} state "
                              "updates a byte")
        else:
            results.absent["floor"] = "this CPU has no 512-bit VNNI"
        if threads == 1:
            size = int(counted["products"] / 4 + counted["updates"] * READ_BY_UPDATE)
            turns["reading"] = partial(reading, kernels, size)
            notes["reading"] = f"{size / 1e6:.2f} MB"
        samples = take_turns(turns, options.rounds)
        results.add(Cell({"what": "decode", "model": "v12", "threads": threads}, "byte", samples, notes))


def measure_first_byte(results: Results, path: Path, options: argparse.Namespace) -> None:
    prompt = (TEXT.decode() * 2)[:PROMPT]
    turns = {"python": first_byte_turn([sys.executable, "-c", PYTHON, str(path), prompt])}
    if STANDALONE.exists():
        turns["ghost-run"] = first_byte_turn([str(STANDALONE), str(path), prompt, "--max-bytes", "1"])
    else:
        results.absent["ghost-run"] = "not built; make ghost-run"
    for turn in turns.values():
        turn()  # the files are in the system's cache then
    results.add(Cell({"what": "first byte", "model": "v12"}, "process", take_turns(turns, options.rounds)))


def measure(options: argparse.Namespace) -> Results:
    results = begin("v12", options)
    path = options.model or endless_model("v12")
    results.versions["model"] = "random weights" if options.model is None else path.name
    progress("v12, decode ...")
    measure_decode(results, path, options)
    progress("v12, first byte ...")
    measure_first_byte(results, path, options)
    return results


def flags() -> argparse.ArgumentParser:
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--model", type=Path, help="a packed v12 (default: random weights)")
    return parser


if __name__ == "__main__":
    sys.exit(run(measure, flags()))
