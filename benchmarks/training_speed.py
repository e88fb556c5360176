"""Training speed: Ghost's NumPy trainer beside PyTorch models of the same shapes, on this machine's CPU.

    python benchmarks/training_speed.py [--preset v12|tiny] [--repeats N] [--json FILE]

Every contestant lives in a process of its own and they take turns (A B C D A B C D ...), a few optimizer steps
each, so that a slow spell of the machine hits all of them. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ghost_ref.batches import make_batch
from ghost_ref.bench import available_cpus, cpu_name, peak_bytes
from ghost_ref.config import ModelConfig, TrainingConfig
from ghost_ref.data import Dataset
from ghost_ref.model import forward
from ghost_ref.parameters import VECTOR, parameter_specs
from ghost_ref.presets import PRESETS, TRAINING, preset
from ghost_ref.quantise import quantise
from ghost_ref.trainer import Trainer, new_checkpoint
from ghost_ref.training_ops import have_kernels, training_ops

CONTESTANTS = {
    "ghost": "Ghost's NumPy trainer as it is: ternary, with its routers",
    "ghost all tokens": "the same with every token in every layer: the peers' amount of work",
    "torch float": "PyTorch, float32, every token in every layer",
    "torch ternary": "PyTorch with Ghost's ternary weights and int8 activations, fake-quantised",
}
WARM_UP_STEPS = 4  # the first ones compile and allocate
SHORTEST_CHECK = 20  # steps after which the loss must have fallen
TEXT_BYTES, WORDS = 1 << 18, 500
SGEMM_SIZE = 1024
TOLERANCE = {"float": (1e-4, 1e-5), "ternary": (1.0, 0.05)}  # largest, median logit difference; int8 steps flip


@dataclass(frozen=True)
class Setup:
    """What every contestant is given."""

    config: ModelConfig
    training: TrainingConfig
    scan: str

    def of(self, contestant: str) -> ModelConfig:
        """The contestant's model."""
        if contestant == "ghost":
            return self.config
        everything = self.config.replace(mod_layers=(), depth_layers=(), surprise_threshold=0.0)
        return everything.replace(linear="float") if contestant == "torch float" else everything


def synthetic_text(seed: int = 0) -> Dataset:
    """Made-up words, the frequent ones far more often (Zipf), 256 KiB: the same bytes everywhere."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    words = ["".join(map(chr, rng.integers(97, 123, size))) for size in rng.integers(2, 9, WORDS)]
    share = 1 / np.arange(1, WORDS + 1)
    text = " ".join(rng.choice(words, TEXT_BYTES // 4, p=share / share.sum()))
    return Dataset("synthetic words", "text", (), text.encode()[:TEXT_BYTES], "")


class Ghost:
    """Ghost's trainer behind the interface of torch_peer.Peer."""

    def __init__(self, config: ModelConfig, training: TrainingConfig, data: Dataset) -> None:
        self.trainer = Trainer(new_checkpoint(config, training, data), data)
        self.processed: list[dict[str, float]] = []

    def step(self) -> float:
        metrics = self.trainer.step()
        if "rejected" in metrics:
            raise RuntimeError(f"a step was rejected: {metrics['rejected']} is not finite")
        self.processed.append({layer: shares["all"] for layer, shares in metrics["processed"].items()})
        return metrics["loss"]

    def report(self) -> dict[str, Any]:
        return {"processed": {i: statistics.mean(step[i] for step in self.processed) for i in self.processed[0]}}


def make_contestant(name: str, setup: Setup) -> tuple[Any, dict[str, Any]]:
    """The contestant, and what checking it showed."""
    config, data = setup.of(name), synthetic_text()
    if name.startswith("ghost"):
        return Ghost(config, setup.training, data), {}
    import torch
    from torch_peer import Peer

    torch.set_num_threads(available_cpus())
    peer = Peer(config, setup.training, data, setup.scan)
    return peer, check_peer(peer, config, setup.training, data)


