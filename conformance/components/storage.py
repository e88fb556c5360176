"""From parameters to stored weights: trits, indices, int8 rows, float16."""

from __future__ import annotations

from conformance.case import Component

COMPONENTS: tuple[Component, ...] = ()
