"""A fault to plant: one fragment of one source file, and another to stand in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The source tree: the tables name files relative to it."""


@dataclass(frozen=True)
class Operator:
    """old must occur exactly once in file; components: each of them must fail with `new` in its place.

    bits: judged bit by bit against the clean reference, as the runtime is, not by error bounds: for faults which are
    honest arithmetic in another order or rounding. raises: the right consequence is an error with these words in it;
    any other error is no catch, since a slip in the table raises too. equivalent: the written proof that the two texts
    compute the same function, empty for a fault."""

    name: str
    description: str
    file: str
    old: str
    new: str
    components: tuple[str, ...]
    bits: bool = False
    raises: str = ""
    equivalent: str = ""

    def patch(self, source: str) -> str:
        """The file's text with the fault. ValueError unless `old` occurs exactly once."""
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.file} holds the text to replace {count} times instead of once")
        return source.replace(self.old, self.new)
