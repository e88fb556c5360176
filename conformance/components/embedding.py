"""Look-ups by byte."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from conformance.case import BACKWARD, FORWARD, Case, Component
from conformance.components.inputs import SPECIAL, normal, wide

ENTRIES = 256


def _bytes(rng: np.random.Generator, *shape: int, below: int = 256) -> np.ndarray:
    return rng.integers(0, below, shape).astype(np.uint8)


def _take(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    tables = {"vector table": normal(rng, ENTRIES), "rows": normal(rng, ENTRIES, 24), "one column": normal(rng, 256, 1)}
    for label, table in tables.items():
        tokens = _bytes(rng, 2, 40, below=16)  # bytes that come often, whose gradients are sums
        tokens[0, :3], tokens[1, 0] = (0, 255, 255), 254
        yield from _take_cases(rng, label, table, tokens)
    yield from _take_cases(rng, "every byte once", normal(rng, ENTRIES, 5), rng.permutation(256).astype(np.uint8)[None])
    yield from _take_cases(rng, "one byte", normal(rng, ENTRIES, 5), np.array([[200]], np.uint8))
    table = np.resize(SPECIAL, (ENTRIES, 3))
    yield Case("take", "special values", FORWARD, {"table": table, "tokens": _bytes(rng, 2, 9)})


def _take_cases(rng: np.random.Generator, label: str, table: np.ndarray, tokens: np.ndarray) -> Iterator[Case]:
    arguments = {"table": table, "tokens": tokens}
    yield Case("take", label, FORWARD, arguments)
    dy = normal(rng, *tokens.shape, *table.shape[1:])
    yield Case("take", label, BACKWARD, arguments, cotangents={"y": dy}, statistical=table.size > ENTRIES)


def _window(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    for length, width in ((1, 4), (2, 4), (3, 4), (17, 4), (5, 2), (6, 1)):
        for label, past in (("from the start", None), ("carried on", normal(rng, 2, width - 1, 5))):
            name = f"L={length}, width {width}, {label}"
            arguments = {"x": normal(rng, 2, length, 5), "past": past}
            yield Case("window", name, FORWARD, arguments, {"width": width})
            yield Case("window", name, BACKWARD, arguments, {"width": width},
                       {"y": normal(rng, 2, length, 5 * width)})


def _mean_value_embedding(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, table: np.ndarray, counts: np.ndarray, width: int = 8, statistical: bool = False) -> Case:
        values = _bytes(rng, len(counts), width)
        return Case("mean_value_embedding", label, FORWARD,
                    {"embedding": table, "values": values, "counts": counts.astype(np.int32)}, statistical=statistical)

    yield case("counts 1..8", normal(rng, ENTRIES, 24), rng.permutation(np.arange(24) % 8 + 1), statistical=True)
    for count in (1, 2, 3, 7, 8):
        yield case(f"count {count}", normal(rng, ENTRIES, 5), np.full(3, count))
    yield case("one value byte", normal(rng, ENTRIES, 5), np.ones(2), width=1)
    yield case("wide", wide(rng, ENTRIES, 5), rng.integers(1, 9, 12))
    table = normal(rng, ENTRIES, 4)
    table[0] = np.nan  # the byte past the end of short values must not be read
    short = {"embedding": table, "values": np.array([[7, 0, 0], [8, 9, 0], [1, 2, 3]], np.uint8),
             "counts": np.array([1, 2, 3], np.int32)}
    yield Case("mean_value_embedding", "nothing read past the count", FORWARD, short, statistical=False)


COMPONENTS = (
    Component("take", "ghost_ref.ops.embedding:take", ("table", "tokens"), ("y",), _take, gradients=("table",)),
    Component("window", "ghost_ref.ops.embedding:window", ("x", "past"), ("y", "present"), _window, gradients=("x",)),
    Component("mean_value_embedding", "ghost_ref.ops.embedding:mean_value_embedding",
              ("embedding", "values", "counts"), ("y",), _mean_value_embedding),
)
