"""Error bounds of a float32 selective scan, evaluated in float64 (first order, with a little room)."""

import numpy as np

from ghost_ref.ops.scan import selective_scan_backward, selective_scan_forward

U = 2.0**-24
ROOM = 1.01  # second-order terms
UNDERFLOW = 2.0**-126


def states(x, dt, A, Bm, past):
    """Yield per step a, b and the exact state after it, (B, E, N) each."""
    h = past
    for t in range(x.shape[1]):
        a = np.exp(dt[:, t, :, None] * A)
        b = (dt[:, t] * x[:, t])[..., None] * Bm[:, t, None, :]
        h = a * h + b
        yield a, b, h


def readout_bound(error, h, x, Cm, D, t):
    """Σ|C|·e + γ_{N+2}·(Σ|C·h| + |D·x|)."""
    c = np.abs(Cm[:, t, None, :])
    gamma = (h.shape[-1] + 2) * U
    return (c * error).sum(-1) + gamma * ((c * np.abs(h)).sum(-1) + np.abs(D * x[:, t]))


def sequential_bound(x, dt, A, Bm, Cm, D, past, k):
    """Running bound: e <- a·e + |a·h|·(2k + |dt·A| + 1)·u + 2u·|u·B| + u·|h|.  -> y bound, present bound"""
    error, h = np.zeros_like(past), past
    y = np.zeros_like(x)
    for t, (a, b, after) in enumerate(states(x, dt, A, Bm, past)):
        decay = np.abs(dt[:, t, :, None] * A)
        error = a * error + np.abs(a * h) * (2 * k + decay + 1) * U + 2 * U * np.abs(b) + U * np.abs(after)
        error = error * ROOM + UNDERFLOW * (1 + np.abs(h))
        h = after
        y[:, t] = readout_bound(error, h, x, Cm, D, t)
    return y * ROOM + UNDERFLOW, error


def parallel_bound(x, dt, A, Bm, Cm, D, past, k, chunk):
    """The bound in parallel_scan_forward's docstring.  -> y bound, present bound

    magnitude is Σ|w_s|, weighted Σ|w_s|·Σ_r(2k + 1 + |dt_r·A|), carried the error of the entering state."""
    y = np.zeros_like(x)
    error = np.zeros_like(past)
    h = past
    for t, (a, b, after) in enumerate(states(x, dt, A, Bm, past)):
        if t % chunk == 0:
            magnitude, weighted, carried = np.abs(h), np.zeros_like(h), error
            depth = np.ceil(np.log2(min(chunk, x.shape[1] - t))) + 3
        decay = np.abs(dt[:, t, :, None] * A)
        weighted = a * (weighted + magnitude * (2 * k + 1 + decay))
        magnitude = a * magnitude + np.abs(b)
        carried = a * carried + UNDERFLOW * (1 + magnitude)
        error = ROOM * (carried + U * (weighted + depth * magnitude))
        h = after
        y[:, t] = readout_bound(error, h, x, Cm, D, t)
    return y * ROOM + UNDERFLOW, error


def absolute_gradients(dy, arrays, past, length, extra=0.0, stretch=1.0):
    """Σ|terms| of every gradient, with each decay exp(dt·A) replaced by exp(dt·A·stretch + extra).

    A gradient is a sum of products of inputs and decays, so the float64 backward on absolute inputs gives it (A
    keeps its sign, decays being positive; the term of ddt with that sign is turned round). A constant factor on the
    decays is the same as B shrinking and C growing with time."""
    x, dt, A, Bm, Cm, D = (np.abs(a) for a in arrays)
    growth = np.exp(extra * np.arange(1, x.shape[1] + 1))[:, None]
    inputs = (x, dt, -A * stretch, Bm / growth, Cm * growth, D, np.abs(past))
    _, saved = selective_scan_forward(*inputs, length=length)
    dx, ddt, dA, dB, dC, dD = selective_scan_backward(np.abs(dy), saved)
    of_u = (dx - np.abs(dy) * D) / dt * x  # du·x
    return dx, 2 * of_u - ddt, dA, dB / growth, dC * growth, dD


def gradient_bounds(dy, arrays, past, length, k):
    """Bounds of the gradients of the scan in float32, one array each.

    Every decay in a term has a relative error of (2k + |dt·A| + 1)·u, and comes with one addition; then a term goes
    through a few products and the sums over n, over channels, or over time and batch."""
    x, _, A = arrays[:3]
    (batch, steps, channels), n = x.shape, A.shape[1]
    magnitudes = absolute_gradients(dy, arrays, past, length)
    perturbed = absolute_gradients(dy, arrays, past, length, extra=(2 * k + 2) * U, stretch=1 - U)
    roundings = (n + 8, n + 8, steps + batch + 8, channels + 8, channels + 8, steps + batch + 8)
    return [
        ROOM * ((far - near) + count * U * near) + steps * UNDERFLOW
        for far, near, count in zip(perturbed, magnitudes, roundings, strict=True)
    ]
