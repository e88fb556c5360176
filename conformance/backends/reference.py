"""The NumPy reference in float32: the definition, itself judged against float64."""

from __future__ import annotations

from conformance.arithmetic import BINARY32
from conformance.backend import Absence, Backend
from conformance.case import Arrays, Case, Component, run_reference
from conformance.results import BackendInfo


class ReferenceBackend:
    """ghost_ref.ops as they are."""

    info = BackendInfo("reference", "NumPy float32, the definition (judged against float64)")
    arithmetic = BINARY32
    exact = False

    def absence(self, component: Component, case: Case) -> Absence | None:
        return None

    def run(self, component: Component, case: Case) -> Arrays:
        return run_reference(component, case, lambda x: x)


def backends() -> list[Backend | BackendInfo]:
    return [ReferenceBackend()]
