"""Training runs: the loop, evaluation through the packed path, checkpoints, resume, metrics, the loss curve."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ghost_ref import ops as reference_ops
from ghost_ref import presets
from ghost_ref.atomic import write_atomically
from ghost_ref.batches import check_trainable
from ghost_ref.bench import peak_bytes
from ghost_ref.checkpoint import FILE_NAME, Checkpoint, load_checkpoint, save_checkpoint
from ghost_ref.config import ModelConfig, TrainingConfig
from ghost_ref.data import Dataset, load_dataset, split_text
from ghost_ref.errors import GhostError
from ghost_ref.evaluate import evaluate_answers, evaluate_text
from ghost_ref.interrupt import InterruptRequest
from ghost_ref.packed import load_packed, save_packed
from ghost_ref.parameters import parameter_count
from ghost_ref.quantise import quantise
from ghost_ref.runtime import load
from ghost_ref.trainer import Trainer, new_checkpoint, zero_fractions
from ghost_ref.training_memory import step_bytes

BEST_NAME, LATEST_NAME, METRICS_NAME, CURVE_NAME = "best.ghost", "latest.ghost", "metrics.jsonl", "loss.png"
LOG_SECONDS = 0.2  # at most this often a step event reaches on_event
WARM_STEPS, PACE_STEPS = 3, 12  # steps made, then measured, before --minutes is turned into a number of steps
EVALUATED_BYTES = 32768  # of validation text per evaluation during training
EVALUATED_PAIRS = 64
REJECTIONS_ALLOWED = 20
DEFAULT_STEPS = {"text": 2000, "pairs": 600}
PAIRS_DEFAULTS = {"batch_size": 20, "seq_len": 256, "eval_interval": 25, "checkpoint_interval": 100}

Event = Callable[[dict[str, Any]], None]


class Stepper(Protocol):
    """What a backend's trainer offers; it is made from a Checkpoint and the data it trains on."""

    def step(self) -> dict[str, Any]:
        """One optimizer step; its metrics."""

    def sync(self) -> None:
        """Bring the Checkpoint's arrays up to date, for whoever reads them."""

    def close(self) -> None:
        """Free what the trainer holds."""


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended: reason is "done", "solved", "no improvement" or "interrupted"; score of the best evaluation."""

    out: Path
    reason: str
    step: int
    seconds: float
    score: float | None
    packed: Path | None


def train(data: str, out: str | Path, *, preset: str = "tiny", steps: int | None = None, minutes: float | None = None,
          seed: int | None = None, resume: bool = False, settings: dict[str, Any] | None = None,
          validation: str | None = None, trainer: Callable[[Checkpoint, Dataset], Stepper] = Trainer,
          on_event: Event | None = None) -> TrainingResult:
    """Train a model and leave checkpoints, metrics, the loss curve and the best packed model in `out`.

    data, validation: a set name (qa10, qa20, hard) or a .txt/.jsonl file. settings: fields of ModelConfig or
    TrainingConfig that differ from the preset and defaults. resume: go on from the checkpoint in `out`; settings that
    contradict it are refused. trainer: the class that makes the steps, of this package or of another backend; a run may
    go on with another one. Ctrl-C saves a checkpoint after the step under way and returns with reason "interrupted".
    Raises GhostError on bad input, and when more than 20 steps had to be rejected because they were not finite."""
    settings = dict(settings or {})
    for name, value in (("steps", steps), ("minutes", minutes), ("seed", seed)):
        if value is not None:
            settings[name] = value
    run = Run(data, Path(out), validation, trainer, on_event or (lambda event: None))
    try:
        if resume:
            run.resume(preset, settings)
        else:
            run.start(preset, settings)
        return run.loop()
    finally:
        run.close()


def split_settings(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the model and of the training. Raises GhostError on a name that is in neither config."""
    model = {k: v for k, v in settings.items() if k in ModelConfig.__dataclass_fields__}
    training = {k: v for k, v in settings.items() if k in TrainingConfig.__dataclass_fields__}
    if unknown := sorted(set(settings) - set(model) - set(training)):
        names = sorted({*ModelConfig.__dataclass_fields__, *TrainingConfig.__dataclass_fields__})
        raise GhostError(f"There is no setting {unknown[0]!r}; the settings are: {', '.join(names)}.")
    return model, training


