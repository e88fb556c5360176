"""The kernels and their texts: what a kernel takes and gives, its body, and what each language puts before a body."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import NamedTuple

LANES = 32  # of a simdgroup (Metal), a warp (CUDA)
CHUNK = 8  # GHOST_CHUNK of common_subset.h
SUMS = 16  # GHOST_SUMS
LARGEST_STATE = 64  # GHOST_STATES_MAX of dialect_host.h

# Where a body finds its place in the grid: `group`, `row` and `lane`. The launch is (32 · groups, rows) threads in
# threadgroups of 32. These lines stand in the kernel's own text, where MLX looks for the names of Metal's attributes.
PLACES = {
    "metal": (
        "const int lane = int(thread_index_in_simdgroup);\n"
        "const int group = int(threadgroup_position_in_grid.x);\n"
        "const int row = int(threadgroup_position_in_grid.y);\n"
    ),
    "cuda": (
        "const int lane = int(threadIdx.x);\n"
        "const int group = int(blockIdx.x);\n"
        "const int row = int(blockIdx.y);\n"
    ),
}


class Kernel(NamedTuple):
    """A body and its arrays, in the order of its parameters: name -> C type."""

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    constants: tuple[str, ...]  # compile-time numbers on a GPU, parameters in C++


def _floats(names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), "float")


FORWARD = Kernel(
    "selective_scan_forward",
    {**_floats("x dt A Bm Cm D past"), "kept": "int", "sizes": "int"},
    _floats("y present starts"),
    ("STATES",),
)
BACKWARD = Kernel(
    "selective_scan_backward",
    {**_floats("x dt A Bm Cm D starts dy"), "kept": "int", "sizes": "int"},
    _floats("dx ddt dA dB dC dD"),
    ("STATES",),
)
TERNARY_MATMUL = Kernel(
    "ternary_matmul",
    {"q": "signed char", "packed": "unsigned int", **_floats("scale s"), "sizes": "int"},
    _floats("y"),
    (),
)
KERNELS = {kernel.name: kernel for kernel in (FORWARD, BACKWARD, TERNARY_MATMUL)}


@cache
def text(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.h").read_text(encoding="utf-8")


def header(dialect: str) -> str:
    """What stands before the kernels; dialect is metal, cuda or host."""
    return text(f"dialect_{dialect}") + "\n" + text("common_subset")


def scan_outputs(batch: int, steps: int, channels: int, states: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all outputs of the two scan kernels."""
    groups, chunks = -(-channels // LANES), -(-steps // CHUNK)
    tokens, partial = (batch, steps, channels), (batch, groups, steps, states)
    return {
        "y": tokens, "present": (batch, channels, states), "starts": (batch, chunks, states, channels),
        "dx": tokens, "ddt": tokens, "dA": (batch, channels, states), "dB": partial, "dC": partial,
        "dD": (batch, channels),
    }  # fmt: skip
