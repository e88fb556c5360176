"""One optimizer step in MLX, compiled once for the whole run, on the state that the NumPy trainer works on too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from ghost_ref.batches import DROPOUT, Batch, make_batch, memory_entries, random_stream
from ghost_ref.checkpoint import Checkpoint
from ghost_ref.config import PAD, TrainingConfig
from ghost_ref.data import Dataset, pair_bytes
from ghost_ref.muon import muon_matrices
from ghost_ref.objective import objective
from ghost_ref.optimizer import parameter_groups
from ghost_ref.quantise import quantise
from ghost_ref.routing_metrics import Counts, routing_counts, routing_metrics
from ghost_ref.schedule import learning_rate
from mlx_backend import ops
from mlx_backend.muon import muon, muon_factors
from mlx_backend.numerics import require_float32_matmul
from mlx_backend.optimizer import Params, adamw, project, square_sums, step_factors

BRANCHES = 4  # residual branches of a layer at most, each with a dropout mask of its own
Arrays = dict[str, mx.array]


class Trainer:
    """Steps a Checkpoint forward; its NumPy arrays are brought up to date by `sync`.

    Batches, learning rates, clipping and the order of AdamW's operations are the NumPy trainer's; losses are means over
    the whole batch, so `shards` changes nothing here. The step is a pure function of arrays whose shapes never
    change, compiled by `mx.compile`: it is traced twice, with and without the memory entries, and never again."""

    def __init__(self, checkpoint: Checkpoint, data: Dataset) -> None:
        self.run, self.data = checkpoint, data
        self.width = batch_width(data, checkpoint.training)
        self.groups = parameter_groups(checkpoint.config, checkpoint.training.weight_decay)
        self.matrices = muon_matrices(checkpoint.config) if checkpoint.training.optimizer == "muon" else {}
        self.shapes = {name: (checkpoint.params[name].shape[0] // fused, checkpoint.params[name].shape[1])
                       for name, fused in self.matrices.items()}  # of one projection
        self.params, self.first_moments, self.second_moments, self.memory = (
            to_mlx(arrays) for arrays in (checkpoint.params, checkpoint.first_moments, checkpoint.second_moments,
                                          checkpoint.memory))
        require_float32_matmul()  # also starts MLX's default stream: a step traced before that is traced again after it
        self.traces = 0
        self.counted: list[tuple[int, str]] = []
        self.compiled = mx.compile(self._step)

    def sync(self) -> None:
        """Copy parameters, moments and memory entries into the Checkpoint."""
        run = self.run
        run.params, run.first_moments, run.second_moments, run.memory = (
            to_numpy(arrays) for arrays in (self.params, self.first_moments, self.second_moments, self.memory))

    def close(self) -> None:
        """Let the compiled step go."""
        del self.compiled

    def step(self) -> dict[str, Any]:
        """Read one batch and update the parameters. Returns the step's metrics.

        A step whose loss or any gradient is not finite is rejected: parameters and moments stay as they were and
        the metrics name the parameter under ``rejected``."""
        run, training = self.run, self.run.training
        index = run.progress.step
        batch = pad_batch(make_batch(self.data, training, index), self.width)
        arrays = self._batch_arrays(batch, index)
        shown = self.memory if index % 2 else {}
        lr = learning_rate(training, index)
        factors = step_factors(set(self.groups.values()), lr, training.beta1, training.beta2,
                               index + 1 - run.progress.rejected)
        if self.matrices:
            rate = lr * training.muon_lr / training.lr
            factors |= muon_factors(rate, training.weight_decay, set(self.shapes.values()))
        new, measured = self.compiled(self.params, self.first_moments, self.second_moments, shown, arrays, factors)
        mx.eval(new, measured)
        valid_count = int(batch.valid.sum())
        run.progress.step += 1
        run.progress.bytes_read += valid_count
        metrics = {"step": run.progress.step, "loss": measured["cross_entropy"].item(),
                   "gradient_norm": measured["norm"].item()}
        if not np.isfinite(metrics["gradient_norm"]) or not np.isfinite(measured["loss"].item()):
            run.progress.rejected += 1
            finite = dict(zip(self.params, np.isfinite(np.array(measured["square_sums"])), strict=True))
            return {**metrics, "rejected": next((name for name in run.params if not finite[name]), "loss")}
        self.params, self.first_moments, self.second_moments, keys = new
        if keys is not None:
            self.memory = {"counts": arrays["entry_counts"], "keys": keys, "values": arrays["entry_values"]}
        counts: Counts = {}
        for (layer, name), count in zip(self.counted, np.array(measured["counts"]).tolist(), strict=True):
            counts.setdefault(layer, {})[name] = count
        return {**metrics, "lr": lr, **routing_metrics(counts, valid_count)}

    def _batch_arrays(self, batch: Batch, index: int) -> Arrays:
        """The batch, the places of the next memory entries, the dropout key and the loss counts as arrays."""
        training = self.run.training
        arrays: dict[str, Any] = {
            "tokens": batch.tokens, "targets": batch.targets, "loss_mask": batch.loss_mask, "valid": batch.valid,
            "loss_count": np.float32(batch.loss_mask.sum()), "valid_count": np.float32(batch.valid.sum())}
        if self.run.config.memory_layers and training.memory_entries:
            entries = memory_entries(batch, training, index)
            arrays |= {"entry_rows": entries.rows.astype(np.int32), "entry_columns": entries.columns.astype(np.int32),
                       "entry_values": entries.values, "entry_counts": entries.counts}
        if training.dropout:
            arrays["key"] = random_stream(training.seed, DROPOUT, index).integers(0, 1 << 32, 2, np.uint32)
        return to_mlx(arrays)

    def _step(self, params: Params, first: Params, second: Params, memory: Arrays, arrays: Arrays,
              factors: Arrays) -> tuple[Any, dict[str, Any]]:
        """The state after the step, and what is measured on the way. Pure; traced by mx.compile."""
        self.traces += 1
        loss_and_gradients = mx.value_and_grad(self._loss)
        (loss, cross_entropy, hidden, counts), grads = loss_and_gradients(params, memory, arrays)
        sums = square_sums(grads)
        norm = mx.sqrt(sums.sum())
        clip = mx.minimum(1.0, self.run.training.clip_norm / mx.maximum(norm, 1e-30))
        state = (*self._update(params, first, second, {name: g * clip for name, g in grads.items()}, factors),
                 self._memory_keys(hidden, arrays))
        return state, {"loss": loss, "cross_entropy": cross_entropy, "norm": norm, "square_sums": sums,
                       "counts": counts}

    def _loss(self, params: Params, memory: Arrays, arrays: Arrays) -> tuple[mx.array, ...]:
        """Loss, cross-entropy, hidden states, and the routing counts in the order of `self.counted`.

        The counts are one array because some are equal by definition (all layers without a predictor have the same
        survivors), and mx.compile fails on equal results of a differentiated function."""
        config, training = self.run.config, self.run.training
        fields: list[Any] = [arrays[name] for name in ("tokens", "targets", "loss_mask", "valid")]
        batch = Batch(*fields)
        loss, (cross_entropy, output) = objective(
            quantise(params, config, ops), config, training, batch, ops=ops,
            counts=(arrays["loss_count"], arrays["valid_count"]), memory=memory or None, dropout=self._dropout(arrays))
        counts = {(layer, name): count for layer, names in routing_counts(output, batch.valid, ops=ops).items()
                  for name, count in names.items()}
        self.counted = list(counts)
        return loss, cross_entropy, output.hidden, mx.stack(list(counts.values()) or [mx.array(0)])

    def _update(self, params: Params, first: Params, second: Params, grads: Params,
                factors: Arrays) -> tuple[Params, Params, Params]:
        """Muon on its matrices, AdamW on the other parameters with their group's factors, then the projection."""
        training, groups = self.run.training, sorted(set(self.groups.values()))
        new_params, new_first, new_second = {}, {}, {}
        shapes = sorted(set(self.shapes.values()))
        for name, p in params.items():
            if name in self.matrices:
                new_params[name], new_first[name] = muon(
                    p, grads[name], first[name], rate=factors["muon_rate"][shapes.index(self.shapes[name])],
                    keep=factors["muon_keep"], momentum=training.muon_momentum, fused=self.matrices[name])
                continue
            group = groups.index(self.groups[name])
            new_params[name], new_first[name], new_second[name] = adamw(
                p, grads[name], first[name], second[name], rate=factors["rate"][group], keep=factors["keep"][group],
                beta1=training.beta1, beta2=training.beta2, c1=factors["c1"], c2=factors["c2"])
        return project(new_params), new_first, new_second

    def _memory_keys(self, hidden: mx.array, arrays: Arrays) -> mx.array | None:
        """Unit hidden states (entries, d) at the places that the memory layers see in the next step."""
        if "entry_rows" not in arrays:
            return None
        return ops.unit(hidden[arrays["entry_rows"], arrays["entry_columns"]])

    def _dropout(self, arrays: Arrays) -> Any:
        rate = self.run.training.dropout
        if not rate:
            return None
        keys: Iterator[mx.array] = iter(mx.random.split(arrays["key"], BRANCHES * self.run.config.n_layers))

        def apply(x: mx.array) -> mx.array:
            kept = mx.random.uniform(shape=x.shape, key=next(keys)) >= rate
            return ops.dropout(x, kept.astype(mx.float32) * (1 / (1 - rate)))

        return apply


