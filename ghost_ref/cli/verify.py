"""`ghost verify`: the runtime against the reference, bit by bit, or every backend against the conformance kit."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence
from typing import Any

from ghost_ref.cli import DIFFERENT, OK
from ghost_ref.cli.flags import Parser, add_json, in_range
from ghost_ref.cli.output import Report, print_report, progress, table
from ghost_ref.errors import GhostError

DESCRIPTION = """With FILE: run the NumPy reference and the C++ runtime on the same inputs, at every instruction-set
level this CPU has and with 1, 2 and 3 threads, and compare all logits and states bit by bit. The reference holds 4
bytes of memory per parameter, every combination of level and threads a quarter of a byte: meant for small models.

Without FILE: run the conformance kit, every component on every backend of this machine, and print the matrix of worst
margins, |error| / bound. Exits with 1 on any difference or failure."""
EXAMPLES = ("ghost verify qa20.ghost", "ghost verify qa20.ghost --prompts 1000 --json", "ghost verify",
            "ghost verify --backend mlx-gpu --html report.html")
PLACES = ("position", "byte", "feature", "index")
PROMPTS = 64
FILE_FLAGS = ("prompts",)
KIT_FLAGS = ("backend", "component", "seed", "extensive", "junit", "html")
NO_KIT = ("The conformance kit is not installed here; install Ghost from its source tree (`pip install -e .`), or name "
          "a model file: ghost verify FILE.ghost.")


def main(argv: Sequence[str]) -> int:
    parser = Parser("verify", DESCRIPTION, EXAMPLES)
    parser.add_argument("file", metavar="FILE.ghost", nargs="?")
    parser.add_argument("--prompts", type=in_range(1, 1 << 20), metavar="N",
                        help=f"with FILE: inputs of 1 to 300 bytes to compare (default {PROMPTS})")
    add_json(parser)
    group = parser.add_argument_group("without FILE")
    add_choice(group)
    add_files(group)
    args = parser.parse(argv)
    if args.file is None:
        _refuse(args, FILE_FLAGS, "needs a model file: ghost verify FILE.ghost")
        return show(run_kit(args), args)
    _refuse(args, KIT_FLAGS, f"belongs to the conformance kit, which takes no model file; leave out {args.file}")
    return _verify_file(args)


def _refuse(args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """GhostError for the first of these flags that was given."""
    for name in names:
        if getattr(args, name) is not None and getattr(args, name) is not False:  # a seed of 0 was given
            raise GhostError(f"--{name} {why}.")


def _verify_file(args: argparse.Namespace) -> int:
    from ghost_ref.verify import verify_file

    with progress("comparing") as on_progress:
        report = verify_file(args.file, prompts=args.prompts or PROMPTS, on_progress=on_progress)
    print_report(report, args.json, _text)
    return OK if report["equal"] else DIFFERENT


def _text(report: Report) -> str:
    rows = [["level", "threads", "result"]]
    rows += [[run["level"], str(run["threads"]), _result(run)] for run in report["runs"]]
    levels = {run["level"] for run in report["runs"] if run["status"] != "not run"}
    verdict = f"Every bit is equal on the {len(levels)} levels that ran." if report["equal"] else "THE BITS DIFFER."
    return f"{report['prompts']} prompts, {report['bytes']:,} bytes\n{table(rows, [1])}\n{verdict}"


def _result(run: Report) -> str:
    if run["status"] == "not run":
        return f"NOT RUN: {run['reason']}"
    if run["status"] == "equal":
        return f"equal, {run['logits_compared']:,} logits"
    difference = run["first_difference"]
    place = ", ".join(f"{key} {difference[key]}" for key in PLACES if key in difference)
    return (f"DIFFERENT, first in {difference['array']} of prompt {difference['prompt']}, {place}: "
            f"expected {difference['expected']}, got {difference['got']}")


# --- the conformance kit, shared with `python -m conformance` -------------------------------------------------------


def add_choice(parser: Any) -> None:
    """The flags that choose what the kit runs; `parser` may be a group of one."""
    parser.add_argument("--backend", action="append", metavar="NAME", help="only this backend; may be repeated")
    add_components(parser)
    add_seed(parser)
    parser.add_argument("--extensive", action="store_true", help="more and larger cases")


def add_components(parser: Any) -> None:
    """--component."""
    parser.add_argument("--component", action="append", metavar="NAME", help="only this component; may be repeated")


def add_seed(parser: Any) -> None:
    """--seed, None if it was not given."""
    parser.add_argument("--seed", type=in_range(0, (1 << 32) - 1), metavar="N", help="of the inputs (default 0)")


def add_files(parser: Any) -> None:
    """The files that a kit's report can be written to."""
    parser.add_argument("--junit", metavar="FILE", help="write the report as JUnit XML")
    parser.add_argument("--html", metavar="FILE", help="write the report as one self-contained page")


def kit(module: str) -> Any:
    """A module of the kit, imported when it is needed. Raises GhostError if the kit is not installed."""
    try:
        return importlib.import_module(f"conformance.{module}")
    except ModuleNotFoundError as error:
        if error.name in ("conformance", f"conformance.{module}"):  # not some other module that the kit needs
            raise GhostError(NO_KIT) from None
        raise


def run_kit(args: argparse.Namespace, cases: Sequence[str] | None = None) -> Any:
    """The report of the kit over what the flags of `add_choice` chose. Raises GhostError for unknown names."""
    check_writable(args.junit, args.html)
    with progress("checking") as on_progress:
        return kit("run").run_kit(args.backend, args.component, cases, args.seed or 0, args.extensive, on_progress)


def check_writable(*paths: str | None) -> None:
    """Raise GhostError for a report that could not be written, before minutes of work rather than after."""
    for path in filter(None, paths):
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise GhostError(f"Cannot write {path}: the directory {folder} does not exist; create it first.")
        if os.path.isdir(path) or not os.access(folder, os.W_OK):
            raise GhostError(f"Cannot write {path}: it is a directory or in one that is not writable; choose another.")


def show(report: Any, args: argparse.Namespace) -> int:
    """Print and write a kit's report as --json and the flags of `add_files` ask; the exit code."""
    from ghost_ref.atomic import write_atomically

    if args.json:
        print_report(report.to_json(), True, str)
    else:
        kit("reports.matrix").print_matrix(report)
    for path, form in ((args.junit, "junit"), (args.html, "html")):
        if path:
            write_atomically(path, getattr(kit(f"reports.{form}"), form)(report))
    return OK if report.passed else DIFFERENT
