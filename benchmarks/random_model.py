"""Packed models with random weights, in the shapes that benchmarks compare.

    python benchmarks/random_model.py mamba-d512 mamba-d512.ghost

A shape is a preset's name or a row of SHAPES. Speed does not depend on the values of the weights except through the
routers: random ones keep other bytes than trained ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ghost_ref import ops
from ghost_ref.config import ModelConfig
from ghost_ref.errors import GhostError
from ghost_ref.initialise import initialise
from ghost_ref.packed import save_packed
from ghost_ref.parameters import parameter_count
from ghost_ref.presets import PRESETS
from ghost_ref.quantise import quantise

SHAPES: dict[str, ModelConfig] = {
    # Mamba blocks alone, as other runtimes have them: 10.3M parameters in matrices.
    "mamba-d512": ModelConfig(d_model=512, n_layers=6, d_state=16, dt_rank=32, d_ff=0),
    "mamba-d384": ModelConfig(d_model=384, n_layers=11, d_state=16, dt_rank=24, d_ff=0),
}


def shape(name: str) -> ModelConfig:
    """The configuration of a shape. Raises GhostError naming the known ones."""
    shapes = {**PRESETS, **SHAPES}
    if name not in shapes:
        raise GhostError(f"There is no shape {name!r}; the shapes are: {', '.join(sorted(shapes))}.")
    return shapes[name]


def write_random_model(path: str | Path, config: ModelConfig, seed: int = 0) -> int:
    """Pack a model with the first values of a training run. Returns the size of the file in bytes."""
    return save_packed(path, quantise(initialise(config, seed), config, ops), config)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", help=", ".join(sorted({**PRESETS, **SHAPES})))
    parser.add_argument("path", help="the packed file to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        config = shape(arguments.shape)
        size = write_random_model(arguments.path, config, arguments.seed)
    except GhostError as error:
        print(f"random_model.py: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.path}: {arguments.shape}, {parameter_count(config):,} parameters, {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
