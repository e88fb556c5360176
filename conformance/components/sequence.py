"""What runs along time: convolution, scan, attention; whole, and cut into chunks that carry a state.

The running-error bounds hold for every way to bracket the scan: a term w_s = (product of decays)·b_s meets each decay
once and one rounding per multiplication in any bracketing, and its path through n - 1 additions is never longer than
in sequence. Only an underflow inside a product of decays can cost more, tiny·|b_s| where a sequence pays tiny; the
cases in which whole products underflow have terms below 1.

The functions named `..._stream` here are judged like ops; other vocabularies call them with their own `ops`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from conformance.case import BACKWARD, FORWARD, Case, Component
from conformance.components.inputs import ODD_LENGTHS, normal, uniform, wide
from ghost_ref import ops as reference

EDGES = (1, 2, 15, 16, 17, 63, 64, 65)
"""Lengths around the chunks of 16 and 64 steps."""
GATE = 12  # of dt before softplus: the state forgets within a step
Rng = np.random.Generator


def spans(chunks: tuple[int, ...]) -> list[slice]:
    """Consecutive slices of these sizes."""
    return [slice(a, b) for a, b in pairwise(accumulate(chunks, initial=0))]


def conv_stream(x: Any, weight: Any, bias: Any, past: Any, *, chunks: tuple[int, ...], ops: Any = reference) -> Any:
    """silu(causal_conv1d) of one stream chunk by chunk.   -> {chunk number: y}, window after the last"""
    y = {}
    for i, part in enumerate(spans(chunks)):
        conv, past = ops.causal_conv1d(x[:, part], weight, bias, past)
        y[str(i)] = ops.silu(conv)
    return y, past


def scan_stream(dt: Any, dt_bias: Any, x: Any, z: Any, Bm: Any, Cm: Any, A: Any, D: Any, past: Any, *,
                chunks: tuple[int, ...], ops: Any = reference) -> Any:
    """selective_scan(x, softplus(dt + dt_bias), …)·silu(z) of one stream chunk by chunk.   -> {number: y}, state"""
    y = {}
    for i, part in enumerate(spans(chunks)):
        step = ops.softplus(dt[:, part] + dt_bias)
        out, past = ops.selective_scan(x[:, part], step, A, Bm[:, part], Cm[:, part], D, past)
        y[str(i)] = out * ops.silu(z[:, part])
    return y, past


def attention_stream(q: Any, k: Any, v: Any, bias: Any, past: Any, *, chunks: tuple[int, ...], n_heads: int,
                     stride: int, slots: int, ops: Any = reference) -> Any:
    """strided_attention of one stream chunk by chunk.   -> {number: out}, ring after the last"""
    out, used = {}, 0
    for i, part in enumerate(spans(chunks)):
        new = len(ops.strided_positions(past["count"], part.stop - part.start, stride))
        keys, used = slice(used, used + new), used + new
        out[str(i)], past = ops.strided_attention(q[:, part], k[:, keys], v[:, keys], bias[:, keys], past,
                                                  n_heads=n_heads, stride=stride, slots=slots)
    return out, past


def both(name: str, label: str, arguments: dict, rng: Rng, output: str, shape: tuple[int, ...], statics: dict = {},  # noqa: B006
         backward: bool = True, statistical: bool = True) -> Iterator[Case]:
    """A case forward and the same backward."""
    yield Case(name, label, FORWARD, arguments, statics, statistical=statistical)
    if backward:
        yield Case(name, label, BACKWARD, arguments, statics, {output: normal(rng, *shape)}, statistical)


# --- convolution ------------------------------------------------------------------------------------------------------


def _conv_arguments(rng: Rng, batch: int, length: int, channels: int, taps: int = 4, past: bool = True) -> dict:
    return {"x": normal(rng, batch, length, channels), "weight": uniform(rng, -1, 1, channels, taps),
            "bias": normal(rng, channels), "past": normal(rng, batch, taps - 1, channels) if past else None}


def _conv(rng: Rng, extensive: bool) -> Iterator[Case]:
    def case(label: str, arguments: dict, statistical: bool = True) -> Iterator[Case]:
        return both("causal_conv1d", label, arguments, rng, "y", arguments["x"].shape, statistical=statistical)

    size = (4, 257, 64) if extensive else (2, 33, 24)
    yield from case("from the start", _conv_arguments(rng, *size, past=False))
    yield from case("carried window", _conv_arguments(rng, *size))
    yield from case("kept lengths", _conv_arguments(rng, 3, 17, 8) | {"length": np.array([17, 0, 5])})
    for length in EDGES:
        taps = int(rng.integers(2, 7))
        yield from case(f"L={length}", _conv_arguments(rng, 2, length, int(rng.choice(ODD_LENGTHS)), taps), False)
    for label, x in (("wide range", wide(rng, 2, 9, 17)), ("denormals", wide(rng, 2, 9, 17, powers=(-149, -120)))):
        yield from case(label, _conv_arguments(rng, 2, 9, 17) | {"x": x}, False)
    infinite = _conv_arguments(rng, 1, 9, 5)
    infinite["x"][0, 3, 1:4] = np.inf, -np.inf, np.nan
    yield Case("causal_conv1d", "special values", FORWARD, infinite, statistical=False)


def _conv_stream(rng: Rng, extensive: bool) -> Iterator[Case]:
    for chunks in _splits(rng, extensive):
        arguments = _conv_arguments(rng, 1, sum(chunks), 33)
        yield Case("conv_stream", f"chunks {chunks}", FORWARD, arguments, {"chunks": chunks}, statistical=False)


def _splits(rng: Rng, extensive: bool) -> list[tuple[int, ...]]:
    """Whole, byte by byte, at the edges of the reference's chunks, at random."""
    chosen = tuple(int(n) for n in rng.integers(1, 20, 5))
    return [(33,), (1,) * 9, (16, 1, 15), (63, 2), chosen, *([(64, 65, 1, 200)] if extensive else [])]


