"""Ternary matrix products and the selective scan: Ghost's kernels beside llama.cpp, onnxruntime and NumPy.

    python benchmarks/llama_cpp.py && python benchmarks/matmul_speed.py [--rounds N] [--quick]

One thread. A sample of Ghost and of ggml holds the quantisation of the activations; "product" is Ghost's product of
rows already quantised, what stands beside the peak. A peer runs with the best of its options, chosen per problem.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import llama_cpp
import numpy as np
import onnx_peer
from kernel_speed import Kernels
from protocol import Cell, Results, Turn, arguments, begin, progress, quickest, run, seconds_per_call, take_turns

from ghost_ref.errors import GhostError

SHAPES = ((512, 256), (1024, 256), (256, 1024), (1024, 384), (2048, 1024), (4096, 4096))  # out x in
TOKENS = (1, 8, 64)
SCAN = (1024, 16)  # channels and states of the Mamba-only d512 model
TURN = 0.004  # seconds, more for a longer product
QUANTISED = ("TQ2_0", "TQ1_0", "Q4_0", "Q8_0")
REPACKED = ("Q4_0",)  # what llama.cpp stores in another order on x86
PEAKS = {"VNNI peak": "vnni512", "AVX2 peak": "maddubs256"}


class Peers:
    """Everything that computes one product, by name; what cannot is remembered with its reason."""

    def __init__(self, results: Results) -> None:
        self.kernels, self.results = Kernels(), results
        self.levels = [level for level in self.kernels.levels() if level != "scalar"]
        self.ggml = {name: llama_cpp.Ggml(name) for name in llama_cpp.THREADING}

    def products(self, rows: int, columns: int, tokens: int) -> tuple[dict[str, Turn], dict[str, str]]:
        """({contestant: turn}, {contestant: the options it runs with})."""
        random = np.random.default_rng(0)
        trits = random.integers(-1, 2, (rows, columns)).astype(np.float32)
        x = random.uniform(-1, 1, (tokens, columns)).astype(np.float32)
        turns, notes = self._peaks(rows * columns * tokens), {}
        problem = self.kernels.problem("trits", rows, columns, tokens)
        for level in self.levels:
            turns[f"ghost {level}"] = partial(problem.seconds, level, TURN, quantise=True)
            turns[f"ghost {level}, product"] = partial(problem.seconds, level, TURN, quantise=False)
        for kind in QUANTISED:
            self._best(turns, notes, kind, self._ggml(kind, rows, columns, tokens))
        self._best(turns, notes, "onnxruntime 2-bit", self._onnx(trits, x))
        turns["numpy float32"] = _numpy(trits, x)
        return turns, notes

    def scans(self, tokens: int) -> dict[str, Turn]:
        channels, states = SCAN
        problem = self.kernels.problem("scan", channels, states, tokens)
        turns: dict[str, Turn] = {f"ghost {level}": partial(problem.seconds, level, TURN)
                                  for level in self.levels}
        ggml = self.ggml["OpenMP"]
        number = ggml.scan(channels, states, tokens, 1)
        return {**turns, "ggml_ssm_scan": lambda: ggml.time(number, TURN)}

    def close(self) -> None:
        for ggml in self.ggml.values():
            ggml.close()

    def _peaks(self, products: int) -> dict[str, Turn]:
        turns = {}
        for name, loop in PEAKS.items():
            if self.kernels.limit(loop, TURN) > 0:
                turns[name] = lambda loop=loop: products / self.kernels.limit(loop, TURN)
        return turns

    def _ggml(self, kind: str, rows: int, columns: int, tokens: int) -> dict[str, Turn]:
        variants: dict[str, Turn] = {}
        for threading, ggml in self.ggml.items():
            for repack in (False, True) if kind in REPACKED else (False,):
                try:
                    number = ggml.matmul(kind, rows, columns, tokens, 1, repack)
                except GhostError as error:
                    self.results.absent[f"{kind} {rows} x {columns}"] = str(error)
                    continue
                name = f"{threading}, repacked" if repack else threading
                variants[name] = lambda ggml=ggml, number=number: ggml.time(number, TURN)
        return variants

    def _onnx(self, trits: np.ndarray, x: np.ndarray) -> dict[str, Turn]:
        variants: dict[str, Turn] = {}
        refusals = {}
        for name in onnx_peer.VARIANTS:
            try:
                call, times = onnx_peer.product(trits, x, 1, name)
            except (GhostError, ImportError) as error:
                refusals[name] = str(error)
                continue
            variants[name] = lambda call=call, times=times: seconds_per_call(call, TURN) / times
        if not variants:
            self.results.absent["onnxruntime 2-bit"] = "; ".join(sorted(set(refusals.values())))
        return variants

    @staticmethod
    def _best(turns: dict[str, Turn], notes: dict[str, str], name: str, variants: dict[str, Turn]) -> None:
        if variants:
            notes[name] = quickest(variants)
            turns[name] = variants[notes[name]]


def _numpy(trits: np.ndarray, x: np.ndarray) -> Turn:
    """x @ w.T with an output of its own, or w @ x for one token, which NumPy computes quicker."""
    w = 0.05 * trits
    if len(x) == 1:
        vector, y = x[0].copy(), np.empty(len(w), np.float32)
        return lambda: seconds_per_call(lambda: np.matmul(w, vector, out=y), TURN)
    out = np.empty((len(x), len(w)), np.float32)
    return lambda: seconds_per_call(lambda: np.matmul(x, w.T, out=out), TURN)


def measure(options: argparse.Namespace) -> Results:
    results = begin("matmul", options, "onnxruntime")
    results.versions["llama.cpp"] = f"from {llama_cpp.PACKAGE} {llama_cpp.VERSION}"
    peers = Peers(results)
    shapes, counts = (SHAPES[:1], TOKENS[:2]) if options.quick else (SHAPES, TOKENS)
    for rows, columns in shapes:
        for tokens in counts:
            progress(f"{rows} x {columns}, {tokens} tokens ...")
            turns, notes = peers.products(rows, columns, tokens)
            results.add(Cell({"what": "product", "rows": rows, "columns": columns, "tokens": tokens}, "product",
                             take_turns(turns, options.rounds), notes))
    for tokens in (1, 64):
        updates = SCAN[0] * SCAN[1] * tokens
        samples = take_turns(peers.scans(tokens), options.rounds)
        results.add(Cell({"what": "scan", "channels": SCAN[0], "states": SCAN[1], "tokens": tokens}, "state update",
                         {name: [s / updates for s in seconds] for name, seconds in samples.items()}))
    peers.close()
    return results


def main() -> int:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return run(measure, arguments(__doc__, rounds=45))


if __name__ == "__main__":
    sys.exit(main())
