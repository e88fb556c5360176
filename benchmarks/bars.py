"""The promises about speed, and whether stored results keep them.

A bar is judged by the median over the turns of the worst problem it covers.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from protocol import Cell, ratios

BEST_LEVEL = "avx512vnni"
SMALL = ((512, 256), (1024, 256), (256, 1024))
MEDIUM, LARGE = ((2048, 1024),), ((4096, 4096),)
EVERY = (*SMALL, (1024, 384), *MEDIUM, *LARGE)
Figure = dict[str, float]  # median, lowest, highest
Measured = Mapping[str, Any]  # {topic: Results, or what a script with a format of its own wrote}


@dataclass(frozen=True)
class Bar:
    """One promise: `figure` must be at least (or at most) `limit`."""

    what: str
    limit: float
    unit: str  # "x", "% of peak", ...
    figures: Callable[[Measured], dict[str, Figure]]  # {problem: figure}, {} when not measured
    at_most: bool = False

    def worst(self, results: Measured) -> tuple[str, Figure] | None:
        """(problem, figure) of the one furthest from the promise, None when nothing was measured."""
        found = self.figures(results)
        if not found:
            return None
        choose = max if self.at_most else min
        name = choose(found, key=lambda problem: found[problem]["median"])
        return name, found[name]

    def met(self, figure: Figure) -> bool:
        return figure["median"] <= self.limit if self.at_most else figure["median"] >= self.limit


def product_cells(results: Measured, shapes: Iterable[tuple[int, int]], gemm: bool) -> list[Cell]:
    """The matrix products of these shapes with one token (GEMV) or several (GEMM)."""
    if "matmul" not in results:
        return []
    wanted = set(shapes)
    return [cell for cell in results["matmul"].find(what="product")
            if (cell.problem["rows"], cell.problem["columns"]) in wanted and (cell.problem["tokens"] > 1) == gemm]


def label(cell: Cell) -> str:
    p = cell.problem
    return f"{p['rows']}x{p['columns']}" + (f", n = {p['tokens']}" if p["tokens"] > 1 else "")


def faster(peer: str, level: str, shapes: Iterable[tuple[int, int]], gemm: bool = False):
    """Figures: how many times faster Ghost's product is than the peer's."""
    def figures(results: Measured) -> dict[str, Figure]:
        return {label(cell): ratios(cell.samples[peer], cell.samples[f"ghost {level}"])
                for cell in product_cells(results, shapes, gemm)
                if peer in cell.samples and f"ghost {level}" in cell.samples}
    return figures


def kernel_cases(results: Measured, level: str, gemm: bool, value: str, scale: float) -> dict[str, Figure]:
    """Figures of kernel_speed.py's products alone, whose share of the peak is measured right before and after each."""
    found = {}
    for case in results["limits"]["cases"] if "limits" in results else []:
        samples = case["samples"].get(level)
        if case["kind"] == "trits" and (case["tokens"] > 1) == gemm and samples:
            values = [scale * sample[value] for sample in samples]
            found[label(Cell(case, "product"))] = {"median": statistics.median(values), "lowest": min(values),
                                                   "highest": max(values)}
    return found


def of_peak(gemm: bool):
    """Figures: percent of the VNNI peak that the product alone reaches."""
    return lambda results: kernel_cases(results, BEST_LEVEL, gemm, "share", 100)


def rate(level: str):
    """Figures: GMAC/s of the GEMM alone."""
    return lambda results: kernel_cases(results, level, True, "rate", 1e-9)


def scan_faster(results: Measured) -> dict[str, Figure]:
    cells = results["matmul"].find(what="scan") if "matmul" in results else []
    return {f"{c.problem['tokens']} tokens": ratios(c.samples["ggml_ssm_scan"], c.samples[f"ghost {BEST_LEVEL}"])
            for c in cells if f"ghost {BEST_LEVEL}" in c.samples}


def best_peer(cell: Cell) -> str:
    """The quickest contestant that is not Ghost, by its median."""
    return min((name for name in cell.samples if not name.startswith("ghost")), key=cell.median)


def mamba_faster(what: str, threads: int):
    """Figures: how many times faster than llama.cpp's best quantisation and threading."""
    def figures(results: Measured) -> dict[str, Figure]:
        cells = results["mamba"].find(what=what, threads=threads) if "mamba" in results else []
        return {f"beside {best_peer(c)}": ratios(c.samples[best_peer(c)], c.samples[f"ghost {BEST_LEVEL}"])
                for c in cells if f"ghost {BEST_LEVEL}" in c.samples}
    return figures


def v12_over_floor(results: Measured) -> dict[str, Figure]:
    cells = results["v12"].find(what="decode", threads=1) if "v12" in results else []
    return {f"{c.problem['threads']} thread": ratios(c.samples[f"ghost {BEST_LEVEL}"], c.samples["floor"])
            for c in cells if {f"ghost {BEST_LEVEL}", "floor"} <= set(c.samples)}


