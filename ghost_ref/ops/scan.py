"""The selective scan of Mamba-1 (arXiv:2312.00752), sequential and parallel (docs/semantics.md section 4).

B batch, L length, E channels, N state per channel. Inside, states are (steps, N, B, E): the sum over n then
runs over contiguous planes, and one step of time is one contiguous block.
"""

from __future__ import annotations

import numpy as np

from ghost_ref import numerics
from ghost_ref.autodiff import op

CHUNK_STEPS = 64  # time steps whose exp is taken at once
CHUNK_ELEMENTS = 1 << 18  # fewer when a step is large, so that a chunk stays in cache (changes no bit)


def selective_scan_forward(x, dt, A, Bm, Cm, D, past=None, length=None):
    """u = dt·x;  h_n = exp(dt·A_n)·h_n + u·Bm_n in time order;  y = (Σ_n Cm_n·h_n, n in order from +0) + D·x.

    x, dt (B, L, E), A (E, N) negative, Bm, Cm (B, L, N), D (E,), past (B, E, N) the state before (zeros by
    default); length (B,) integers: row b keeps its first length[b] tokens, the others leave its state alone
    and their y is zero. -> y (B, L, E), present (B, E, N). Canonical in float32, where any split of L gives
    the same bits; float64 and complex128 serve as truth.
    TypeError for mixed dtypes, ValueError for shapes that disagree.
    """
    h = _initial_state(x, dt, A, Bm, Cm, D, past)
    saved = (x, dt, A, Bm, Cm, D, h, length)
    y = np.empty_like(x)
    for chunk in _chunks(x, A):
        states = _sequential_states(h, *_decay_and_input(x, dt, A, Bm, chunk, length))
        h = states[-1]
        y[:, chunk] = _readout(states, x, Cm, D, chunk)
    return _finish(y, h, length), saved


def parallel_scan_forward(x, dt, A, Bm, Cm, D, past=None, length=None):
    """The same function by an associative scan: O(log T) depth in a chunk of T = 64 steps, then a carry.

    With a_t = exp(dt_t·A) and b_t = u_t·B_t, (a1, b1)∘(a2, b2) = (a1·a2, a2·b1 + b2); the state enters as
    b_0 ← a_0·h + b_0. Nothing is divided, so a product that underflows to zero is harmless.

    Error of the state in float32, u = 2^-24, exp good to k ULP (2k·u relative), T steps in a chunk:
    h_t = Σ_s w_s with w_s = (Π_{r=s+1..t} a_r)·b_s. However the products are bracketed, each a_r enters w_s
    once, with the error of exp, that of its argument (|dt_r·A|·u) and the rounding of one multiplication;
    b_s carries two roundings (dt·x and u·B), and w_s goes through one addition per level and one for the
    entering state. To first order, inside a chunk,

        |ĥ_t - h_t| <= u·Σ_s |w_s|·(Σ_{r=s+1..t} (2k + 1 + |dt_r·A|) + ⌈log2 T⌉ + 3)

    with the state that enters (and its own error times Π a_r) as one more term; underflow adds at most
    2^-126·(1 + max |h|) per step. Only ⌈log2 T⌉ is new against the sequential order, but the bound is in
    |w_s|: rounding errors of terms that cancel later do not cancel.
    """
    h = _initial_state(x, dt, A, Bm, Cm, D, past)
    saved = (x, dt, A, Bm, Cm, D, h, length)
    y = np.empty_like(x)
    for start in range(0, x.shape[1], CHUNK_STEPS):
        chunk = slice(start, min(start + CHUNK_STEPS, x.shape[1]))
        states = _parallel_states(h, *_decay_and_input(x, dt, A, Bm, chunk, length))
        h = states[-1]
        y[:, chunk] = _readout(states, x, Cm, D, chunk)
    return _finish(y, h, length), saved


