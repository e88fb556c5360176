"""The MLX backend's ops, eager and compiled, on MLX's CPU and GPU devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.arithmetic import BINARY32, Arithmetic
from conformance.backend import Absence, Backend
from conformance.case import BACKWARD, Arrays, Case, Component, named_outputs
from conformance.results import BackendInfo

COLUMNS = (("mlx-cpu", "MLX on the CPU, eager"), ("mlx-cpu-compiled", "MLX on the CPU, compiled"),
           ("mlx-gpu", "MLX on the GPU, eager"), ("mlx-gpu-compiled", "MLX on the GPU, compiled"))

# The backend has the reference's exp (mlx_backend/numerics.py); a compiler for a GPU may contract, which adds an ULP.
GPU_ARITHMETIC = Arithmetic("gpu", exp_ulp=3.0)

RUNTIME_ONLY = ("philox4x32", "choose_byte", "packed_file", "packed_tensors", "swiglu", "conv_silu", "scan_gated")

BY_PARTS = ("training_linear", "training_codebook_linear")


class MlxBackend:
    """One device, eager or compiled. Gradients are MLX's own, through the ops' VJPs."""

    exact = False

    def __init__(self, info: BackendInfo, device: Any, compiled: bool) -> None:
        import mlx.core as mx

        from conformance.backends import mlx_functions

        self.info, self.device, self.compiled, self.mx = info, device, compiled, mx
        self.arithmetic = GPU_ARITHMETIC if device == mx.gpu else BINARY32
        self.functions = mlx_functions

    def absence(self, component: Component, case: Case) -> Absence | None:
        if component.name in RUNTIME_ONLY:
            return Absence("MLX trains and evaluates; packed files, sampling and fused kernels are the runtime's")
        if component.name in BY_PARTS:
            return Absence("the MLX trainer composes it of the ops above and is judged by them")
        if component.name == "any_split":
            return Absence("equal bits for any split are promised for packed models on the runtime")
        streams = case.arguments.get("state") is not None or case.statics.get("drop_tail")
        if self.compiled and (streams or component.name == "causality"):
            return Absence("a stream that drops its skipped tokens has no static shapes: it runs eagerly")
        return None

    def run(self, component: Component, case: Case) -> Arrays:
        mx, function = self.mx, self.functions.find(component.name)
        if function is None:
            raise NotImplementedError(f"mlx_backend has no {component.name}")
        with mx.stream(self.device):
            arrays = [self._argument(component, name, case.arguments.get(name)) for name in component.arguments]
            statics = {k: self._to_mlx(v) for k, v in case.statics.items()}
            if case.direction == BACKWARD:
                outputs = self._gradients(component, case, function, arrays, statics)
            else:
                outputs = named_outputs(component, self._call(lambda *a: function(*a, **statics), arrays))
            return {name: np.asarray(value) for name, value in outputs.items()}

    def _argument(self, component: Component, name: str, value: Any) -> Any:
        stays = component.name in self.functions.IN_NUMPY.get(name, ())
        return value if stays else self._to_mlx(value)

    def _call(self, function: Callable[..., Any], arrays: list[Any]) -> Any:
        """The function of the arguments; compiled, those of MLX arrays are its inputs and the others constants."""
        if not self.compiled:
            return function(*arrays)
        given = [i for i, a in enumerate(arrays) if self._is_tree(a)]

        def of_given(*values: Any) -> Any:
            whole = list(arrays)
            for i, value in zip(given, values, strict=True):
                whole[i] = value
            return function(*whole)

        return self.mx.compile(of_given)(*(arrays[i] for i in given))

    def _is_tree(self, x: Any) -> bool:
        return all(map(self._is_tree, x.values())) if isinstance(x, dict) else isinstance(x, self.mx.array)

    def _gradients(self, component: Component, case: Case, function: Callable[..., Any], arrays: list[Any],
                   statics: Arrays) -> Arrays:
        mx = self.mx
        chosen = [component.arguments.index(name) for name in component.gradients]
        names = component.outputs[: component.differentiable]
        cotangents = [mx.array(case.cotangents[name]) for name in names]

        def backward(*values: Any) -> Any:
            primals, douts = list(values[: len(chosen)]), list(values[len(chosen) :])

            def outputs(*given: Any) -> list[Any]:
                whole = list(arrays)
                for i, value in zip(chosen, given, strict=True):
                    whole[i] = value
                out = function(*whole, **statics)
                return list((out if isinstance(out, tuple) else (out,))[: len(names)])

            return tuple(mx.vjp(outputs, primals, douts)[1])

        grads = self._call(backward, [*(arrays[i] for i in chosen), *cotangents])
        return {f"d {name}": g for name, g in zip(component.gradients, grads, strict=True)}

    def _to_mlx(self, x: Any) -> Any:
        if isinstance(x, dict):
            return {k: self._to_mlx(v) for k, v in x.items()}
        if isinstance(x, tuple):
            return tuple(self._to_mlx(v) for v in x)
        return self.mx.array(x) if isinstance(x, np.ndarray) else x


def backends() -> list[Backend | BackendInfo]:
    try:
        import mlx.core as mx
    except ImportError as error:
        reason = f'no MLX ({error}): pip install "ghost-lm[mlx]" (Mac) or "ghost-lm[mlx-cpu]" (Linux)'
        return [BackendInfo(name, text, reason) for name, text in COLUMNS]
    from mlx_backend.ops import scan

    scan.requested()  # GhostError for a GHOST_SCAN that cannot run here
    found: list[Backend | BackendInfo] = []
    for name, text in COLUMNS:
        device = mx.gpu if "gpu" in name else mx.cpu
        if mx.is_available(mx.Device(device)):
            found.append(MlxBackend(BackendInfo(name, text), device, name.endswith("compiled")))
        else:
            found.append(BackendInfo(name, text, "this machine has no GPU that MLX can use (Apple or CUDA)"))
    return found
