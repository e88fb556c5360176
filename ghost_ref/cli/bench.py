"""`ghost bench`: speed and memory."""

from __future__ import annotations

from collections.abc import Sequence

from ghost_ref.cli.flags import MOST_THREADS, Parser, add_json, add_level, in_range
from ghost_ref.cli.output import Report, print_report, progress, table

DESCRIPTION = """Measure prefill and decode speed, first-byte latency after a 64-byte prompt, load time and
peak memory, per number of threads, each in a process of its own. The C++ runtime is timed inside native code, and its
decoding is also given in floors: what the same products and scan updates would take at this CPU's own peaks, measured
in the same turns."""
EXAMPLES = ("ghost bench qa20.ghost", "ghost bench qa20.ghost --level avx2 --threads 1 --json",
            "ghost bench qa20.ghost --backend reference")


def main(argv: Sequence[str]) -> int:
    parser = Parser("bench", DESCRIPTION, EXAMPLES)
    parser.add_argument("file", metavar="FILE.ghost")
    parser.add_argument("--backend", choices=("auto", "native", "reference"), default="auto",
                        help="the C++ runtime or the NumPy reference (default: C++ where it is built)")
    parser.add_argument("--threads", type=in_range(1, MOST_THREADS), metavar="N",
                        help="only this many threads (default: 1 to the number of CPUs)")
    add_level(parser)
    parser.add_argument("--repeats", type=in_range(1, 1000), default=7, metavar="N",
                        help="of each measurement, after a warm-up (default 7)")
    add_json(parser)
    args = parser.parse(argv)
    from ghost_ref.bench import bench_file

    with progress("measuring") as on_progress:
        report = bench_file(args.file, [args.threads] if args.threads else None, args.repeats, args.backend,
                            on_progress, args.level)
    print_report(report, args.json, _text)
    return 0


def _text(report: Report) -> str:
    from ghost_ref.runtime import describe_level

    rows = [["threads", "prefill bytes/s", "decode bytes/s", "times the floor", "first byte ms", "load ms", "peak MB",
             "of it model MB"]]
    for run in report["runs"]:
        rows.append([str(run["threads"]), _spread(run["prefill"]), _spread(run["decode"]),
                     _spread(run["floor"]["times"], 1, ".2f") if run["floor"] else "-",
                     _spread(run["first_byte"], 1000, ".2f"), f"{run['load_seconds'] * 1000:.1f}",
                     f"{run['peak_bytes'] / 1e6:.1f}", f"{run['model_bytes'] / 1e6:.1f}"])
    return "\n".join([f"{report['file']} on {report['cpu']} ({report['cpus']} CPUs)", describe_level(report),
                      table(rows, range(len(rows[0]))), _floor(report),
                      f"median of {report['repeats']} repeats after a warm-up (lowest to highest)"])


def _floor(report: Report) -> str:
    run = report["runs"][0]
    if not run["floor"]:
        return f"no floor: the level {report['level']} has no peak of its own"
    integers, floats = run["floor"]["integer_peak"]["median"] / 1e9, run["floor"]["float_peak"]["median"] / 1e9
    return (f"the floor of a byte: {run['products_per_byte'] / 1e6:.3f}M products at {integers:.0f} GMAC/s "
            f"({run['floor']['instruction']}) and {run['scan_updates_per_byte']:,.0f} scan updates of 26 operations at "
            f"{floats:.0f} GFLOP/s, one core")


def _spread(values: Report, factor: float = 1, form: str = ",.0f") -> str:
    median, low, high = (format(values[key] * factor, form) for key in ("median", "lowest", "highest"))
    return f"{median} ({low} to {high})"
