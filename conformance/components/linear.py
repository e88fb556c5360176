"""Matmuls: quantised, codebook, float.

Whether two backends agree on the codes of their inputs is the matter of `quantise_activations`; the matmuls are given
the reference's codes (forced), or inputs whose codes lie far from every tie.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from conformance.arithmetic import Arithmetic, RunningError
from conformance.case import BACKWARD, FORWARD, Case, Component
from conformance.components.inputs import ODD_LENGTHS, SPECIAL, normal, uniform, wide
from conformance.components.margins import near_ties
from ghost_ref.ops.linear import quantise_activations

TOKENS, WIDTH = 12, 64
SPECIAL_ROWS = np.array([[0.0, -0.0, 0.0], [np.inf, 1, 2], [1, -np.inf, 2], [3, np.nan, np.inf], [2.0**-149, 0, 0],
                         [2.0**-120, -(2.0**-121), 2.0**-140], [3e38, -3e38, 1], [-5, 0, 5]], np.float32)


def _codes(x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return quantise_activations(x)[0]


def far_from_ties(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Rows s·(q + δ), |δ| <= 0.3, of codes q with one ±127, as it is: every code is decided by a wide margin."""
    codes = rng.integers(-126, 127, shape) + rng.uniform(-0.3, 0.3, shape)
    codes[..., rng.integers(shape[-1])] = rng.choice([-127, 127], shape[:-1])
    return (codes * np.exp2(rng.uniform(-12, 6, (*shape[:-1], 1)))).astype(np.float32)


