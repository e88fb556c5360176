"""`ghost pack`: a training run becomes one small file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ghost_ref.cli.flags import Parser, add_json, in_range, parse_settings
from ghost_ref.cli.output import Report, print_report
from ghost_ref.config import ModelConfig
from ghost_ref.errors import GhostError
from ghost_ref.presets import PRESETS, preset

DESCRIPTION = """Write the model of a training run (its best one, else the last) as one packed file.

With --random: an untrained model of any shape, made and written piece by piece, to measure what such a shape costs."""
EXAMPLES = ("ghost pack runs/qa20 -o qa20.ghost", "ghost pack runs/qa20 -o qa20.ghost --force    # replace the file",
            "ghost pack --random --preset v12 --set d_model=512 --seed 1 -o wide.ghost",
            "ghost pack --random --set d_model=2048 --set dt_rank=128 --set d_ff=4224 --set n_layers=19 -o big.ghost")


def main(argv: Sequence[str]) -> int:
    parser = Parser("pack", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", metavar="DIR", type=Path, nargs="?", help="the --out of `ghost train`")
    parser.add_argument("-o", "--output", metavar="FILE.ghost", type=Path, required=True, help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("--random", action="store_true", help="an untrained model instead of a run's")
    parser.add_argument("--preset", help=f"with --random: {', '.join(sorted(PRESETS))} (default: the default shape, "
                        "without routers, attention and memory)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="with --random: a field of the model configuration; may be repeated")
    parser.add_argument("--seed", type=in_range(0, (1 << 63) - 1), metavar="N",
                        help="with --random: seed of the values (default 0)")
    add_json(parser)
    args = parser.parse(argv)
    if (args.run is None) != args.random:
        raise GhostError("ghost pack needs a training run or --random, one of the two.")
    if not args.random and (args.preset or args.settings or args.seed is not None):
        raise GhostError("--preset, --set and --seed belong to --random; a training run has its own.")
    if args.run and not args.run.is_dir():
        raise GhostError(f"There is no directory {args.run}; pass the --out of `ghost train`.")
    if args.output.exists() and not args.force:
        raise GhostError(f"{args.output} already exists; choose another name, or replace it with --force.")
    size = _pack_random(args) if args.random else _pack_run(args)
    print_report({"file": str(args.output), "bytes": size}, args.json, _text)
    return 0


def _pack_run(args: argparse.Namespace) -> int:
    from ghost_ref.training import pack_run

    return pack_run(args.run, args.output)


def _pack_random(args: argparse.Namespace) -> int:
    from ghost_ref.initialise import initial_weights
    from ghost_ref.packed import save_packed

    shape = preset(args.preset) if args.preset else ModelConfig()
    config = shape.replace(**parse_settings(args.settings, (ModelConfig,)))
    return save_packed(args.output, initial_weights(config, args.seed or 0), config)


def _text(report: Report) -> str:
    return f"{report['file']}: {report['bytes']:,} bytes"
