"""The fused kernels on a GPU through mx.fast.metal_kernel and mx.fast.cuda_kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import mlx.core as mx

from mlx_backend.kernels import sources
from mlx_backend.kernels.sources import BACKWARD, FORWARD, TERNARY_MATMUL, Kernel

Array = mx.array
# (kernel, inputs by name, output shapes by name, constants by name, (groups, rows)) -> outputs in order
Runner = Callable[
    [Kernel, dict[str, Array], dict[str, tuple[int, ...]], dict[str, int], tuple[int, int]], list[Array]
]

DTYPES = {"float": mx.float32, "int": mx.int32, "signed char": mx.int8, "unsigned int": mx.uint32}


def available() -> str | None:
    """The dialect of the default device, "metal" or "cuda"; None if it runs no custom kernel."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return None
    if mx.metal.is_available() and hasattr(mx.fast, "metal_kernel"):
        return "metal"
    if hasattr(mx, "cuda") and mx.cuda.is_available() and hasattr(mx.fast, "cuda_kernel"):
        return "cuda"
    return None


@cache
def built(dialect: str, name: str) -> Any:
    """The MLX kernel of a name in sources.KERNELS; MLX compiles it when it is first called."""
    kernel = sources.KERNELS[name]
    build = mx.fast.metal_kernel if dialect == "metal" else mx.fast.cuda_kernel
    return build(
        name=f"ghost_{kernel.name}",
        input_names=list(kernel.inputs),
        output_names=list(kernel.outputs),
        source=sources.PLACES[dialect] + sources.text(kernel.name),
        header=sources.header(dialect),
    )


@cache
def runner(dialect: str) -> Runner:
    """Runs kernels of a dialect."""

    def run(
        kernel: Kernel,
        arrays: dict[str, Array],
        shapes: dict[str, tuple[int, ...]],
        constants: dict[str, int],
        grid: tuple[int, int],
    ) -> list[Array]:
        return built(dialect, kernel.name)(
            inputs=[arrays[name].astype(DTYPES[kind]) for name, kind in kernel.inputs.items()],
            output_shapes=[shapes[name] for name in kernel.outputs],
            output_dtypes=[DTYPES[kind] for kind in kernel.outputs.values()],
            template=list(constants.items()),
            grid=(sources.LANES * grid[0], grid[1], 1),
            threadgroup=(sources.LANES, 1, 1),
        )

    return run


@cache
def scan_function(run: Runner) -> Callable[..., tuple[Array, Array]]:
    """selective_scan(x, dt, A, Bm, Cm, D, past (B, E, N), kept (B,)) -> y, present by the fused kernels.

    Forward saves the state before every 8th step; backward recomputes from there, and what it leaves in partial sums
    (dB, dC per 32 channels, dA, dD per row of the batch) is added here. float32; past and kept are constants."""

    @mx.custom_function
    def scan(
        x: Array, dt: Array, A: Array, Bm: Array, Cm: Array, D: Array, past: Array, kept: Array
    ) -> tuple[Array, ...]:
        arrays = {"x": x, "dt": dt, "A": A, "Bm": Bm, "Cm": Cm, "D": D, "past": past}
        return tuple(_run_scan(run, FORWARD, arrays, kept))  # y, present, starts

    @scan.vjp
    def backward(primals: Any, cotangents: Any, outputs: Any) -> tuple[Array, ...]:
        x, dt, A, Bm, Cm, D, past, kept = primals
        arrays = {"x": x, "dt": dt, "A": A, "Bm": Bm, "Cm": Cm, "D": D, "starts": outputs[2], "dy": cotangents[0]}
        dx, ddt, dA, dB, dC, dD = _run_scan(run, BACKWARD, arrays, kept)
        return dx, ddt, dA.sum(0), dB.sum(1), dC.sum(1), dD.sum(0), mx.zeros_like(past), mx.zeros_like(kept)

    call: Any = scan
    return lambda *arrays: call(*arrays)[:2]


def _run_scan(run: Runner, kernel: Kernel, arrays: dict[str, Array], kept: Array) -> list[Array]:
    (batch, steps, channels), states = arrays["x"].shape, arrays["A"].shape[1]
    arrays = {**arrays, "kept": kept, "sizes": mx.array([steps, channels], mx.int32)}
    shapes = sources.scan_outputs(batch, steps, channels, states)
    return run(kernel, arrays, shapes, {"STATES": states}, (-(-channels // sources.LANES), batch))


def ternary_matmul(q: Array, packed: Array, scale: Array, s_x: Array, run: Runner | None = None) -> Array:
    """(float(q · Wᵀ) · scale) · s_x with an exact int32 sum, for evaluation (no gradient).

    q (..., K) integer-valued, |q| <= 127, packed (n, ceil(K / 16)) uint32 of packing.pack_trits(W), scale (n,),
    s_x (..., 1) -> (..., n) float32. `available()` must not be None unless a runner is given."""
    inner, outputs = q.shape[-1], packed.shape[0]
    rows = q.size // inner
    arrays = {"q": q, "packed": packed, "scale": scale, "s": s_x, "sizes": mx.array([rows, inner, outputs], mx.int32)}
    run = run or runner(available() or "metal")
    grid = (outputs, -(-rows // sources.SUMS))
    return run(TERNARY_MATMUL, arrays, {"y": (*q.shape[:-1], outputs)}, {}, grid)[0]
