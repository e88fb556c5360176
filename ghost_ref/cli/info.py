"""`ghost info`: what a packed model or a training run holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ghost_ref.cli.flags import Parser, add_json, add_level, add_threads
from ghost_ref.cli.output import Report, print_report, table
from ghost_ref.config import ModelConfig

DESCRIPTION = "Show config, number of parameters, what every kind of tensor costs in bytes, and what runs it here."
EXAMPLES = ("ghost info qa20.ghost", "ghost info qa20.ghost --json", "ghost info runs/qa20    # a training run")


def main(argv: Sequence[str]) -> int:
    parser = Parser("info", DESCRIPTION, EXAMPLES)
    parser.add_argument("path", metavar="FILE.ghost|DIR", type=Path)
    add_threads(parser)
    add_level(parser)
    add_json(parser)
    args = parser.parse(argv)
    report = run_report(args.path) if args.path.is_dir() else file_report(args.path, args.threads, args.level)
    print_report(report, args.json, _text)
    return 0


def file_report(path: Path, threads: int = 1, level: str = "") -> Report:
    """A packed file, and what runs it here: the fields of `ghost-run info --json`. The runtime loads the file, which
    checks all of it; without the runtime it is checked in pieces. Raises GhostError if it is no sound packed model, or
    the level cannot run here."""
    from ghost_ref.bench import available_cpus
    from ghost_ref.engines import NativeEngine
    from ghost_ref.packed import check_packed
    from ghost_ref.runtime import chosen_level, have_native

    chosen = chosen_level(level)
    memory: dict[str, int | None] = {"model_bytes": None, "state_bytes": None}
    if have_native():
        engine = NativeEngine(path, threads, level)
        memory = {"model_bytes": engine.model.memory_bytes(), "state_bytes": engine.new_state().bytes}
    config = check_packed(path)
    return {"file": str(path), "bytes": path.stat().st_size, **_model_report(config),
            "runtime": {**chosen, "threads": threads, "cpus": available_cpus(), **memory}}


def run_report(directory: Path) -> Report:
    """The checkpoint of a training run. Raises GhostError if there is none."""
    from ghost_ref.checkpoint import FILE_NAME, load_checkpoint
    from ghost_ref.training_ops import describe_kernels

    run = load_checkpoint(directory / FILE_NAME)
    files = {file.name: file.stat().st_size for file in sorted(directory.iterdir()) if file.is_file()}
    return {"run": str(directory), **_model_report(run.config), "training": run.training.to_dict(),
            "training_kernels": describe_kernels(),
            "progress": asdict(run.progress), "data_sha256": run.data_digest, "files": files}


def _model_report(config: ModelConfig) -> dict[str, Any]:
    from ghost_ref.packed import estimate_storage
    from ghost_ref.parameters import parameter_count

    storage = estimate_storage(config) if config.linear == "ternary" else None
    return {"parameters": parameter_count(config), "config": config.to_dict(), "storage": storage}


def _text(report: Report) -> str:
    name = report.get("file") or report.get("run")
    sections = [f"{name}: {report['parameters']:,} parameters", _fields(report["config"])]
    if storage := report["storage"]:
        kind = "packed file" if "file" in report else "packed file it makes"
        rows = [[part if part != "total" else kind, f"{size:,}", f"{size / storage['total']:.1%}"]
                for part, size in storage.items()]
        bits = 8 * storage["total"] / report["parameters"]
        sections.append(table([["kind", "bytes", "share"], *rows], [1, 2]) + f"\n{bits:.2f} bits per parameter")
    if "runtime" in report:
        sections.append(_runtime(report["runtime"]))
    if "run" in report:
        sections.append(f"training kernels: {report['training_kernels']}")
        sections.append("progress\n" + _fields(report["progress"]))
        sections.append("training\n" + _fields(report["training"]))
        files = [[file, f"{size:,}"] for file, size in report["files"].items()]
        sections.append(table([["files", "bytes"], *files], [1]))
    return "\n\n".join(sections)


def _runtime(runtime: Report) -> str:
    from ghost_ref.runtime import describe_level

    lines = [describe_level(runtime), f"threads: {runtime['threads']} (this machine has {runtime['cpus']} CPUs)"]
    if runtime["model_bytes"] is not None:
        lines.append(f"memory: {runtime['model_bytes']:,} bytes, and {runtime['state_bytes']:,} for each state")
    return "\n".join(lines)


def _fields(values: dict[str, Any]) -> str:
    return table([[f"  {name}", str(value)] for name, value in values.items()])
