"""Choosing the next byte from 256 logits, the same byte on every backend.

The arithmetic and its order are part of the definition (docs/sampling.md); `ext/core/sampling.cpp`
is the C++ twin.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_ref.config import EOS, RESERVED_BYTES, VOCABULARY, SamplingConfig
from ghost_ref.errors import GhostError
from ghost_ref.numerics import exp
from ghost_ref.philox import philox4x32

NEVER_CHOSEN = tuple(sorted(RESERVED_BYTES - {EOS}))

Float32Array = npt.NDArray[np.float32]


def choose_byte(logits: Float32Array, config: SamplingConfig, step: int) -> int:
    """The next byte, 0..255, never a reserved byte other than EOS.

    logits: (256,) float32. step: index of the byte within this generation, 0..2^64-1; with `config.seed` it
    determines the random number, so a call has no hidden state. Temperature 0 takes the highest logit, ties
    to the lowest byte; otherwise softmax((logits - max) / temp) cut by top-k, top-p and min-p in this order.

    Raises GhostError if a logit is NaN or if the highest logit of the allowed bytes is not finite.
    """
    if logits.shape != (VOCABULARY,) or logits.dtype != np.float32:
        raise ValueError(f"logits must be (256,) float32, got {logits.shape} {logits.dtype}.")
    if np.isnan(logits).any():
        raise GhostError("The model produced NaN, no byte can be chosen; check the file with `ghost verify`.")
    allowed = logits.copy()
    allowed[list(NEVER_CHOSEN)] = -np.inf
    best = int(np.argmax(allowed))
    if not np.isfinite(allowed[best]):
        raise GhostError("The model's highest logit is infinite, no byte can be chosen; check the file "
                         "with `ghost verify`.")
    temp = np.float32(config.temp)
    if temp == 0:
        return best
    order, p = _kept(allowed, temp, config)
    running = np.add.accumulate(p)
    threshold = uniform(config.seed, step) * running[-1]
    return int(order[np.argmax(running > threshold)])


def uniform(seed: int, step: int) -> np.float32:
    """The random number of one step, k * 2^-24 with k in 0..2^24-1: the upper 24 bits of the first Philox
    word with key = (low, high 32 bits of seed) and counter = (low, high 32 bits of step, 0, 0)."""
    word = philox4x32((step & 0xFFFFFFFF, step >> 32, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))[0]
    return np.float32(word >> np.uint32(8)) * np.float32(2.0**-24)


def _kept(allowed: Float32Array, temp: np.float32,
          config: SamplingConfig) -> tuple[npt.NDArray[np.intp], Float32Array]:
    """The bytes that survive top-k, top-p and min-p, most probable first, and their (not renormalised)
    probabilities. Never empty: the most probable byte survives every cut."""
    order = np.argsort(-allowed, kind="stable")[:config.top_k or VOCABULARY]
    with np.errstate(over="ignore"):  # a difference beyond the float32 range is -inf, a probability of zero
        weights = exp((allowed[order] - allowed[order[0]]) / temp)
    p = weights / np.add.accumulate(weights)[-1]
    top_p, min_p = np.float32(config.top_p), np.float32(config.min_p)
    if top_p < 1:  # at 1 a running sum that rounds up to 1 early must not cut the tail
        reached = np.add.accumulate(p) >= top_p
        if reached.any():
            end = int(np.argmax(reached)) + 1
            order, p = order[:end], p[:end]
    keep = ~(p < min_p * p[0])
    return order[keep], p[keep]
