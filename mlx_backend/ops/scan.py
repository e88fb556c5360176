"""The selective scan of Mamba-1 (arXiv:2312.00752) in MLX: chunked, with a reverse scan as its gradient.

B batch, L length, E channels, N state per channel. L is cut into chunks of T steps, C chunks make a segment. The
loop over the T steps takes all chunks of a segment at once, and a short loop over the C chunks carries the state;
segments follow each other, so that memory holds the (B, ·, N, E) arrays of one segment only. Inside, arrays are
(T, C, B, N, E): one step of time is one contiguous block, and E is innermost.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import mlx.core as mx

from ghost_ref.errors import GhostError
from mlx_backend.kernels import device
from mlx_backend.kernels.sources import LARGEST_STATE
from mlx_backend.numerics import exp

Array = mx.array

CHUNK_STEPS = 8
SEGMENT_ELEMENTS = 1 << 17  # of one (steps, B, N, E) array: a segment has as many chunks as fit, at least one


class Plan(NamedTuple):
    """How a length is cut; all static."""

    steps: int  # T
    chunks: int  # C, of a full segment
    padded: int  # the length made a multiple of T

    def segments(self) -> list[slice]:
        size = self.steps * self.chunks
        return [slice(start, min(start + size, self.padded)) for start in range(0, self.padded, size)]


def make_plan(length: int, step_elements: int) -> Plan:
    steps = min(CHUNK_STEPS, length)
    total = -(-length // steps)
    chunks = max(1, min(total, SEGMENT_ELEMENTS // max(1, steps * step_elements)))
    return Plan(steps, chunks, total * steps)


def selective_scan(
    x: Array,
    dt: Array,
    A: Array,
    Bm: Array,
    Cm: Array,
    D: Array,
    past: Array | None = None,
    length: Array | None = None,
) -> tuple[Array, Array]:
    """parallel_scan's function, by a fused kernel where the default device has one.

    The environment variable GHOST_SCAN (ops, metal or cuda) overrides the choice, which is logged once.
    GhostError where GHOST_SCAN names something unknown, or a kernel that cannot run here."""
    chosen = choose(x, A)
    if chosen == "ops":
        return parallel_scan(x, dt, A, Bm, Cm, D, past, length)
    past = _check(x, dt, A, Bm, Cm, D, past)
    kept = mx.full((x.shape[0],), x.shape[1], mx.int32) if length is None else length.astype(mx.int32)
    y, present = device.scan_function(device.runner(chosen))(x, dt, A, Bm, Cm, D, past, kept)
    return y, mx.stop_gradient(present)


def requested() -> str | None:
    """What GHOST_SCAN asks for, None if it is unset. GhostError for what is unknown or cannot run on this device."""
    wanted = os.environ.get("GHOST_SCAN") or None
    if wanted not in (None, "ops", "metal", "cuda"):
        raise GhostError(f"GHOST_SCAN={wanted} is unknown: use ops, metal or cuda, or unset it")
    if wanted in ("metal", "cuda") and wanted != device.available():
        raise GhostError(f"GHOST_SCAN={wanted} cannot run on {mx.default_device()}: use GHOST_SCAN=ops, or unset it")
    return wanted


def choose(x: Array, A: Array) -> str:
    """ "ops", "metal" or "cuda", by GHOST_SCAN, else by what the default device can do with these arrays."""
    wanted, dialect = requested(), device.available()
    fits = x.dtype == mx.float32 and A.shape[1] <= LARGEST_STATE
    if wanted in ("metal", "cuda") and not fits:
        raise GhostError(
            f"GHOST_SCAN={wanted} needs float32 and at most {LARGEST_STATE} states, not {x.dtype} and "
            f"{A.shape[1]}: use GHOST_SCAN=ops, or unset it"
        )
    chosen = wanted or (dialect if dialect and fits else "ops")
    _announce(chosen, "GHOST_SCAN is set" if wanted else f"{mx.default_device()}, kernels: {dialect or 'none'}")
    return chosen


@cache
def _announce(chosen: str, reason: str) -> None:
    logging.getLogger("ghost.mlx").info("selective scan: %s (%s)", chosen, reason)


def parallel_scan(
    x: Array,
    dt: Array,
    A: Array,
    Bm: Array,
    Cm: Array,
    D: Array,
    past: Array | None = None,
    length: Array | None = None,
) -> tuple[Array, Array]:
    """u = dt·x;  h_n = exp(dt·A_n)·h_n + u·Bm_n in time order;  y = Σ_n Cm_n·h_n + D·x, by the chunked scan.

    x, dt (B, L, E), A (E, N) negative, Bm, Cm (B, L, N), D (E,), past (B, E, N) the state before (zeros by
    default); length (B,) integers: row b keeps its first length[b] tokens, the others leave its state alone
    and their y is zero. -> y (B, L, E), present (B, E, N). L >= 1; all of one floating dtype.
    Differentiable in x, dt, A, Bm, Cm and D; past and present are constants.
    TypeError for mixed dtypes, ValueError for shapes that disagree.

    With a_t = exp(dt_t·A) and b_t = u_t·B_t the state is h_t = Σ_s w_s, w_s = (Π_{r=s+1..t} a_r)·b_s. However it
    is bracketed, each a_r enters w_s once, with the error of exp (k ULP), of its argument and of one product; w_s
    goes through at most one addition per step and two more. To first order, with u = 2^-24,
        |ĥ_t - h_t| <= u·Σ_s |w_s|·(Σ_{r=s+1..t} (2k + 2 + |dt_r·A|) + 5).
    Nothing is divided, so a product that underflows to zero is harmless.
    """
    past = _check(x, dt, A, Bm, Cm, D, past)
    keep = None if length is None else (mx.arange(x.shape[1]) < length[:, None])[..., None]
    if keep is not None:  # a = exp(0·A) = 1 and b = (0·-0)·0 = -0 change no bit of a state
        dt, Bm = mx.where(keep, dt, 0), mx.where(keep, Bm, 0)
        inner = mx.where(keep, x, -0.0)
    else:
        inner = x
    outputs: Any = _chunked_scan(inner, dt, A, Bm, Cm, D, past)
    y, present = outputs[:2]
    return y if keep is None else mx.where(keep, y, 0), mx.stop_gradient(present)


def _check(x: Array, dt: Array, A: Array, Bm: Array, Cm: Array, D: Array, past: Array | None) -> Array:
    (batch, steps, channels), n = x.shape, A.shape[1]
    past = mx.zeros((batch, channels, n), x.dtype) if past is None else mx.stop_gradient(past)
    if len({a.dtype for a in (x, dt, A, Bm, Cm, D, past)}) != 1:
        raise TypeError("selective_scan: x, dt, A, Bm, Cm, D and past must have the same dtype")
    given = (dt.shape, A.shape, Bm.shape, Cm.shape, D.shape, past.shape)
    per_token = (batch, steps, n)
    if steps < 1 or given != (x.shape, (channels, n), per_token, per_token, (channels,), (batch, channels, n)):
        raise ValueError(f"selective_scan: shapes of dt, A, Bm, Cm, D, past {given} do not fit x {x.shape}")
    return past


@mx.custom_function
def _chunked_scan(
    x: Array, dt: Array, A: Array, Bm: Array, Cm: Array, D: Array, past: Array
) -> tuple[Any, ...]:
    """-> y, present, and the states at the chunk starts per segment, (C, B, N, E) each."""
    plan = make_plan(x.shape[1], past.size)
    xs, dts, Bs, Cs = (_padded(v, plan, fill) for v, fill in ((x, -0.0), (dt, 0.0), (Bm, 0.0), (Cm, 0.0)))
    h = past.transpose(0, 2, 1)
    outputs: list[Array] = []
    all_starts: list[Array] = []
    for now in plan.segments():
        # Finish a segment before the next begins: else MLX may keep arrays of many segments alive.
        dt_now = mx.depends([dts[:, now]], [h, *outputs[-1:]])[0]
        a, b = (_steps(v) for v in _decay_and_input(xs[:, now], dt_now, A, Bs[:, now], plan))
        starts, h = _carry(a, b, h)
        states = mx.concatenate(_recurrence(a, b, starts))
        all_starts.append(starts)
        outputs.append(_batch_major((_time_major(Cs[:, now], plan)[..., None, :] @ states)[..., 0, :]))
    y = mx.concatenate(outputs, 1)[:, : x.shape[1]] + D * x
    return y, h.transpose(0, 2, 1), all_starts


@_chunked_scan.vjp
def _chunked_scan_vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[Array, ...]:
    """Gradients of x, dt, A, Bm, Cm and D by a reverse scan; past is a constant.

    g_t = dy_t·C_t + a_{t+1}·g_{t+1} is the gradient of h_t, and q_t = g_t·h_{t-1}·a_t that of dt_t·A. States are
    recomputed segment by segment from the chunk starts.
    """
    x, dt, A, Bm, Cm, D, past = primals
    dy, all_starts = cotangents[0], outputs[2]
    plan = make_plan(x.shape[1], past.size)
    xs, dts, dys, Bs, Cs = (
        _padded(v, plan, fill) for v, fill in ((x, -0.0), (dt, 0.0), (dy, 0.0), (Bm, 0.0), (Cm, 0.0))
    )
    carry, dA = mx.zeros_like(all_starts[0][0]), mx.zeros_like(A.T)
    gradients: list[list[Array]] = []
    for now, starts in zip(reversed(plan.segments()), reversed(all_starts), strict=True):
        dt_now, dy_now = mx.depends([dts[:, now], dys[:, now]], [carry, dA, *(gradients[-1] if gradients else [])])
        segment = (xs[:, now], dt_now, A, Bs[:, now], Cs[:, now], D, dy_now)
        carry, dA_now, *rest = _segment_gradients(*segment, starts, carry, plan)
        dA = dA + dA_now
        gradients.append([_batch_major(v) for v in rest])
    dx, ddt, dB, dC = (mx.concatenate(list(v[::-1]), 1)[:, : x.shape[1]] for v in zip(*gradients, strict=True))
    return dx, ddt, dA.T, dB, dC, (dy * x).sum(1).sum(0), mx.zeros_like(past)


def _segment_gradients(
    x: Array, dt: Array, A: Array, Bm: Array, Cm: Array, D: Array, dy: Array, starts: Array, carry: Array, plan: Plan
) -> tuple[Array, ...]:
    """-> the carry into the segment before, (B, N, E), dA (N, E), then dx, ddt, dB, dC, time-major."""
    a, b = (_steps(v) for v in _decay_and_input(x, dt, A, Bm, plan))
    states = _recurrence(a, b, starts)
    x_t, dy_t, C_t, B_t, dt_t = (_time_major(v, plan) for v in (x, dy, Cm, Bm, dt))
    gradients, products, carry = _reverse(a, _steps(dy_t[..., None, :] * C_t[..., None]), carry)
    q = mx.concatenate([p * h for p, h in zip(products, [starts[None], *states[:-1]], strict=True)])
    ddt = (q * A.T).sum(-2)
    dA = (q * dt_t[..., None, :]).sum((0, 1, 2))
    g, h = mx.concatenate(gradients), mx.concatenate(states)
    dC = (h * dy_t[..., None, :]).sum(-1)
    dB = (g * (dt_t * x_t)[..., None, :]).sum(-1)
    du = (B_t[..., None, :] @ g)[..., 0, :]
    return carry, dA, du * dt_t + dy_t * D, ddt + du * x_t, dB, dC


def _padded(v: Array, plan: Plan, fill: float) -> Array:
    """v (B, L, K) with steps that leave the state alone at the end: x = -0, dt = B = 0."""
    missing = plan.padded - v.shape[1]
    return mx.pad(v, [(0, 0), (0, missing), (0, 0)], constant_values=mx.array(fill, v.dtype)) if missing else v


def _time_major(v: Array, plan: Plan) -> Array:
    """(B, C·T, K) -> (T, C, B, K)"""
    return v.reshape(v.shape[0], -1, plan.steps, v.shape[2]).transpose(2, 1, 0, 3)


def _batch_major(v: Array) -> Array:
    """(T, C, B, K) -> (B, C·T, K)"""
    return v.transpose(2, 1, 0, 3).reshape(v.shape[2], -1, v.shape[3])


def _decay_and_input(x: Array, dt: Array, A: Array, Bm: Array, plan: Plan) -> tuple[Array, Array]:
    """a = exp(dt·A) and b = (dt·x)·B of a segment, (T, C, B, N, E)."""
    dt_t = _time_major(dt, plan)
    a = exp(dt_t[..., None, :] * A.T)
    b = (dt_t * _time_major(x, plan))[..., None, :] * _time_major(Bm, plan)[..., None]
    return a, b


def _steps(v: Array) -> list[Array]:
    """T views (1, C, B, N, E)."""
    return list(mx.split(v, v.shape[0]))


def _recurrence(a: Sequence[Array], b: Sequence[Array], h: Array) -> list[Array]:
    states = []
    for decay, given in zip(a, b, strict=True):
        h = decay * h + given
        states.append(h)
    return states


def _carry(a: Sequence[Array], b: Sequence[Array], h: Array) -> tuple[Array, Array]:
    """The states (C, B, N, E) at the chunk starts and (B, N, E) after the last chunk, from h (B, N, E) before."""
    if a[0].shape[1] == 1:
        return h[None], _recurrence(a, b, h)[-1][0, 0]
    product, end = a[0], b[0]
    for decay, given in zip(a[1:], b[1:], strict=True):
        end = decay * end + given
        product = product * decay
    return _fold(product, end, h)


def _reverse(
    a: Sequence[Array], w: Sequence[Array], carry: Array
) -> tuple[list[Array], list[Array], Array]:
    """g_t = w_t + p_{t+1} with p_t = a_t·g_t, backwards from p = carry.  -> g, p per step, and p before the first"""
    if a[0].shape[1] == 1:
        entering = carry[None]
    else:
        product, p = a[-1], a[-1] * w[-1]
        for decay, given in zip(a[-2::-1], w[-2::-1], strict=True):
            p = decay * (given + p)
            product = product * decay
        starts, carry = _fold(product[:, ::-1], p[:, ::-1], carry)
        entering = starts[::-1]
    p, gradients, products = entering[None], [], []
    for decay, given in zip(reversed(a), reversed(w), strict=True):
        gradients.append(given + p)
        p = decay * gradients[-1]
        products.append(p)
    return gradients[::-1], products[::-1], p[0, 0] if a[0].shape[1] == 1 else carry


def _fold(product: Array, end: Array, h: Array) -> tuple[Array, Array]:
    """h <- product_c·h + end_c chunk by chunk; what enters each chunk (C, B, N, E), and the last h (B, N, E)."""
    entering = []
    for c in range(product.shape[1]):
        entering.append(h)
        h = product[0, c] * h + end[0, c]
    return mx.stack(entering), h
