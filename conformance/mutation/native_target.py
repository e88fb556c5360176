"""Faults in the native core: the patched module is judged in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

from conformance.backend import Backend
from conformance.mutation.judging import Judgements, broken, outcomes
from conformance.mutation.native_build import Builder
from conformance.mutation.operator import ROOT, Operator
from conformance.mutation.outcome import Outcome
from ghost_ref.errors import GhostError

LEVELS = ("native-scalar", "native-avx2", "native-avxvnni", "native-avx512vnni", "native-neon")
"""The backends judged: the one that every machine has, and those with matrix products of their own."""
LONGEST = 600  # seconds that one fault may take
builder = cache(Builder)

# pybind11 gives a module of one name once per process, so the faulty one must come before anything imports the other.
PROGRAM = """
import importlib.util, sys
path, seed = sys.argv[1:]
spec = importlib.util.spec_from_file_location("ghost_ref._native", path)
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from conformance.mutation.native_target import judge_installed
judge_installed(path, int(seed))
"""


def judge_native(operator: Operator, judgements: Judgements) -> list[Outcome]:
    """Build the core with the fault, and judge it."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            module = builder().build(operator, Path(directory))
        except GhostError as error:
            return [broken("native", operator, c, str(error)) for c in operator.components]
        command = [sys.executable, "-c", PROGRAM, str(module), str(judgements.seed)]
        done = subprocess.run(command, input=json.dumps(asdict(operator)), capture_output=True, text=True,
                              check=False, timeout=LONGEST, cwd=ROOT)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        reason = f"the judging process ended with {done.returncode}: {last}"
        return [broken("native", operator, c, reason) for c in operator.components]
    return [Outcome(**o) for o in json.loads(done.stdout)]


def judge_installed(path: str, seed: int) -> None:
    """In the judging process: read the operator, judge the runtime, write its outcomes."""
    from conformance.backends import native
    from ghost_ref import _native

    assert _native.__file__ == path, f"{_native.__file__} is judged instead"
    data = json.load(sys.stdin)
    operator = Operator(**{**data, "components": tuple(data["components"])})
    backends = [b for b in native.backends() if isinstance(b, Backend) and b.info.name in LEVELS]
    json.dump([asdict(o) for o in outcomes("native", operator, backends, Judgements(seed))], sys.stdout)
