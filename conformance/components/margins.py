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
