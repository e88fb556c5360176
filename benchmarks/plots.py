"""Plots of the stored results as SVG: the same results give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from protocol import Cell, Results

matplotlib.use("svg")
import matplotlib.pyplot as plt

STYLE = {"svg.hashsalt": "ghost", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
         "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}
GHOST, PEERS = "#1b6ca8", ("#e07b39", "#f2b880", "#8a8d91", "#c3c5c8", "#7fb069", "#b8a1d9", "#d0d0d0")
PRODUCTS = ("ghost avx512vnni", "ghost avx2", "TQ2_0", "TQ1_0", "Q4_0", "Q8_0", "onnxruntime 2-bit", "numpy float32")


def draw_all(results: Mapping[str, Results], folder: Path) -> dict[str, str]:
    """Draw what was measured. Returns {file name: what it shows}."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, (topic, draw, text) in PLOTS.items():
        if topic not in results:
            continue
        with plt.rc_context(STYLE):
            figure = plt.figure(figsize=(8, 3.4), layout="constrained")
            if draw(results[topic], figure):
                figure.savefig(folder / name, metadata={"Date": None})
                drawn[name] = text
            plt.close(figure)
    return drawn


def colours(names: list[str]) -> dict[str, str]:
    own = [name for name in names if name.startswith("ghost")]
    peers = [name for name in names if not name.startswith("ghost")]
    shades = {name: matplotlib.colors.to_hex([1 - (1 - c) / (1 + 0.7 * i) for c in matplotlib.colors.to_rgb(GHOST)])
              for i, name in enumerate(own)}
    return {**shades, **{name: PEERS[i % len(PEERS)] for i, name in enumerate(peers)}}


def grouped(axes, groups: list[str], values: dict[str, list[tuple[float, float, float] | None]], ylabel: str) -> None:
    """Bars side by side: {contestant: (median, lowest, highest) per group}, the spread as a line."""
    width, colour = 0.85 / len(values), colours(list(values))
    for i, (name, figures) in enumerate(values.items()):
        first = True
        for g, figure in enumerate(figures):
            if figure is None:
                continue
            middle, low, high = figure
            axes.bar(g + (i - (len(values) - 1) / 2) * width, middle, width, color=colour[name],
                     label=name if first else None, yerr=[[middle - low], [high - middle]],
                     error_kw={"elinewidth": 0.7, "alpha": 0.6})
            first = False
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(ylabel)
    axes.legend(fontsize=7, ncols=4, frameon=False, loc="upper left", bbox_to_anchor=(0, 1.25))


def rates(cell: Cell, name: str, work: float) -> tuple[float, float, float] | None:
    """(median, lowest, highest) of work per second."""
    if name not in cell.samples:
        return None
    samples = cell.samples[name]
    return work / cell.median(name), work / max(samples), work / min(samples)


def _products(tokens: int):
    def draw(results: Results, figure) -> bool:
        cells = results.find(what="product", tokens=tokens)
        if not cells:
            return False
        axes = figure.subplots()
        sizes = [c.problem["rows"] * c.problem["columns"] * tokens / 1e9 for c in cells]
        values = {name: [rates(c, name, size) for c, size in zip(cells, sizes)] for name in PRODUCTS}
        grouped(axes, [f"{c.problem['rows']}x{c.problem['columns']}" for c in cells], values, "GMAC/s, one core")
        for i, (cell, size) in enumerate(zip(cells, sizes)):
            if "VNNI peak" in cell.samples:
                peak = size / cell.median("VNNI peak")
                axes.hlines(peak, i - 0.45, i + 0.45, colors="black", linewidth=0.8)
        return True
    return draw


def _mamba(results: Results, figure) -> bool:
    names = ("ghost avx512vnni", "ghost avx2", "TQ2_0", "TQ1_0", "Q4_0", "Q8_0", "F16")
    cells = results.find(model="mamba-d512")
    groups = [f"{c.problem['what']}, {c.problem['threads']} thread{'s' * (c.problem['threads'] > 1)}" for c in cells]
    values = {}
    for name in names:
        if any(key.startswith(name) for c in cells for key in c.samples):
            quicker = [min((k for k in c.samples if k.split(", ")[0] == name), key=c.median) for c in cells]
            values[name] = [rates(c, key, 1) for c, key in zip(cells, quicker)]
    grouped(figure.subplots(), groups, values, "tokens/s")
    return bool(cells)


def _length(results: Results, figure) -> bool:
    cells, memory = results.find(what="length"), results.find(what="memory")
    if not cells:
        return False
    left, right = figure.subplots(1, 2)
    lengths = [int(name) for name in cells[0].samples]
    middle = [1e6 * cells[0].median(str(n)) for n in lengths]
    low, high = ([1e6 * f(cells[0].samples[str(n)]) for n in lengths] for f in (min, max))
    left.plot(lengths, middle, "o-", color=GHOST)
    left.fill_between(lengths, low, high, color=GHOST, alpha=0.2, linewidth=0)
    left.set(xscale="log", xlabel="bytes read before", ylabel="µs per byte", ylim=(0, 1.2 * max(high)))
    right.plot(lengths, [memory[0].median(str(n)) / 1e6 for n in lengths], "o-", color=GHOST)
    right.set(xscale="log", xlabel="bytes read", ylabel="MB of the process")
    right.set_ylim(bottom=0)
    return True


def _sizes(results: Results, figure) -> bool:
    axes = figure.subplots()
    for threads, style in ((1, "-"), (2, "--")):
        cells = results.find(what="decode", threads=threads)
        sizes = [int(c.notes["parameters"]) for c in cells]
        for name, colour in (("ghost", GHOST), ("reading", PEERS[0]), ("products", PEERS[2])):
            found = [(size, 1 / c.median(name)) for size, c in zip(sizes, cells) if name in c.samples]
            axes.plot(*zip(*found), style, marker="o", color=colour,
                      label=f"{name}, {threads} thread{'s' * (threads > 1)}")
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="bytes/s")
    axes.legend(fontsize=7, frameon=False)
    return True


def _batch(results: Results, figure) -> bool:
    axes = figure.subplots()
    for cell, style in zip(results.find(what="batch"), ("-", "--")):
        sizes = [int(name) for name in cell.samples]
        axes.plot(sizes, [n / cell.median(str(n)) for n in sizes], style, marker="o", color=GHOST,
                  label=f"{cell.problem['threads']} thread{'s' * (cell.problem['threads'] > 1)}")
    axes.set(xscale="log", xlabel="streams", ylabel="bytes/s of all streams")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return True


PLOTS = {
    "batch.svg": ("batch", _batch, "`v12`: bytes per second of all streams together"),
    "sizes.svg": ("model_sizes", _sizes, "Decode against model size, beside reading its codes and its products"),
    "gemv.svg": ("matmul", _products(1), "Matrix times vector, one core; the line is the VNNI peak in the same turns"),
    "gemm.svg": ("matmul", _products(64), "64 tokens at a time, one core; the line is the VNNI peak in the same turns"),
    "mamba.svg": ("mamba", _mamba, "The same Mamba-only model, the quicker of llama.cpp's two kinds of threads"),
    "length.svg": ("length", _length, "`v12`: time per byte and memory against the bytes read before"),
}
