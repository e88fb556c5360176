"""Tables and plots of stored results: one page of Markdown, SVG files beside it.

    python benchmarks/render.py [--results build/bench] [--page build/bench/speed.md]

The page is a function of the JSON files alone; what was not measured is missing from it and said to be missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bars import BARS, Measured
from other_results import OTHERS
from protocol import RESULTS, Cell, Results, ratios, spread

from ghost_ref.errors import GhostError

TOPICS = ("matmul", "mamba", "v12", "length", "batch", "model_sizes")
INTRODUCTION = """# Speed

Every speed here was measured beside its peer, in the same run on the same machine, taking turns (a round lets every
contestant run once; the next round starts with the next one). Figures are medians over the rounds with (lowest to
highest); ratios are taken turn by turn. `make bench` measures all of it on your machine and writes such a page to
`build/bench/speed.md`; [benchmarks/README.md](../benchmarks/README.md) says how each part works. This page is made by
`benchmarks/render.py` from the files in `benchmarks/results/`; nothing on it is typed by hand. Training beside PyTorch,
where it is not below, is in [results.md](results.md).
"""


def load_results(folder: Path) -> dict[str, Results]:
    """{topic: results} of the files that are there. Raises GhostError on a damaged one."""
    return {topic: Results.load(folder / f"{topic}.json") for topic in TOPICS if (folder / f"{topic}.json").exists()}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def number(value: float) -> str:
    """Three digits, no exponent."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def figure(values: Mapping[str, float], unit: str = "") -> str:
    """median (lowest to highest)."""
    return f"{number(values['median'])}{unit} ({number(values['lowest'])} to {number(values['highest'])})"


def machine_section(results: Mapping[str, Results]) -> str:
    """Every machine and set of versions on the page, each with the topics measured there."""
    groups: dict[str, list[str]] = {}
    for topic, result in results.items():
        m = result.machine
        where = (f"{m['cpu']} ({m['model']}), {m['cpus']} CPUs, {m['caches']}, {m['memory_gib']} GiB, {m['system']}, "
                 f"level {m['level']}")
        groups.setdefault(where, []).append(topic)
    text = "## Machine and versions\n\n"
    for where, topics in groups.items():
        text += f"{where}: {', '.join(topics)}.\n\n"
    rows = [[topic, str(max((len(s) for c in r.cells for s in c.samples.values()), default=0)),
             ", ".join(f"{name} {version}" for name, version in r.versions.items())] for topic, r in results.items()]
    return text + table(["part", "rounds", "versions"], rows)


def bars_section(results: Measured) -> str:
    """What was promised, what was measured."""
    rows = []
    for bar in BARS:
        limit = f"{'≤' if bar.at_most else '≥'} {bar.limit:g} {bar.unit}"
        worst = bar.worst(results)
        if worst is None:
            rows.append([bar.what, limit, "not measured", "-"])
            continue
        problem, values = worst
        rows.append([bar.what, limit, f"{figure(values)}, {problem}",
                     "met" if bar.met(values) else "**not met**"])
    return ("## What was promised\n\nOf a bar over several problems the worst one is shown.\n\n"
            + table(["what", "bar", "measured", ""], rows))


def contestants(cells: Iterable[Cell]) -> list[str]:
    return list(dict.fromkeys(name for cell in cells for name in cell.samples))


def medians(cells: list[Cell], scale: Callable[[float], float]) -> list[list[str]]:
    """One row per contestant, one column per cell."""
    return [[name, *(figure(spread([scale(s) for s in c.samples[name]])) if name in c.samples else "-" for c in cells)]
            for name in contestants(cells)]


