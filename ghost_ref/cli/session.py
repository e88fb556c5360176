"""A session of `ghost run`: every line is a question of its own, lines that start with / are commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from ghost_ref.cli.flags import prompt_bytes
from ghost_ref.config import SamplingConfig
from ghost_ref.errors import GhostError
from ghost_ref.runtime import Model


def print_answer(model: Model, prompt: str | bytes, sampling: SamplingConfig, *, raw: bool, stream: bool) -> None:
    """Print one answer and a line end; with `stream` piece by piece, each of whole UTF-8 characters."""
    pieces = model.stream(prompt, raw=raw, **sampling.to_dict())
    if not stream:
        print("".join(pieces))
        return
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


class Session:
    """Questions and commands, from a terminal or a pipe. Each question starts with a fresh state."""

    def __init__(self, model: Model, sampling: SamplingConfig, *, raw: bool, stream: bool) -> None:
        self.model, self.raw, self.stream = model, raw, stream
        self.first = self.sampling = sampling

    def interact(self) -> int:
        """A session on a terminal, until /exit or the end of the input (Ctrl-D). Ctrl-C stops an answer, not the
        session. Returns the exit code."""
        try:
            import readline  # noqa: F401  (line editing and history for input())
        except ImportError:
            pass
        self.stream = True
        print(f"{self.model.path} ({self.model.level}). Ask something; /help shows the commands, Ctrl-D ends.")
        while True:
            try:
                line = input("> ")
                if self._obey(line):
                    return 0
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:
                print()
            except GhostError as error:
                print(f"ghost: {error}", file=sys.stderr)

    def read(self, lines: Iterable[bytes]) -> int:
        """Answer every line of a pipe or file. A line that cannot be answered is reported with its number and makes
        the exit code 2, the others are answered."""
        code = 0
        for number, line in enumerate(lines, 1):
            try:
                if self._obey(line.rstrip(b"\r\n")):
                    break
            except GhostError as error:
                print(f"ghost: line {number}: {error}", file=sys.stderr)
                code = 2
        return code

    def _obey(self, line: str | bytes) -> bool:
        """Answer a question or do a command; True if it ends the session. Blank lines do nothing."""
        if not line.strip():
            return False
        start = line if isinstance(line, str) else line.decode("utf-8", "replace")
        if start.startswith("/"):
            return self._command(*start[1:].strip().partition(" ")[::2])
        prompt = prompt_bytes(line) if isinstance(line, str) else line
        print_answer(self.model, prompt, self.sampling, raw=self.raw, stream=self.stream)
        return False

    def _command(self, name: str, value: str) -> bool:
        field = name.replace("-", "_")
        if name in ("exit", "quit"):
            return True
        if name == "help":
            print(self._help())
        elif name == "reset":
            self.sampling = self.first
        elif name == "settings":
            print("  ".join(f"{key} {setting}" for key, setting in self.sampling.to_dict().items()))
        elif field in SamplingConfig.__dataclass_fields__:
            self._set(field, value.strip())
        else:
            raise GhostError(f"There is no command /{name}; /help shows the commands.")
        return False

    def _set(self, field: str, value: str) -> None:
        try:
            number = json.loads(value)
        except ValueError:
            raise GhostError(f"/{field} needs a number, got {value!r}.") from None
        self.sampling = self.sampling.replace(**{field: number})

    @staticmethod
    def _help() -> str:
        fields = SamplingConfig.__dataclass_fields__
        commands = [(f"/{name.replace('_', '-')} N", fields[name].metadata["help"]) for name in fields]
        commands += [("/settings", "show these values"), ("/reset", "the values the session started with"),
                     ("/help", "this help"), ("/exit", "end the session (also /quit or Ctrl-D)")]
        return "\n".join(f"  {command:<14} {text}" for command, text in commands)
