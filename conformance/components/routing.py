"""Which tokens a layer processes, and their way out and back."""

from __future__ import annotations

from conformance.case import Component

COMPONENTS: tuple[Component, ...] = ()