def selective_scan_backward(dy, saved):
    """Gradients of x, dt, A, Bm, Cm and D by a reverse scan; past is a constant.   dy (B, L, E)

    With a_t = exp(dt_t·A): g_t = dy_t·C_t + a_{t+1}·g_{t+1} is the gradient of h_t, and q_t = g_t·h_{t-1}·a_t
    that of dt_t·A. States are recomputed chunk by chunk from the states at the chunk starts.
    """
    x, dt, A, Bm, Cm, D, h, length = saved
    if length is not None:
        dy = np.where((np.arange(dy.shape[1]) < length[:, None])[..., None], dy, dy.dtype.type(0))
    chunks, starts = list(_chunks(x, A)), []
    for chunk in chunks:
        starts.append(h)
        h = _sequential_states(h, *_decay_and_input(x, dt, A, Bm, chunk, length))[-1]
    du, ddt, dA = np.empty_like(x), np.empty_like(x), np.zeros_like(A)
    dB, dC = np.empty_like(Bm), np.empty_like(Cm)
    g = np.zeros_like(h)  # a_{t+1}·g_{t+1}
    for chunk, start in zip(reversed(chunks), reversed(starts)):
        a, b = _decay_and_input(x, dt, A, Bm, chunk, length)
        states = _sequential_states(start, a, b)
        gradient = b  # its memory is free again
        for t in reversed(range(len(states))):
            gradient[t] = dy[:, chunk.start + t] * Cm[:, chunk.start + t].T[..., None] + g
            g = a[t] * gradient[t]
        before = np.concatenate([start[None], states[:-1]])
        q = gradient * before * a
        dt_c = dt[:, chunk]
        dC[:, chunk] = np.einsum("tnbe,bte->btn", states, dy[:, chunk])
        dB[:, chunk] = np.einsum("tnbe,bte->btn", gradient, dt_c * x[:, chunk])
        du[:, chunk] = np.einsum("tnbe,btn->bte", gradient, Bm[:, chunk])
        ddt[:, chunk] = np.einsum("tnbe,en->bte", q, A)
        dA += np.einsum("tnbe,bte->en", q, dt_c)
    return du * dt + dy * D, ddt + du * x, dA, dB, dC, (dy * x).sum((0, 1))


def _initial_state(x, dt, A, Bm, Cm, D, past):
    """Check shapes and dtypes; the state before the first step as (N, B, E)."""
    (batch, steps, channels), n = x.shape, A.shape[1]
    past = np.zeros((batch, channels, n), x.dtype) if past is None else past
    if len({a.dtype for a in (x, dt, A, Bm, Cm, D, past)}) != 1:
        raise TypeError("selective_scan: x, dt, A, Bm, Cm, D and past must have the same dtype")
    given = (dt.shape, A.shape, Bm.shape, Cm.shape, D.shape, past.shape)
    per_token = (batch, steps, n)
    if given != (x.shape, (channels, n), per_token, per_token, (channels,), (batch, channels, n)):
        raise ValueError(f"selective_scan: shapes of dt, A, Bm, Cm, D, past {given} do not fit x {x.shape}")
    return past.transpose(2, 0, 1).copy()


def _chunks(x, A):
    batch, steps, channels = x.shape
    size = max(1, min(CHUNK_STEPS, CHUNK_ELEMENTS // max(1, batch * channels * A.shape[1])))
    return (slice(start, min(start + size, steps)) for start in range(0, steps, size))


def _decay_and_input(x, dt, A, Bm, chunk, length):
    """a = exp(dt·A) and b = (dt·x)·B of a chunk, (T, N, B, E) each; a = 1, b = -0 past the kept length, which
    changes no bit of a state (h·1 + -0 is h, for -0 too)."""
    dt_t, x_t = (v[:, chunk].transpose(1, 0, 2).copy()[:, None] for v in (dt, x))
    a = numerics.exp(dt_t * A.T[:, None, :])
    b = (dt_t * x_t) * Bm[:, chunk].transpose(1, 2, 0)[..., None]
    if length is not None:
        tail = (np.arange(chunk.start, chunk.stop)[:, None] >= length)[:, None, :, None]
        np.copyto(a, 1, where=tail)
        np.copyto(b, -0.0, where=tail)
    return a, b


def _sequential_states(h, a, b):
    states = np.empty_like(b)
    for t in range(len(b)):
        np.multiply(a[t], h, out=states[t])
        states[t] += b[t]
        h = states[t]
    return states


def _parallel_states(h, a, b):
    """Hillis-Steele: after the pass of a stride, (a, b)[t] composes the last 2·stride steps up to t."""
    b[0] += a[0] * h
    stride = 1
    while stride < len(b):
        b[stride:] += a[stride:] * b[:-stride]
        a[stride:] *= a[:-stride]
        stride *= 2
    return b


def _readout(states, x, Cm, D, chunk):
    """y = Σ_n C_n·h_n + D·x of a chunk, (B, T, E)."""
    c = Cm[:, chunk].transpose(1, 2, 0)[..., None]
    y = np.zeros_like(states[:, 0])
    for n in range(states.shape[1]):
        y += c[:, n] * states[:, n]
    return y.transpose(1, 0, 2) + D * x[:, chunk]


def _finish(y, h, length):
    if length is not None:
        y[np.arange(y.shape[1]) >= length[:, None]] = 0
    return y, h.transpose(1, 2, 0).copy()  # a copy: never a view of a chunk or of past


selective_scan = op(selective_scan_forward, selective_scan_backward)
parallel_scan = op(parallel_scan_forward, selective_scan_backward)