def batch_width(data: Dataset, training: TrainingConfig) -> int:
    """One width for all batches of a run: a window, or the longest pair that can occur (noise at most doubles a prompt,
    and a pair beyond seq_len stays as written)."""
    if data.kind == "text":
        return training.seq_len
    longest = max(len(pair_bytes(pair)) for pair in data.pairs)
    if training.prompt_noise:
        doubled = max(len(pair.prompt) + len(pair_bytes(pair)) for pair in data.pairs)
        longest = min(training.seq_len, doubled)
    return longest - 1


def pad_batch(batch: Batch, width: int) -> Batch:
    """The batch with PAD on the right up to `width`: no loss is taken there and routers skip it."""
    missing = ((0, 0), (0, width - batch.tokens.shape[1]))
    return Batch(*(np.pad(a, missing, constant_values=PAD) for a in (batch.tokens, batch.targets)),
                 *(np.pad(a, missing) for a in (batch.loss_mask, batch.valid)))


def to_mlx(arrays: dict[str, np.ndarray]) -> Arrays:
    """Copies on MLX's default device, sorted by name: a run resumed from a file has the order of one that was not."""
    return {name: mx.array(arrays[name]) for name in sorted(arrays)}


def to_numpy(arrays: Arrays) -> dict[str, np.ndarray]:
    """Copies in NumPy."""
    return {name: np.array(a) for name, a in arrays.items()}
