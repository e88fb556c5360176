"""Backends made of forward/backward pairs with the reference's signatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from conformance.arithmetic import Arithmetic
from conformance.backend import Absence
from conformance.case import BACKWARD, Arrays, Case, Component, named_outputs
from conformance.results import BackendInfo

Pair = tuple[Callable, Callable | None]
"""forward and backward; None where the component has no gradient."""


class PairBackend:
    """pairs: {component: (forward, backward)} on NumPy arrays, `forward(*arrays, **statics) -> (out, saved)`."""

    exact = False

    def __init__(self, info: BackendInfo, arithmetic: Arithmetic, pairs: Mapping[str, Pair],
                 scope: str) -> None:
        self.info, self.arithmetic, self.pairs, self.scope = info, arithmetic, pairs, scope

    def absence(self, component: Component, case: Case) -> Absence | None:
        return None if component.name in self.pairs else Absence(self.scope)

    def run(self, component: Component, case: Case) -> Arrays:
        forward, backward = self.pairs[component.name]
        arrays = [case.arguments.get(name) for name in component.arguments]
        with np.errstate(all="ignore"):
            out, saved = forward(*arrays, **case.statics)
            if case.direction != BACKWARD:
                return named_outputs(component, out)
            douts = tuple(case.cotangents[o] for o in component.outputs[: component.differentiable])
            assert backward is not None
            grads = backward(douts[0] if len(douts) == 1 else douts, saved)
        by_argument = dict(zip(component.arguments, grads, strict=False))
        return {f"d {name}": by_argument[name] for name in component.gradients}