def matmul_section(results: Results) -> str:
    text = ("## Matrix products, one core\n\nMicroseconds per product, with the quantisation of the activations where "
            "a contestant quantises them (Ghost and llama.cpp do; *product* leaves it out). A peer runs with the best "
            "of its options: llama.cpp's own threads or OpenMP, Q4_0 repacked or not; onnxruntime's block size and "
            "look-up table. *peak* is what the multiply-accumulates alone would take at the measured peak of the "
            "instruction.\n\n")
    for tokens in sorted({c.problem["tokens"] for c in results.find(what="product")}):
        cells = results.find(what="product", tokens=tokens)
        rows = medians(cells, lambda s: 1e6 * s)
        title = "Matrix times vector" if tokens == 1 else f"{tokens} tokens at a time"
        text += f"### {title}\n\n" + table(["", *(f"{c.problem['rows']}x{c.problem['columns']}" for c in cells)], rows)
        text += "\n"
    cells = results.find(what="scan")
    rows = medians(cells, lambda s: 1e9 * s)
    heads = [f"{c.problem['tokens']} token{'s' * (c.problem['tokens'] > 1)}" for c in cells]
    text += ("### Selective scan\n\nNanoseconds per state update, 1024 channels of 16 states. Both take dt before its "
             "softplus; Ghost's figures also hold D·x and the SiLU gate, which llama.cpp computes elsewhere.\n\n"
             + table(["", *heads], rows))
    return text + absent(results)


def absent(results: Results) -> str:
    if not results.absent:
        return ""
    return "\nNot run: " + "; ".join(f"{name}: {why}" for name, why in sorted(results.absent.items())) + ".\n"


def mamba_section(results: Results) -> str:
    text = ("## The same Mamba-only model in Ghost and in llama.cpp\n\nd_model 512, 6 layers, 1024 channels of 16 "
            "states, dt_rank 32, vocabulary 256, random weights: 10.3M parameters (Ghost's has its byte tokenizer's "
            "1.05M on top). Tokens per second; llama.cpp as its llama-bench reports (pp512, tg128).\n\n")
    cells = results.find(model="mamba-d512")
    heads = [f"{c.problem['what']}, {c.problem['threads']} thread{'s' * (c.problem['threads'] > 1)}" for c in cells]
    return text + table(["", *heads], medians(cells, lambda s: 1 / s)) + absent(results)


def v12_section(results: Results) -> str:
    text = "## `v12` with its routers\n\n"
    rows = []
    for cell in results.find(what="decode"):
        threads = f"{cell.problem['threads']} thread{'s' * (cell.problem['threads'] > 1)}"
        for name in cell.samples:
            over = figure(ratios(cell.samples[name], cell.samples["floor"])) if "floor" in cell.samples else "-"
            rows.append([f"{name}, {threads}", figure(spread([1e6 * s for s in cell.samples[name]])),
                         f"{1 / statistics.median(cell.samples[name]):,.0f}", over if name != "floor" else "1"])
    notes = {c.notes["floor"] for c in results.find(what="decode") if "floor" in c.notes}
    read = {c.notes["reading"] for c in results.find(what="decode") if "reading" in c.notes}
    text += ("Decode by the runtime's own loop: a text read byte after byte, and a byte chosen after each. The floor "
             "is the work counted in the run at the CPU's peaks, measured in the same turns: integer "
             "multiply-accumulates over the VNNI peak, 26 float operations per state update over the peak of 512-bit "
             "multiplications and additions"
             + (f" ({'; '.join(sorted(notes))})" if notes else "") + ".")
    if read:
        text += (f" *reading* is what it takes one core to do nothing but read as much as a byte's 2-bit codes, states "
                 f"and decay rates ({'; '.join(sorted(read))}), again and again.")
    text += "\n\n"
    text += table(["", "µs per byte", "bytes/s", "times the floor"], rows)
    for cell in results.find(what="first byte"):
        text += "\nFirst byte after a 64-byte prompt, from the start of a fresh process (files cached):\n\n"
        text += table(["", "ms"], [[name, figure(spread([1000 * s for s in seconds]))]
                                   for name, seconds in cell.samples.items()])
    return text + absent(results)


def length_section(results: Results) -> str:
    cells, memory = results.find(what="length"), results.find(what="memory")
    rows = [[f"{int(n):,}", figure(spread([1e6 * s for s in seconds])),
             figure(ratios(seconds, cells[0].samples["1000"])), f"{memory[0].median(n) / 1e6:.1f}"]
            for n, seconds in cells[0].samples.items()]
    return ("## Cost against length\n\n`v12`, one stream, one thread: reading 256 further bytes one by one. The "
            "attention layers keep at most 32 keys, one for every 64 bytes they process: their ring is full after "
            "2,048 of those.\n\n"
            + table(["bytes read before", "µs per byte", "times that at 1,000", "MB of the process"], rows))


