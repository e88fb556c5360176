"""What the kit asks of a backend, and how it finds them.

A backend computes components from named arrays. Third parties register theirs under the entry-point group
`ghost.conformance_backends`; the entry point loads a function that returns a list of Backend objects.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from conformance.arithmetic import Arithmetic
from conformance.case import Arrays, Case, Component
from conformance.results import BackendInfo
from ghost_ref.errors import GhostError

GROUP = "ghost.conformance_backends"
OWN = ("reference", "cython", "native", "emulated", "kernel_bodies", "mlx", "torch")
"""Modules of conformance.backends, each with `backends() -> list[Backend | BackendInfo]`."""


@dataclass(frozen=True)
class Absence:
    """Why a backend does not run a component. applicable False: it has no such component by design ("n/a"); True: it
    has, but it cannot run here (NOT RUN)."""

    reason: str
    applicable: bool = False


@runtime_checkable
class Backend(Protocol):
    """One column of the matrix.

    exact: canonical components must equal the reference bit by bit; the others, and all components of a backend with
    exact False, are judged by the error bounds of `arithmetic`."""

    info: BackendInfo
    arithmetic: Arithmetic
    exact: bool

    def absence(self, component: Component, case: Case) -> Absence | None:
        """Why this case is not run here, None if it is."""
        ...

    def run(self, component: Component, case: Case) -> Arrays:
        """The case's outputs by name; of a backward case the gradients, named "d argument"."""
        ...


def discover(names: list[str] | None = None) -> tuple[list[Backend], list[BackendInfo]]:
    """The backends that can run here, and those that cannot, with their reasons. names: only these.

    GhostError if a name is unknown or a plug-in does not load."""
    found: list[Backend | BackendInfo] = []
    for module in OWN:
        found += importlib.import_module(f"conformance.backends.{module}").backends()
    for point in entry_points(group=GROUP):
        found += _load(point)
    names_found = [(b.info if isinstance(b, Backend) else b).name for b in found]
    if twice := [name for name in names_found if names_found.count(name) > 1]:
        raise GhostError(f"Two backends are named {twice[0]!r}; a plug-in needs a name of its own.")
    infos = dict(zip(names_found, found, strict=True))
    if unknown := [name for name in names or [] if name not in infos]:
        raise GhostError(f"There is no backend {unknown[0]!r}; the backends are: {', '.join(infos)}.")
    chosen = [b for name, b in infos.items() if names is None or name in names]
    return [b for b in chosen if isinstance(b, Backend)], [b for b in chosen if isinstance(b, BackendInfo)]


def _load(point) -> list[Backend | BackendInfo]:
    try:
        made = list(point.load()())
    except Exception as error:  # a third party's code: whatever it raises is the user's to see
        raise GhostError(f"The conformance plug-in {point.name!r} ({point.value}) does not load: {error}") from error
    for backend in made:
        if not isinstance(backend, (Backend, BackendInfo)):
            raise GhostError(f"The conformance plug-in {point.name!r} gave {type(backend).__name__}, which has not the "
                             "attributes of conformance.backend.Backend.")
    return made
