"""`ghost memory`: one-shot learning with a bank file beside the model."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_ref.cli.flags import Parser, add_fields, add_json, config_from_flags, prompt_bytes
from ghost_ref.cli.output import Report, print_report, table, text_of
from ghost_ref.config import SamplingConfig
from ghost_ref.errors import GhostError

if TYPE_CHECKING:
    from argparse import Namespace

    from ghost_ref.memory_bank import MemoryBank, Recall
    from ghost_ref.runtime import Model

DESCRIPTION = """Teach a packed model facts at once, without training, in a bank file beside it (FILE.ghost.memory).
  add     store a completion for a prompt, or all pairs of --data; the same prompt replaces its entry
  ask     answer from the nearest entry, or by the model alone if none is near
  list    show the entries
  forget  remove an entry
`ghost memory FILE.ghost ACTION --help` shows the flags of an action."""
EXAMPLES = (
    'ghost memory qa20.ghost add "restart nginx" "systemctl restart nginx"',
    "ghost memory qa20.ghost add --data qa20",
    'ghost memory qa20.ghost ask "restart ngnix"',
    "ghost memory qa20.ghost list --json",
    'ghost memory qa20.ghost forget "restart nginx"',
    "ghost memory qa20.ghost forget --index 3 --bank other.memory",
)
SUFFIX = ".memory"
SAMPLING = ("max_bytes", "temp", "top_k", "top_p", "min_p", "seed")


def main(argv: Sequence[str]) -> int:
    overview = Parser("memory", DESCRIPTION, EXAMPLES)
    overview.add_argument("file", metavar="FILE.ghost")
    overview.add_argument("action", choices=tuple(ACTIONS))
    overview.usage = f"ghost memory FILE.ghost {{{','.join(ACTIONS)}}} ..."
    file, action = (args := overview.parse(argv[:2])).file, args.action
    add_flags, act = ACTIONS[action]
    parser = Parser(f"memory FILE.ghost {action}", DESCRIPTION, EXAMPLES)
    add_flags(parser)
    parser.add_argument("--bank", metavar="BANK", help=f"the bank file (default FILE.ghost{SUFFIX})")
    add_json(parser)
    args = parser.parse(argv[2:])
    bank = Path(args.bank or f"{file}{SUFFIX}")
    with _alone(bank):
        report, text = act(args, file, bank)
    print_report({"file": file, "bank": str(bank), **report}, args.json, text)
    return 0


@contextmanager
def _alone(bank: Path) -> Iterator[None]:
    """Hold the bank's directory from reading the bank to writing it, so that calls side by side lose no entry."""
    directory = -1
    with suppress(OSError):  # a missing directory is explained by the write; where locks do not exist, go without
        directory = os.open(bank.parent, os.O_RDONLY)
        fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if directory >= 0:
            os.close(directory)


def _open(file: str, bank: Path, must_exist: bool = True) -> tuple[Model, MemoryBank]:
    from ghost_ref.memory_bank import MemoryBank
    from ghost_ref.runtime import load

    model = load(file)
    if os.path.lexists(bank):
        return model, MemoryBank.load(bank, model)
    if must_exist:
        raise GhostError(f"There is no memory bank {bank}; make it with `ghost memory {file} add PROMPT COMPLETION`.")
    return model, MemoryBank.for_model(model)


Outcome = tuple[Report, Callable[[Report], str]]


def _add_flags(parser: Parser) -> None:
    parser.add_argument("prompt", nargs="?", metavar="PROMPT")
    parser.add_argument("completion", nargs="?", metavar="COMPLETION")
    parser.add_argument("--data", metavar="FILE|SET", help="add all pairs of this data")
    parser.add_argument("--importance", type=float, default=1.0, help="a full bank drops the least (default 1)")


