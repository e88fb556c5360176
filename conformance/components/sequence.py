"""What runs along time: convolution, scan, attention."""

from __future__ import annotations

from conformance.case import Component

COMPONENTS: tuple[Component, ...] = ()
