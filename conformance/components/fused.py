"""Kernels that the runtime fuses: compositions of the reference's ops, one stream at a time (no batch axis)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.case import FORWARD, Case, Component
from conformance.components.inputs import ODD_LENGTHS, normal, uniform, wide
from ghost_ref.ops.activation import silu_forward, softplus_forward
from ghost_ref.ops.conv import causal_conv1d_forward
from ghost_ref.ops.scan import selective_scan_forward

TOKENS, CHANNELS, STATES, TAPS = 19, 48, 16, 4


def swiglu(gate, up):
    """y = silu(gate)·up.   (t, k) -> (t, k)"""
    return silu_forward(gate)[0] * up


def conv_silu(x, weight, bias, past):
    """silu(causal_conv1d(x)).   x (t, e), weight (e, taps), bias (e,), past (taps - 1, e) -> y, present"""
    (y, present), _ = causal_conv1d_forward(x[None], weight, bias, past[None])
    return silu_forward(y)[0][0], present[0]


def scan_gated(dt_raw, dt_bias, x, z, Bm, Cm, A, D, past):
    """selective_scan(x, softplus(dt_raw + dt_bias), …)·silu(z).   dt_raw, x, z (t, e), Bm, Cm (t, n) -> y, present"""
    dt, _ = softplus_forward(dt_raw + dt_bias)
    (y, present), _ = selective_scan_forward(x[None], dt[None], A, Bm[None], Cm[None], D, past[None])
    return y[0] * silu_forward(z)[0], present[0]


def _swiglu(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    for width in (*ODD_LENGTHS, 256):
        arguments = {"gate": normal(rng, 4, width, scale=3), "up": normal(rng, 4, width)}
        yield Case("swiglu", f"k={width}", FORWARD, arguments, statistical=width == 256)


def _conv_silu(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, tokens: int, channels: int, taps: int, **options: Any) -> Case:
        return Case("conv_silu", label, FORWARD, {
            "x": normal(rng, tokens, channels), "weight": normal(rng, channels, taps, scale=0.5),
            "bias": normal(rng, channels), "past": normal(rng, taps - 1, channels)}, **options)

    yield case("typical", TOKENS, CHANNELS, TAPS)
    for channels in ODD_LENGTHS:
        yield case(f"e={channels}", 3, channels, TAPS, statistical=False)
    for taps in (2, 3, 7, 16):
        yield case(f"taps={taps}", 5, 16, taps, statistical=False)


def _scan_gated(rng: np.random.Generator, extensive: bool) -> Iterator[Case]:
    def case(label: str, tokens: int, channels: int, states: int, low: float = -5, high: float = 0,
             **options: Any) -> Case:
        return Case("scan_gated", label, FORWARD, {
            "dt_raw": normal(rng, tokens, channels), "dt_bias": uniform(rng, low, high, channels),
            "x": normal(rng, tokens, channels), "z": normal(rng, tokens, channels), "Bm": normal(rng, tokens, states),
            "Cm": normal(rng, tokens, states), "A": -np.exp(uniform(rng, 0, 3, channels, states)).astype(np.float32),
            "D": normal(rng, channels), "past": normal(rng, channels, states)}, **options)

    yield case("typical", TOKENS, CHANNELS, STATES)
    yield case("long", 300 if extensive else 130, 16, STATES)
    yield case("decays that underflow", 9, 16, STATES, 10, 60, statistical=False)
    for channels in ODD_LENGTHS:
        yield case(f"e={channels}", 3, channels, STATES, statistical=False)
    for states in (1, 3, 5, 17):
        yield case(f"n={states}", 3, 17, states, statistical=False)
    wide_case = case("wide range", 5, 16, STATES, statistical=False)
    wide_case.arguments["x"] = wide(rng, 5, 16, powers=(-20, 20))
    yield wide_case


COMPONENTS = (
    Component("swiglu", f"{__name__}:swiglu", ("gate", "up"), ("y",), _swiglu),
    Component("conv_silu", f"{__name__}:conv_silu", ("x", "weight", "bias", "past"), ("y", "present"), _conv_silu),
    Component("scan_gated", f"{__name__}:scan_gated", ("dt_raw", "dt_bias", "x", "z", "Bm", "Cm", "A", "D", "past"),
              ("y", "present"), _scan_gated),
)
