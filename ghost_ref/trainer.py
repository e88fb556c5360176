"""One optimizer step of the NumPy trainer, and the state it works on."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from ghost_ref.autodiff import Var, detach, gradients, record, run_backward
from ghost_ref.batches import DROPOUT, Batch, make_batch, memory_entries, random_stream
from ghost_ref.checkpoint import Checkpoint, second_moment_names
from ghost_ref.config import ModelConfig, TrainingConfig
from ghost_ref.data import Dataset
from ghost_ref.initialise import initialise
from ghost_ref.muon import muon_matrices, muon_update
from ghost_ref.objective import objective
from ghost_ref.ops.norm import unit_forward
from ghost_ref.optimizer import EPSILON, adamw_update, parameter_groups, project, square_sum
from ghost_ref.parameters import Spec, parameter_specs
from ghost_ref.quantise import quantise
from ghost_ref.routing_metrics import Counts, routing_counts, routing_metrics
from ghost_ref.schedule import learning_rate
from ghost_ref.training_ops import have_kernels, training_ops

Params = dict[str, np.ndarray]


def new_checkpoint(config: ModelConfig, training: TrainingConfig, data: Dataset) -> Checkpoint:
    """Step 0 of a run."""
    params = initialise(config, training.seed)
    first = {name: np.zeros_like(p) for name, p in params.items()}
    second = {name: np.zeros_like(params[name]) for name in second_moment_names(config, training)}
    return Checkpoint(config, training, data.digest, params, first, second)


@dataclass
class Shard:
    """What one part of a batch gives; a gradient is None where the loss does not depend on a weight."""

    loss: float
    cross_entropy: float
    hidden: np.ndarray
    routing: Counts
    grads: dict[str, np.ndarray | None]


@dataclass
class Section:
    """The parameters of one layer, or those outside of all, and what a step computes of them on one thread."""

    specs: dict[str, Spec]
    variables: dict[str, Var] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """Steps a Checkpoint forward in place.

    A batch is computed in `shards` parts, one thread each, and their gradients are added in order: the bits depend on
    the number of shards, not on the number of cores. What is done once a step, quantisation, its backward pass and the
    update, is shared out by layer. BLAS and OpenMP run on one thread inside them, for the same reason and because
    their own threads stall when another process takes a core."""

    def __init__(self, checkpoint: Checkpoint, data: Dataset) -> None:
        self.run, self.data = checkpoint, data
        self.ops = training_ops()
        self.groups = parameter_groups(checkpoint.config, checkpoint.training.weight_decay)
        self.sections = [Section(specs) for specs in specs_by_layer(checkpoint.config)]
        self.matrices = muon_matrices(checkpoint.config) if checkpoint.training.optimizer == "muon" else {}
        self.update: Callable[..., None] = adamw_update
        if have_kernels():
            from ghost_ref import _train

            self.update = _train.adamw_update
        self.libraries = ThreadpoolController()
        self.pool = ThreadPoolExecutor(checkpoint.training.shards, initializer=self._start_thread)
        self.prepared: dict[int, Batch] = {}

    def sync(self) -> None:
        """Nothing: the Checkpoint's own arrays are stepped."""

    def close(self) -> None:
        """Let the threads go."""
        self.pool.shutdown()

    def _start_thread(self) -> None:
        self.libraries.limit(limits=1, user_api="openmp")  # these two hold for the calling thread
        np.seterr(all="ignore")  # the guard in step looks at every result

    def step(self) -> dict[str, Any]:
        """Read one batch and update the parameters. Returns the step's metrics.

        A step whose loss or any gradient is not finite is rejected: parameters and moments stay as they were and
        the metrics name the parameter under ``rejected``."""
        run = self.run
        index = run.progress.step
        batch = self.prepared.pop(index, None) or make_batch(self.data, run.training, index)
        with self.libraries.limit(limits=1, user_api="blas"):
            shards, grads = self._gradients(batch, index)
            squares = self.pool.map(lambda section: square_sum(grads[k] for k in section.specs), self.sections)
            norm = math.sqrt(sum(squares))
            run.progress.step += 1
            run.progress.bytes_read += int(batch.valid.sum())
            loss = sum(s.cross_entropy for s in shards)
            metrics = {"step": run.progress.step, "loss": loss, "gradient_norm": norm}
            if not np.isfinite(norm) or not np.isfinite(sum(s.loss for s in shards)):
                run.progress.rejected += 1
                return {**metrics, "rejected": next((k for k in run.params if not np.isfinite(grads[k]).all()), "loss")}
            metrics["lr"] = self._apply(grads, norm, index)
        self._remember(batch, np.concatenate([s.hidden for s in shards]), index)
        return {**metrics, **routing_metrics(add_counts([s.routing for s in shards]), int(batch.valid.sum()))}

    def _gradients(self, batch: Batch, index: int) -> tuple[list[Shard], Params]:
        """Quantise once, differentiate the shards with respect to the stored weights, then go back through quantise.
        Meanwhile the next batch is made."""
        run = self.run
        list(self.pool.map(self._quantise, self.sections))
        weights = {name: w for section in self.sections for name, w in section.weights.items()}
        counts = int(batch.loss_mask.sum()), int(batch.valid.sum())
        memory = run.memory if index % 2 and run.memory else None

        def differentiate(part: Batch, number: int) -> Shard:
            leaves = record({name: for_shard(w.value, number) for name, w in weights.items() if isinstance(w, Var)})
            value, (cross_entropy, output) = objective(
                {**weights, **leaves}, run.config, run.training, part, ops=self.ops, counts=counts, memory=memory,
                dropout=self._dropout(index, number))
            value.grad = np.ones_like(value.value)
            run_backward(value.tape)
            routing = routing_counts(output, part.valid, ops=self.ops)
            grads: dict[str, Any] = {name: leaf.grad for name, leaf in leaves.items()}
            return Shard(float(value.value), float(cross_entropy), detach(output.hidden), routing, grads)

        running = [self.pool.submit(differentiate, part, number)
                   for number, part in enumerate(batch.split(run.training.shards))]
        if index + 1 != run.training.steps:
            self.prepared = {index + 1: make_batch(self.data, run.training, index + 1)}
        shards = [future.result() for future in running]
        grads: Params = {}
        for part in self.pool.map(lambda section: self._back(section, shards), self.sections):
            grads |= part
        return shards, grads

    def _quantise(self, section: Section) -> None:
        section.variables = record({name: self.run.params[name] for name in section.specs})
        section.weights = quantise(section.variables, self.run.config, self.ops, section.specs)

    def _back(self, section: Section, shards: list[Shard]) -> Params:
        """From the shards' gradients of the weights to those of the section's parameters."""
        for name, weight in section.weights.items():
            if isinstance(weight, Var):
                parts = [g for shard in shards if (g := shard.grads[name]) is not None]
                weight.grad = add_in_order(parts, in_place=hasattr(weight.value, "for_shard"))
        run_backward(next(iter(section.variables.values())).tape)
        return gradients(section.variables)

    def _apply(self, grads: Params, norm: float, index: int) -> float:
        run, t = self.run, self.run.training
        lr = learning_rate(t, index)
        clip = min(1.0, t.clip_norm / max(norm, 1e-30))
        applied = index + 1 - run.progress.rejected
        c1, c2 = 1 / (1 - t.beta1**applied), 1 / (1 - t.beta2**applied)

        def update(section: Section) -> None:
            for name in section.specs:
                share, decay = self.groups[name]
                p, m, g = run.params[name], run.first_moments[name], np.ascontiguousarray(grads[name])
                if name in self.matrices:
                    muon_update(p, g, m, lr * t.muon_lr / t.lr, t.muon_momentum, decay, self.matrices[name], clip)
                    continue
                flat = (a.reshape(-1) for a in (p, g, m, run.second_moments[name]))
                self.update(*flat, lr * share, t.beta1, t.beta2, EPSILON, decay, c1, c2, clip)
            project({name: run.params[name] for name in section.specs})

        list(self.pool.map(update, self.sections))
        return lr

    def _dropout(self, index: int, shard: int) -> Any:
        rate = self.run.training.dropout
        if not rate:
            return None
        rng = random_stream(self.run.training.seed, DROPOUT, index, shard)

        def apply(x: Any) -> Any:
            mask = (rng.random(x.shape, np.float32) >= rate) * np.float32(1 / (1 - rate))
            return self.ops.dropout(x, mask)

        return apply

    def _remember(self, batch: Batch, hidden: np.ndarray, index: int) -> None:
        """Keep detached entries for the next step: unit hidden states and the bytes that followed them."""
        training = self.run.training
        if not self.run.config.memory_layers or not training.memory_entries:
            return
        entries = memory_entries(batch, training, index)
        keys, _ = unit_forward(hidden[entries.rows, entries.columns])
        self.run.memory = {"keys": keys, "values": entries.values, "counts": entries.counts}


