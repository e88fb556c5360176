"""Quality of trained models, end to end through the packed file. Prints one JSON line per run.

    python benchmarks/quality.py text --data DIR/tinyshakespeare --seeds 0 1 2      # 1.54M training bytes each
    python benchmarks/quality.py questions --preset tiny --set-name qa20

text: trains on DIR/train.txt and measures P256 (consecutive 256-byte windows, zero state) of DIR/val.txt once, at
the end; with --float the same model without quantisation. questions: trains until every item is answered, then again
with typing errors in the prompts, and measures trained items, perturbed and paraphrased ones, without and with the 20
pairs in the memory bank.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import ghost_ref as ghost
from ghost_ref.checkpoint import FILE_NAME, load_checkpoint
from ghost_ref.data import load_dataset
from ghost_ref.float_model import float_model
from ghost_ref.memory_bank import MemoryBank, remember


def timed_train(data: str, out: Path, **options: Any) -> tuple[Any, float]:
    """(result, seconds of wall clock, evaluations included)."""
    start = time.monotonic()
    result = ghost.train(data, out, **options)
    return result, round(time.monotonic() - start, 1)


def text(args: argparse.Namespace, out: Path) -> None:
    """P256 of the packed model after a fixed number of training bytes, per seed."""
    validation = (args.data / "val.txt").read_bytes()
    for seed in args.seeds:
        settings = {"validation_fraction": 0.0, **({"linear": "float"} if args.float else {})}
        run = out / f"text-{seed}"
        result, seconds = timed_train(str(args.data / "train.txt"), run, preset=args.preset, steps=args.steps,
                                      seed=seed, settings=settings)
        stored = load_checkpoint(run / FILE_NAME)
        model = float_model(stored.params, stored.config) if args.float else ghost.load(run / "latest.ghost")
        report = ghost.evaluate_text(model, validation, "p256")
        print(json.dumps({"preset": args.preset, "float": args.float, "seed": seed, "steps": result.step,
                          "training_bytes": stored.progress.bytes_read, "seconds": seconds, **report}), flush=True)


def questions(args: argparse.Namespace, out: Path) -> None:
    """Exact answers of a model trained on a question set, and of its memory bank."""
    pairs = load_dataset(args.set_name).pairs
    plans: dict[str, dict[str, Any]] = {"until solved": {}}
    if args.set_name == "qa20":
        plans["with typing errors"] = {"prompt_noise": 0.1, "stop_when_solved": False, "steps": args.noisy_steps}
    for name, settings in plans.items():
        run = out / name.replace(" ", "-")
        result, seconds = timed_train(args.set_name, run, preset=args.preset, settings=settings)
        model = ghost.load(result.packed)
        line: dict[str, Any] = {"preset": args.preset, "set": args.set_name, "training": name, "steps": result.step,
                                "seconds": seconds, "trained": share(model, pairs)}
        if args.set_name == "qa20":
            bank = MemoryBank.for_model(model)
            for pair in pairs:
                remember(model, bank, pair.prompt, pair.completion)
            for other in ("qa20_perturbed", "qa20_paraphrase"):
                asked = load_dataset(other).pairs
                line[other], line[f"{other} with bank"] = share(model, asked), share(model, asked, bank)
        print(json.dumps(line), flush=True)


def share(model: Any, pairs: Any, bank: Any = None) -> dict[str, Any]:
    """Right answers, their Wilson interval, and the kinds."""
    report = ghost.evaluate_answers(model, pairs, bank)
    kept = {k: report[k] for k in ("items", "right", "wilson95")}
    return kept | {"kinds": {k: v["right"] for k, v in report.get("kinds", {}).items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("text", "questions"))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--data", type=Path, help="directory with train.txt and val.txt")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2005, help="of 768 bytes each: 2005 read 1.54M bytes")
    parser.add_argument("--float", action="store_true", help="without quantisation")
    parser.add_argument("--set-name", default="qa20", help="qa10, qa20 or hard")
    parser.add_argument("--noisy-steps", type=int, default=300)
    args = parser.parse_args()
    if args.what == "text" and args.data is None:
        parser.error("text needs --data DIR")
    with tempfile.TemporaryDirectory() as folder:
        {"text": text, "questions": questions}[args.what](args, Path(folder))


if __name__ == "__main__":
    main()
