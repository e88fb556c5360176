"""How far a rounded quantity is from where its decision changes, against its error bound."""

from __future__ import annotations

import numpy as np

from conformance.arithmetic import RunningError
from conformance.tolerance import ROOM


def near_ties(x: RunningError) -> np.ndarray:
    """Where rint(x) may go either way: the distance to the nearest half-integer is below the error bound. An exact x
    is always decided, on a tie too: half to even."""
    value = x.parts[0]
    return np.abs(value - np.floor(value) - 0.5) < ROOM * x.bound


def near(x: RunningError, y: RunningError) -> np.ndarray:
    """Where x > y may go either way."""
    return np.abs(x.parts[0] - y.parts[0]) < ROOM * (x.bound + y.bound)


def near_rounding16(x: RunningError) -> np.ndarray:
    """Where float16(x), x >= 0, may go either way: x is about half-way between float16 neighbours."""
    low, high = (np.maximum(x.parts[0] + sign * ROOM * x.bound, 0).astype(np.float16) for sign in (-1, 1))
    return low != high


def near_nearest(x: RunningError, entries: np.ndarray) -> np.ndarray:
    """Where the nearest of the entries to x may be one of another value.   x (...), entries (n,) -> (...)

    Besides x's own error, each distance is rounded once, unless it is a binary32 number already."""
    distance = np.abs(entries - x.parts[0][..., None])
    kept = (distance.astype(np.float32) == distance) & (x.bound == 0)[..., None]
    rounded = np.where(kept, 0, x.model.unit * distance)
    nearest = distance.argmin(-1)[..., None]
    first = np.take_along_axis(distance + rounded, nearest, -1)[..., 0] + x.bound
    others = np.where(entries == entries[nearest], np.inf, distance - rounded)
    return others.min(-1) - x.bound < first