def batch_section(results: Results) -> str:
    cells = results.find(what="batch")
    heads = [f"{c.problem['threads']} thread{'s' * (c.problem['threads'] > 1)}" for c in cells]
    rows = [[size, *(figure(spread([int(size) / s for s in c.samples[size]])) for c in cells)]
            for size in contestants(cells)]
    return ("## Cost against batch\n\nBytes per second of all streams together, each reading its own text byte by "
            "byte.\n\n"
            + table(["streams", *heads], rows))


def model_sizes_section(results: Results) -> str:
    rows = []
    for cell in results.find(what="decode"):
        ghost, notes, model = cell.samples["ghost"], cell.notes, cell.problem["model"]
        peaks = [int(c.notes["peak_bytes"]) for c in results.find(what="process", model=model)]
        loads = [c.median("ghost") for c in results.find(what="load", model=model)]
        rows.append([
            f"{model}, {cell.problem['threads']} thread{'s' * (cell.problem['threads'] > 1)}",
            f"{int(notes['parameters']):,}", f"{int(notes['file_bytes']) / 1e6:,.1f}",
            figure(spread([1 / s for s in ghost])),
            *(figure({k: 100 * v for k, v in ratios(cell.samples[floor], ghost).items()}) if floor in cell.samples
              else "-" for floor in ("reading", "products")),
            f"{1000 * loads[0]:,.1f}" if loads else "-",
            f"{peaks[0] / 1e6:,.0f} ({peaks[0] / int(notes['code_bytes']):.2f} x)" if peaks else "-"])
    return ("## Cost against model size\n\nUntrained models without routers and attention: every byte reads every "
            "weight. Two floors, measured in the same turns: reading as many bytes as the 2-bit codes have, and the "
            "integer products at the VNNI peak. Peak memory is that of a fresh `ghost-run`, also as a multiple of the "
            "codes.\n\n"
            + table(["", "parameters", "file, MB", "bytes/s", "% of reading", "% of products", "load, ms", "peak, MB"],
                    rows)) + absent(results)


SECTIONS = {"matmul": matmul_section, "mamba": mamba_section, "v12": v12_section, "length": length_section,
            "batch": batch_section, "model_sizes": model_sizes_section}


def load_others(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """({part: what its script wrote}, {part: its section}) of the scripts with a format of their own."""
    reports, sections = {}, {}
    for name, section in OTHERS.items():
        path = folder / f"{name}.json"
        if path.exists():
            try:
                reports[name] = json.loads(path.read_text())
                sections[name] = section(reports[name], figure, table)
            except (ValueError, KeyError, TypeError) as error:
                raise GhostError(f"{path} is not what its script writes ({error!r}); measure again.") from None
    return reports, sections


def render(folder: Path, page: Path) -> None:
    """Write the page and its plots."""
    from plots import draw_all

    results = load_results(folder)
    reports, others = load_others(folder)
    if not results and not others:
        raise GhostError(f"{folder} holds no results; run the benchmarks first.")
    drawn = draw_all(results, page.parent / "plots")
    parts = [INTRODUCTION, machine_section(results), bars_section({**results, **reports})]
    parts += [others.pop("limits")] if "limits" in others else []
    for topic, result in results.items():
        parts.append(SECTIONS[topic](result) + _pictures(topic, drawn))
    page.write_text("\n".join([*parts, *others.values()]))
    print(f"wrote {page} and {len(drawn)} plots", file=sys.stderr)


def _pictures(topic: str, drawn: Mapping[str, str]) -> str:
    from plots import PLOTS

    return "".join(f"\n![{text}](plots/{name})\n" for name, text in drawn.items() if PLOTS[name][0] == topic)


def main(arguments: Any = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=RESULTS / "speed.md")
    options = parser.parse_args(arguments)
    try:
        render(options.results, options.page)
    except GhostError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
