"""The kernel bodies as plain C++ on NumPy arrays: what tests and the conformance kit check without a GPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from ghost_ref.errors import GhostError
from mlx_backend.kernels import sources
from mlx_backend.kernels.sources import BACKWARD, FORWARD, KERNELS, TERNARY_MATMUL, Kernel

FLAGS = "-std=c++17 -O2 -ffp-contract=off -Wall -Wextra -Werror -pthread -fPIC -shared".split()
DTYPES = {"float": np.float32, "int": np.int32, "signed char": np.int8, "unsigned int": np.uint32}


def compile_host(directory: str | os.PathLike[str], compiler: str | None = None, flags: tuple[str, ...] = ()) -> Host:
    """Write the C++ source and the shared library of all kernels into `directory`, and load it.

    compiler: a command, by default $CXX, else g++, else clang++; flags: more of them, such as -fsanitize=undefined.
    GhostError if there is no compiler or it fails."""
    wanted = [compiler or os.environ.get("CXX")] if compiler or os.environ.get("CXX") else ["g++", "clang++"]
    found = next((path for name in wanted if name and (path := shutil.which(name))), None)
    if found is None:
        raise GhostError(f"no C++ compiler found (tried {', '.join(map(str, wanted))}): install g++ or set CXX")
    source, library = Path(directory) / "kernels.cpp", Path(directory) / "kernels.so"
    source.write_text(host_source(), encoding="utf-8")
    command = [found, *FLAGS, *flags, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GhostError(f"{source}: {found} could not compile the kernels: {done.stderr.strip()}")
    return Host(ctypes.CDLL(str(library)))


def host_source() -> str:
    """One C++ file with a function per kernel: inputs, outputs, constants, groups, rows."""
    functions = [
        'extern "C" void ghost_exp_array(const float* x, float* y, int count) {\n'
        "for (int i = 0; i < count; ++i) y[i] = ghost_exp(x[i]);\n}\n"
    ]
    for kernel in KERNELS.values():
        parameters = [f"const {kind}* {name}" for name, kind in kernel.inputs.items()]
        parameters += [f"{kind}* {name}" for name, kind in kernel.outputs.items()]
        parameters += [f"int {name}" for name in (*kernel.constants, "groups", "rows_of_groups")]
        functions.append(
            f'extern "C" void {kernel.name}({", ".join(parameters)}) {{\n'
            "ghost_host::launch(groups, rows_of_groups, [=](int group, int row, int lane) {\n"
            f"{sources.text(kernel.name)}}});\n}}\n"
        )
    return "\n".join([sources.header("host"), *functions])


class Host:
    """The functions of a compiled library; arrays are float32 NumPy arrays unless said otherwise."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def exp(self, x: np.ndarray) -> np.ndarray:
        """e^x as the bodies take it, with the bits of ghost_ref.numerics.exp."""
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty_like(x)
        self._library.ghost_exp_array(_pointer(x), _pointer(y), ctypes.c_int(x.size))
        return y

    def selective_scan_forward(
        self, x: Any, dt: Any, A: Any, Bm: Any, Cm: Any, D: Any, past: Any = None, length: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """y (B, L, E) and present (B, E, N) of ghost_ref.ops.scan, bit for bit."""
        outputs = self._forward(x, dt, A, Bm, Cm, D, past, length)
        return outputs["y"], outputs["present"]

    def selective_scan_backward(
        self, dy: Any, x: Any, dt: Any, A: Any, Bm: Any, Cm: Any, D: Any, past: Any = None, length: Any = None
    ) -> tuple[np.ndarray, ...]:
        """Gradients of x, dt, A, Bm, Cm and D; the states come from the forward kernel."""
        starts = self._forward(x, dt, A, Bm, Cm, D, past, length)["starts"]
        shapes, grid, extra = _scan_launch(x, A, length)
        arrays = {"x": x, "dt": dt, "A": A, "Bm": Bm, "Cm": Cm, "D": D, "starts": starts, "dy": dy, **extra}
        out = self.run(BACKWARD, arrays, shapes, {"STATES": A.shape[1]}, grid)
        return out["dx"], out["ddt"], out["dA"].sum(0), out["dB"].sum(1), out["dC"].sum(1), out["dD"].sum(0)

    def ternary_matmul(self, q: Any, packed: Any, scale: Any, s_x: Any) -> np.ndarray:
        """(float(q · Wᵀ) · scale) · s_x, with packed = packing.pack_trits(W).

        q (..., K) int8, W (n, K), scale (n,), s_x (..., 1) -> (..., n)"""
        inner, outputs = q.shape[-1], packed.shape[0]
        rows = q.size // max(1, inner)
        arrays = {"q": q, "packed": packed, "scale": scale, "s": s_x, "sizes": np.array([rows, inner, outputs])}
        grid = (outputs, -(-rows // sources.SUMS))
        return self.run(TERNARY_MATMUL, arrays, {"y": (*q.shape[:-1], outputs)}, {}, grid)["y"]

    def _forward(
        self, x: Any, dt: Any, A: Any, Bm: Any, Cm: Any, D: Any, past: Any, length: Any
    ) -> dict[str, np.ndarray]:
        shapes, grid, extra = _scan_launch(x, A, length)
        past = np.zeros(shapes["present"], np.float32) if past is None else past
        arrays = {"x": x, "dt": dt, "A": A, "Bm": Bm, "Cm": Cm, "D": D, "past": past, **extra}
        return self.run(FORWARD, arrays, shapes, {"STATES": A.shape[1]}, grid)

    def run(
        self,
        kernel: Kernel,
        arrays: dict[str, Any],
        shapes: dict[str, tuple[int, ...]],
        constants: dict[str, int],
        grid: tuple[int, int],
    ) -> dict[str, np.ndarray]:
        """Outputs of a kernel by name; grid is (groups, rows) of simdgroups."""
        inputs = [np.ascontiguousarray(arrays[name], DTYPES[kind]) for name, kind in kernel.inputs.items()]
        # NaN shows what a kernel forgot to write.
        outputs = {name: np.full(shapes[name], np.nan, DTYPES[kind]) for name, kind in kernel.outputs.items()}
        pointers = [_pointer(a) for a in (*inputs, *outputs.values())]
        getattr(self._library, kernel.name)(*pointers, *map(ctypes.c_int, (*constants.values(), *grid)))
        return outputs


def _scan_launch(x: Any, A: Any, length: Any) -> tuple[dict[str, tuple[int, ...]], tuple[int, int], dict[str, Any]]:
    """Output shapes, grid, and the integer inputs."""
    (batch, steps, channels), states = x.shape, A.shape[1]
    if states > sources.LARGEST_STATE:
        raise GhostError(f"the scan kernels keep at most {sources.LARGEST_STATE} states per channel, not {states}")
    kept = np.full(batch, steps) if length is None else length
    shapes = sources.scan_outputs(batch, steps, channels, states)
    return shapes, (-(-channels // sources.LANES), batch), {"kept": kept, "sizes": np.array([steps, channels])}


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)
