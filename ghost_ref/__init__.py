"""Ghost: tiny byte-level ternary state-space language models, defined bit by bit in NumPy.

    import ghost_ref as ghost

    ghost.train("qa20", "runs/qa20")
    model = ghost.load("runs/qa20/best.ghost")
    model.generate("list pods")

Names are imported on first use, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ghost_ref.config import ModelConfig, SamplingConfig, TrainingConfig
    from ghost_ref.errors import GhostError
    from ghost_ref.evaluate import evaluate_answers, evaluate_text
    from ghost_ref.memory_bank import MemoryBank
    from ghost_ref.packed import estimate_storage
    from ghost_ref.presets import PRESETS
    from ghost_ref.runtime import Model, load
    from ghost_ref.training import TrainingResult, pack_run, train
    from ghost_ref.verify import verify_file

_HOMES = {
    "ModelConfig": "config", "SamplingConfig": "config", "TrainingConfig": "config", "GhostError": "errors",
    "evaluate_answers": "evaluate", "evaluate_text": "evaluate", "MemoryBank": "memory_bank",
    "estimate_storage": "packed", "PRESETS": "presets", "Model": "runtime", "load": "runtime",
    "TrainingResult": "training", "pack_run": "training", "train": "training", "verify_file": "verify",
}

__all__ = [
    "PRESETS",
    "GhostError",
    "MemoryBank",
    "Model",
    "ModelConfig",
    "SamplingConfig",
    "TrainingConfig",
    "TrainingResult",
    "__version__",
    "estimate_storage",
    "evaluate_answers",
    "evaluate_text",
    "load",
    "pack_run",
    "train",
    "verify_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ghost_ref' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ghost_ref.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
