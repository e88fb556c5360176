"""The selective scan in MLX, forward and backward: the custom gradient beside per-step loops under autodiff.

    python benchmarks/mlx_scan.py [--shapes B,L,E,N ...] [--repeats N] [--slow] [--json FILE]

The contestants take turns (A B C A B C ...), so that a slow spell of the machine hits all of them; times are medians
with the quartiles, CPU time is this process's own (which other processes disturb less), memory is MLX's own peak above
what the inputs hold. Two loops: "slices" is the recurrence as it is usually written, over steps of the discretised
arrays exp(dt·A) and dt·x·B; "steps" computes these step by step too, which takes several times less memory. --slow adds
the compiled loop, whose first call takes long. Each contestant's gradients are compared with the others' before
anything is timed; ratios are to the first loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np

from ghost_ref.bench import available_cpus, cpu_name
from mlx_backend.ops import scan

SHAPES = ("2,512,64,16", "1,512,256,16", "2,512,256,16", "1,512,512,16")
ARGUMENTS = tuple(range(6))
BASE = "loop over slices"
AGREEMENT = 1e-4  # of the largest value; both sum the same terms in another order


def loop_over_slices(x: Any, dt: Any, A: Any, Bm: Any, Cm: Any, D: Any, past: Any) -> tuple[Any, Any]:
    """The recurrence as one would write it first: over slices of the discretised arrays, left to autodiff."""
    a, b = mx.exp(dt[..., None] * A), (dt * x)[..., None] * Bm[:, :, None, :]
    h, states = past, []
    for t in range(x.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return (mx.stack(states, 1) @ Cm[..., None])[..., 0] + D * x, h


def loop_over_steps(x: Any, dt: Any, A: Any, Bm: Any, Cm: Any, D: Any, past: Any) -> tuple[Any, Any]:
    """The same with everything of a step computed in that step."""
    h, outputs = past, []
    for t in range(x.shape[1]):
        decay = mx.exp(dt[:, t, :, None] * A)
        h = decay * h + (dt[:, t] * x[:, t])[..., None] * Bm[:, t, None, :]
        outputs.append((h * Cm[:, t, None, :]).sum(-1))
    return mx.stack(outputs, 1) + D * x, h


def make_inputs(shape: tuple[int, int, int, int]) -> tuple[list[Any], Any, Any]:
    """x, dt, A, Bm, Cm, D as in a trained layer; past; dy."""
    batch, steps, channels, n = shape
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, batch, steps, channels))
    dt = np.exp(rng.normal(-3, 1, (batch, steps, channels)))
    A = -np.arange(1, n + 1) * np.ones((channels, 1))
    Bm, Cm = rng.standard_normal((2, batch, steps, n))
    D, past = rng.standard_normal(channels), rng.standard_normal((batch, channels, n))
    arrays = [mx.array(a.astype(np.float32)) for a in (x, dt, A, Bm, Cm, D, past, dy)]
    mx.eval(arrays)
    return arrays[:6], arrays[6], arrays[7]


def contestants(past: Any, dy: Any, slow: bool) -> dict[str, Callable[..., Any]]:
    def gradient(function: Callable[..., Any]) -> Callable[..., Any]:
        return mx.value_and_grad(lambda *v: (function(*v, past)[0] * dy).sum(), argnums=ARGUMENTS)

    found = {"custom gradient, eager": gradient(scan.selective_scan)}
    found["custom gradient, compiled"] = mx.compile(gradient(scan.selective_scan))
    found[BASE] = gradient(loop_over_slices)
    found["loop over steps"] = gradient(loop_over_steps)
    if slow:
        found["loop over steps, compiled"] = mx.compile(gradient(loop_over_steps))
    return found


def timed(function: Callable[..., Any], inputs: list[Any]) -> tuple[float, float, int, Any]:
    """Seconds, CPU seconds, peak bytes above the inputs, and what came out."""
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    held, start, cpu = mx.get_active_memory(), time.perf_counter(), time.process_time()
    out = function(*inputs)
    mx.eval(out)
    mx.synchronize()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return seconds, cpu, mx.get_peak_memory() - held, out


def measure(shape: tuple[int, int, int, int], repeats: int, slow: bool) -> dict[str, Any]:
    inputs, past, dy = make_inputs(shape)
    functions = contestants(past, dy, slow)
    results: dict[str, dict[str, Any]] = {}
    expected: list[np.ndarray] | None = None
    for name, function in functions.items():
        seconds, _, _, (_, gradients) = timed(function, inputs)
        values = [np.array(g) for g in gradients]
        expected = expected or values
        for own, other in zip(values, expected, strict=True):
            if not np.abs(own - other).max() <= AGREEMENT * np.abs(other).max():
                raise RuntimeError(f"{name} computes other gradients")
        results[name] = {"first_seconds": seconds, "seconds": [], "cpu_seconds": [], "peak_bytes": 0}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds, cpu, peak, _ = timed(function, inputs)
            results[name]["cpu_seconds"].append(cpu)
            results[name]["seconds"].append(seconds)
            results[name]["peak_bytes"] = max(results[name]["peak_bytes"], peak)
    for result in results.values():
        low, median, high = statistics.quantiles(result["seconds"], n=4)
        result.update(median=median, low=low, high=high, cpu=statistics.median(result["cpu_seconds"]))
    return {"shape": shape, "results": results}


def print_table(measured: dict[str, Any]) -> None:
    base = measured["results"][BASE]
    print("\nB {}, L {}, E {}, N {}".format(*measured["shape"]))
    columns = f"{'median ms':>10} {'quartiles':>17}{'faster':>9}{'CPU ms':>10}{'faster':>9}"
    print(f"{'':28}{columns}{'peak MiB':>10}{'less':>8}{'first s':>9}")
    for name, r in measured["results"].items():
        quartiles = f"{r['low'] * 1e3:.1f} to {r['high'] * 1e3:.1f}"
        print(
            f"{name:28}{r['median'] * 1e3:10.1f} {quartiles:>17}{base['median'] / r['median']:8.1f}x"
            f"{r['cpu'] * 1e3:10.1f}{base['cpu'] / r['cpu']:8.1f}x"
            f"{r['peak_bytes'] / 2**20:10.1f}{base['peak_bytes'] / r['peak_bytes']:7.1f}x{r['first_seconds']:9.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="B,L,E,N each")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--slow", action="store_true", help="also the compiled naive loop")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if args.repeats < 2:
        parser.error("--repeats must be at least 2")
    machine = {"cpu": cpu_name(), "cpus": available_cpus(), "device": str(mx.default_device()), "mlx": version("mlx")}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    measured = []
    for text in args.shapes:
        batch, steps, channels, n = (int(v) for v in text.split(","))
        measured.append(measure((batch, steps, channels, n), args.repeats, args.slow))
        print_table(measured[-1])
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine, "measured": measured}, file, indent=1)


if __name__ == "__main__":
    main()
