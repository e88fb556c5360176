"""The MLX training backend: the ops of ghost_ref under the same names, for GPUs and (slowly) for CPUs.

``mlx_backend.ops`` is a vocabulary for the shared `forward`, `quantise` and `objective`; it is imported on first use.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# MLX multiplies float32 matrices in TF32 by default where the GPU can, with 11-bit inputs: gradients would leave every
# bound of the conformance kit. It reads this variable at its first matrix product. A value set by the user is
# overridden, not refused: it may be meant for other programs, and no result of Ghost is right with it. The variable
# comes too late where a product has already been computed; `numerics.require_float32_matmul` looks.
os.environ["MLX_ENABLE_TF32"] = "0"

__all__ = ["numerics", "ops"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"mlx_backend.{name}")
    raise AttributeError(f"module 'mlx_backend' has no attribute {name!r}")
