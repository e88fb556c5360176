"""Components and cases: what is computed, from which arrays; the same for every backend."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conformance.arithmetic import plain

Arrays = dict[str, Any]
FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True)
class Case:
    """One computation. arguments: arrays by name (None: left out), float32 where inexact, anything else discrete and
    exact; statics: keyword settings; cotangents: the outputs' gradients, by output, of a backward case.

    statistical: the errors of its elements are of one kind, so their spread and mean are judged too; else (adversarial
    inputs: special values, cancellation, extreme scales) only the hard bound."""

    component: str
    label: str
    direction: str
    arguments: Arrays
    statics: Arrays = field(default_factory=dict)
    cotangents: Arrays = field(default_factory=dict)
    statistical: bool = True

    @property
    def name(self) -> str:
        """Unique within its component."""
        return f"{self.direction}/{self.label}"


Maker = Callable[[np.random.Generator, bool], Iterable[Case]]


@dataclass(frozen=True)
class Component:
    """A row of the matrix: an op of the reference, its arrays in order, and how to make its cases.

    function: "module:name" of the pair name_forward / name_backward, or of a plain function. outputs: names in order;
    a dict among them contributes "name.key" entries. differentiable: how many outputs carry a gradient. gradients:
    arguments whose gradient the backward pass gives. canonical: pinned to the bit in the reference and the runtime
    (docs/semantics.md). decisions: discrete outputs; `undecided(case, arithmetic)` gives per such output the mask of
    elements whose margin is below the error bound, where either decision is right. exact_arguments: arrays and
    statics whose float32 numbers are exact (integers, masks, forced decisions). composite: so many steps that running
    error bounds say nothing: bounds come from Monte-Carlo arithmetic instead. make(rng, extensive) -> cases."""

    name: str
    function: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    make: Maker
    differentiable: int = 1
    gradients: tuple[str, ...] = ()
    canonical: bool = True
    decisions: tuple[str, ...] = ()
    undecided: Callable[..., Mapping[str, np.ndarray]] | None = None
    exact_arguments: tuple[str, ...] = ()
    composite: bool = False

    def cases(self, seed: int, extensive: bool = False) -> Iterator[Case]:
        """The cases of one seed; every one has its own name."""
        rng = np.random.default_rng((seed, *self.name.encode()))
        yield from self.make(rng, extensive)


def run_reference(component: Component, case: Case, wrap: Callable[[np.ndarray], Any]) -> Arrays:
    """The reference's own code on wrapped inexact arrays -> outputs (or gradients "d argument") by name."""
    module, _, name = component.function.partition(":")
    found = importlib.import_module(module)

    def wrapped(x: Any, exact: bool = False) -> Any:
        if isinstance(x, dict):
            return {k: wrapped(v, exact) for k, v in x.items()}
        if isinstance(x, tuple):
            return tuple(wrapped(v, exact) for v in x)
        if not (isinstance(x, np.ndarray) and x.dtype == np.float32):
            return x
        return plain(wrap(x)) if exact else wrap(x)

    arrays = [wrapped(case.arguments.get(a), a in component.exact_arguments) for a in component.arguments]
    statics = {k: wrapped(v, k in component.exact_arguments) for k, v in case.statics.items()}
    forward = getattr(found, f"{name}_forward", None)
    with np.errstate(all="ignore"):
        if forward is None:
            return named_outputs(component, getattr(found, name)(*arrays, **statics))
        out, saved = forward(*arrays, **statics)
        if case.direction == FORWARD:
            return named_outputs(component, out)
        douts = tuple(wrapped(case.cotangents.get(o)) for o in component.outputs[: component.differentiable])
        grads = getattr(found, f"{name}_backward")(douts[0] if len(douts) == 1 else douts, saved)
        by_argument = dict(zip(component.arguments, grads, strict=False))
        return {f"d {argument}": by_argument[argument] for argument in component.gradients}


def named_outputs(component: Component, out: Any) -> Arrays:
    """What an op returned, by output name; dicts are flattened, None is left out."""
    values = out if isinstance(out, tuple) else (out,)
    named: Arrays = {}
    for name, value in zip(component.outputs, values, strict=False):
        if isinstance(value, dict):
            named |= {f"{name}.{k}": v for k, v in value.items()}
        elif value is not None:
            named[name] = value
    return named
