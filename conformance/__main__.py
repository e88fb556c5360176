"""`python -m conformance`: run the kit, list it, exchange vectors with other languages, and test the kit itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ghost_ref.cli import DIFFERENT, OK, exit_code
from ghost_ref.cli.flags import Parser, add_json, in_range
from ghost_ref.cli.output import Report, print_report, progress, table
from ghost_ref.cli.verify import add_choice, add_components, add_files, add_seed, kit, run_kit, show
from ghost_ref.errors import GhostError

NAME = "python -m conformance"


def run(parser: Parser, argv: Sequence[str]) -> int:
    """The kit on this machine."""
    add_choice(parser)
    parser.add_argument("--case", action="append", metavar="PATTERN", help="only cases of this name; may be repeated")
    add_json(parser)
    add_files(parser)
    args = parser.parse(argv)
    return show(run_kit(args, args.case), args)


def list_all(parser: Parser, argv: Sequence[str]) -> int:
    """Rows and columns of the matrix."""
    add_json(parser)
    args = parser.parse(argv)
    kit_run = kit("run")
    backends = [asdict(backend) for backend in kit_run.list_backends()]
    print_report({"components": kit_run.list_components(), "backends": backends}, args.json, _listing)
    return OK


def _listing(report: Report) -> str:
    rows = [[b["name"], b["description"], f"NOT RUN: {b['reason']}" if b["reason"] else ""] for b in report["backends"]]
    return f"components\n  {', '.join(report['components'])}\n\nbackends\n{table(rows)}"


def export(parser: Parser, argv: Sequence[str]) -> int:
    """Golden vectors."""
    parser.add_argument("directory", metavar="DIR")
    add_components(parser)
    add_seed(parser)
    parser.add_argument("--largest", type=in_range(1, 1 << 40), metavar="BYTES",
                        help="leave out cases until a component's arrays take no more than this")
    args = parser.parse(argv)
    count = kit("vectors").export(args.directory, args.seed or 0, args.component, args.largest)
    print(f"{args.directory}: {count:,} cases")
    return OK


def judge(parser: Parser, argv: Sequence[str]) -> int:
    """Answers to golden vectors."""
    parser.add_argument("directory", metavar="DIR")
    add_json(parser)
    add_files(parser)
    args = parser.parse(argv)
    return show(kit("vectors").judge_directory(args.directory), args)


def mutate(parser: Parser, argv: Sequence[str]) -> int:
    """Seeded faults, every one of which the kit must catch."""
    parser.add_argument("--target", action="append", metavar="NAME",
                        help="plant faults in this implementation (default numpy); may be repeated")
    parser.add_argument("--fault", action="append", metavar="NAME", help="only this fault; may be repeated")
    add_seed(parser)
    add_json(parser)
    args = parser.parse(argv)
    with progress("planting faults") as on_progress:
        report = kit("mutation").run(args.target or ("numpy",), args.fault, args.seed or 0, on_progress)
    return _tell(report, args.json)


def reseed(parser: Parser, argv: Sequence[str]) -> int:
    """Clean backends under new seeds, none of which may fail."""
    parser.add_argument("--runs", type=in_range(1, 1 << 20), default=500, metavar="N", help="seeds (default 500)")
    parser.add_argument("--backend", action="append", metavar="NAME", help="only this backend; may be repeated")
    add_components(parser)
    add_seed(parser)
    parser.add_argument("--processes", type=in_range(1, 256), default=1, metavar="N", help="at a time (default 1)")
    add_json(parser)
    args = parser.parse(argv)
    with progress("reseeding") as on_progress:
        found = kit("mutation").false_failures(args.runs, args.backend, args.component, args.seed or 0, args.processes,
                                               on_progress)
    return _tell(found, args.json)


def _tell(report: Any, as_json: bool) -> int:
    """Print what has to_json, print and passed; the exit code."""
    if as_json:
        print_report(report.to_json(), True, str)
    else:
        from conformance.reports.terminal import ReportConsole

        report.print(ReportConsole())
    return OK if report.passed else DIFFERENT


VERBS: dict[str, tuple[Callable[[Parser, Sequence[str]], int], str, tuple[str, ...]]] = {
    "run": (run, "run the kit on this machine", ("run", "run --backend reference --component rms_norm --json")),
    "list": (list_all, "list components and backends", ("list",)),
    "export": (export, "write golden vectors for an implementation in another language", ("export vectors",)),
    "judge": (judge, "judge the answers to golden vectors", ("judge vectors --html report.html",)),
    "reseed": (reseed, "judge clean backends with new seeds: none may fail", ("reseed --runs 20",)),
    "mutate": (mutate, "seed faults and show that the kit catches every one", ("mutate --target native",)),
}
"""Every verb: its function, what it does, and examples."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code: 0 nothing failed, 1 something did, others as `ghost` has them."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _dispatch(arguments))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return OK
    if arguments[0] not in VERBS:
        raise GhostError(f"There is no verb {arguments[0]!r}; the verbs are: {', '.join(VERBS)}.")
    function, summary, examples = VERBS[arguments[0]]
    parser = Parser(arguments[0], f"{summary.capitalize()}.", [f"{NAME} {example}" for example in examples])
    parser.prog = f"{NAME} {arguments[0]}"
    return function(parser, arguments[1:])


def _overview() -> str:
    verbs = "\n".join(f"  {name:<8} {summary}" for name, (_, summary, _) in VERBS.items())
    return f"usage: {NAME} VERB ...\n\nverbs:\n{verbs}\n\n`{NAME} VERB --help` shows a verb's flags and examples."


if __name__ == "__main__":
    sys.exit(main())
