"""Functions of a row of features, scores or logits: norms, softmax, sums, dots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from conformance.case import BACKWARD, FORWARD, Case, Component
from conformance.components.inputs import ODD_LENGTHS, normal, uniform, wide

TOKENS = 24
RANGE = (-15, 15)  # powers of two whose products and their sums stay inside binary32


def _cases(rng: np.random.Generator, name: str, label: str, arguments: dict[str, np.ndarray], shape: tuple[int, ...],
           statistical: bool = True) -> Iterator[Case]:
    """Forward and backward of an op whose output has this shape."""
    yield Case(name, label, FORWARD, arguments, statistical=statistical)
    yield Case(name, label, BACKWARD, arguments, cotangents={"y": normal(rng, *shape)}, statistical=statistical)


def _cancelling(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Rows of an even length whose sum is far smaller than their terms."""
    half = normal(rng, *shape[:-1], shape[-1] // 2)
    return np.concatenate([half, -half + normal(rng, *half.shape, scale=1e-6)], -1).astype(np.float32)


# --- norms ------------------------------------------------------------------------------------------------------------


def _rms_norm(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, x: np.ndarray, **options: bool) -> Iterator[Case]:
        yield from _cases(rng, "rms_norm", label, {"x": x, "gain": normal(rng, x.shape[-1])}, x.shape, **options)

    for width in (64, 256, *((768, 2048) if extensive else ())):
        yield from case(f"d={width}", normal(rng, TOKENS, width))
    yield from case("small inputs, where epsilon counts", normal(rng, TOKENS, 64, scale=3e-3))
    yield from case("large inputs", normal(rng, TOKENS, 64, scale=1e4))
    for width in ODD_LENGTHS:
        yield from case(f"d={width}", normal(rng, 5, width), statistical=False)
    yield from case("wide range", wide(rng, TOKENS, 33), statistical=False)
    yield from case("zero row", np.zeros((2, 17), np.float32), statistical=False)


def _unit(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, x: np.ndarray, **options: bool) -> Iterator[Case]:
        yield from _cases(rng, "unit", label, {"x": x}, x.shape, **options)

    for width in (64, 256, *((768,) if extensive else ())):
        yield from case(f"d={width}", normal(rng, TOKENS, width))
    yield from case("small inputs, where epsilon counts", normal(rng, TOKENS, 64, scale=1e-7))
    for width in ODD_LENGTHS:
        yield from case(f"d={width}", normal(rng, 5, width), statistical=False)
    yield from case("wide range", wide(rng, TOKENS, 33), statistical=False)
    yield from case("zero row", np.zeros((2, 17), np.float32), statistical=False)


# --- softmax ----------------------------------------------------------------------------------------------------------


def _softmax(name: str, widths: tuple[int, ...], wider: tuple[int, ...]):
    """Scores of one width or another, spread, shifted far from zero, equal, with one that outweighs all."""
    def make(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
        def case(label: str, z: np.ndarray, **options: bool) -> Iterator[Case]:
            yield from _cases(rng, name, label, {"z": z}, z.shape, **options)

        for width in (*widths, *(wider if extensive else ())):
            yield from case(f"{width} scores", normal(rng, TOKENS, width))
        yield from case("spread", normal(rng, TOKENS, widths[0], scale=10))
        yield from case("two leading axes", normal(rng, 2, 6, widths[0], scale=3))
        for width in ODD_LENGTHS:
            yield from case(f"M={width}", normal(rng, 5, width, scale=2), statistical=False)
        yield from case("far from zero", normal(rng, 4, widths[0]) + np.float32(1e4), statistical=False)
        yield from case("equal", np.full((2, 17), 3.25, np.float32), statistical=False)
        one = np.concatenate([np.full((2, 1), 60, np.float32), uniform(rng, -60, -20, 2, 20)], -1)
        yield from case("one outweighs all", one, statistical=False)
        last = np.concatenate([uniform(rng, -60, -20, 2, 20), np.full((2, 1), 100, np.float32)], -1)
        yield from case("the last outweighs all", last, statistical=False)
        minus = normal(rng, 3, 9)
        minus[:, 4:7] = -np.inf
        yield Case(name, "minus infinity", FORWARD, {"z": minus}, statistical=False)
        yield Case(name, "infinity and NaN", FORWARD, {"z": np.array([[np.inf, 1], [1, np.nan]], np.float32)},
                   statistical=False)
    return make


# --- sums and dots ----------------------------------------------------------------------------------------------------


def _lane_sum(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, x: np.ndarray, statistical: bool = False) -> Case:
        return Case("lane_sum", label, FORWARD, {"x": x}, statistical=statistical)

    for width in (64, 256, *((1024, 4096) if extensive else ())):
        yield case(f"n={width}", normal(rng, 64, width), statistical=True)
    for width in range(1, 34):
        yield case(f"n={width}", normal(rng, 3, width))
    yield case("all positive", uniform(rng, 0, 1, 32, 100), statistical=True)
    yield case("cancellation", _cancelling(rng, 16, 64))
    yield case("wide", wide(rng, 16, 65))
    yield case("signed zeros", np.array([[-0.0] * 17, [0.0] * 17], np.float32))
    yield case("special values", np.array([[np.inf, 1, 2], [np.nan, 1, 2], [np.inf, -np.inf, 0], [2.0**-149, 0, 0],
                                           [3e38, 3e38, 1]], np.float32))


def _dots(name: str, arguments: tuple[str, str], shapes):
    """Dots of rows of any width with `shapes(width)` = (first argument, second argument, output)."""
    def make(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
        def case(label: str, a: np.ndarray, b: np.ndarray, out: tuple[int, ...], **options: bool) -> Iterator[Case]:
            yield from _cases(rng, name, label, dict(zip(arguments, (a, b), strict=True)), out, **options)

        for width in (64, 256, *((1024,) if extensive else ())):
            first, second, out = shapes(width)
            yield from case(f"d={width}", normal(rng, *first), normal(rng, *second), out)
        for width in ODD_LENGTHS:
            first, second, out = shapes(width)
            yield from case(f"d={width}", normal(rng, *first), normal(rng, *second), out, statistical=False)
        first, second, out = shapes(33)
        yield from case("wide", wide(rng, *first, powers=RANGE), wide(rng, *second, powers=RANGE), out,
                        statistical=False)
        yield from case("zeros", np.zeros(first, np.float32), normal(rng, *second), out, statistical=False)
        first, second, out = shapes(64)
        yield from case("cancellation", _cancelling(rng, *first), np.ones(second, np.float32), out, statistical=False)
    return make


def _slot_sum(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, p: np.ndarray, values: np.ndarray, **options: bool) -> Iterator[Case]:
        yield from _cases(rng, "slot_sum", label, {"p": p, "values": values}, (*p.shape[:-1], values.shape[1]),
                          **options)

    def weights(*shape: int) -> np.ndarray:
        raw = np.exp(2 * rng.standard_normal(shape))
        return (raw / raw.sum(-1, keepdims=True)).astype(np.float32)

    yield from case("33 slots", weights(TOKENS, 33), normal(rng, 33, 24))
    yield from case("two leading axes", weights(2, 6, 20), normal(rng, 20, 16))
    if extensive:
        yield from case("513 slots", weights(TOKENS, 513), normal(rng, 513, 64))
    for slots in ODD_LENGTHS:
        yield from case(f"M={slots}", weights(3, slots), normal(rng, slots, 7), statistical=False)
    yield from case("wide", weights(4, 9), wide(rng, 9, 5), statistical=False)
    null = normal(rng, 9, 5)
    null[0] = 0
    yield from case("a zero slot", weights(4, 9), null, statistical=False)


def _null_and_slots(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    for label, shape, slots in (("one axis", (5,), 7), ("two axes", (2, 3), 1), ("no other slot", (4,), 0)):
        yield from _cases(rng, "null_and_slots", label, {"null": normal(rng, *shape),
                                                         "slots": normal(rng, *shape, slots)}, (*shape, slots + 1))


def _dot_shapes(width: int):
    return (2, 16, width), (width,), (2, 16)


def _pairwise_shapes(width: int):
    return (2, 9, width), (11, width), (2, 9, 11)


COMPONENTS = (
    Component("rms_norm", "ghost_ref.ops.norm:rms_norm", ("x", "gain"), ("y",), _rms_norm, gradients=("x", "gain")),
    Component("unit", "ghost_ref.ops.norm:unit", ("x",), ("y",), _unit, gradients=("x",)),
    Component("slot_softmax", "ghost_ref.ops.activation:slot_softmax", ("z",), ("y",),
              _softmax("slot_softmax", (33, 9), (513,)), gradients=("z",)),
    Component("log_softmax", "ghost_ref.ops.activation:log_softmax", ("z",), ("y",),
              _softmax("log_softmax", (64, 256), (1000,)), gradients=("z",)),
    Component("lane_sum", "ghost_ref.numerics:lane_sum", ("x",), ("y",), _lane_sum),
    Component("row_dot", "ghost_ref.ops.linear:row_dot", ("x", "weight"), ("y",),
              _dots("row_dot", ("x", "weight"), _dot_shapes), gradients=("x", "weight")),
    Component("pairwise_dot", "ghost_ref.ops.linear:pairwise_dot", ("x", "keys"), ("y",),
              _dots("pairwise_dot", ("x", "keys"), _pairwise_shapes), gradients=("x", "keys")),
    Component("slot_sum", "ghost_ref.ops.linear:slot_sum", ("p", "values"), ("y",), _slot_sum,
              gradients=("p", "values")),
    Component("null_and_slots", "ghost_ref.ops.linear:null_and_slots", ("null", "slots"), ("y",), _null_and_slots,
              gradients=("null", "slots")),
)
