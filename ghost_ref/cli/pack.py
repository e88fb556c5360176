"""`ghost pack`: a training run becomes one small file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ghost_ref.cli.flags import Parser, add_json
from ghost_ref.cli.output import Report, print_report
from ghost_ref.errors import GhostError

DESCRIPTION = "Write the model of a training run (its best one, else the last) as one packed file."
EXAMPLES = ("ghost pack runs/qa20 -o qa20.ghost", "ghost pack runs/qa20 -o qa20.ghost --force    # replace the file")


def main(argv: Sequence[str]) -> int:
    parser = Parser("pack", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", metavar="DIR", type=Path, help="the --out of `ghost train`")
    parser.add_argument("-o", "--output", metavar="FILE.ghost", type=Path, required=True, help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    add_json(parser)
    args = parser.parse(argv)
    if not args.run.is_dir():
        raise GhostError(f"There is no directory {args.run}; pass the --out of `ghost train`.")
    if args.output.exists() and not args.force:
        raise GhostError(f"{args.output} already exists; choose another name, or replace it with --force.")
    from ghost_ref.training import pack_run

    size = pack_run(args.run, args.output)
    print_report({"file": str(args.output), "bytes": size}, args.json, _text)
    return 0


def _text(report: Report) -> str:
    return f"{report['file']}: {report['bytes']:,} bytes"
