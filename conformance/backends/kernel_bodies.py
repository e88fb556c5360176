"""The bodies of the GPU kernels compiled as plain C++: the very text that Metal and CUDA compile, on the CPU."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from conformance.arithmetic import BINARY32
from conformance.backend import Absence, Backend
from conformance.case import BACKWARD, Arrays, Case, Component
from conformance.results import BackendInfo
from ghost_ref.errors import GhostError
from ghost_ref.ops.linear import quantise_forced

INFO = ("kernel-bodies", "the GPU kernels' bodies compiled as C++, 32 threads as a simdgroup")


@functools.cache
def _host() -> Any:
    """The compiled bodies; the directory can go once they are loaded."""
    from mlx_backend.kernels.host import compile_host

    with tempfile.TemporaryDirectory() as directory:
        return compile_host(Path(directory))


class KernelBodies:
    """The fused selective scan, forward (the reference's bits) and backward, and the packed ternary product."""

    info = BackendInfo(*INFO)
    arithmetic = BINARY32
    exact = True

    def absence(self, component: Component, case: Case) -> Absence | None:
        if component.name in ("selective_scan", "parallel_scan"):
            return None
        if component.name != "quantised_linear":
            return Absence("only the selective scan and the ternary product have kernels of their own")
        if case.direction == BACKWARD or case.statics.get("largest_weight", 1) != 1:
            return Absence("the kernel multiplies trits, for evaluation")
        return None

    def run(self, component: Component, case: Case) -> Arrays:
        if component.name == "quantised_linear":
            return self._ternary(case)
        arrays = [case.arguments.get(name) for name in component.arguments]
        if case.direction == BACKWARD:
            grads = _host().selective_scan_backward(case.cotangents["y"], *arrays)
            return {f"d {name}": g for name, g in zip(component.gradients, grads, strict=True)}
        y, present = _host().selective_scan_forward(*arrays)
        return {"y": y, "present": present}

    def _ternary(self, case: Case) -> Arrays:
        from mlx_backend.kernels.packing import pack_trits

        x, weight, scale = (case.arguments[name] for name in ("x", "weight", "scale"))
        q, s_x = quantise_forced(x, case.statics.get("forced"))
        return {"y": _host().ternary_matmul(q, pack_trits(weight), scale, s_x)}


def backends() -> list[Backend | BackendInfo]:
    try:
        _host()
    except GhostError as error:
        return [BackendInfo(*INFO, str(error))]
    return [KernelBodies()]
