"""Sections of the page for results that have a format of their own: training_speed.py's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Figure = Callable[..., str]
Table = Callable[..., str]


def training_section(report: dict[str, Any], figure: Figure, table: Table) -> str:
    """training_speed.py --json."""
    m = report["machine"]
    rows = []
    for name, r in report["contestants"].items():
        middle, low, high = r["ghost_is_faster_by"]
        rows.append([name, figure(r), figure({"median": middle, "lowest": low, "highest": high}),
                     f"{r['share_of_sgemm_processed']:.0%}", f"{r['peak_bytes'] / 1e6:,.0f}"])
    one, every = report["sgemm_1_thread"] / 1e9, report["sgemm_all_threads"] / 1e9
    return (f"## Training beside PyTorch\n\n`{report['preset']}`, batch {report['batch']} x {report['length']} bytes, "
            f"{report['repeats']} turns of {report['steps']} steps on {m['cpus']} CPUs ({m['cpu']}; NumPy "
            f"{m['numpy']}, PyTorch {m['torch']}, its scan {report['scan']}); sgemm {one:.0f} GFLOP/s on one thread, "
            f"{every:.0f} on all.\n\n"
            + table(["", "bytes/s", "ghost is x faster", "of sgemm", "peak MB"], rows))


OTHERS = {"training.json": training_section}
