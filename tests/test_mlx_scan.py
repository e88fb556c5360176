"""The MLX selective scan against the float64 reference, within the bounds of scan_bounds.py.

MLX's exp is good to k ULP: measured 1 on [-1, 0], 16 on [-20, 20], 64 on [-87, -20], and 0 below -88. Inputs are
made so that |dt·A| stays in a range, and k is twice the figure measured there; the chunked scan adds one addition
per step to the error of a product of decays (parallel_scan's docstring), which is k + 1/2 in parallel_bound.
"""

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")

from scan_bounds import gradient_bounds, parallel_bound  # noqa: E402

from ghost_ref.ops.scan import selective_scan_backward, selective_scan_forward  # noqa: E402
from mlx_backend.ops import scan  # noqa: E402

GRADIENTS = tuple(range(6))
RANGES = {1.0: 2, 20.0: 32, 80.0: 128}  # largest |dt·A| -> k


def make(seed, batch, steps, channels, n, largest=20.0):
    """Inputs as in a trained layer, with |dt·A| <= largest; float32 x, dt, A, Bm, Cm, D, past, and dy."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, steps, channels))
    A = -np.arange(1, n + 1) * np.exp(rng.normal(0, 0.1, (channels, n)))
    dt = np.minimum(np.exp(rng.normal(-3, 1.5, x.shape)), 0.999 * largest / np.abs(A).max())
    Bm, Cm = rng.standard_normal((2, batch, steps, n))
    D, past = rng.standard_normal(channels), rng.standard_normal((batch, channels, n))
    return [a.astype(np.float32) for a in (x, dt, A, Bm, Cm, D, past, rng.standard_normal(x.shape))]


def reference(arrays, length=None):
    """float64 y, present and gradients."""
    *inputs, dy = (a.astype(np.float64) for a in arrays)
    (y, present), saved = selective_scan_forward(*inputs, length=length)
    return y, present, selective_scan_backward(dy, saved)


def evaluate(arrays, length=None, compiled=False, function=scan.parallel_scan):
    """y, present and gradients by MLX as NumPy arrays."""
    *inputs, past, dy = (mx.array(a) for a in arrays)
    lengths = None if length is None else mx.array(length)

    def loss(*values):
        y, present = function(*values, past, lengths)
        return (y * dy).sum(), y, present

    gradient = mx.value_and_grad(loss, argnums=GRADIENTS)
    (_, y, present), gradients = (mx.compile(gradient) if compiled else gradient)(*inputs)
    return np.array(y), np.array(present), [np.array(g) for g in gradients]


def check(arrays, k, length=None, **how):
    y_true, h_true, true_gradients = reference(arrays, length)
    y, present, gradients = evaluate(arrays, length, **how)
    *inputs, past, dy = (a.astype(np.float64) for a in arrays)
    steps = dy.shape[1]
    moving = list(inputs)
    if length is not None:  # a masked step leaves the state alone, and y is zero
        keep = (np.arange(steps) < length[:, None])[..., None]
        moving[1], moving[3] = inputs[1] * keep, inputs[3] * keep
        dy = dy * keep
        assert (y[~keep[..., 0]] == 0).all()
    y_bound, h_bound = parallel_bound(*moving, past, k=k + 0.5, chunk=steps)
    assert (np.abs(y - y_true) <= y_bound).all()
    assert (np.abs(present - h_true) <= h_bound).all()
    bounds = gradient_bounds(dy, inputs, past, length, k + 0.5)
    for name, got, true, bound in zip("x dt A B C D".split(), gradients, true_gradients, bounds, strict=True):
        assert got.shape == true.shape
        assert (np.abs(got - true) <= bound).all(), name


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 15, 16, 17, 33, 257])
def test_forward_and_backward_within_the_bounds(steps, compiled):
    check(make(steps, 2, steps, 7, 16), RANGES[20.0], compiled=compiled)


def test_lengths():
    check(make(1, 4, 40, 7, 3), RANGES[20.0], length=np.array([0, 1, 17, 40]))
