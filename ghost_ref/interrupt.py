"""Ctrl-C as a request that a loop honours between two steps, when its state is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class InterruptRequest:
    """While entered (in the main thread), the first Ctrl-C sets `requested`; a second one is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self.previous: Any = None

    def __enter__(self) -> InterruptRequest:
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
