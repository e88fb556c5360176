"""An unquantised model (linear="float") behind the interface of packed ones, to measure what quantisation costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ghost_ref.config import ModelConfig
from ghost_ref.engines import ReferenceEngine
from ghost_ref.quantise import quantise
from ghost_ref.runtime import Model
from ghost_ref.state import State, initial_state
from ghost_ref.training_ops import training_ops


class FloatEngine(ReferenceEngine):
    """Ordinary float32 arithmetic on training parameters; its bits are not pinned."""

    level = "float"

    def __init__(self, params: dict[str, np.ndarray], config: ModelConfig) -> None:
        self.ops: Any = training_ops()
        self.weights, self.config = quantise(params, config, self.ops), config
        self.memory = None

    def new_state(self) -> list[State]:
        return [initial_state(self.config)]


def float_model(params: dict[str, np.ndarray], config: ModelConfig) -> Model:
    """A Model over parameters in memory."""
    return Model(FloatEngine(params, config), "parameters in memory")


