"""`ghost bench`: speed and memory."""

from __future__ import annotations

from collections.abc import Sequence

from ghost_ref.cli.flags import Parser, add_json
from ghost_ref.cli.output import Report, print_report, progress, table

DESCRIPTION = """Measure prefill and decode speed, first-byte latency after a 64-byte prompt, load time and
peak memory, per number of threads, each in a process of its own."""
EXAMPLES = ("ghost bench qa20.ghost", "GHOST_ISA=avx2 ghost bench qa20.ghost --json",
            "ghost bench qa20.ghost --backend reference")


def main(argv: Sequence[str]) -> int:
    parser = Parser("bench", DESCRIPTION, EXAMPLES)
    parser.add_argument("file", metavar="FILE.ghost")
    parser.add_argument("--backend", choices=("auto", "native", "reference"), default="auto",
                        help="the C++ runtime or the NumPy reference (default: C++ where it is built)")
    add_json(parser)
    args = parser.parse(argv)
    from ghost_ref.bench import bench_file

    with progress("measuring") as on_progress:
        report = bench_file(args.file, backend=args.backend, on_progress=on_progress)
    print_report(report, args.json, _text)
    return 0


def _text(report: Report) -> str:
    from ghost_ref.runtime import describe_level

    rows = [["threads", "prefill bytes/s", "decode bytes/s", "first byte ms", "load ms", "peak MB", "of it model MB"]]
    for run in report["runs"]:
        rows.append([str(run["threads"]), _spread(run["prefill"]), _spread(run["decode"]),
                     _spread(run["first_byte"], 1000, ".2f"), f"{run['load_seconds'] * 1000:.1f}",
                     f"{run['peak_bytes'] / 1e6:.1f}", f"{run['model_bytes'] / 1e6:.1f}"])
    lines = [f"{report['file']} on {report['cpu']} ({report['cpus']} CPUs)", describe_level(report),
             table(rows, range(len(rows[0]))),
             f"median of {report['repeats']} repeats after a warm-up (lowest to highest)"]
    return "\n".join(lines)


def _spread(values: Report, factor: float = 1, form: str = ",.0f") -> str:
    median, low, high = (format(values[key] * factor, form) for key in ("median", "lowest", "highest"))
    return f"{median} ({low} to {high})"
