"""Faults in Python code: the NumPy reference, the trainer's linear layers and the MLX ops, each loaded as a patched
copy."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace

from conformance.arithmetic import BINARY32
from conformance.backend import Absence, Backend
from conformance.case import Arrays, Case, Component, run_reference
from conformance.mutation.judging import Judgements, broken, outcomes
from conformance.mutation.operator import Operator
from conformance.mutation.outcome import Outcome
from conformance.mutation.patched_import import PatchedCopy, patched_copy
from conformance.results import BackendInfo

NUMPY_PACKAGES = ("ghost_ref", "conformance.components", "conformance.decisions")
MLX_PACKAGES = ("mlx_backend", "conformance.backends")
LAZY = ("mlx_backend.numerics", "mlx_backend.ops")
"""Modules that mlx_backend would otherwise look up by their clean names."""
MLX_COLUMNS = ("mlx-cpu", "kernel-bodies")


TRAINING_PACKAGES = ("ghost_ref.training_linear", "conformance.backends")


class FaultyReference:
    """The NumPy reference with a fault, in float32."""

    info = BackendInfo("faulty reference", "NumPy float32 with one fault")
    arithmetic = BINARY32

    def __init__(self, copy: PatchedCopy, exact: bool) -> None:
        self.copy, self.exact = copy, exact

    def absence(self, component: Component, case: Case) -> Absence | None:
        return None

    def run(self, component: Component, case: Case) -> Arrays:
        module, _, function = component.function.partition(":")
        return run_reference(replace(component, function=f"{self.copy.name_of(module)}:{function}"), case, lambda x: x)


def judge_numpy(operator: Operator, judgements: Judgements) -> list[Outcome]:
    """Plant the fault in the reference; the truth stays the clean one's."""
    with patched_copy(operator, NUMPY_PACKAGES) as copy:
        return outcomes("numpy", operator, [FaultyReference(copy, operator.bits)], judgements)


def judge_training(operator: Operator, judgements: Judgements) -> list[Outcome]:
    """Plant the fault in the NumPy trainer's linear layers, above its compiled kernels."""
    with patched_copy(operator, TRAINING_PACKAGES) as copy:
        made = importlib.import_module(copy.name_of("conformance.backends.cython")).backends()
        backends = [b for b in made if isinstance(b, Backend)]
        if not backends:
            return [broken("training", operator, c, made[0].reason) for c in operator.components]
        return outcomes("training", operator, backends, judgements)


def judge_mlx(operator: Operator, judgements: Judgements) -> list[Outcome]:
    """Plant the fault in the MLX ops, or in the bodies of the kernels as they are compiled as C++."""
    adapter = "kernel_bodies" if operator.file.startswith("mlx_backend/kernels/") else "mlx"
    with patched_copy(operator, MLX_PACKAGES) as copy:
        if importlib.util.find_spec("mlx") is not None:
            try:
                for module in LAZY:
                    importlib.import_module(copy.name_of(module))
            except Exception as error:  # whatever the faulty module raises
                return [broken("mlx", operator, c, f"{type(error).__name__}: {error}") for c in operator.components]
        made = importlib.import_module(copy.name_of(f"conformance.backends.{adapter}")).backends()
        backends = [b for b in made if isinstance(b, Backend) and b.info.name in MLX_COLUMNS]
        if not backends:
            return [broken("mlx", operator, c, made[0].reason) for c in operator.components]
        return outcomes("mlx", operator, backends, judgements)
