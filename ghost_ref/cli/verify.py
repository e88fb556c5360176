"""`ghost verify`: the runtime against the reference, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence

from ghost_ref.cli import DIFFERENT, OK
from ghost_ref.cli.flags import Parser, add_json, in_range
from ghost_ref.cli.output import Report, print_report, progress, table

DESCRIPTION = """Run the NumPy reference and the C++ runtime on the same inputs, at every instruction-set level this
CPU has and with 1, 2 and 3 threads, and compare all logits and states bit by bit. Exits with 1 on any difference."""
EXAMPLES = ("ghost verify qa20.ghost", "ghost verify qa20.ghost --prompts 1000 --json")
PLACES = ("position", "byte", "feature", "index")


def main(argv: Sequence[str]) -> int:
    parser = Parser("verify", DESCRIPTION, EXAMPLES)
    parser.add_argument("file", metavar="FILE.ghost")
    parser.add_argument("--prompts", type=in_range(1, 1 << 20), default=64, metavar="N",
                        help="inputs of 1 to 300 bytes to compare (default 64)")
    add_json(parser)
    args = parser.parse(argv)
    from ghost_ref.verify import verify_file

    with progress("comparing") as on_progress:
        report = verify_file(args.file, prompts=args.prompts, on_progress=on_progress)
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