class Run:
    """One training run in one directory."""

    def __init__(self, data: str, out: Path, validation: str | None,
                 make_trainer: Callable[[Checkpoint, Dataset], Stepper], on_event: Event) -> None:
        self.out, self.make_trainer, self.on_event = out, make_trainer, on_event
        self.whole = load_dataset(data)
        self.validation = load_dataset(validation) if validation else None
        self.data = self.whole
        self.validation_digest = self.validation.digest if self.validation else ""
        self.checkpoint_path = out / FILE_NAME
        self.lock: int | None = None
        self.saved_step = -1
        self.paused = 0.0  # seconds spent in evaluation and saving

    # --- beginnings -------------------------------------------------------------------------------------------------

    def start(self, preset_name: str, settings: dict[str, Any]) -> None:
        """A new run: `out` must not hold one."""
        model, training = split_settings(settings)
        config = presets.preset(preset_name).replace(**model)
        defaults = {**presets.TRAINING.get(preset_name, {}), **(PAIRS_DEFAULTS if self.whole.kind == "pairs" else {})}
        plan = TrainingConfig.from_dict({**defaults, **training})
        if not plan.steps and not plan.minutes:
            plan = plan.replace(steps=DEFAULT_STEPS[self.whole.kind])
        self._check_validation()
        self._split(plan)
        check_trainable(self.data, plan)
        if self.out.exists() and (not self.out.is_dir() or any(not f.name.startswith(".") for f in self.out.iterdir())):
            raise GhostError(f"{self.out} already exists and is not an empty directory; choose another --out, or go on "
                             "with --resume.")
        self.out.mkdir(parents=True, exist_ok=True)
        self._lock()
        self.run = new_checkpoint(config, plan, self.whole)
        self.run.validation_digest = self.validation_digest
        save_checkpoint(self.checkpoint_path, self.run)  # a run killed at any later moment can be resumed
        self.saved_step = 0

    def resume(self, preset_name: str, settings: dict[str, Any]) -> None:
        """Go on from the checkpoint in `out`. Raises GhostError if data or settings are not the same."""
        if not self.checkpoint_path.exists() and not self.checkpoint_path.with_name(FILE_NAME + ".previous").exists():
            raise GhostError(f"{self.out} holds no checkpoint to resume; start the run without --resume.")
        self._lock()
        self.run = load_checkpoint(self.checkpoint_path)
        if self.run.validation_digest != self.validation_digest:
            raise GhostError("This run was started with other validation data; resume with the same --validation.")
        if self.run.data_digest != self.whole.digest:
            raise GhostError(f"{self.whole.name} is not the data this run was trained on; resume with the same data.")
        model, training = split_settings(settings)
        self._same(presets.preset(preset_name).replace(**model), self.run.config)
        planned = TrainingConfig.from_dict({**self.run.training.to_dict(), **training})
        self._same(planned, self.run.training)
        self._split(self.run.training)
        self.saved_step = self.run.progress.step
        self._trim_metrics()

    def _same(self, asked: Any, stored: Any) -> None:
        wanted = asked.to_dict()
        for name, value in stored.to_dict().items():
            if wanted[name] != value:
                raise GhostError(f"This run was started with {name}={value!r}, not {wanted[name]!r}; resume with the "
                                 "same settings, or start a new run in another --out.")

    def _check_validation(self) -> None:
        if self.validation is None:
            return
        if self.validation.kind != self.whole.kind:
            raise GhostError(f"{self.validation.name} holds {self.validation.kind} but {self.whole.name} holds "
                             f"{self.whole.kind}; validate on the same kind of data.")
        if self.validation.kind == "text" and len(self.validation.text) < 2:
            raise GhostError(f"{self.validation.name} is too short to validate on; give at least 2 bytes of text.")

    def _lock(self) -> None:
        """One process at a time trains in a directory; the lock goes with the process."""
        self.lock = os.open(self.out, os.O_RDONLY)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GhostError(f"Another process is training in {self.out}; wait for it or choose another "
                             "--out.") from None

    def close(self) -> None:
        """Let the directory go."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def _split(self, plan: TrainingConfig) -> None:
        if self.validation or self.whole.kind == "pairs" or not plan.validation_fraction:
            return
        text, held_out = split_text(self.whole.text, plan.validation_fraction)
        if len(held_out) >= 1024:
            self.data = Dataset(self.whole.name, "text", (), text, self.whole.digest)
            self.validation = Dataset(f"end of {self.whole.name}", "text", (), held_out, self.whole.digest)

    def _trim_metrics(self) -> None:
        """Drop the lines that a killed run wrote after its last checkpoint."""
        path = self.out / METRICS_NAME
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                if json.loads(line)["step"] <= self.run.progress.step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                continue  # a line cut off by the kill
        write_atomically(str(path), "".join(kept).encode())

    # --- the loop ---------------------------------------------------------------------------------------------------

    def loop(self) -> TrainingResult:
        """Train until the steps are done, every answer is right, nothing improves, or Ctrl-C."""
        progress = self.run.progress
        self.trainer = self.make_trainer(self.run, self.data)
        self.on_event({"event": "start", "config": self.run.config.to_dict(), "steps": self.run.training.steps,
                       "step": progress.step, "parameters": parameter_count(self.run.config), "data": self.whole.name,
                       "step_bytes": step_bytes(self.run.config, self.run.training)})
        started, self.first_step = time.monotonic(), progress.step
        first_bytes = progress.bytes_read
        self.last_event = 0.0
        with (self.out / METRICS_NAME).open("a", buffering=1) as self.metrics, InterruptRequest() as interrupt:
            try:
                reason = self._steps(started, first_bytes, interrupt)
            except KeyboardInterrupt:  # a second Ctrl-C, or a callback's: the last checkpoint stands
                reason = "interrupted"
            finally:
                self.trainer.close()
        seconds = time.monotonic() - started
        self._plot()
        self.on_event({"event": "end", "reason": reason, "step": progress.step, "seconds": seconds,
                       "training_seconds": seconds - self.paused, "score": progress.best,
                       "peak_bytes": peak_bytes()})
        best = self.out / BEST_NAME
        return TrainingResult(self.out, reason, progress.step, seconds, progress.best, best if best.exists() else None)

    def _steps(self, started: float, first_bytes: int, interrupt: InterruptRequest) -> str:
        """Steps, evaluations and checkpoints until the run ends; returns why."""
        progress = self.run.progress
        while not progress.ended:
            if interrupt.requested:
                self._save()
                return "interrupted"
            self._one_step(started, first_bytes)
            self._fix_steps(started)
            stop = self._evaluate_if_due()
            if stop or progress.step == self.run.training.steps:
                progress.ended = stop or "done"
                self._save()
            else:
                self._save_if_due()
        return progress.ended

    def _fix_steps(self, started: float) -> None:
        """With minutes but no steps: after a few measured steps, fix the number of steps for good.

        The first steps compile, warm caches and are not measured, but their time counts."""
        plan, progress = self.run.training, self.run.progress
        if plan.steps:
            return
        done, now = progress.step - self.first_step, time.monotonic()
        if done == WARM_STEPS:
            self.warm = now
        elif done == WARM_STEPS + PACE_STEPS:
            left = (plan.minutes * 60 - (now - started)) / ((now - self.warm) / PACE_STEPS)
            self.run.training = plan.replace(steps=progress.step + max(0, int(left)))

    def _one_step(self, started: float, first_bytes: int) -> None:
        metrics = self.trainer.step()
        now, run = time.monotonic(), self.run
        busy = max(now - started - self.paused, 1e-9)
        metrics["bpb"] = metrics["loss"] / math.log(2)
        line = {key: _json_number(value) if isinstance(value, float) else value for key, value in metrics.items()}
        self.metrics.write(json.dumps({"event": "step", **line}) + "\n")
        if "rejected" in metrics and run.progress.rejected > REJECTIONS_ALLOWED:
            raise GhostError(f"{run.progress.rejected} steps had to be rejected because {metrics['rejected']} was not "
                             "finite; lower the learning rate with --set lr=...")
        if now - self.last_event >= LOG_SECONDS or "rejected" in metrics:
            self.last_event = now
            done = run.progress.step - self.first_step
            self.on_event({"event": "step", "steps": run.training.steps, **metrics,
                           "bytes_per_second": (run.progress.bytes_read - first_bytes) / busy,
                           "seconds_left": max(0, run.training.steps - run.progress.step) * busy / done})

    def _evaluate_if_due(self) -> str | None:
        plan, progress = self.run.training, self.run.progress
        interval = plan.eval_interval or max(1, plan.steps // 10)
        if not plan.steps or (progress.step % interval and progress.step != plan.steps):
            return None
        before = time.monotonic()
        self.trainer.sync()
        report = self._evaluate()
        score = report.get("nats_per_byte", -report.get("share", 0.0))
        improved = progress.best is None or score < progress.best
        best = improved or score == progress.best  # of equally many right answers the later model is kept
        progress.evaluations += 1
        progress.best, progress.since_best = (score, 0) if improved else (progress.best, progress.since_best + 1)
        if best and (self.out / LATEST_NAME).exists():
            write_atomically(str(self.out / BEST_NAME), (self.out / LATEST_NAME).read_bytes())
        event = {"event": "evaluation", "step": progress.step, "best": best,
                 **{k: v for k, v in report.items() if k != "wrong"},
                 "zero_fractions": zero_fractions(self.run.params, self.run.config, reference_ops),
                 "step_bytes": step_bytes(self.run.config, self.run.training)}
        self.metrics.write(json.dumps(event) + "\n")
        self.on_event({**event, "peak_bytes": peak_bytes()})  # not in the file: no two runs have the same
        self.paused += time.monotonic() - before
        if plan.stop_when_solved and report.get("share") == 1 and self._all_answered():
            return "solved"
        return "no improvement" if plan.patience and progress.since_best >= plan.patience else None

    def _evaluate(self) -> dict[str, Any]:
        """Measure the packed model on the validation data, or on the training data where there is none."""
        run = self.run
        if run.config.linear == "float":
            from ghost_ref.float_model import float_model

            self.model = float_model(run.params, run.config)
        else:
            latest = self.out / LATEST_NAME
            save_packed(latest, quantise(run.params, run.config, reference_ops), run.config)
            self.model = load(latest)
        data = self.validation or self.data
        if data.kind == "pairs":
            report = evaluate_answers(self.model, data.pairs[:EVALUATED_PAIRS])
        else:
            protocol = "p256" if len(data.text) > 256 else "ps"
            report = evaluate_text(self.model, data.text, protocol, limit=EVALUATED_BYTES)
        return {**report, "data": data.name}

    def _all_answered(self) -> bool:
        """Whether every training item is answered, not only those of the evaluation's sample."""
        if self.validation is None and len(self.data.pairs) <= EVALUATED_PAIRS:
            return True
        return evaluate_answers(self.model, self.data.pairs)["share"] == 1

    def _save_if_due(self) -> None:
        plan = self.run.training
        interval = plan.checkpoint_interval or plan.eval_interval or max(1, plan.steps // 10)
        if plan.steps and self.run.progress.step % interval == 0:
            self._save()

    def _save(self) -> None:
        if self.saved_step == self.run.progress.step:
            return
        before = time.monotonic()
        self.trainer.sync()
        save_checkpoint(self.checkpoint_path, self.run)
        self.saved_step = self.run.progress.step
        self.on_event({"event": "checkpoint", "step": self.saved_step})
        self.paused += time.monotonic() - before

    def _plot(self) -> None:
        from ghost_ref.plot import have_matplotlib, plot_run

        if have_matplotlib() and self.run.progress.step:
            plot_run(self.out / METRICS_NAME, self.out / CURVE_NAME)


def _json_number(value: float) -> float | None:
    """Rounded for metrics.jsonl; JSON has no NaN or infinity."""
    return round(value, 6) if math.isfinite(value) else None


def pack_run(run_dir: str | Path, out: str | Path) -> int:
    """Write the packed model of a run: the best one evaluated, else the checkpoint's. Returns its size in bytes."""
    run_dir = Path(run_dir)
    best = run_dir / BEST_NAME
    if best.exists():
        load_packed(best)  # refuse to copy a damaged file
        content = best.read_bytes()
        write_atomically(str(out), content)
        return len(content)
    run: Checkpoint = load_checkpoint(run_dir / FILE_NAME)
    return save_packed(out, quantise(run.params, run.config, reference_ops), run.config)
