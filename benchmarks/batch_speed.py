"""Cost against batch: many streams of `v12` stepped together.

    python benchmarks/batch_speed.py [--rounds N] [--quick]

Every stream reads a text of its own byte by byte; one step gives every stream one byte. Random weights, routers on.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from endless_model import endless_model
from protocol import Cell, Results, Turn, arguments, begin, progress, run, take_turns

from ghost_ref.bench import TEXT
from ghost_ref.runtime import Model, load

SIZES = (1, 2, 4, 8, 16, 32, 64)
BYTES = 2048  # of all streams together in a turn, at least
FEWEST = 32  # steps


def turn_of(model: Model, size: int) -> Turn:
    """Seconds per step of `size` streams."""
    text = np.frombuffer(TEXT, np.uint8)
    steps = [np.array([text[(3 * stream + step) % len(text)] for stream in range(size)])
             for step in range(max(FEWEST, BYTES // size))]

    def turn() -> float:
        states = [model.new_state() for _ in range(size)]
        start = time.perf_counter()
        for tokens in steps:
            model.step_batch(states, tokens)
        return (time.perf_counter() - start) / len(steps)

    return turn


def measure(options: argparse.Namespace) -> Results:
    results = begin("batch", options)
    path = endless_model("v12")
    for threads in (1, 2):
        progress(f"batches, {threads} threads ...")
        model = load(path, backend="native", threads=threads)
        turns = {str(size): turn_of(model, size) for size in (SIZES[:4] if options.quick else SIZES)}
        for turn in turns.values():
            turn()
        results.add(Cell({"what": "batch", "model": "v12", "threads": threads}, "step of all streams",
                         take_turns(turns, options.rounds)))
    return results


if __name__ == "__main__":
    sys.exit(run(measure, arguments(__doc__, rounds=15)))