def check_peer(peer: Any, config: ModelConfig, training: TrainingConfig, data: Dataset) -> dict[str, Any]:
    """Same matrices and, up to rounding, same logits as Ghost's forward pass, a filled memory bank included."""
    import torch

    matrices = {name: spec.size for name, spec in parameter_specs(config).items() if spec.storage != VECTOR}
    own = {name: peer.params[name].numel() for name in matrices}
    rng, d = np.random.default_rng(0), config.d_model
    tokens = make_batch(data, training, 0).tokens[:2]
    keys = rng.normal(size=(8, d)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    memory = {"keys": keys, "values": rng.integers(97, 123, (8, 8)), "counts": np.arange(1, 9)}
    arrays = {name: p.detach().numpy() for name, p in peer.params.items()}
    ops, unrouted = training_ops(), config.replace(surprise_layers=())  # the head is not part of the logits
    expected = forward(quantise(arrays, unrouted, ops), unrouted, tokens, ops=ops, memory=memory).logits
    with torch.no_grad():
        logits, _, _ = peer.forward(torch.from_numpy(tokens.astype(np.int64)),
                                    tuple(torch.from_numpy(memory[k]) for k in ("keys", "values", "counts")))
    difference = np.abs(logits.numpy() - expected)
    largest, median = float(difference.max()), float(np.median(difference))
    allowed = TOLERANCE[config.linear]
    if own != matrices or not (largest <= allowed[0] and median <= allowed[1]):
        raise RuntimeError(f"the peer is not Ghost's model: logits differ by {largest:.3g}, median {median:.3g}")
    return {"matrix_parameters": sum(own.values()), "logit_difference": {"largest": largest, "median": median}}


def contestant_process(connection: Any, name: str, setup: Setup) -> None:
    """Answer each number of steps with (seconds, losses), and 0 with a last report."""
    try:
        contestant, checks = make_contestant(name, setup)
        connection.send(checks)
        while steps := connection.recv():
            gc.collect()
            start = time.perf_counter()
            losses = [contestant.step() for _ in range(steps)]
            connection.send((time.perf_counter() - start, losses))
        report = contestant.report() if isinstance(contestant, Ghost) else {}
        connection.send({**report, "peak_bytes": peak_bytes()})
    except Exception as error:
        connection.send(error)
        raise


class Worker:
    """A contestant's process, seen from outside."""

    def __init__(self, name: str, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=contestant_process, args=(other, name, setup), daemon=True)
        self.process.start()
        other.close()
        self.checks = self._receive()
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def _receive(self) -> Any:
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, steps: int, timed: bool) -> None:
        self.connection.send(steps)
        seconds, losses = self._receive()
        self.losses += losses
        if timed:
            self.seconds.append(seconds)

    def finish(self) -> dict[str, Any]:
        self.connection.send(0)
        report = self._receive()
        if len(self.losses) >= SHORTEST_CHECK and not np.mean(self.losses[-4:]) < np.mean(self.losses[:4]):
            raise RuntimeError(f"the loss did not fall: {self.losses}")
        return {**self.checks, **report, "losses": self.losses}


def sgemm_flops(threads: int) -> float:
    """FLOP/s of NumPy's float32 product of two 1024 x 1024 matrices, the best of five."""
    a = np.random.default_rng(0).random((SGEMM_SIZE, SGEMM_SIZE), np.float32)
    best = math.inf
    with threadpool_limits(threads, user_api="blas"):
        for _ in range(5):
            start = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - start)
    return 2 * SGEMM_SIZE**3 / best


def measure(setup: Setup, repeats: int, steps: int) -> dict[str, Any]:
    """All contestants, taking turns. Rates are bytes read per second."""
    workers = {}
    for name in CONTESTANTS:
        print(f"preparing {name} ...", file=sys.stderr, flush=True)
        workers[name] = Worker(name, setup)
        workers[name].run(WARM_UP_STEPS, timed=False)
    one, every = [], []
    for repeat in range(repeats):
        print(f"repeat {repeat + 1} of {repeats} ...", file=sys.stderr, flush=True)
        one.append(sgemm_flops(1))
        every.append(sgemm_flops(available_cpus()))
        for worker in workers.values():
            worker.run(steps, timed=True)
    batch_bytes = steps * setup.training.batch_size * setup.training.seq_len
    results = {name: {"rates": [batch_bytes / s for s in worker.seconds], **worker.finish()}
               for name, worker in workers.items()}
    return {"sgemm_1_thread": statistics.median(one), "sgemm_all_threads": statistics.median(every),
            "contestants": results}


def matmul_parameters(config: ModelConfig, processed: dict[str, float]) -> float:
    """Parameters in matrices, a routed layer's counted by the share of tokens it processes."""
    total = 0.0
    for name, spec in parameter_specs(config).items():
        if spec.storage != VECTOR:
            layer = name.split(".")[1] if name.startswith("layers.") else ""
            total += spec.size * processed.get(layer, 1.0)
    return total


