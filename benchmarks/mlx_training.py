"""The MLX trainer beside the NumPy trainer: the same model, seed and batches; loss curves, packed quality, bytes/s.

    python benchmarks/mlx_training.py --data input.txt                     # tiny, 200 steps, 5 seeds
    python benchmarks/mlx_training.py --data input.txt --seeds 1 --json result.json

Both start from the same parameters and read the same bytes. Reported per seed: both losses at chosen steps, their
relative difference at step 1, at the last step and over the mean of the last 20, and P256 (consecutive 256-byte
windows, zero state) of the packed models on the held-out end of the text, which the native runtime measures. Over the
seeds: mean and standard deviation of P256 of both, and of its paired difference. The two trainers run one after the
other; a speed is that of the median step, so compilation in the first steps does not count (it is reported).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

import ghost_ref as ghost
from ghost_ref import ops as reference_ops
from ghost_ref.checkpoint import Checkpoint
from ghost_ref.config import TrainingConfig
from ghost_ref.data import Dataset, load_dataset, split_text
from ghost_ref.packed import save_packed
from ghost_ref.presets import preset
from ghost_ref.quantise import quantise
from ghost_ref.trainer import Trainer, new_checkpoint
from mlx_backend.trainer import Trainer as MLXTrainer

TRAINERS: dict[str, Callable[[Checkpoint, Dataset], Any]] = {"numpy": Trainer, "mlx": MLXTrainer}
SHOWN = (1, 2, 5, 10, 25, 50, 100, 150)  # and the last step
SMOOTHED = 20
WARM = 3  # steps of a trainer that may compile


def train(name: str, run: Checkpoint, data: Dataset) -> dict[str, Any]:
    """Train to the end; the losses of all steps, bytes/s of the median step, seconds of the first steps."""
    trainer = TRAINERS[name](run, data)
    losses, seconds = [], []
    for _ in range(run.training.steps):
        start = time.perf_counter()
        metrics = trainer.step()
        seconds.append(time.perf_counter() - start)
        if "rejected" in metrics:
            raise RuntimeError(f"{name}: a step was rejected: {metrics['rejected']} is not finite")
        losses.append(metrics["loss"])
    trainer.sync()
    trainer.close()
    step_bytes = run.progress.bytes_read / run.training.steps
    return {"losses": losses, "first_seconds": sum(seconds[:WARM]),
            "bytes_per_second": step_bytes / statistics.median(seconds[WARM:])}


def packed_quality(run: Checkpoint, text: bytes, limit: int) -> float:
    """P256 of the packed model in nats per byte."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ghost"
        save_packed(path, quantise(run.params, run.config, reference_ops), run.config)
        return ghost.evaluate_text(ghost.load(path), text, "p256", limit=limit)["nats_per_byte"]


def one_seed(seed: int, args: argparse.Namespace, data: Dataset, held_out: bytes) -> dict[str, Any]:
    """Both trainers from one seed."""
    plan = TrainingConfig(steps=args.steps, batch_size=args.batch, seq_len=args.length, seed=seed)
    result: dict[str, Any] = {"seed": seed}
    for name in TRAINERS:
        run = new_checkpoint(preset(args.preset), plan, data)
        result[name] = train(name, run, data)
        result[name]["p256"] = packed_quality(run, held_out, args.evaluate)
    numpy, other = result["numpy"]["losses"], result["mlx"]["losses"]
    result["difference"] = {
        "step 1": other[0] / numpy[0] - 1, f"step {args.steps}": other[-1] / numpy[-1] - 1,
        f"mean of the last {SMOOTHED}": sum(other[-SMOOTHED:]) / sum(numpy[-SMOOTHED:]) - 1}
    return result


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds (None with one seed)."""
    def spread(values: list[float]) -> dict[str, float | None]:
        return {"mean": statistics.mean(values), "deviation": statistics.stdev(values) if len(values) > 1 else None}

    places = results[0]["difference"]
    p256 = {name: [r[name]["p256"] for r in results] for name in TRAINERS}
    return {"p256": {name: spread(values) for name, values in p256.items()},
            "p256_difference": spread([b - a for a, b in zip(p256["numpy"], p256["mlx"], strict=True)]),
            "bytes_per_second": {name: spread([r[name]["bytes_per_second"] for r in results]) for name in TRAINERS},
            "largest_difference": {at: max(abs(r["difference"][at]) for r in results) for at in places}}


def print_seed(result: dict[str, Any]) -> None:
    print(f"seed {result['seed']}\n  step    numpy      mlx")
    numpy, other = result["numpy"]["losses"], result["mlx"]["losses"]
    for step in sorted({s for s in SHOWN if s <= len(numpy)} | {len(numpy)}):
        print(f"  {step:4d}  {numpy[step - 1]:.5f}  {other[step - 1]:.5f}")
    print("  relative difference: " + ", ".join(f"{at} {d:+.2e}" for at, d in result["difference"].items()))
    for name in TRAINERS:
        r = result[name]
        print(f"  {name}: P256 {r['p256']:.5f} nats/byte, {r['bytes_per_second']:,.0f} bytes/s, first {WARM} steps "
              f"{r['first_seconds']:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FILE.txt")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, help="how many: 0, 1, …")
    parser.add_argument("--batch", type=int, default=TrainingConfig().batch_size)
    parser.add_argument("--length", type=int, default=TrainingConfig().seq_len)
    parser.add_argument("--evaluate", type=int, default=65536, metavar="BYTES", help="of the held-out end of the text")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    args = parser.parse_args()
    whole = load_dataset(args.data)
    text, held_out = split_text(whole.text, 0.1)
    data = Dataset(whole.name, "text", (), text, whole.digest)
    print(f"{args.preset}, {args.steps} steps of {args.batch} x {args.length} bytes, MLX {mx.__version__} on "
          f"{mx.default_device()}", flush=True)
    results = []
    for seed in range(args.seeds):
        results.append(one_seed(seed, args, data, held_out))
        print_seed(results[-1])
    report = {"device": str(mx.default_device()), "mlx": mx.__version__, "preset": args.preset, "steps": args.steps,
              "batch": args.batch, "length": args.length, "seeds": results, "summary": summary(results)}
    print(json.dumps(report["summary"], indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
