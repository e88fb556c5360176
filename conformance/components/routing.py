"""Which tokens a layer processes, and their way out and back.

`skip_around` and `join_rows` are judged like ops; other vocabularies call them with their own `ops`. Scores, masks and
integer-valued streams are exact inputs: every comparison is decided and every result is exact on every backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.case import BACKWARD, FORWARD, Case, Component
from conformance.components.inputs import SPECIAL, normal, wide
from ghost_ref import ops as reference

Rng = np.random.Generator
THRESHOLDS = (0.0, 0.05, 0.1, 3.0)  # 0.05 and 0.1 are no float32 numbers: the comparison is with the rounded one


def skip_around(h: Any, keep: Any, scores: Any, weight: Any, bias: Any, *, drop_tail: bool = False,
                ops: Any = reference) -> Any:
    """A layer that convolves the kept tokens and lets the others pass, whatever form its compaction has.

    h (B, L, E), keep, scores (B, L): kept tokens become h + score·(conv - h), conv along the kept ones only."""
    kept, index, length = ops.compact(h, keep, drop_tail=drop_tail)
    if not kept.shape[1]:
        return h
    conv, _ = ops.causal_conv1d(kept, weight, bias)
    return ops.restore(h, ops.weighted_residual(kept, conv, ops.select(scores, index)), index, length)


def join_rows(a: Any, b: Any, *, ops: Any = reference) -> Any:
    """concatenate_rows of two arrays."""
    return ops.concatenate_rows([a, b])


def exceeds(x: Any, *, threshold: float) -> Any:
    """`exceeds` in binary32, where the threshold is rounded."""
    return reference.exceeds(x.astype(np.float32), threshold)


def surprise(log_q: Any, tokens: Any, past: Any = None) -> Any:
    """`surprise` in binary32, where the uniform prediction before the first byte is rounded."""
    return reference.surprise(log_q.astype(np.float32), tokens, None if past is None else past.astype(np.float32))


def _integers(rng: Rng, largest: int, *shape: int) -> np.ndarray:
    return rng.integers(-largest, largest + 1, shape).astype(np.float32)


def _masks(rng: Rng, batch: int, length: int) -> dict[str, np.ndarray]:
    """Masks by label: all, none, one, rows that keep different numbers."""
    one = np.zeros((batch, length), bool)
    one[:, rng.integers(length)] = True
    rows = rng.random((batch, length)) < np.linspace(0.1, 0.9, batch)[:, None]
    return {"all": np.ones((batch, length), bool), "none": np.zeros((batch, length), bool), "one": one, "rows": rows}


def _skip_around(rng: Rng, extensive: bool) -> Iterator[Case]:
    def case(label: str, keep: np.ndarray, **statics: bool) -> Case:
        channels = 5
        arguments = {"h": _integers(rng, 99, *keep.shape, channels), "keep": keep,
                     "scores": _integers(rng, 9, *keep.shape), "weight": _integers(rng, 9, channels, 3),
                     "bias": _integers(rng, 99, channels)}
        return Case("skip_around", label, FORWARD, arguments, statics)

    for length in (1, 2, 17, *((64, 257) if extensive else ())):
        for label, keep in _masks(rng, 3, length).items():
            yield case(f"L={length}, keep {label}", keep)
        for label, keep in _masks(rng, 1, length).items():
            yield case(f"L={length}, keep {label}, with a state", keep, drop_tail=True)


def _join_rows(rng: Rng, extensive: bool) -> Iterator[Case]:
    yield Case("join_rows", "three rows and one", FORWARD, {"a": normal(rng, 3, 2, 5), "b": normal(rng, 1, 2, 5)})


def _moved(rng: Rng, extensive: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    batch, length = 3, 65 if extensive else 17
    index, kept = reference_index(_masks(rng, batch, length)["rows"])
    return normal(rng, batch, length, 5), index, kept


def reference_index(keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """compaction_index with indices of 32 bits."""
    order = np.argsort(~keep, axis=1, kind="stable")
    length = keep.sum(1).astype(np.int32)
    return order[:, : length.max(initial=0)].astype(np.int32), length


def _gather(rng: Rng, extensive: bool) -> Iterator[Case]:
    x, index, _ = _moved(rng, extensive)
    yield Case("gather", "kept rows", FORWARD, {"x": x, "index": index})
    yield Case("gather", "kept rows", BACKWARD, {"x": x, "index": index},
               cotangents={"y": normal(rng, *index.shape, 5)})


def _scatter(rng: Rng, extensive: bool) -> Iterator[Case]:
    x, index, kept = _moved(rng, extensive)
    arguments = {"x": x, "update": normal(rng, *index.shape, 5), "index": index, "length": kept}
    yield Case("scatter", "kept rows", FORWARD, arguments)
    yield Case("scatter", "kept rows", BACKWARD, arguments, cotangents={"y": normal(rng, *x.shape)})


def _depth_gate(rng: Rng, extensive: bool) -> Iterator[Case]:
    for layer in (1, 3):
        arguments = {"skipped": normal(rng, 2, 9, 16), "processed": normal(rng, 2, 9, 16),
                     "depth": rng.uniform(0, 4, (2, 9)).astype(np.float32)}
        yield Case("depth_gate", f"layer {layer}", FORWARD, arguments, {"layer": layer})
        yield Case("depth_gate", f"layer {layer}", BACKWARD, arguments, {"layer": layer},
                   {"y": normal(rng, 2, 9, 16)})


def _weighted_residual(rng: Rng, extensive: bool) -> Iterator[Case]:
    def case(label: str, arguments: dict, statistical: bool = True) -> Iterator[Case]:
        yield Case("weighted_residual", label, FORWARD, arguments, statistical=statistical)
        cotangents = {"y": normal(rng, *arguments["h"].shape)}
        yield Case("weighted_residual", label, BACKWARD, arguments, {}, cotangents, statistical)

    def arguments(*shape: int) -> dict:
        return {"h": normal(rng, *shape), "u": normal(rng, *shape), "weight": rng.random(shape[:2]).astype(np.float32)}

    yield from case("typical", arguments(2, 9, 33))
    yield from case("one token", arguments(1, 1, 1), False)
    same = arguments(2, 3, 17)
    yield from case("cancelling", same | {"u": np.nextafter(same["h"], np.float32(9))}, False)
    yield from case("wide range", same | {"u": wide(rng, 2, 3, 17)}, False)


def _top_k_mask(rng: Rng, extensive: bool) -> Iterator[Case]:
    for length in (1, 2, 15, 16, 17, 33, *((257,) if extensive else ())):
        for label, scores in (("normal", normal(rng, 4, length)), ("ties", _integers(rng, 1, 4, length)),
                              ("zeros", np.where(rng.random((4, length)) < 0.5, 0, -0.0).astype(np.float32))):
            for capacity in (0.5, 0.125, 1.0):
                survivors = rng.random((4, length)) < 0.8
                yield Case("top_k_mask", f"L={length}, {label}, capacity {capacity}", FORWARD,
                           {"scores": scores, "survivors": survivors}, {"capacity": capacity})
    counts = np.array([10, 20, 25, 30])  # products with these capacities are whole numbers, but not in float32
    for capacity in (0.1, 0.3, 0.6):
        yield Case("top_k_mask", f"whole shares, capacity {capacity}", FORWARD,
                   {"scores": normal(rng, 4, 30), "survivors": np.arange(30) < counts[:, None]}, {"capacity": capacity})


def _exceeds(rng: Rng, extensive: bool) -> Iterator[Case]:
    for threshold in THRESHOLDS:
        at = np.float32(threshold)
        beside = np.array([at, np.nextafter(at, np.float32(9)), np.nextafter(at, np.float32(-9))], np.float32)
        x = np.concatenate([normal(rng, 33), SPECIAL, beside])
        yield Case("exceeds", f"threshold {threshold}", FORWARD, {"x": x}, {"threshold": threshold})


def _surprise(rng: Rng, extensive: bool) -> Iterator[Case]:
    for length in (1, 2, 33):
        for label, past in (("from the start", None), ("carried", -np.abs(normal(rng, 2, 256)))):
            arguments = {"log_q": -np.abs(normal(rng, 2, length, 256)),
                         "tokens": rng.integers(0, 256, (2, length)).astype(np.uint8), "past": past}
            yield Case("surprise", f"L={length}, {label}", FORWARD, arguments)


_OWN, _OPS = "conformance.components.routing", "ghost_ref.ops.routing"
COMPONENTS = (
    Component("skip_around", f"{_OWN}:skip_around", ("h", "keep", "scores", "weight", "bias"), ("y",), _skip_around,
              exact_arguments=("h", "scores", "weight", "bias")),
    Component("gather", f"{_OPS}:gather", ("x", "index"), ("y",), _gather, gradients=("x",)),
    Component("scatter", f"{_OPS}:scatter", ("x", "update", "index", "length"), ("y",), _scatter,
              gradients=("x", "update")),
    Component("join_rows", f"{_OWN}:join_rows", ("a", "b"), ("y",), _join_rows),
    Component("depth_gate", f"{_OPS}:depth_gate", ("skipped", "processed", "depth"), ("y",), _depth_gate,
              gradients=("processed", "depth")),
    Component("weighted_residual", f"{_OPS}:weighted_residual", ("h", "u", "weight"), ("y",), _weighted_residual,
              gradients=("h", "u", "weight")),
    Component("top_k_mask", f"{_OPS}:top_k_mask", ("scores", "survivors"), ("mask",), _top_k_mask,
              exact_arguments=("scores",)),
    Component("exceeds", f"{_OWN}:exceeds", ("x",), ("mask",), _exceeds, exact_arguments=("x",)),
    Component("surprise", f"{_OWN}:surprise", ("log_q", "tokens", "past"), ("y",), _surprise,
              exact_arguments=("log_q", "past")),
)
