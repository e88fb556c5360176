"""Running error bounds against float32 itself: chains of random operations on numbers that cancel, vanish and tie."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.arithmetic import BINARY32, RunningError

SIZE = 24
NUMBERS = np.array([0.0, 1.0, -1.0, 0.5, 3.0, 1 + 2.0**-23, 1 / 3, -1 / 3, 0.1, 1e-5, 1e4, -7.25, 2.0**-60, 2.0**40],
                   np.float32)
ONE = {"negative": np.negative, "absolute": np.abs, "exp": lambda x: np.exp(np.minimum(x, 5.0)),
       "sqrt": lambda x: np.sqrt(np.abs(x)), "log1p": lambda x: np.log1p(np.abs(x)), "tanh": np.tanh,
       "log": lambda x: np.log(np.abs(x) + 0.3), "clip": lambda x: np.clip(x, -0.7, 1.1),
       "scale": lambda x: x * 0.1, "sums": lambda x: x.reshape(4, -1).sum(1)[:, None] + x.reshape(4, -1) * 0.25,
       "largest": lambda x: x - x.max(), "mean": lambda x: x.reshape(3, -1).mean(1)[:, None] - x.reshape(3, -1)}
TWO = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
       "divide": lambda a, b: a / (np.abs(b) + 0.5), "matmul": lambda a, b: a.reshape(4, 6) @ b.reshape(6, 4)}


def flat(x):
    return np.resize(x, SIZE) if isinstance(x, np.ndarray) else x.each(lambda p: np.resize(p, SIZE))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from([*ONE, *TWO]), min_size=1, max_size=8))
def test_float32_stays_within_the_bound(seed, chain):
    """Any sequence of operations, each on earlier results: |float32 - float64| <= bound wherever float32 is finite."""
    rng = np.random.default_rng(seed)
    rounded = [rng.choice(NUMBERS, SIZE), rng.standard_normal(SIZE).astype(np.float32)]
    tracked = [RunningError(RunningError.parts_of_exact(x.astype(np.float64)), BINARY32) for x in rounded]
    for name in chain:
        i, j = rng.integers(len(rounded), size=2)
        with np.errstate(all="ignore"):
            if name in ONE:
                new, known = ONE[name](rounded[i]), ONE[name](tracked[i])
            else:
                new, known = TWO[name](rounded[i], rounded[j]), TWO[name](tracked[i], tracked[j])
            new, known = flat(new), flat(known)
            finite = np.isfinite(new) & (np.abs(known.parts[0]) < 1e37)
            error = np.abs(new.astype(np.float64) - known.parts[0])
            within = (error <= 1.01 * known.bound) | ~finite | ~np.isfinite(known.bound)
        assert new.dtype == np.float32
        assert within.all(), (chain, name, np.flatnonzero(~within))
        rounded.append(new)
        tracked.append(known)


def bound_of(function, *arrays):
    return function(*(RunningError(RunningError.parts_of_exact(np.array(a, float)), BINARY32) for a in arrays)).bound


def test_what_rounds_nothing_costs_nothing():
    assert (bound_of(lambda x: x.sum(), [1, -3, 5, 1000]) == 0).all()
    assert (bound_of(lambda x, w: x @ w, [[0.1, 0.3]], [[1.0], [0.0]]) >= 0).all()
    assert (bound_of(lambda x, y: x * y, [np.float32(0.1), 3], [-1, 0.25]) == 0).all()
    assert (bound_of(lambda x, y: x / y, [5, 0], [2, 7]) == 0).all()
    assert (bound_of(lambda x, y: x / y, [5.0], [3]) > 0).all()
    assert (bound_of(lambda x: x.sum(), [1, 2.0**-24]) > 0).all()


def test_what_is_rounded_is_charged():
    """Constants that binary32 has not; roots of what may be zero; the sums of what is zero but inexact."""
    assert (bound_of(lambda x: x * 1.0 + 1e-5, [0.0]) >= abs(float(np.float32(1e-5)) - 1e-5)).all()
    tiny = bound_of(lambda x: np.sqrt(np.maximum(x * 0.1 - x * 0.1, 0)), [1.0])
    assert (tiny >= np.sqrt(2.0**-28)).all()
    assert (bound_of(lambda x: np.maximum(x * 0.1 - x * 0.1, 0) + x, [1.0]) > 2.0**-24).all()