def specs_by_layer(config: ModelConfig) -> list[dict[str, Spec]]:
    """`parameter_specs` in parts: one for every layer, and what is in no layer."""
    sections: dict[str, dict[str, Spec]] = {}
    for name, spec in parameter_specs(config).items():
        layer = name.split(".")[1] if name.startswith("layers.") else ""
        sections.setdefault(layer, {})[name] = spec
    return list(sections.values())


def for_shard(weight: Any, number: int) -> Any:
    """A matrix as a shard sees it, with a gradient buffer of its own; an array as it is."""
    return weight.for_shard(number) if hasattr(weight, "for_shard") else weight


def add_in_order(parts: list[np.ndarray], *, in_place: bool) -> np.ndarray | None:
    """The sum, None of nothing; in place where the first array is a buffer of its own."""
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = np.add(total, part, out=total if in_place else None)
    return total


def add_counts(parts: list[Counts]) -> Counts:
    """The counts of a batch from those of its shards."""
    return {i: {name: sum(part[i][name] for part in parts) for name in layer} for i, layer in parts[0].items()}


def zero_fractions(params: Params, config: ModelConfig, ops: Any) -> dict[str, float]:
    """Share of zero trits per ternary or codebook matrix: learned thresholds can collapse, so they are watched."""
    weights = quantise(params, config, ops)
    return {name.removesuffix(".trits"): round(float((w == 0).mean()), 4)
            for name, w in weights.items() if name.endswith(".trits")}