# --- scan -------------------------------------------------------------------------------------------------------------


def _scan_arguments(rng: Rng, batch: int, length: int, channels: int, states: int, past: bool = True) -> dict:
    """dt between 0.001 and 0.5, A = -1 .. -N disturbed, as a trained model has them."""
    A = -np.arange(1, states + 1) * uniform(rng, 0.5, 1.5, channels, states)
    return {"x": normal(rng, batch, length, channels),
            "dt": np.exp(uniform(rng, -7, -0.7, batch, length, channels)), "A": A.astype(np.float32),
            "Bm": normal(rng, batch, length, states), "Cm": normal(rng, batch, length, states),
            "D": normal(rng, channels), "past": normal(rng, batch, channels, states) if past else None}


def _underflowing(rng: Rng) -> dict:
    """Steps whose decay underflows, steps that keep the state as it is, products of decays that fade away."""
    arguments = _scan_arguments(rng, 1, 40, 5, 3)
    for name in ("x", "past"):
        arguments[name] = uniform(rng, -0.9, 0.9, *arguments[name].shape)
    arguments["dt"][0, :10] = 0
    arguments["dt"][0, 10:14] = 120
    arguments["dt"][0, 14:] = uniform(rng, 2, 9, 26, 5)
    arguments["Bm"] = uniform(rng, -0.1, 0.1, *arguments["Bm"].shape)
    arguments["x"][0, 16:] = 0
    arguments["dt"][0, 11, 2] = 1e-30
    return arguments


def _scan(name: str) -> Any:
    def make(rng: Rng, extensive: bool) -> Iterator[Case]:
        def case(label: str, arguments: dict, statistical: bool = True) -> Iterator[Case]:
            return both(name, label, arguments, rng, "y", arguments["x"].shape, backward=name == "selective_scan",
                        statistical=statistical)

        yield from case("from the start", _scan_arguments(rng, 2, 33, 6, 4, past=False))
        yield from case("carried state", _scan_arguments(rng, 1, 65, 8, 3))
        kept = _scan_arguments(rng, 3, 33, 3, 2) | {"length": np.array([33, 0, 17])}
        kept["past"][1] = -0.0
        yield from case("kept lengths", kept, False)
        for length in EDGES:
            yield from case(f"L={length}", _scan_arguments(rng, 1, length, int(rng.choice((1, 3, 17))), 2), False)
        yield from case("decays that underflow", _underflowing(rng), False)
        yield from case("wide range", _scan_arguments(rng, 1, 17, 5, 3) | {"x": wide(rng, 1, 17, 5)}, False)
        slow = _scan_arguments(rng, 1, 1024 if extensive else 257, 3, 2)
        yield from case("errors pile up", slow | {"dt": slow["dt"] * np.float32(1e-2)}, False)
        if extensive:
            yield from case("large", _scan_arguments(rng, 4, 200, 32, 16))
        broken = _scan_arguments(rng, 1, 9, 5, 2)
        broken["x"][0, 3, 1:4] = np.inf, -np.inf, np.nan
        yield Case(name, "special values", FORWARD, broken, statistical=False)
        # more than a segment of MLX's scan (2^17 elements) and than a simdgroup of the fused kernels (32 channels)
        yield from case("several segments and simdgroups", _scan_arguments(rng, 1, 65, 131, 16), False)
    return make


