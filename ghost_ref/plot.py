"""The loss curve of a run as a PNG (needs the `plot` extra)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np


def have_matplotlib() -> bool:
    """Whether the `plot` extra is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Trailing mean over at most `width` values."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    first = np.maximum(np.arange(len(values)) - width + 1, 0)
    return (sums[1:] - sums[first]) / (np.arange(len(values)) - first + 1)


def plot_run(metrics: Path, picture: Path) -> None:
    """Draw training loss (smoothed) and evaluations of metrics.jsonl over bytes of training steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    events = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [e for e in events if e["event"] == "step" and e["loss"] is not None]
    evaluations = [e for e in events if e["event"] == "evaluation"]
    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    x, losses = [e["step"] for e in steps], np.array([e["loss"] for e in steps])
    axis.plot(x, losses, color="0.8", linewidth=0.8)
    axis.plot(x, smooth(losses, max(1, len(losses) // 50)), color="C0", label="training loss")
    axis.set_xlabel("step")
    axis.set_ylabel("nats per byte")
    nats = [e for e in evaluations if "nats_per_byte" in e]
    shares = [e for e in evaluations if "share" in e]
    if nats:
        axis.plot([e["step"] for e in nats], [e["nats_per_byte"] for e in nats], "o-", color="C1",
                  label="packed model, evaluation data")
    if shares:
        right = axis.twinx()
        right.plot([e["step"] for e in shares], [100 * e["share"] for e in shares], "o-", color="C1")
        right.set_ylabel("answers exactly right, packed model (%)", color="C1")
        right.set_ylim(-3, 103)
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
