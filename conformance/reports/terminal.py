"""The terminal that reports are printed on."""

from __future__ import annotations

from rich.console import Console


class ReportConsole(Console):
    """Colours only where the output is a terminal; a reader that has gone is told to the caller as BrokenPipeError."""

    def __init__(self) -> None:
        super().__init__(highlight=False)

    def on_broken_pipe(self) -> None:
        """Rich would end the program with exit code 1, which says that something failed."""
        raise BrokenPipeError
