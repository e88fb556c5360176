"""Training checkpoints: everything a run needs to go on, in one container file (docs/file-format.md).

Tensors: the parameters under their own names, first and second moments under ``adamw.m/`` and
``adamw.v/`` (of a matrix that Muon trains only its momentum, as the first), the memory
entries of the last step under ``memory/``. Metadata: model and training config, data digest, progress. Random
numbers are functions of (seed, step), so the step is the random state and the data position.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ghost_ref.config import ModelConfig, TrainingConfig
from ghost_ref.container import read_container, write_container
from ghost_ref.errors import GhostError
from ghost_ref.muon import muon_matrices
from ghost_ref.packed import check_tensors, parse_config
from ghost_ref.parameters import parameter_specs

FORMAT = "ghost-checkpoint"
FILE_NAME = "checkpoint.ghost-train"
Params = dict[str, np.ndarray]


@dataclass
class Progress:
    """Where a run stands: steps done, bytes read, evaluations and the best score so far."""

    step: int = 0
    bytes_read: int = 0
    evaluations: int = 0
    best: float | None = None
    since_best: int = 0
    rejected: int = 0
    ended: str = ""  # why the run is over: "done", "solved" or "no improvement"


@dataclass
class Checkpoint:
    """The whole state of a training run."""

    config: ModelConfig
    training: TrainingConfig
    data_digest: str
    params: Params
    first_moments: Params
    second_moments: Params
    memory: Params = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    validation_digest: str = ""  # of a validation file, "" without one


def second_moment_names(config: ModelConfig, training: TrainingConfig) -> list[str]:
    """The parameters that have a second moment: all but the matrices that Muon trains."""
    matrices = muon_matrices(config) if training.optimizer == "muon" else {}
    return [name for name in parameter_specs(config) if name not in matrices]


def save_checkpoint(path: Path, c: Checkpoint) -> None:
    """Write atomically, keeping the previous checkpoint beside it as ``.previous``."""
    tensors = dict(c.params)
    tensors |= {f"adamw.m/{k}": v for k, v in c.first_moments.items()}
    tensors |= {f"adamw.v/{k}": v for k, v in c.second_moments.items()}
    tensors |= {f"memory/{k}": v for k, v in c.memory.items()}
    metadata = {"training": c.training.to_json(), "data_digest": c.data_digest,
                "validation_digest": c.validation_digest,
                "progress": json.dumps(asdict(c.progress), sort_keys=True)}
    write_container(path, tensors, format=FORMAT, config_json=c.config.to_json(), extra_metadata=metadata,
                    keep_previous=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; where the last one is missing or damaged, the previous one. Raises GhostError."""
    previous = path.with_name(path.name + ".previous")
    try:
        return _load(path)
    except GhostError:
        if not previous.exists():
            raise
    return _load(previous)


def _load(path: Path) -> Checkpoint:
    tensors, metadata = read_container(path, format=FORMAT)
    config = parse_config(path, metadata["config"])
    try:
        training = TrainingConfig.from_dict(json.loads(metadata["training"]))
        progress = Progress(**json.loads(metadata["progress"]))
        digest, validation_digest = metadata["data_digest"], metadata["validation_digest"]
    except (KeyError, TypeError, ValueError) as error:
        raise GhostError(f"{path}: the metadata of this checkpoint is incomplete ({error}); train again.") from None
    parts: dict[str, Params] = {"": {}, "adamw.m": {}, "adamw.v": {}, "memory": {}}
    for name, value in tensors.items():
        prefix, _, rest = name.rpartition("/")
        if prefix not in parts:
            raise GhostError(f"{path}: tensor {name} is not part of a checkpoint.")
        parts[prefix][rest] = value
    expected = {name: ("F32", spec.shape) for name, spec in parameter_specs(config).items()}
    second = {name: expected[name] for name in second_moment_names(config, training)}
    for prefix, wanted in (("", expected), ("adamw.m", expected), ("adamw.v", second)):
        check_tensors(path, parts[prefix], wanted)
    return Checkpoint(config, training, digest, parts[""], parts["adamw.m"], parts["adamw.v"], parts["memory"],
                      progress, validation_digest)
