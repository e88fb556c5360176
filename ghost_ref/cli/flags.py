"""Flags: the parser every verb uses, and flags derived from the fields of the configurations."""

from __future__ import annotations

import argparse
import json
import os
import typing
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from ghost_ref.config import Config
from ghost_ref.errors import GhostError

MOST_THREADS = 256
AnyConfig = TypeVar("AnyConfig", bound=Config)


def require_mlx(flag: str) -> None:
    """Raise GhostError, with what to install, where MLX cannot be imported."""
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        raise GhostError(f"{flag} needs MLX, which cannot be imported here ({error}); install it with `pip install "
                         '"ghost-lm[mlx]"` on a Mac, "ghost-lm[mlx-cuda]" on Linux with an NVIDIA GPU, or '
                         '"ghost-lm[mlx-cpu]" on Linux without.') from None


class Parser(argparse.ArgumentParser):
    """argparse with examples at the end of the help, errors of one sentence, and flags allowed between positionals."""

    def __init__(self, name: str, description: str, examples: Sequence[str]) -> None:
        epilog = "examples:\n" + "\n".join(f"  {example}" for example in examples)
        super().__init__(prog=f"ghost {name}", description=description, epilog=epilog, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"ghost: {message}; see `{self.prog} --help`.\n")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        return self.parse_intermixed_args(argv)


def add_json(parser: Parser) -> None:
    """--json, for every verb that reports."""
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")


def add_threads(parser: Parser) -> None:
    """--threads of the native runtime."""
    parser.add_argument("--threads", type=in_range(1, MOST_THREADS), default=1, metavar="N",
                        help="threads of the C++ runtime (default 1; the answer never depends on it)")


def add_level(parser: Parser) -> None:
    """--level of the native runtime."""
    parser.add_argument("--level", default="", metavar="NAME",
                        help="instruction set (default: GHOST_ISA from the environment, or the best this CPU has)")


def add_fields(parser: Parser, config: type[Config], names: Sequence[str]) -> None:
    """One flag per named field: name, type, help and default are the field's."""
    kinds = typing.get_type_hints(config)
    for name in names:
        field = config.__dataclass_fields__[name]  # type: ignore[attr-defined]
        parser.add_argument(f"--{name.replace('_', '-')}", type=kinds[name], metavar=kinds[name].__name__.upper(),
                            help=f"{field.metadata['help']} (default {field.default})")


def given_fields(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The values of those flags that were given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def config_from_flags(args: argparse.Namespace, config: type[AnyConfig], names: Sequence[str]) -> AnyConfig:
    """The configuration with the given flags set. Raises GhostError if one is out of range."""
    return config.from_dict(given_fields(args, names))


def parse_settings(items: Sequence[str], configs: Sequence[type[Config]]) -> dict[str, Any]:
    """The `--set key=value` flags, fields of these configurations; a value is JSON or a bare word. Raises GhostError on
    an unknown key."""
    settings: dict[str, Any] = {}
    known = sorted({name for config in configs for name in config.__dataclass_fields__})  # type: ignore[attr-defined]
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise GhostError(f"--set needs key=value, got {item!r}.")
        if key not in known:
            raise GhostError(f"--set: there is no setting {key!r}; the settings are: {', '.join(known)}.")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def in_range(low: int, high: int) -> Any:
    """An argparse type: an integer from low to high."""
    def parse(text: str) -> int:
        if not low <= (value := int(text)) <= high:
            raise argparse.ArgumentTypeError(f"must be in {low}..{high}, got {value}")
        return value
    parse.__name__ = "integer"
    return parse


def prompt_bytes(text: str) -> str | bytes:
    """The bytes the user typed, even where they are not UTF-8, so that the refusal can name the offset."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text
