"""The command `ghost`. A verb's module is imported only when it is used, so `ghost --help` answers at once."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from ghost_ref import __version__
from ghost_ref.errors import GhostError

VERBS = {
    "train": "train a model on question-answer pairs or on text",
    "pack": "turn a training run into one small model file",
    "run": "ask a model, once or in a session",
    "eval": "measure a model on data",
    "verify": "prove that the C++ runtime, or every backend, computes what the reference does",
    "bench": "measure speed and memory",
    "info": "show what a model file or a training run holds",
    "memory": "teach a model facts at once, without training",
}
"""Every verb, with its module's name in this package, and what it does."""

OK, DIFFERENT, USER_ERROR, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 done, 1 `verify` found a difference, 2 bad input (one sentence on stderr), 130 after Ctrl-C, 141 when the reader
    of the output has gone."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # text that the terminal's encoding lacks must not end the program
            stream.reconfigure(errors="replace")
    return exit_code(lambda: _dispatch(arguments))


def exit_code(command: Callable[[], int]) -> int:
    """What a command returns; for what it raises, an exit code as in `main` and at most one sentence on stderr."""
    if sys.stdout is None:  # the caller has closed it
        return _complain("Standard output is closed; redirect it to a file or to /dev/null.", USER_ERROR)
    try:
        code = command()
        sys.stdout.flush()
        return code
    except SystemExit as exit:  # argparse, after --help or a bad argument
        return exit.code if isinstance(exit.code, int) else USER_ERROR
    except KeyboardInterrupt:
        return _complain("interrupted.", INTERRUPTED)
    except BrokenPipeError:
        _close_stdout()
        return BROKEN_PIPE
    except GhostError as error:
        return _complain(str(error), USER_ERROR)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _close_stdout()
        return _complain(explain_system_error(error), USER_ERROR)
    except MemoryError:
        return _complain("There is not enough memory; use a smaller model, batch_size or seq_len.", USER_ERROR)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return OK
    if arguments[0] in ("-V", "--version"):
        print(f"ghost {__version__}")
        return OK
    if arguments[0] not in VERBS:
        raise GhostError(f"There is no verb {arguments[0]!r}; the verbs are: {', '.join(VERBS)}.")
    module = importlib.import_module(f"ghost_ref.cli.{arguments[0]}")
    return module.main(arguments[1:])


def overview() -> str:
    """The text of `ghost --help`."""
    verbs = "\n".join(f"  {name:<8} {summary}" for name, summary in VERBS.items())
    return f"""usage: ghost VERB ...

Tiny byte-level ternary state-space language models: train, pack, run, verify.

verbs:
{verbs}

options:
  -h, --help     show this help; `ghost VERB --help` shows a verb's flags and examples
  -V, --version  show the version

examples:
  ghost train --preset tiny --data qa20 --out runs/qa20
  ghost pack runs/qa20 -o qa20.ghost
  ghost run qa20.ghost "list pods"
  ghost verify qa20.ghost"""


def explain_system_error(error: OSError) -> str:
    """One sentence for a system call that failed outside the places that explain it themselves."""
    reasons = {errno.ENOSPC: "no space is left on the disk; free some and try again",
               errno.EACCES: "there is no permission; change it or choose another path",
               errno.EPERM: "there is no permission; change it or choose another path"}
    reason = reasons.get(error.errno or 0, error.strerror or str(error) or type(error).__name__)
    return f"{error.filename}: {reason}." if error.filename else f"The operating system reports: {reason}."


def _complain(sentence: str, code: int) -> int:
    if sys.stderr is not None:  # print() would take standard output instead
        print(f"ghost: {sentence}", file=sys.stderr)
    return code


def _close_stdout() -> None:
    """Let what is still buffered for a reader that has gone vanish, so that Python does not complain at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a file
        pass
