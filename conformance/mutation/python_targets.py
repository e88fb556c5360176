"""Faults in Python code: the NumPy reference and the MLX ops, each loaded as a patched copy."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace

from conformance.arithmetic import BINARY32
from conformance.backend import Absence, Backend
from conformance.case import Arrays, Case, Component, run_reference
from conformance.mutation.judging import Judgements, broken, outcomes
from conformance.mutation.operator import Operator
from conformance.mutation.outcome import Outcome
from conformance.mutation.patched_import import PatchedCopy, patched_copy
from conformance.results import BackendInfo

NUMPY_PACKAGES = ("ghost_ref", "conformance.components")
MLX_PACKAGES = ("mlx_backend", "conformance.backends")


class FaultyReference:
    """The NumPy reference with a fault, in float32."""

    info = BackendInfo("faulty reference", "NumPy float32 with one fault")
    arithmetic = BINARY32

    def __init__(self, copy: PatchedCopy, exact: bool) -> None:
        self.copy, self.exact = copy, exact

    def absence(self, component: Component, direction: str) -> Absence | None:
        return None

    def run(self, component: Component, case: Case) -> Arrays:
        module, _, function = component.function.partition(":")
        return run_reference(replace(component, function=f"{self.copy.name_of(module)}:{function}"), case, lambda x: x)


def judge_numpy(operator: Operator, judgements: Judgements) -> list[Outcome]:
    """Plant the fault in the reference; the truth stays the clean one's."""
    with patched_copy(operator, NUMPY_PACKAGES) as copy:
        return outcomes("numpy", operator, [FaultyReference(copy, operator.bits)], judgements)


def judge_mlx(operator: Operator, judgements: Judgements) -> list[Outcome]:
    """Plant the fault in the MLX ops or the kernel bodies."""
    with patched_copy(operator, MLX_PACKAGES) as copy:
        backends = mlx_backends(copy)
        if not backends:
            return [broken("mlx", operator, c, "no MLX backend runs here") for c in operator.components]
        return outcomes("mlx", operator, backends, judgements)


def mlx_backends(copy: PatchedCopy) -> Sequence[Backend]:
    """The adapters over the copy that can run here."""
    made = importlib.import_module(copy.name_of("conformance.backends.mlx")).backends()
    return [b for b in made if isinstance(b, Backend)]
