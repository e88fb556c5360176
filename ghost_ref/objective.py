"""The training objective, shared by the backends: cross-entropy plus the routers' auxiliary losses."""

from __future__ import annotations

from typing import Any

from ghost_ref.batches import Batch
from ghost_ref.config import ModelConfig, TrainingConfig
from ghost_ref.constants import GATE_SLOPE
from ghost_ref.model import Output, forward


def objective(weights: dict[str, Any], config: ModelConfig, training: TrainingConfig, batch: Batch, *, ops: Any,
              counts: tuple[Any, Any], memory: dict[str, Any] | None = None,
              dropout: Any = None) -> tuple[Any, tuple[Any, Output]]:
    """(loss, (cross-entropy in nats per byte, Output)) of the rows of `batch`.

    weights: of `quantise`. counts: loss positions and valid positions of the whole batch, as numbers or 0-d arrays;
    these rows may be a part of it: losses of parts add up. With means taken over the whole batch,
    loss = CE(logits) + CE(surprise head, on all bytes) + mod_weight·mean BCE(router, its own top-k) over layers
    + depth_weight·mean sigmoid(5(D - i)) over tokens and layers."""
    loss_count, valid_count = counts
    output = forward(weights, config, batch.tokens, ops=ops, memory=memory, mod_top_k=True, dropout=dropout)
    cross_entropy = ops.cross_entropy(output.logits, batch.targets, batch.loss_mask, count=loss_count)
    loss = cross_entropy
    if config.surprise_layers:
        loss = loss + ops.cross_entropy(output.surprise_logits, batch.targets, batch.valid, count=valid_count)
    for i in config.mod_layers:
        routing = output.routing[i]
        aligned = ops.binary_cross_entropy(routing.scores, routing.kept, routing.survivors, count=valid_count)
        loss = loss + aligned * (training.mod_weight / len(config.mod_layers))
    for i in config.depth_layers:
        gate = ops.sigmoid((output.depth + (-float(i))) * GATE_SLOPE)
        mean_gate = ops.masked_mean(gate, batch.valid, count=valid_count)
        loss = loss + mean_gate * (training.depth_weight / len(config.depth_layers))
    return loss, (ops.detach(cross_entropy), output)
