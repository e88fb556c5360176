"""How fast a packed model runs here: prefill, decode, first byte, loading, memory, per number of threads.

Each number of threads is measured in a process of its own (`python -m ghost_ref.bench`), so that load time is that
of a fresh process and peak memory is not that of the measurement before. The file itself is in the system's cache.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ghost_ref.config import SEP, SamplingConfig
from ghost_ref.engines import NativeEngine
from ghost_ref.errors import GhostError
from ghost_ref.runtime import Backend, Model, chosen_level, load
from ghost_ref.sampling import choose_byte

PREFILL_BYTES, DECODE_BYTES, PROMPT_BYTES = 256, 32, 64  # of the reference; NumPy is slow
REPEATS, MOST_REPEATS = 7, 1000
TEXT = b"The quick brown fox jumps over the lazy dog, 0123456789 times; list pods, then kubectl get pods. "

Measurement = dict[str, Any]


def bench_file(path: str | Path, threads: Sequence[int] | None = None, repeats: int = REPEATS,
               backend: Backend = "auto", on_progress: Callable[[int, int], None] | None = None,
               level: str = "") -> Measurement:
    """Measure a packed file; `threads` defaults to 1 .. number of CPUs (reference: 1 only).

    Returns the fields of `ghost-run bench --json`: {"file", "backend", "level", "chosen_by" (--level, GHOST_ISA or
    default: the best this CPU has), "not_used": {better level of this architecture: why it is not used}, "cpu", "cpus",
    "repeats", "runs": [...]}. A run holds "threads", "load_seconds", {median, lowest, highest} of "prefill" and
    "decode" (bytes per second) and of "first_byte" (seconds after a 64-byte prompt, warm); "products_per_byte" and
    "scan_updates_per_byte" of decoding; "floor", None where the level has no peak of its own, else "times" (the time of
    a decoded byte in floors), "instruction", "integer_peak" and "float_peak" (per second of one core); "peak_bytes" of
    the process and "model_bytes" of it since before loading. The native runtime is timed inside native code
    (ext/core/measure.h says what the floor is). Raises GhostError on a bad file or a level that cannot run here."""
    if not 1 <= repeats <= MOST_REPEATS:
        raise GhostError(f"repeats must be in 1..{MOST_REPEATS}, got {repeats}.")
    model = load(path, backend=backend, level=level)
    native = model.level != "reference"
    if level and not native:
        raise GhostError("The reference has no levels; leave out --level or --backend reference.")
    chosen = chosen_level(level) if native else {"chosen_by": "default", "not_used": {}}
    del model
    counts = list(threads or (range(1, available_cpus() + 1) if native else (1,)))
    runs = []
    for done, count in enumerate(counts, 1):
        runs.append(_measure_in_process(path, count, repeats, "native" if native else "reference", level))
        if on_progress:
            on_progress(done, len(counts))
    return {"file": str(path), "backend": "native" if native else "reference",
            "level": chosen["level"] if native else "reference", "chosen_by": chosen["chosen_by"],
            "not_used": chosen["not_used"], "cpu": cpu_name(), "cpus": available_cpus(),
            "repeats": repeats, "runs": runs}


def available_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The CPU's own name where the system tells it, else the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def measure(path: str | Path, threads: int, repeats: int, backend: Backend, level: str) -> Measurement:
    """One run in this process; the first repeat of everything warms up and is not counted."""
    before = peak_bytes()
    start = time.perf_counter()
    model = load(path, backend=backend, threads=threads, level=level)
    loaded = time.perf_counter() - start
    engine = model.engine
    speed = engine.model.speed(repeats) if isinstance(engine, NativeEngine) else _reference_speed(model, repeats)
    return {"threads": threads, "load_seconds": loaded, **speed, "peak_bytes": peak_bytes(),
            "model_bytes": peak_bytes() - before}


def _reference_speed(model: Model, repeats: int) -> Measurement:
    """The fields of the native runtime's `speed`; the reference, which defines bits, has no floor."""
    text, decoded = _cycle(TEXT, PREFILL_BYTES), _cycle(TEXT, DECODE_BYTES)
    prefill = _repeat(lambda: _prefill_seconds(model, text), repeats)
    decode = _repeat(lambda: _decode_seconds(model, decoded), repeats)
    return {"prefill": _spread([len(text) / seconds for seconds in prefill]),
            "decode": _spread([len(decoded) / seconds for seconds in decode]),
            "first_byte": _spread(_repeat(lambda: _first_byte_seconds(model), repeats)),
            "products_per_byte": None, "scan_updates_per_byte": None, "floor": None}


def peak_bytes() -> int:
    """Largest resident memory of this process so far (Linux: VmHWM)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _measure_in_process(path: str | Path, threads: int, repeats: int, backend: Backend, level: str) -> Measurement:
    arguments = json.dumps({"path": os.fspath(path), "threads": threads, "repeats": repeats, "backend": backend,
                            "level": level})
    search = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run([sys.executable, "-m", "ghost_ref.bench", arguments], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(search)})
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise GhostError(f"The measurement with {threads} threads failed: {reason[0]}.")
    return json.loads(done.stdout)


def _repeat(measured: Callable[[], float], repeats: int) -> list[float]:
    measured()
    return [measured() for _ in range(repeats)]


def _prefill_seconds(model: Model, text: bytes) -> float:
    state, tokens = model.new_state(), np.frombuffer(text, np.uint8)
    start = time.perf_counter()
    model.engine.forward(state, tokens, True)
    return time.perf_counter() - start


def _decode_seconds(model: Model, text: bytes) -> float:
    """Byte after byte: read it, choose the next. What is read is fixed, so every model decodes the same number."""
    state, sampling = model.new_state(), SamplingConfig()
    tokens = np.frombuffer(text, np.uint8)
    start = time.perf_counter()
    for step in range(len(tokens)):
        logits, _ = model.engine.forward(state, tokens[step : step + 1], True)
        choose_byte(logits[-1], sampling, step)
    return time.perf_counter() - start


def _first_byte_seconds(model: Model) -> float:
    prompt = _cycle(TEXT, PROMPT_BYTES - 1) + bytes([SEP])
    start = time.perf_counter()
    next(model.generate_bytes(prompt, SamplingConfig(max_bytes=1)), None)
    return time.perf_counter() - start


def _cycle(text: bytes, length: int) -> bytes:
    return (text * (length // len(text) + 1))[:length]


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the parent too, which reports it
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
