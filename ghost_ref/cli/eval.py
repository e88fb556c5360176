"""`ghost eval`: nats per byte on text, exact answers on pairs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ghost_ref.cli.flags import Parser, add_json, add_threads, require_mlx
from ghost_ref.cli.output import Report, print_report, progress, table
from ghost_ref.errors import GhostError

if TYPE_CHECKING:
    from ghost_ref.runtime import Model

DESCRIPTION = """Measure a packed model. The protocols:
  p256     text in consecutive windows of 256 bytes, zero state
  ps       text as one stream, state carried, no updates
  answers  greedy answers to questions, compared byte by byte"""
EXAMPLES = ("ghost eval qa20.ghost --data qa20",
            "ghost eval qa20.ghost --data qa20_perturbed --memory qa20.ghost.memory",
            "ghost eval play.ghost --data validation.txt --protocol ps --json")
PROTOCOLS = {"text": ("p256", "ps"), "pairs": ("answers",)}
"""The protocols for each kind of data, the default first."""


def main(argv: Sequence[str]) -> int:
    parser = Parser("eval", DESCRIPTION, EXAMPLES)
    parser.add_argument("file", metavar="FILE.ghost")
    parser.add_argument("--data", required=True, metavar="FILE|SET", help="a shipped set, a .jsonl or a .txt file")
    parser.add_argument("--protocol", choices=("p256", "ps", "answers"),
                        help="default: p256 for text, answers for pairs")
    parser.add_argument("--memory", metavar="BANK", help="answer with this memory bank (made by `ghost memory`)")
    parser.add_argument("--backend", choices=("auto", "native", "reference", "mlx"), default="auto",
                        help="what computes (default: the C++ runtime where it is installed)")
    add_threads(parser)
    add_json(parser)
    args = parser.parse(argv)
    report = _evaluate(args)
    print_report(report, args.json, _text)
    return 0


def _load(file: str, backend: Literal["auto", "native", "reference", "mlx"], threads: int) -> Model:
    """The model on a backend. Raises GhostError on a bad file or without MLX."""
    from ghost_ref.runtime import load

    if backend != "mlx":
        return load(file, backend=backend, threads=threads)
    require_mlx("--backend mlx")
    from mlx_backend.evaluation import load_model

    return load_model(file)


def _evaluate(args: Namespace) -> Report:
    from ghost_ref.data import load_dataset
    from ghost_ref.evaluate import evaluate_answers, evaluate_text
    from ghost_ref.memory_bank import MemoryBank

    file, data, memory = args.file, args.data, args.memory
    dataset = load_dataset(data)
    protocol = args.protocol or PROTOCOLS[dataset.kind][0]
    if protocol not in PROTOCOLS[dataset.kind]:
        raise GhostError(f"{data} holds {dataset.kind}, for which the protocol {protocol} does not exist; use "
                         f"{' or '.join(PROTOCOLS[dataset.kind])}.")
    if memory and dataset.kind != "pairs":
        raise GhostError("--memory answers questions; it needs --data with pairs.")
    model = _load(file, args.backend, args.threads)
    bank = MemoryBank.load(memory, model) if memory else None
    with progress("evaluating") as on_progress:
        if dataset.kind == "pairs":
            result = evaluate_answers(model, dataset.pairs, bank, on_progress=on_progress)
        else:
            result = evaluate_text(model, dataset.text, protocol, on_progress=on_progress)
    return {"file": file, "data": data, "memory": memory, **result}


def _text(report: Report) -> str:
    if report["protocol"] != "answers":
        nats, bits = f"{report['nats_per_byte']:.4f} nats per byte", f"{report['bits_per_byte']:.4f} bits per byte"
        return f"{report['protocol']}: {nats}, {bits}, over {report['bytes']:,} bytes of {report['data']}"
    rows = [_row("all", report)] + [_row(kind, share) for kind, share in report.get("kinds", {}).items()]
    wrong = [f"wrong: {item['prompt']!r} -> {item['given']!r}, expected {item['expected']!r}"
             for item in report["wrong"]]
    with_bank = f" with {report['memory']}" if report["memory"] else ""
    return "\n".join([f"answers to {report['data']}{with_bank}", table(rows, [1, 2]), *wrong])


def _row(name: str, share: Report) -> list[str]:
    low, high = share["wilson95"]
    return [name, f"{share['right']} of {share['items']}", f"{share['share']:.1%}",
            f"95 % interval {low:.1%} to {high:.1%}"]