def _add(args: Namespace, file: str, bank_path: Path) -> Outcome:
    from ghost_ref.data import load_dataset
    from ghost_ref.memory_bank import remember

    if (args.data is None) == (args.completion is None) or (args.data and args.prompt):
        raise GhostError("ghost memory add needs either PROMPT and COMPLETION, or --data.")
    if not 0 <= args.importance < float("inf"):
        raise GhostError(f"--importance must be finite and not negative, got {args.importance}.")
    pairs: list[tuple[str | bytes, str | bytes]]
    if args.data:
        dataset = load_dataset(args.data)
        if not dataset.pairs:
            raise GhostError(f"{args.data} holds text; a memory bank is filled with prompts and completions (.jsonl).")
        pairs = [(pair.prompt, pair.completion) for pair in dataset.pairs]
    else:
        pairs = [(prompt_bytes(args.prompt), prompt_bytes(args.completion))]
    model, bank = _open(file, bank_path, must_exist=False)
    slots = [remember(model, bank, prompt, completion, args.importance) for prompt, completion in pairs]
    bank.save(bank_path)
    report = {"added": len(pairs), "slots": slots, "entries": len(bank), "capacity": bank.config.memory_capacity}
    return report, lambda r: f"{r['added']} added; {r['bank']} holds {r['entries']} of at most {r['capacity']} entries."


def _ask_flags(parser: Parser) -> None:
    from ghost_ref.memory_bank import DEFAULT_MIN_SIMILARITY

    parser.add_argument("prompt", metavar="PROMPT")
    parser.add_argument("--min-similarity", type=float, default=DEFAULT_MIN_SIMILARITY, metavar="COSINE",
                        help=f"trust an entry from this cosine on (default {DEFAULT_MIN_SIMILARITY})")
    add_fields(parser, SamplingConfig, SAMPLING)


def _ask(args: Namespace, file: str, bank_path: Path) -> Outcome:
    from ghost_ref.memory_bank import answer

    if not abs(args.min_similarity) < float("inf"):
        raise GhostError(f"--min-similarity must be finite, got {args.min_similarity}.")
    sampling = config_from_flags(args, SamplingConfig, SAMPLING)
    model, bank = _open(file, bank_path)
    text, entry = answer(model, bank, prompt_bytes(args.prompt), sampling, args.min_similarity)
    if entry:
        bank.save(bank_path)  # it counts the use
    return {"answer": text, "from_memory": entry is not None, "entry": _plain(entry) if entry else None}, \
        lambda r: r["answer"]


def _list_flags(parser: Parser) -> None:
    """`list` has no flags of its own."""


def _list(args: Namespace, file: str, bank_path: Path) -> Outcome:
    _, bank = _open(file, bank_path)
    return {"capacity": bank.config.memory_capacity, "entries": [_plain(entry) for entry in bank.list()]}, _list_text


def _list_text(report: Report) -> str:
    rows = [["index", "importance", "age", "uses", "prompt", "completion"]]
    for entry in report["entries"]:
        rows.append([str(entry["index"]), f"{entry['importance']:.3f}", str(entry["age"]), str(entry["uses"]),
                     text_of(entry["prompt"].encode()), text_of(entry["completion"].encode())])
    return f"{table(rows, range(4))}\n{len(report['entries'])} of at most {report['capacity']} entries"


def _forget_flags(parser: Parser) -> None:
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="the prompt of the entry, exactly")
    parser.add_argument("--index", type=int, metavar="N", help="the entry's index in `list`")
    parser.add_argument("--all", action="store_true", help="every entry")


def _forget(args: Namespace, file: str, bank_path: Path) -> Outcome:
    if (args.prompt is not None) + (args.index is not None) + args.all != 1:
        raise GhostError("ghost memory forget needs one of PROMPT, --index N or --all.")
    from ghost_ref.data import encode_prompt

    _, bank = _open(file, bank_path)
    before = len(bank)
    if args.index is not None:
        bank.forget(args.index)
    elif args.all:
        for index in reversed(range(before)):
            bank.forget(index)
    elif not bank.forget_matching(encode_prompt(prompt_bytes(args.prompt))):
        raise GhostError(f"No entry of {bank_path} has the prompt {args.prompt!r}; see `ghost memory {file} list`.")
    bank.save(bank_path)
    return {"forgotten": before - len(bank), "entries": len(bank)}, \
        lambda r: f"{r['forgotten']} forgotten; {r['bank']} holds {r['entries']} entries."


def _plain(entry: Recall) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in ("index", "similarity", "importance", "age", "uses")}
    return {**values, "prompt": entry.prompt.decode("utf-8", "replace"),
            "completion": entry.completion.decode("utf-8", "replace")}


ACTIONS: dict[str, tuple[Callable[[Parser], None], Callable[[Any, str, Path], Outcome]]] = {
    "add": (_add_flags, _add), "ask": (_ask_flags, _ask), "list": (_list_flags, _list),
    "forget": (_forget_flags, _forget)}
"""Each action: its flags, and what it does."""
