"""The packed file."""

from __future__ import annotations

from conformance.case import Component

COMPONENTS: tuple[Component, ...] = ()
