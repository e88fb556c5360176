"""The events of a training run on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LINE_SECONDS = 5.0  # between plain step lines


class Lines:
    """Plain lines; `best` describes the best evaluation so far."""

    def __init__(self) -> None:
        self.best: str | None = None
        self.last_line = -LINE_SECONDS

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event of `ghost_ref.training.train`."""
        kind = event["event"]
        if kind == "start":
            self.say(f"{event['parameters']:,} parameters, {event['steps'] or '?'} steps on {event['data']}")
        elif kind == "step":
            if "rejected" in event:
                self.say(f"step {event['step']} rejected: {event['rejected']} is not finite")
            self.step(event)
        elif kind == "evaluation":
            description = describe_evaluation(event)
            if event.get("best"):
                self.best = description
            self.say(f"step {event['step']}: {description}" + (", the best so far" if event.get("best") else ""))

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def step(self, event: dict[str, Any]) -> None:
        if time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            self.say(f"step {event['step']}/{event['steps'] or '?'}  {describe_step(event)}")


class Bar(Lines):
    """A bar with loss, bits per byte, bytes per second and time left; other events scroll above it."""

    def __init__(self, bars: Any) -> None:
        super().__init__()
        self.bars = bars
        self.task = bars.add_task("training", total=None, figures="")

    def say(self, line: str) -> None:
        self.bars.console.print(line, highlight=False, markup=False)

    def step(self, event: dict[str, Any]) -> None:
        self.bars.update(self.task, completed=event["step"], total=event["steps"] or None, figures=describe_step(event))


@contextmanager
def display() -> Iterator[Lines]:
    """A bar if stderr is a terminal, else lines."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
                  console=Console(stderr=True)) as bars:
        yield Bar(bars)


def describe_step(event: dict[str, Any]) -> str:
    """loss 1.234  1.780 bits/byte  12,345 bytes/s  1:23 left"""
    minutes, seconds = divmod(int(event["seconds_left"]), 60)
    left = f"  {minutes}:{seconds:02d} left" if event["steps"] else ""
    return f"loss {event['loss']:.3f}  {event['bpb']:.3f} bits/byte  {event['bytes_per_second']:,.0f} bytes/s{left}"


def describe_evaluation(event: dict[str, Any]) -> str:
    """The packed model's score, by its protocol."""
    if "share" in event:
        return f"{event['right']} of {event['items']} answers right"
    return f"{event['protocol']} {event['nats_per_byte']:.4f} nats, {event['bits_per_byte']:.4f} bits per byte"
