"""Discrete decisions of a whole model: recorded in one run, forced upon others, and compared by the margin rule.

`Deciding` lays itself over an op vocabulary. It notes every decision in the order of the calls (codes of activations,
masks of routers, trits, indices and int8 rows of parameters), and where it is given the decisions of another run, the
model goes on with those, so that all the rest is continuous. A decision that differs is right only where the
quantity that decides lies nearer to its threshold than its error bound: `Margins` and `undecided` find where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from conformance.arithmetic import Arithmetic, RunningError, Tracked, plain
from conformance.components.margins import near, near_ties
from conformance.tolerance import PEAK, ROOM
from ghost_ref import ops as reference
from ghost_ref.ops.linear import quantise_activations
from ghost_ref.ops.ternary import _threshold as threshold_of
from ghost_ref.ops.ternary import group_sums

Array = np.ndarray
Decisions = dict[str, Array]


def reference_codes(x: Any) -> Any:
    """The codes of the reference."""
    return quantise_activations(x)[0]


class Deciding:
    """The vocabulary `base` with its decisions noted in `own` and, where `forced` has them, replaced; ValueError where
    the model takes another course than the recorded one.

    codes(x): how the base rounds activations. array: from a NumPy array to the base's own kind. A forced array may have
    fewer tokens than the base's stream, whose form keeps skipped tokens at the end: those are filled with zeros,
    and left out of `own`."""

    def __init__(self, base: Any = reference, codes: Callable[[Any], Any] = reference_codes,
                 array: Callable[[Array], Any] = lambda x: x, forced: Mapping[str, Array] | None = None) -> None:
        self.base, self.codes, self.array, self.forced = base, codes, array, forced
        self.own: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def decide(self, kind: str, own: Any, *quantities: Any) -> Any:
        """Note a decision; the forced one, or the own one where nothing is forced. quantities: what it depends on."""
        name = f"{len(self.own):03} {kind}"
        if self.forced is None:
            self.own[name] = own
            return own
        given = self.forced.get(name)
        if given is None or given.ndim != len(own.shape) or any(n < m for n, m in zip(own.shape, given.shape)):
            raise ValueError(f"decision {name!r} of shape {tuple(own.shape)} is not one of the recorded run")
        self.own[name] = plain(own)[tuple(slice(n) for n in given.shape)]
        missing = [(0, n - m) for n, m in zip(own.shape, given.shape, strict=True)]
        given = np.pad(given, missing) if any(m for _, m in missing) else given
        return own.lift(given) if isinstance(own, Tracked) else self.array(given)

    def quantised_linear(self, x: Any, weight: Any, scale: Any, *, largest_weight: int = 1) -> Any:
        return self.base.quantised_linear(x, weight, scale, largest_weight=largest_weight, forced=self._codes(x))

    def codebook_linear(self, x: Any, trits: Any, index: Any, codebook: Any, *, group: int) -> Any:
        return self.base.codebook_linear(x, trits, index, codebook, group=group, forced=self._codes(x))

    def _codes(self, x: Any) -> Any:
        x = self.base.detach(x)
        return self.decide("codes", self.codes(x), x)

    def exceeds(self, x: Any, threshold: float) -> Any:
        x = self.base.detach(x)
        return self.decide("exceeds", self.base.exceeds(x, threshold), x, threshold)

    def top_k_mask(self, scores: Any, survivors: Any, capacity: float) -> Any:
        own = self.base.top_k_mask(scores, survivors, capacity)
        return self.decide("top_k", own, scores, survivors)

    def ternarise(self, weight: Any, threshold: Any, scale: Any) -> Any:
        w, t, s = (self.base.detach(a) for a in (weight, threshold, scale))
        trits = self.decide("trits", self.base.ternarise(w, t, s)[0], w, t)
        return self.base.ternarise(weight, threshold, scale, forced=trits)

    def codebook_ternarise(self, weight: Any, threshold: Any, codebook: Any, *, group: int) -> Any:
        w, t, entries = (self.base.detach(a) for a in (weight, threshold, codebook))
        own_trits, own_index = self.base.codebook_ternarise(w, t, entries, group=group)
        trits = self.decide("trits", own_trits, w, t)
        index = self.decide("index", own_index, w, t, entries, group)
        return self.base.codebook_ternarise(weight, threshold, codebook, group=group, forced=(trits, index))

    def int8_rows(self, weight: Any) -> Any:
        w = self.base.detach(weight)
        q, scale = self.base.int8_rows(w)
        return self.base.int8_rows(weight, forced=(self.decide("int8", q, w, scale), self.decide("scale", scale, w)))


class Margins(Deciding):
    """`Deciding` over the reference that notes what decides: `values`, the quantities that vary with rounding, by name;
    and `undecided`, of the decisions about parameters, which depend on exact numbers alone."""

    def __init__(self, forced: Mapping[str, Array], arithmetic: Arithmetic) -> None:
        super().__init__(forced=forced)
        self.arithmetic = arithmetic
        self.values: dict[str, Array] = {}
        self.survivors: dict[str, Array] = {}
        self.undecided: Decisions = {}

    def decide(self, kind: str, own: Any, *quantities: Any) -> Any:
        name = f"{len(self.own):03} {kind}"
        if kind in OF_PARAMETERS:
            self.undecided[name] = OF_PARAMETERS[kind](*(self._exact(q) for q in quantities))
        else:
            self.values[name] = plain(VALUES[kind](*quantities))
            if kind == "top_k":
                self.survivors[name] = quantities[1]
        return super().decide(kind, own, *quantities)

    def _exact(self, x: Any) -> Any:
        x = plain(x)
        return RunningError(RunningError.parts_of_exact(x), self.arithmetic) if isinstance(x, Array) else x


def undecided(truth: Margins, runs: Sequence[Margins]) -> Decisions:
    """Where decisions may differ: within PEAK scales (8 standard deviations, over the runs) of where they change."""
    found = dict(truth.undecided)
    for name, value in truth.values.items():
        bound = 2 * PEAK * np.sqrt(np.mean([(run.values[name] - value) ** 2 for run in runs], 0))
        if name.endswith("codes"):
            found[name] = np.abs(value - np.floor(value) - 0.5) < bound
        elif name.endswith("exceeds"):
            found[name] = np.abs(value) < bound
        else:
            found[name] = _top_k_undecided(np.asarray(truth.own[name], bool), value, bound, truth.survivors[name])
    return {name: found[name] for name in truth.own}


def _top_k_undecided(chosen: Array, value: Array, bound: Array, survivors: Array) -> Array:
    """Chosen ones that the best of the others may reach, and others that may reach the worst of the chosen."""
    best_other = np.where(survivors & ~chosen, value + bound, -np.inf).max(1, keepdims=True)
    worst_chosen = np.where(chosen, value - bound, np.inf).min(1, keepdims=True)
    return np.where(chosen, value - bound < best_other, survivors & (value + bound > worst_chosen))


def _codes_value(x: Any) -> Any:
    with np.errstate(all="ignore"):
        return x / (np.abs(x).max(-1, keepdims=True) / 127.0)


VALUES: dict[str, Callable[..., Any]] = {
    "codes": _codes_value,
    "exceeds": lambda x, threshold: x - float(np.float32(threshold)),
    "top_k": lambda scores, survivors: scores,
}
"""Per kind of decision, the quantity that decides."""


def _trits_undecided(weight: RunningError, threshold: RunningError) -> Array:
    return near(abs(weight), threshold_of(weight, threshold)[1][:, None])


def _index_undecided(weight: RunningError, threshold: RunningError, codebook: RunningError, group: int) -> Array:
    """Groups with an undecided trit, or whose mean lies near the middle of its two nearest entries."""
    trits = _trits_undecided(weight, threshold).astype(np.float64)
    delta = plain(threshold_of(weight, threshold)[1])[:, None]
    kept = (np.abs(plain(weight)) > delta).astype(np.float64)
    mean = group_sums(np.abs(weight) * kept, group) / np.maximum(group_sums(kept, group), 1)
    value, bound = mean.parts[0], mean.bound + mean.model.unit * np.abs(mean.parts[0])
    entries = np.unique(plain(codebook))
    nearest = np.partition(np.abs(entries - value[..., None]), 1, -1)
    return (nearest[..., 1] - nearest[..., 0] < 2 * ROOM * bound) | (group_sums(trits, group) > 0)


def _scale_undecided(weight: RunningError) -> Array:
    largest = np.abs(weight).max(1) / 127.0
    value, bound = largest.parts[0], ROOM * largest.bound
    return (value - bound).astype(np.float16) != (value + bound).astype(np.float16)


def _int8_undecided(weight: RunningError, scale: RunningError) -> Array:
    safe = np.where(plain(scale) == 0, 1.0, plain(scale))[:, None]
    return near_ties(weight / safe) | _scale_undecided(weight)[:, None]


OF_PARAMETERS: dict[str, Callable[..., Array]] = {
    "trits": _trits_undecided, "index": _index_undecided, "scale": _scale_undecided, "int8": _int8_undecided}
"""Per kind of decision about parameters, the mask of undecided elements."""
