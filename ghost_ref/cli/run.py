"""`ghost run`: answers, once or in a session."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ghost_ref.cli.flags import Parser, add_fields, add_threads, config_from_flags, prompt_bytes
from ghost_ref.config import SamplingConfig
from ghost_ref.errors import GhostError

DESCRIPTION = """Ask a packed model. Without PROMPT every line of the input is a question: an interactive session on a
terminal (/help shows its commands), one answer a line otherwise. By default greedy."""
EXAMPLES = (
    'ghost run qa20.ghost "list pods"',
    "ghost run qa20.ghost                                  # a session",
    "ghost run qa20.ghost < questions.txt",
    'ghost run play.ghost "To be" --raw --stream --temp 0.8 --top-p 0.95 --seed 1',
)
SAMPLING = ("max_bytes", "temp", "top_k", "top_p", "min_p", "seed")


def main(argv: Sequence[str]) -> int:
    parser = Parser("run", DESCRIPTION, EXAMPLES)
    parser.add_argument("file", metavar="FILE.ghost")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="the question; without it, a session")
    add_fields(parser, SamplingConfig, SAMPLING)
    add_threads(parser)
    parser.add_argument("--stream", action="store_true", help="print while the answer is being made")
    parser.add_argument("--raw", action="store_true", help="continue PROMPT as plain text instead of answering it")
    args = parser.parse(argv)
    sampling = config_from_flags(args, SamplingConfig, SAMPLING)
    from ghost_ref.cli.session import Session, print_answer
    from ghost_ref.runtime import load

    model = load(args.file, threads=args.threads)
    if args.prompt is not None:
        print_answer(model, prompt_bytes(args.prompt), sampling, raw=args.raw, stream=args.stream)
        return 0
    if sys.stdin is None:  # the caller has closed it
        raise GhostError("Standard input is closed; give a PROMPT, or lines on standard input.")
    session = Session(model, sampling, raw=args.raw, stream=args.stream)
    return session.interact() if sys.stdin.isatty() else session.read(sys.stdin.buffer)
