"""Sections of the page for results that have a format of their own."""

from __future__ import annotations

import statistics
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


LIMITS = {
    "vnni512": "vpdpbusd, 512 bits, GMAC/s", "vnni256": "vpdpbusd, 256 bits, GMAC/s",
    "maddubs256": "vpmaddubsw + vpaddw, 256 bits (AVX2), GMAC/s",
    "lookup256": "vpaddw from memory, 256 bits, 4 trits to an entry, GMAC/s",
    "fma512": "float32 fused multiply-add, 512 bits, GFLOP/s",
    "muladd512": "float32 multiplications and additions, 512 bits, GFLOP/s", "read L1": "reading 16 KiB (L1), GB/s",
    "read L2": "reading 512 KiB (L2), GB/s", "read L3": "reading 4 MiB (L3), GB/s",
    "read DRAM": "reading 256 MiB (DRAM), GB/s",
}


def limits_section(report: dict[str, Any], figure: Figure, table: Table) -> str:
    """kernel_speed.py --json."""
    rows = [[LIMITS.get(name, name), figure({"median": statistics.median(rates), "lowest": min(rates),
                                             "highest": max(rates)})]
            for name, rates in report["limits"].items()]
    cases = [case for case in report["cases"] if case["kind"] in ("trits", "codebook", "int8")]
    levels = list(dict.fromkeys(level for case in cases for level in case["samples"]))
    products = [[f"{case['kind']} {case['rows']}x{case['columns']}, n = {case['tokens']}",
                 *(_rate(case["samples"].get(level, [])) for level in levels)] for case in cases]
    return (f"## What one core can do\n\n{report['cpu']}, {report['rounds']} rounds; the loops are in "
            "`ext/core/peaks.cpp`.\n\n" + table(["", "measured"], rows)
            + "\nGhost's products alone, without the quantisation: GMAC/s, and the share of the peak of the "
            "instruction that the level is built on (AVX2: vpmaddubsw + vpaddw), measured right before and after "
            "each.\n\n"
            + table(["", *levels], products))


def _rate(samples: list[dict[str, float]]) -> str:
    if not samples:
        return "-"
    rate = f"{statistics.median(sample['rate'] for sample in samples) / 1e9:.0f}"
    shares = [sample["share"] for sample in samples if "share" in sample]
    return f"{rate}, {statistics.median(shares):.0%}" if shares else rate


OTHERS = {"limits": limits_section, "training": training_section}
