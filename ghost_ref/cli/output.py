"""What verbs print: a report as JSON or as text, tables, and progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Report = dict[str, Any]
Progress = Callable[[int, int], None]


def print_report(report: Report, as_json: bool, text: Callable[[Report], str]) -> None:
    """The report as one JSON document, or as `text` shows it."""
    print(json.dumps(_plain(report), indent=2, allow_nan=False) if as_json else text(report))


def _plain(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Lines of aligned columns; those in `numbers` are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.rjust(width) if i in numbers else cell.ljust(width)
                       for i, (cell, width) in enumerate(zip(row, widths))) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def text_of(data: bytes) -> str:
    """Bytes as one printable line."""
    text = data.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def progress(description: str) -> Iterator[Progress]:
    """A function (done, total) that moves a bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(description, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