def _scan_stream(rng: Rng, extensive: bool) -> Iterator[Case]:
    for chunks in _splits(rng, extensive):
        length, channels, states = sum(chunks), 17, 3
        of_scan = _scan_arguments(rng, 1, length, channels, states)
        arguments = {"dt": uniform(rng, -6, 1, 1, length, channels), "dt_bias": normal(rng, channels),
                     "z": normal(rng, 1, length, channels),
                     **{name: of_scan[name] for name in ("x", "Bm", "Cm", "A", "D", "past")}}
        arguments["dt"][0, length // 2] = GATE
        yield Case("scan_stream", f"chunks {chunks}", FORWARD, arguments, {"chunks": chunks}, statistical=False)


# --- attention --------------------------------------------------------------------------------------------------------


def _attention_arguments(rng: Rng, batch: int, length: int, d: int, count: int | None, stride: int,
                         slots: int) -> dict:
    new = len(reference.strided_positions(count or 0, length, stride))
    past = None if count is None else {"keys": normal(rng, batch, slots, d), "values": normal(rng, batch, slots, d),
                                       "bias": normal(rng, batch, slots), "count": count}
    return {"q": normal(rng, batch, length, d), "k": normal(rng, batch, new, d), "v": normal(rng, batch, new, d),
            "bias": normal(rng, batch, new), "past": past}


def _attention(rng: Rng, extensive: bool) -> Iterator[Case]:
    def case(label: str, batch: int, length: int, head: int, heads: int, count: int | None, stride: int, slots: int,
             statistical: bool = True, scale: float = 1) -> Iterator[Case]:
        arguments = _attention_arguments(rng, batch, length, head * heads, count, stride, slots)
        arguments["q"] *= np.float32(scale)
        statics = {"n_heads": heads, "stride": stride, "slots": slots}
        return both("strided_attention", label, arguments, rng, "out", arguments["q"].shape, statics,
                    statistical=statistical)

    yield from case("from the start", 2, 33, 8, 3, None, 4, 16)
    yield from case("ring turns over", 1, 40, 16, 2, 23, 3, 4)
    yield from case("no new key", 1, 3, 5, 1, 9, 8, 2, False)
    yield from case("one slot", 2, 9, 3, 2, 7, 2, 1, False)
    yield from case("peaked scores", 1, 17, 8, 2, None, 2, 8, False, scale=30)
    for length in EDGES if extensive else (1, 2, 15, 17):
        head, count = int(rng.choice(ODD_LENGTHS)), int(rng.integers(0, 20))
        yield from case(f"L={length}", 1, length, head, 2, count, int(rng.integers(1, 6)), int(rng.integers(1, 6)),
                        False)
    # a head whose 1/sqrt(size) is another number when it is computed in float32
    yield from case("ring half empty", 1, 5, 6, 2, 3, 4, 6, False)


def _attention_stream(rng: Rng, extensive: bool) -> Iterator[Case]:
    for chunks in _splits(rng, extensive):
        count, statics = int(rng.integers(0, 9)), {"n_heads": 3, "stride": 4, "slots": 3}
        arguments = _attention_arguments(rng, 1, sum(chunks), 51, count, 4, 3)
        yield Case("attention_stream", f"chunks {chunks} after {count}", FORWARD, arguments,
                   {"chunks": chunks, **statics}, statistical=False)


_SCAN = ("x", "dt", "A", "Bm", "Cm", "D")
_OWN = "conformance.components.sequence"
COMPONENTS = (
    Component("causal_conv1d", "ghost_ref.ops.conv:causal_conv1d", ("x", "weight", "bias", "past", "length"),
              ("y", "present"), _conv, gradients=("x", "weight", "bias")),
    Component("selective_scan", "ghost_ref.ops.scan:selective_scan", (*_SCAN, "past", "length"), ("y", "present"),
              _scan("selective_scan"), gradients=_SCAN),
    Component("parallel_scan", "ghost_ref.ops.scan:parallel_scan", (*_SCAN, "past", "length"), ("y", "present"),
              _scan("parallel_scan"), canonical=False),
    Component("strided_attention", "ghost_ref.ops.attention:strided_attention", ("q", "k", "v", "bias", "past"),
              ("out", "present"), _attention, gradients=("q", "k", "v", "bias")),
    Component("conv_stream", f"{_OWN}:conv_stream", ("x", "weight", "bias", "past"), ("y", "present"), _conv_stream),
    Component("scan_stream", f"{_OWN}:scan_stream", ("dt", "dt_bias", "x", "z", "Bm", "Cm", "A", "D", "past"),
              ("y", "present"), _scan_stream),
    Component("attention_stream", f"{_OWN}:attention_stream", ("q", "k", "v", "bias", "past"), ("out", "present"),
              _attention_stream),
)