def first_byte(program: str):
    """Figures: milliseconds from the start of a process to its first byte."""
    def figures(results: Measured) -> dict[str, Figure]:
        cells = results["v12"].find(what="first byte") if "v12" in results else []
        return {f"{program}, {c.problem['model']}": ratios([1000 * s for s in c.samples[program]],
                                                           [1.0] * len(c.samples[program]))
                for c in cells if program in c.samples}
    return figures


def of_reading(results: Measured) -> dict[str, Figure]:
    """Percent of the rate at which the codes can be read at all."""
    cells = results["model_sizes"].find(what="decode", model="1B") if "model_sizes" in results else []
    return {f"{c.problem['threads']} thread{'s' * (c.problem['threads'] > 1)}":
            {k: 100 * v for k, v in ratios(c.samples["reading"], c.samples["ghost"]).items()} for c in cells}


def size_of_1b(value: str, scale: Callable[[Mapping[str, str]], float]):
    """Figures: a number of the notes that describe the 1B model, scaled."""
    def figures(results: Measured) -> dict[str, Figure]:
        cells = results["model_sizes"].find(what="process", model="1B") if "model_sizes" in results else []
        sizes = {c.problem["model"]: int(c.notes[value]) / scale(c.notes) for c in cells}
        return {model: {"median": size, "lowest": size, "highest": size} for model, size in sizes.items()}
    return figures


def training_faster(peer: str):
    """Figures: Ghost's trainer over a peer's, in bytes per second."""
    def figures(results: Measured) -> dict[str, Figure]:
        if "training" not in results:
            return {}
        middle, low, high = results["training"]["contestants"][peer]["ghost_is_faster_by"]
        return {f"{results['training']['preset']}, {results['training']['scan']} scan":
                {"median": middle, "lowest": low, "highest": high}}
    return figures


def length_ratio(results: Measured) -> dict[str, Figure]:
    cells = results["length"].find(what="length") if "length" in results else []
    return {f"{c.problem['threads']} thread": ratios(c.samples["1000000"], c.samples["1000"]) for c in cells
            if {"1000000", "1000"} <= set(c.samples)}


BARS = (
    Bar("GEMV, AVX-512 VNNI, share of the VNNI peak, every shape", 75, "% of peak", of_peak(gemm=False)),
    Bar("GEMV beside TQ2_0, up to 256x1024", 4, "x", faster("TQ2_0", BEST_LEVEL, SMALL)),
    Bar("GEMV beside TQ2_0, 2048x1024", 3.3, "x", faster("TQ2_0", BEST_LEVEL, MEDIUM)),
    Bar("GEMV beside TQ2_0, 4096x4096", 3, "x", faster("TQ2_0", BEST_LEVEL, LARGE)),
    Bar("GEMV beside Q4_0, every shape", 2, "x", faster("Q4_0", BEST_LEVEL, EVERY)),
    Bar("GEMM, share of the VNNI peak, every shape", 90, "% of peak", of_peak(gemm=True)),
    Bar("GEMM beside TQ2_0, every shape", 3.5, "x", faster("TQ2_0", BEST_LEVEL, EVERY, gemm=True)),
    Bar("AVX2 level: GEMV beside TQ2_0, up to 256x1024", 2.2, "x", faster("TQ2_0", "avx2", SMALL)),
    Bar("AVX2 level: GEMV beside TQ2_0, above", 1.8, "x", faster("TQ2_0", "avx2", (*MEDIUM, *LARGE))),
    Bar("AVX2 level: GEMM, every shape", 150, "GMAC/s", rate("avx2")),
    Bar("scan, per state update, beside ggml_ssm_scan", 12, "x", scan_faster),
    Bar("Mamba-only d512x6, decode, 1 thread, beside llama.cpp's best", 8, "x", mamba_faster("decode", 1)),
    Bar("the same, 2 threads", 7, "x", mamba_faster("decode", 2)),
    Bar("Mamba-only d512x6, prefill, 1 thread", 7, "x", mamba_faster("prefill", 1)),
    Bar("the same, 2 threads", 6.5, "x", mamba_faster("prefill", 2)),
    Bar("v12 decode, routers on, time over its floor", 1.6, "x the floor", v12_over_floor, at_most=True),
    Bar("v12, first byte after 64 bytes, fresh process, standalone", 30, "ms", first_byte("ghost-run"), at_most=True),
    Bar("the same through Python", 250, "ms", first_byte("python"), at_most=True),
    Bar("1B parameters, file", 215, "MB", size_of_1b("file_bytes", lambda notes: 1e6), at_most=True),
    Bar("1B, decode, share of the rate of reading its 2-bit codes", 60, "%", of_reading),
    Bar("1B, peak memory over its 2-bit codes", 1.4, "x", size_of_1b("peak_bytes", lambda n: int(n["code_bytes"])),
        at_most=True),
    Bar("v12 training beside PyTorch float32, bytes/s", 2, "x", training_faster("torch float")),
    Bar("the same beside PyTorch with Ghost's ternary weights", 2, "x", training_faster("torch ternary")),
    Bar("v12, time per byte at 1M bytes beside 1k", 1.1, "x", length_ratio, at_most=True),
)