def summarise(measured: dict[str, Any], setup: Setup) -> dict[str, Any]:
    """Adds medians and spreads of the rates, of Ghost's rate over each turn by turn, and the shares of sgemm."""
    for name, result in measured["contestants"].items():
        rates = result["rates"]
        result |= {"median": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}
        for key, processed in (("if_dense", {}), ("processed", result.get("processed", {}))):
            flops = 6 * matmul_parameters(setup.of(name), processed) * result["median"]
            result[f"share_of_sgemm_{key}"] = flops / measured["sgemm_all_threads"]
        pairs = zip(measured["contestants"]["ghost"]["rates"], rates, strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        result["ghost_is_faster_by"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return measured


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {"cpu": cpu_name(), "cpus": available_cpus(), "system": platform.platform(),
            "python": platform.python_version(), "numpy": np.__version__, "torch": version("torch"),
            "ghost_kernels": have_kernels()}


def print_report(report: dict[str, Any]) -> None:
    """A table for people."""
    m = report["machine"]
    print(f"{m['cpu']}, {m['cpus']} CPUs; Python {m['python']}, NumPy {m['numpy']}, PyTorch {m['torch']}; "
          f"Ghost's kernels {'built' if m['ghost_kernels'] else 'NOT built'}")
    print(f"preset {report['preset']}, batch {report['batch']} x {report['length']} bytes, {report['repeats']} repeats "
          f"of {report['steps']} steps, scan in PyTorch: {report['scan']}")
    one, every = report["sgemm_1_thread"] / 1e9, report["sgemm_all_threads"] / 1e9
    print(f"sgemm {SGEMM_SIZE}^3: {one:.0f} GFLOP/s on 1 thread, {every:.0f} on all")
    if m["cpus"] > 1 and every < 1.3 * one:
        print("WARNING: more threads do not help sgemm: other programs use this machine, and these rates mean little.")
    print(f"\n{'bytes/s':18}{'median':>9}{'lowest':>9}{'highest':>9}{'ghost is x faster':>26}{'of sgemm':>10}"
          f"{'peak MB':>9}{'loss':>16}")
    for name, r in report["contestants"].items():
        ratio = "{:.2f} ({:.2f}..{:.2f})".format(*r["ghost_is_faster_by"])
        print(f"{name:18}{r['median']:9.0f}{r['lowest']:9.0f}{r['highest']:9.0f}{ratio:>26}"
              f"{r['share_of_sgemm_processed']:10.0%}{r['peak_bytes'] / 1e6:9.0f}"
              f"{r['losses'][0]:9.2f} ->{r['losses'][-1]:5.2f}")
    print("\nof sgemm: 6 x matrix parameters x bytes/s, routed layers by their share of tokens, over sgemm on all "
          "threads;\nan approximation: no scan, no attention scores, no quantisation.")
    for name, description in CONTESTANTS.items():
        print(f"{name}: {description}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Training bytes/s of Ghost beside PyTorch models of the same shapes.")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="v12")
    parser.add_argument("--repeats", type=int, default=7, help="turns that each contestant takes")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps a turn; even, as odd ones query memory")
    parser.add_argument("--batch", type=int, default=12, help="sequences a step")
    parser.add_argument("--length", type=int, default=64, help="bytes of a sequence")
    parser.add_argument("--scan", choices=("compiled", "eager"), default="compiled", help="PyTorch's selective scan")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    options = parser.parse_args()
    if options.repeats < 1 or options.steps < 2 or options.steps % 2:
        parser.error("--repeats must be at least 1 and --steps an even number of at least 2")
    if not find_spec("torch"):
        parser.error("PyTorch is not installed; benchmarks/README.md says how to install its CPU build.")
    training = TrainingConfig.from_dict({
        **TRAINING.get(options.preset, {}), "steps": 10_000, "warmup_steps": 20, "batch_size": options.batch,
        "seq_len": options.length, "shards": available_cpus()})
    setup = Setup(preset(options.preset), training, options.scan)
    measured = summarise(measure(setup, options.repeats, options.steps), setup)
    asked = {name: value for name, value in vars(options).items() if name != "json"}
    report = {**asked, "machine": machine(), **measured}
    print_report(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
