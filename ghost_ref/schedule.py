"""The learning-rate curve: linear warm-up, then a cosine down to a share of the peak."""

from __future__ import annotations

import math

from ghost_ref.config import TrainingConfig


def learning_rate(training: TrainingConfig, step: int) -> float:
    """Rate of the 0-based step: lr·(step + 1)/warm-up, then lr·(f + (1 - f)·(1 + cos πp)/2), p from 0 to 1.

    While the number of steps is not yet known (steps = 0, --minutes) it is still warming up."""
    warmup = min(training.warmup_steps, training.steps // 10 if training.steps else training.warmup_steps)
    if step < warmup:
        return training.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, training.steps - warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return training.lr * (training.final_lr + (1 - training.final_lr) * cosine)
