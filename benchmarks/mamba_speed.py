"""The same Mamba-only model in Ghost and in llama.cpp: prefill of 512 tokens, decode of 128.

    python benchmarks/llama_cpp.py && python benchmarks/mamba_speed.py [--rounds N] [--quick]

d_model 512, 6 layers, state 16, dt_rank 32, vocabulary 256, random weights: 10.3M parameters. Ghost's file has one
matrix more, its byte tokenizer's convolution (512 x 2048). llama.cpp is timed by its own llama-bench (one repetition
a turn, after its warm-up), in every quantisation and with both kinds of threads; Ghost by its decode loop, which
chooses every byte.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import llama_cpp
import numpy as np
from endless_model import MODELS, endless_model
from mamba_gguf import write_mamba
from protocol import Cell, Results, Turn, arguments, begin, progress, run, seconds_per_call, take_turns

from ghost_ref.config import SamplingConfig
from ghost_ref.errors import GhostError
from ghost_ref.runtime import load

PREFILL, DECODE = 512, 128
QUANTISED = ("TQ2_0", "TQ1_0", "Q4_0", "Q8_0", "F16")
LEVELS = ("avx512vnni", "avxvnni", "avx2")
TURN = 0.2  # seconds of each of Ghost's two parts


def gguf_files(folder: Path) -> dict[str, Path]:
    """{quantisation: file}, made by llama-quantize."""
    folder.mkdir(parents=True, exist_ok=True)
    source, files = folder / "mamba-d512-f32.gguf", {}
    if not source.exists():
        write_mamba(source)
    for kind in QUANTISED:
        files[kind] = folder / f"mamba-d512-{kind}.gguf"
        if not files[kind].exists():
            command = [str(llama_cpp.programs("OpenMP")["llama-quantize"]), str(source), str(files[kind]), kind]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise GhostError(f"llama-quantize failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return files


def ghost_turn(path: Path, level: str, threads: int, prefill: list[float]) -> Turn:
    """A turn that returns seconds per decoded byte and appends those per prefilled byte."""
    model = load(path, threads=threads, level=level)
    text = np.random.default_rng(1).integers(0, 128, PREFILL).astype(np.uint8)
    sampling = SamplingConfig(max_bytes=DECODE)

    def decode() -> None:
        if len(model.engine.generate([model.new_state()], [b"a"], [sampling])[0]) != DECODE:
            raise GhostError("the model ended its text early")

    def turn() -> float:
        read = seconds_per_call(lambda: model.engine.forward(model.new_state(), text, True), TURN)
        prefill.append(read / PREFILL)
        return seconds_per_call(decode, TURN) / DECODE

    return turn


def peer_turn(built: llama_cpp.Programs, path: Path, threads: int, prefill: list[float]) -> Turn:
    def turn() -> float:
        found = llama_cpp.llama_bench(built, path, threads, PREFILL, DECODE)
        prefill.append(found["prefill"])
        return found["decode"]

    return turn


def measure(options: argparse.Namespace) -> Results:
    from ghost_ref import _native

    results = begin("mamba", options, "gguf")
    results.versions["llama.cpp"] = f"from {llama_cpp.PACKAGE} {llama_cpp.VERSION}"
    ghost, ggufs = endless_model("mamba-d512"), gguf_files(MODELS)
    results.absent.update({f"ghost {level}": "not on this CPU" for level in LEVELS if level not in _native.levels()})
    for threads in (1, 2):
        progress(f"Mamba-only d512x6, {threads} threads ...")
        prefill: dict[str, list[float]] = {}
        turns: dict[str, Turn] = {}
        for level in (level for level in LEVELS if level in _native.levels()):
            name = f"ghost {level}"
            turns[name] = ghost_turn(ghost, level, threads, prefill.setdefault(name, []))
        for threading in llama_cpp.THREADING:
            for kind, path in list(ggufs.items())[: 1 if options.quick else None]:
                name = f"{kind}, {threading}"
                built = llama_cpp.programs(threading)
                turns[name] = peer_turn(built, path, threads, prefill.setdefault(name, []))
        decode = take_turns(turns, options.rounds)
        for what, samples in (("decode", decode), ("prefill", prefill)):
            results.add(Cell({"what": what, "model": "mamba-d512", "threads": threads}, "token", samples))
    return results


if __name__ == "__main__":
    sys.exit(run(measure, arguments(__doc__, rounds=5), quick_rounds=1))