def trits(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Trits of which a third are zero, as float32."""
    return rng.integers(-1, 2, shape).astype(np.float32)


def row_scales(rng: np.random.Generator, n: int) -> np.ndarray:
    """Positive float16 numbers, as float32."""
    return uniform(rng, 0.01, 2, n).astype(np.float16).astype(np.float32)


# --- quantise_activations ---------------------------------------------------------------------------------------------


def _quantise_activations(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, x: np.ndarray, statistical: bool = False) -> Case:
        return Case("quantise_activations", label, FORWARD, {"x": x}, statistical=statistical)

    yield case("normal", normal(rng, 32, 257 if extensive else WIDTH), statistical=True)
    yield case("far from ties", far_from_ties(rng, 32, WIDTH))
    ties = np.concatenate([np.arange(-127, 127) + 0.5, [127.0]])  # with scale 2^p both divisions are exact
    yield case("ties", (np.exp2(np.arange(-3, 4))[:, None] * ties).astype(np.float32))
    yield case("near ties", (uniform(rng, 0.01, 2, 64, 1) * ties).astype(np.float32))
    yield case("wide", wide(rng, 8, 33))
    yield case("special rows", SPECIAL_ROWS)
    yield case("special values", SPECIAL[:, None])
    for width in ODD_LENGTHS:
        yield case(f"k={width}", normal(rng, 3, width))


def _codes_undecided(case: Case, arithmetic: Arithmetic) -> dict[str, np.ndarray]:
    """Codes whose x / s is closer to a tie than its error."""
    x = np.asarray(case.arguments["x"], np.float64)
    with np.errstate(all="ignore"):
        tracked = RunningError(RunningError.parts_of_exact(x), arithmetic)
        return {"q": near_ties(tracked / (np.abs(tracked).max(-1, keepdims=True) / 127.0))}


# --- quantised_linear -------------------------------------------------------------------------------------------------


def _both_directions(rng: np.random.Generator, name: str, label: str, arguments: dict, statics: dict, forced: bool,
                     statistical: bool = True) -> Iterator[Case]:
    """Forward and backward; forced: with the reference's codes."""
    if forced:
        statics = statics | {"forced": _codes(arguments["x"])}
    outputs = len(arguments["trits" if "trits" in arguments else "weight"])
    dy = normal(rng, *arguments["x"].shape[:-1], outputs)
    yield Case(name, label, FORWARD, arguments, statics, statistical=statistical)
    yield Case(name, label, BACKWARD, arguments, statics, {"y": dy}, statistical=statistical)


def _quantised_linear(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def cases(label: str, x: np.ndarray, weight: np.ndarray, forced: bool = True, **statics: int) -> Iterator[Case]:
        arguments = {"x": x, "weight": weight, "scale": row_scales(rng, len(weight))}
        yield from _both_directions(rng, "quantised_linear", label, arguments, statics, forced,
                                    statistical=x.shape[-1] >= WIDTH)

    def int8(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape).astype(np.float32)

    width = 768 if extensive else 96
    yield from cases("trits", normal(rng, TOKENS, width), trits(rng, 40, width))
    yield from cases("trits, codes not forced", far_from_ties(rng, TOKENS, WIDTH), trits(rng, 40, WIDTH), forced=False)
    yield from cases("int8", normal(rng, TOKENS, width), int8(40, width), largest_weight=127)
    yield from cases("int8, codes not forced", far_from_ties(rng, 2, 5, WIDTH), int8(24, WIDTH), forced=False,
                     largest_weight=127)
    for k in ODD_LENGTHS:
        yield from cases(f"k={k}", normal(rng, 3, k), trits(rng, 5, k))
        yield from cases(f"int8, k={k}", normal(rng, 3, k), int8(5, k), largest_weight=127)
    special = {"x": SPECIAL_ROWS, "weight": trits(rng, 5, 3), "scale": row_scales(rng, 5)}
    yield Case("quantised_linear", "special rows", FORWARD, special, {"forced": _codes(SPECIAL_ROWS)},
               statistical=False)
    signs = {"x": normal(rng, 4, 33), "weight": trits(rng, 6, 33),
             "scale": np.array([0, -0.0, -0.5, 0.5, 2.0**-24, 65504], np.float32)}
    yield Case("quantised_linear", "scales of zero and of either sign", FORWARD, signs,
               {"forced": _codes(signs["x"])}, statistical=False)
    yield from _long_sums(rng)


def _long_sums(rng: np.random.Generator) -> Iterator[Case]:
    """Integer sums that 16 bits, and then float32, cannot hold, of either sign and with cancellation: k is past the
    split at 1040, and long enough for several sums beyond 2^24 to be added."""
    k = 4200
    half = np.arange(k) < k // 2
    x = np.stack([np.ones(k), -np.ones(k), np.where(np.arange(k) % 2, 1.0, -1.0), np.where(half, 1, -1)])
    x *= rng.uniform(0.9, 1, k)
    x[:, 0] = np.sign(x[:, 0])
    weight = np.stack([np.full(k, 127), np.full(k, -127), np.where(half, 127, -127), rng.integers(-127, 128, k),
                       np.where(np.arange(k) % 2, 127, -126)])
    yield Case("quantised_linear", "int8 sums beyond 2^24", FORWARD,
               {"x": x.astype(np.float32), "weight": weight.astype(np.float32), "scale": row_scales(rng, 5)},
               {"largest_weight": 127, "forced": _codes(x.astype(np.float32))}, statistical=False)
    yield Case("quantised_linear", "ternary sums beyond 2^15", FORWARD,
               {"x": x.astype(np.float32), "weight": np.sign(weight).astype(np.float32), "scale": row_scales(rng, 5)},
               {"forced": _codes(x.astype(np.float32))}, statistical=False)


# --- codebook_linear --------------------------------------------------------------------------------------------------


def _codebook_linear(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def cases(label: str, x: np.ndarray, n: int, group: int, forced: bool = True,
              statistical: bool = True) -> Iterator[Case]:
        k = x.shape[-1]
        arguments = {"x": x, "trits": trits(rng, n, k),
                     "index": rng.integers(0, 256, (n, -(-k // group))).astype(np.uint8),
                     "codebook": row_scales(rng, 256)}
        yield from _both_directions(rng, "codebook_linear", label, arguments, {"group": group}, forced, statistical)

    width = 512 if extensive else 96
    yield from cases("groups of 32", normal(rng, TOKENS, width), 40, 32)
    yield from cases("codes not forced", far_from_ties(rng, 2, 6, WIDTH), 24, 16, forced=False)
    yield from cases("one weight to a group", normal(rng, TOKENS, 20), 24, 1)
    yield from cases("ragged last group", normal(rng, TOKENS, 90), 24, 32)
    yield from cases("one group, longer than k", normal(rng, 4, 33), 8, 128)
    for k in ODD_LENGTHS:
        yield from cases(f"k={k}", normal(rng, 3, k), 5, 4, statistical=False)
    special = {"x": SPECIAL_ROWS, "trits": trits(rng, 5, 3), "index": rng.integers(0, 256, (5, 2)).astype(np.uint8),
               "codebook": row_scales(rng, 256)}
    yield Case("codebook_linear", "special rows", FORWARD, special, {"group": 2, "forced": _codes(SPECIAL_ROWS)},
               statistical=False)


# --- float_linear -----------------------------------------------------------------------------------------------------


def _float_linear(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def cases(label: str, x: np.ndarray, weight: np.ndarray, statistical: bool = True) -> Iterator[Case]:
        arguments, dy = {"x": x, "weight": weight}, normal(rng, *x.shape[:-1], len(weight))
        yield Case("float_linear", label, FORWARD, arguments, statistical=statistical)
        yield Case("float_linear", label, BACKWARD, arguments, cotangents={"y": dy}, statistical=statistical)

    width = 768 if extensive else 96
    yield from cases("normal", normal(rng, TOKENS, width), normal(rng, 40, width))
    yield from cases("two leading axes", normal(rng, 2, 6, WIDTH), normal(rng, 24, WIDTH))
    yield from cases("wide", wide(rng, TOKENS, 33, powers=(-15, 15)), wide(rng, 9, 33, powers=(-15, 15)),
                     statistical=False)
    half = normal(rng, 4, 32)
    yield from cases("cancellation", np.concatenate([half, half], -1),
                     np.tile(normal(rng, 6, 32), 2) * np.repeat(np.array([1, -1], np.float32), 32), statistical=False)
    for k in ODD_LENGTHS:
        yield from cases(f"k={k}", normal(rng, 3, k), normal(rng, 5, k), statistical=False)


COMPONENTS = (
    Component("quantise_activations", "ghost_ref.ops.linear:quantise_activations", ("x",), ("q", "scale"),
              _quantise_activations, decisions=("q",), undecided=_codes_undecided),
    Component("quantised_linear", "ghost_ref.ops.linear:quantised_linear", ("x", "weight", "scale"), ("y",),
              _quantised_linear, gradients=("x", "weight", "scale"), exact_arguments=("weight", "forced")),
    Component("codebook_linear", "ghost_ref.ops.codebook:codebook_linear", ("x", "trits", "index", "codebook"), ("y",),
              _codebook_linear, gradients=("x", "trits", "codebook"), exact_arguments=("trits", "forced")),
    Component("float_linear", "ghost_ref.ops.linear:float_linear", ("x", "weight"), ("y",), _float_linear,
              gradients=("x", "weight"), canonical=False),
)
