"""What the routers of a training step decided, counted over the bytes of the batch (PAD is not one)."""

from __future__ import annotations

from typing import Any

from ghost_ref.model import Output

Counts = dict[int, dict[str, Any]]


def routing_counts(output: Output, valid: Any, *, ops: Any) -> Counts:
    """Per routed layer the number of valid tokens that each predictor passes ("depth", "surprise"), that pass them all
    ("survivors"), that the layer processes ("all"), and, with Mixture of Depths, the survivors on which its top k and
    its shipped rule score > 0 agree ("agree").   valid (B, L) bool -> 0-d arrays"""
    counts: Counts = {}
    for i, routing in output.routing.items():
        masks = {name: passed & valid for name, passed in routing.passed.items()}
        masks |= {"survivors": routing.survivors & valid, "all": routing.kept & valid}
        if routing.scores is not None:
            masks["agree"] = (ops.exceeds(routing.scores, 0.0) == routing.kept) & masks["survivors"]
        counts[i] = {name: mask.sum() for name, mask in masks.items()}
    return counts


def routing_metrics(counts: Counts, valid_count: int) -> dict[str, Any]:
    """Per routed layer: the share of all bytes that each predictor passes ("depth", "surprise"), that Mixture of
    Depths keeps of the survivors ("mod"), and that the layer processes ("all"); and the share of survivors on which
    top-k and the threshold rule agree. Keys are strings, as in JSON; shares have 4 digits."""
    processed, agreement = {}, {}
    for i, layer in counts.items():
        predictors = [name for name in ("depth", "surprise") if name in layer]
        shares: dict[str, float] = {name: int(layer[name]) / valid_count for name in predictors}
        if "agree" in layer and (survivors := int(layer["survivors"])):
            shares["mod"] = int(layer["all"]) / survivors
            agreement[str(i)] = round(int(layer["agree"]) / survivors, 4)
        shares["all"] = int(layer["all"]) / valid_count
        processed[str(i)] = {name: round(share, 4) for name, share in shares.items()}
    return {"processed": processed, "agreement": agreement}
