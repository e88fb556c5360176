"""Packed models on an MLX device, to measure them: the shared forward, ternary products by the fused kernel on a GPU.

The bits of a packed model are the reference's and the runtime's; here its integers are exact and the rest is float32 in
the device's order, so figures agree to rounding (and a router may decide otherwise where its score is a tie).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ghost_ref.engines import ReferenceEngine
from ghost_ref.model import forward
from ghost_ref.packed import load_packed
from ghost_ref.runtime import Model
from ghost_ref.state import State
from mlx_backend import ops
from mlx_backend.kernels import device, packing
from mlx_backend.ops.linear import quantise_activations


@dataclasses.dataclass(frozen=True)
class PackedTrits:
    """A ternary matrix as the kernel reads it: 2 bits a trit."""

    words: mx.array


class EvaluationOps:
    """The vocabulary with the fused kernel for packed matrices, which have no gradient."""

    def __init__(self, run: device.Runner) -> None:
        self.run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(ops, name)

    def quantised_linear(self, x: mx.array, weight: Any, scale: mx.array, *, largest_weight: int = 1) -> mx.array:
        """ops.quantised_linear; `weight` may be PackedTrits."""
        if not isinstance(weight, PackedTrits):
            return ops.quantised_linear(x, weight, scale, largest_weight=largest_weight)
        q, s_x = quantise_activations(x)
        return device.ternary_matmul(q, weight.words, scale, s_x, self.run)


class MlxEngine(ReferenceEngine):
    """A packed file behind the interface of the other engines. run: what runs the kernels, by default the device."""

    def __init__(self, path: str | Path, run: device.Runner | None = None) -> None:
        weights, self.config = load_packed(path)
        dialect = device.available()
        run = run or (device.runner(dialect) if dialect else None)
        self.level = f"mlx {dialect or 'ops'}"
        self.ops: Any = EvaluationOps(run) if run else ops
        self.weights = {name: self._placed(name, w, weights, bool(run)) for name, w in weights.items()}
        self.memory = None

    def _placed(self, name: str, weight: np.ndarray, weights: dict[str, np.ndarray], fused: bool) -> Any:
        """A weight on the device. Codebook matrices stay unpacked: their groups have magnitudes of their own."""
        if fused and name.endswith(".trits") and f"{name.removesuffix('.trits')}.index" not in weights:
            return PackedTrits(mx.array(packing.pack_trits(weight)))
        return mx.array(weight)

    def forward(self, state: list[State], tokens: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray]:
        shown: dict[str, Any] = self.memory or {}
        memory = {name: mx.array(a) for name, a in shown.items()} or None
        past: Any = {name: mx.array(a) for name, a in state[0].items()}
        out = forward(self.weights, self.config, mx.array(tokens[None]), past, ops=self.ops, memory=memory)
        after: Any = out.state
        state[0] = {name: np.array(a) for name, a in after.items()}
        rows = slice(-1, None) if last else slice(None)
        return np.array(out.logits)[0, rows], np.array(out.hidden)[0, rows]


def load_model(path: str | Path) -> Model:
    """A packed file as a Model on MLX's default device. Raises GhostError on a bad file."""
    return Model(MlxEngine(path), path)
