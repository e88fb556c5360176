"""One optimizer step of the NumPy trainer, and the state it works on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from ghost_ref.autodiff import Var, detach, gradients, record, run_backward, value_and_grad
from ghost_ref.batches import DROPOUT, Batch, make_batch, memory_entries, random_stream
from ghost_ref.checkpoint import Checkpoint
from ghost_ref.config import ModelConfig, TrainingConfig
from ghost_ref.data import Dataset
from ghost_ref.initialise import initialise
from ghost_ref.objective import objective
from ghost_ref.ops.norm import unit_forward
from ghost_ref.optimizer import EPSILON, adamw_update, global_norm, parameter_groups, project
from ghost_ref.quantise import quantise
from ghost_ref.routing_metrics import Counts, routing_counts, routing_metrics
from ghost_ref.schedule import learning_rate
from ghost_ref.training_ops import have_kernels, training_ops

Params = dict[str, np.ndarray]


def new_checkpoint(config: ModelConfig, training: TrainingConfig, data: Dataset) -> Checkpoint:
    """Step 0 of a run."""
    params = initialise(config, training.seed)
    first, second = ({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2))
    return Checkpoint(config, training, data.digest, params, first, second)


@dataclass
class Shard:
    """What one part of a batch gives."""

    loss: float
    cross_entropy: float
    hidden: np.ndarray
    routing: Counts
    grads: Params


class Trainer:
    """Steps a Checkpoint forward in place.

    A batch is computed in `shards` parts, one thread each, and their gradients are added in order: the bits depend on
    the number of shards, not on the number of cores. BLAS and OpenMP run on one thread inside them, for the same
    reason and because their own threads stall when another process takes a core."""

    def __init__(self, checkpoint: Checkpoint, data: Dataset) -> None:
        self.run, self.data = checkpoint, data
        self.ops = training_ops()
        self.groups = parameter_groups(checkpoint.config, checkpoint.training.weight_decay)
        self.update: Callable[..., None] = adamw_update
        if have_kernels():
            from ghost_ref import _train

            self.update = _train.adamw_update
        self.libraries = ThreadpoolController()
        self.pool = ThreadPoolExecutor(checkpoint.training.shards, initializer=self._one_openmp_thread)

    def sync(self) -> None:
        """Nothing: the Checkpoint's own arrays are stepped."""

    def close(self) -> None:
        """Let the threads go."""
        self.pool.shutdown()

    def _one_openmp_thread(self) -> None:
        self.libraries.limit(limits=1, user_api="openmp")  # holds for the calling thread

    def step(self) -> dict[str, Any]:
        """Read one batch and update the parameters. Returns the step's metrics.

        A step whose loss or any gradient is not finite is rejected: parameters and moments stay as they were and
        the metrics name the parameter under ``rejected``."""
        run = self.run
        index = run.progress.step
        batch = make_batch(self.data, run.training, index)
        with self.libraries.limit(limits=1, user_api="blas"):
            shards, grads = self._gradients(batch, index)
            norm = global_norm(grads)
        run.progress.step += 1
        run.progress.bytes_read += int(batch.valid.sum())
        loss = sum(s.cross_entropy for s in shards)
        metrics = {"step": run.progress.step, "loss": loss, "gradient_norm": norm}
        if not np.isfinite(norm) or not np.isfinite(sum(s.loss for s in shards)):
            run.progress.rejected += 1
            return {**metrics, "rejected": next((k for k, g in grads.items() if not np.isfinite(g).all()), "loss")}
        metrics["lr"] = self._apply(grads, norm, index)
        self._remember(batch, np.concatenate([s.hidden for s in shards]), index)
        return {**metrics, **routing_metrics(add_counts([s.routing for s in shards]), int(batch.valid.sum()))}

    def _gradients(self, batch: Batch, index: int) -> tuple[list[Shard], Params]:
        """Quantise once, differentiate the shards with respect to the stored weights, then go back through quantise."""
        run = self.run
        with np.errstate(all="ignore"):  # the guard in step looks at every result
            variables = record(run.params)
            weights = quantise(variables, run.config, self.ops)
            leaves = {name: w.value for name, w in weights.items() if isinstance(w, Var)}
            fixed = {name: w for name, w in weights.items() if not isinstance(w, Var)}
        counts = int(batch.loss_mask.sum()), int(batch.valid.sum())
        memory = run.memory if index % 2 and run.memory else None

        def differentiate(part: Batch, number: int) -> Shard:
            def loss(leaves: dict[str, Any]) -> Any:
                return objective({**leaves, **fixed}, run.config, run.training, part, ops=self.ops, counts=counts,
                                 memory=memory, dropout=self._dropout(index, number))

            with np.errstate(all="ignore"):  # per thread
                value, (cross_entropy, output), grads = value_and_grad(loss, leaves)
            routing = routing_counts(output, part.valid, ops=self.ops)
            return Shard(float(value), float(cross_entropy), detach(output.hidden), routing, grads)

        parts = batch.split(run.training.shards)
        shards = list(self.pool.map(differentiate, parts, range(len(parts))))
        with np.errstate(all="ignore"):
            for name in leaves:
                total = shards[0].grads[name]
                for shard in shards[1:]:
                    total = total + shard.grads[name]
                weights[name].grad = total
            run_backward(next(iter(variables.values())).tape)
        return shards, gradients(variables)

    def _apply(self, grads: Params, norm: float, index: int) -> float:
        run, t = self.run, self.run.training
        lr = learning_rate(t, index)
        clip = np.float32(min(1.0, t.clip_norm / max(norm, 1e-30)))
        applied = index + 1 - run.progress.rejected
        c1, c2 = 1 / (1 - t.beta1**applied), 1 / (1 - t.beta2**applied)
        for name, p in run.params.items():
            share, decay = self.groups[name]
            g = np.ascontiguousarray(grads[name]) * clip
            self.update(p.reshape(-1), g.reshape(-1), run.first_moments[name].reshape(-1),
                        run.second_moments[name].reshape(-1), lr * share, t.beta1, t.beta2, EPSILON, decay, c1, c2)
        project(run.params)
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


def add_counts(parts: list[Counts]) -> Counts:
    """The counts of a batch from those of its shards."""
    return {i: {name: sum(part[i][name] for part in parts) for name in layer} for i, layer in parts[0].items()}


def zero_fractions(params: Params, config: ModelConfig, ops: Any) -> dict[str, float]:
    """Share of zero trits per ternary or codebook matrix: learned thresholds can collapse, so they are watched."""
    weights = quantise(params, config, ops)
    return {name.removesuffix(".trits"): round(float((w == 0).mean()), 4)
            for name, w in weights.items() if name.endswith(".trits")}
