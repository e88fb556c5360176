"""Cost against length: time per byte and memory after 1 thousand to 1 million bytes.

    python benchmarks/length_speed.py [--rounds N] [--quick]

One stream of `v12` (random weights, its routers on) reads text; at each length its state is kept. Then all lengths take
turns: 256 bytes are read byte by byte from a copy of the state.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from endless_model import endless_model
from protocol import Cell, Results, Turn, arguments, begin, progress, run, take_turns

from ghost_ref.bench import TEXT, available_cpus
from ghost_ref.runtime import Model, load

LENGTHS = (1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000)
DECODE = 256


def resident_bytes() -> float:
    """Memory of this process now (Linux), or 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    import resource

    return float(pages * resource.getpagesize())


def turn_from(model: Model, state: object, tokens: list[np.ndarray]) -> Turn:
    def turn() -> float:
        copy, forward = model.fork(state), model.engine.model.forward  # type: ignore[attr-defined]
        start = time.perf_counter()
        for token in tokens:
            forward(copy, token, "last")
        return (time.perf_counter() - start) / len(tokens)

    return turn


def measure(options: argparse.Namespace) -> Results:
    results = begin("length", options)
    path = endless_model("v12")
    reader, single = load(path, threads=available_cpus()), load(path)
    lengths = LENGTHS[:3] if options.quick else LENGTHS
    text = np.frombuffer((TEXT * (lengths[-1] // len(TEXT) + 1))[: lengths[-1]], np.uint8)
    tokens = [text[i : i + 1] for i in range(DECODE)]
    state, read, turns, memory = reader.new_state(), 0, {}, {}
    for length in lengths:
        progress(f"reading {length:,} bytes ...")
        reader.engine.forward(state, text[read:length], True)
        read = length
        memory[str(length)] = [resident_bytes()]
        turns[str(length)] = turn_from(single, single.load_state_dict(reader.state_dict(state)), tokens)
    samples = take_turns(turns, options.rounds)
    results.add(Cell({"what": "length", "model": "v12", "threads": 1}, "byte", samples))
    results.add(Cell({"what": "memory", "model": "v12"}, "resident bytes of the process", memory))
    return results


if __name__ == "__main__":
    sys.exit(run(measure, arguments(__doc__, rounds=15)))
