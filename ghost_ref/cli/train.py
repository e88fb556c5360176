"""`ghost train`: the flags of a run, and its events on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from ghost_ref.cli import INTERRUPTED, OK
from ghost_ref.cli.flags import Parser, add_fields, add_json, given_fields, parse_settings, require_mlx
from ghost_ref.cli.output import Report, print_report
from ghost_ref.config import ModelConfig, TrainingConfig
from ghost_ref.errors import GhostError
from ghost_ref.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ghost_ref.training import Stepper

DESCRIPTION = """Train a model and leave checkpoints, metrics.jsonl, a loss curve and the best packed model in --out.
Ctrl-C saves a checkpoint; --resume with the same flags goes on from it."""
EXAMPLES = (
    "ghost train --preset tiny --data qa20 --out runs/qa20",
    "ghost train --preset tiny --data play.txt --minutes 5 --seed 1 --out runs/play",
    "ghost train --preset tiny --data play.txt --minutes 5 --seed 1 --out runs/play --resume",
    "ghost train --preset v12 --data pairs.jsonl --out runs/pairs --set lr=2e-3 --set prompt_noise=0.05",
    "ghost train --preset v12 --data pairs.jsonl --out runs/pairs --backend mlx",
)
REASONS = {"done": "all steps are done", "solved": "every training item is answered exactly",
           "no improvement": "the evaluations no longer improve", "interrupted": "interrupted, a checkpoint is saved"}
FLAGS = ("steps", "minutes", "seed")
BACKENDS = ("numpy", "mlx")
SETTINGS = sorted({*ModelConfig.__dataclass_fields__, *TrainingConfig.__dataclass_fields__} - set(FLAGS))


def main(argv: Sequence[str]) -> int:
    parser = Parser("train", DESCRIPTION, EXAMPLES)
    parser.add_argument("--preset", default="tiny", help=f"{', '.join(sorted(PRESETS))} (default tiny)")
    parser.add_argument("--data", required=True, metavar="FILE.jsonl|FILE.txt|SET",
                        help="pairs, text, or a shipped set: qa10, qa20, hard")
    parser.add_argument("--validation", metavar="FILE|SET", help="measure on this data (default: the end of the text)")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new directory for the run")
    parser.add_argument("--backend", default="numpy",
                        help="numpy (default), or mlx for Apple and NVIDIA GPUs; checkpoints go from one to the other")
    add_fields(parser, TrainingConfig, FLAGS)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="any other field of the model or training configuration; may be repeated: "
                             f"{', '.join(SETTINGS)}")
    add_json(parser)
    args = parser.parse(argv)
    if args.steps and args.minutes:
        raise GhostError("Give --steps or --minutes, not both: each sets the length of the run.")
    settings = parse_settings(args.settings, (ModelConfig, TrainingConfig))
    trainer = load_trainer(args.backend)
    from ghost_ref.cli.training_display import display
    from ghost_ref.training import train

    with display() as shown, log_lines(shown.say):
        result = train(args.data, args.out, preset=args.preset, resume=args.resume, settings=settings,
                       validation=args.validation, trainer=trainer, on_event=shown.on_event,
                       **given_fields(args, FLAGS))
    report = {**asdict(result), "out": str(result.out), "packed": str(result.packed) if result.packed else None,
              "best": shown.best}
    print_report(report, args.json, _text)
    return INTERRUPTED if result.reason == "interrupted" else OK


@contextmanager
def log_lines(say: Callable[[str], None]) -> Iterator[None]:
    """What the backend logs about its choices (which kernel it takes), a line each, while the block runs."""
    logger, handler = logging.getLogger("ghost"), logging.Handler()
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def load_trainer(backend: str) -> Callable[..., Stepper]:
    """The trainer class of a backend, imported only now. Raises GhostError on an unknown name or without MLX."""
    if backend not in BACKENDS:
        raise GhostError(f"There is no training backend {backend!r}; the backends are: {', '.join(BACKENDS)}.")
    if backend == "numpy":
        from ghost_ref.trainer import Trainer

        return Trainer
    require_mlx("--backend mlx")
    from mlx_backend.ops import scan
    from mlx_backend.trainer import Trainer as MLXTrainer

    scan.requested()  # refused before anything is written
    return MLXTrainer


def _text(report: Report) -> str:
    lines = [f"Stopped after step {report['step']} and {report['seconds']:.1f} s: {REASONS[report['reason']]}."]
    if report["reason"] == "interrupted":
        lines.append("Go on with the same command and --resume.")
    if report["packed"]:
        lines.append(f"Best packed model: {report['packed']}" + (f" ({report['best']})" if report["best"] else ""))
    return "\n".join(lines)
