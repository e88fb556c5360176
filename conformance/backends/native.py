"""The C++ runtime, one column per instruction-set level; every canonical component must give the reference's bits."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.arithmetic import BINARY32
from conformance.backend import Absence, Backend
from conformance.case import FORWARD, Arrays, Case, Component
from conformance.components import files, networks, sampling
from conformance.components.sequence import spans
from conformance.results import BackendInfo
from ghost_ref.config import SamplingConfig
from ghost_ref.ops.attention import strided_positions
from ghost_ref.packed import pack_trits
from ghost_ref.runtime import have_native, load
from ghost_ref.verify import LEVELS, all_threads

BLOCK = 16
THREADS = 2  # of the team that computes a whole model: barriers count too
MAPPED = ("exp", "log", "log1p", "sigmoid", "silu", "softplus", "rint")


class NativeBackend:
    """The kernels of one level. Batches are split: the runtime has one stream at a time.

    native: `ghost_ref._native`, or what computes the same elsewhere, with a method load(path) for whole models."""

    arithmetic = BINARY32
    exact = True

    def __init__(self, level: str, native: Any, info: BackendInfo) -> None:
        self.level, self.native, self.info = level, native, info

    def absence(self, component: Component, case: Case) -> Absence | None:
        if case.direction != FORWARD:
            return Absence("the runtime does not train")
        if component.name not in FUNCTIONS:
            return Absence("the runtime has it inside a whole model only, or not at all: training has no place in it")
        if case.statics.get("group", BLOCK) % BLOCK:
            return Absence("the runtime's groups are multiples of 16 (ModelConfig refuses others)")
        return None

    def run(self, component: Component, case: Case) -> Arrays:
        return FUNCTIONS[component.name](self.native, self.level, case)


def _rows(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]))


def _map(native: Any, level: str, case: Case) -> Arrays:
    x = case.arguments["x"]
    return {"y": native.numerics_map(case.component, np.ascontiguousarray(x.ravel()), level).reshape(x.shape)}


def _by_row(function: str, argument: str = "x", output: str = "y") -> Callable[..., Arrays]:
    def run(native: Any, level: str, case: Case) -> Arrays:
        x = case.arguments[argument]
        return {output: getattr(native, function)(_rows(x), level).reshape(x.shape)}
    return run


def _quantise_activations(native: Any, level: str, case: Case) -> Arrays:
    x = case.arguments["x"]
    q, scale = native.quantise_rows(_rows(x), level)
    return {"q": q.reshape(x.shape), "scale": scale.reshape(*x.shape[:-1], 1)}


def _quantised_linear(native: Any, level: str, case: Case) -> Arrays:
    x, weight, scale = (case.arguments[k] for k in ("x", "weight", "scale"))
    if case.statics.get("largest_weight", 1) == 1:
        y = native.ternary_linear(_rows(x), pack_trits(weight), scale.astype(np.float16), level)
    else:  # the head has 256 rows: others are filled up with zeros
        whole, scales = np.zeros((256, weight.shape[1]), np.int8), np.zeros(256, np.float16)
        whole[: len(weight)], scales[: len(weight)] = weight, scale
        y = native.int8_linear(_rows(x), whole, scales, level)[:, : len(weight)]
    return {"y": y.reshape(*x.shape[:-1], len(weight))}


def _codebook_linear(native: Any, level: str, case: Case) -> Arrays:
    x, trits, index, codebook = (case.arguments[k] for k in ("x", "trits", "index", "codebook"))
    y = native.codebook_linear(_rows(x), pack_trits(trits), index, codebook.astype(np.float16), case.statics["group"],
                               level)
    return {"y": y.reshape(*x.shape[:-1], len(trits))}


def _lane_sum(native: Any, level: str, case: Case) -> Arrays:
    x = case.arguments["x"]
    sums = [native.numerics_map("lane_sum", row, level)[0] for row in _rows(x)]
    return {"y": np.array(sums, np.float32).reshape(x.shape[:-1])}


def _rms_norm(native: Any, level: str, case: Case) -> Arrays:
    x = case.arguments["x"]
    return {"y": native.rms_norm(_rows(x), case.arguments["gain"], level).reshape(x.shape)}


def _row_dot(native: Any, level: str, case: Case) -> Arrays:
    x = case.arguments["x"]
    return {"y": native.lane_dot(_rows(x), case.arguments["weight"], level).reshape(x.shape[:-1])}


def _pairwise_dot(native: Any, level: str, case: Case) -> Arrays:
    x, keys = case.arguments["x"], case.arguments["keys"]
    dots = [native.lane_dot(_rows(x), key, level) for key in keys]
    return {"y": np.stack(dots, -1).reshape(*x.shape[:-1], len(keys))}


def _slot_sum(native: Any, level: str, case: Case) -> Arrays:
    p, values = case.arguments["p"], case.arguments["values"]
    return {"y": native.slot_sum(_rows(p), values, level).reshape(*p.shape[:-1], values.shape[1])}


def _positional(*outputs: str) -> Callable[..., Arrays]:
    """A binding that takes the case's arguments in order."""
    def run(native: Any, level: str, case: Case) -> Arrays:
        result = getattr(native, case.component)(*case.arguments.values(), level)
        return dict(zip(outputs, result if isinstance(result, tuple) else (result,), strict=True))
    return run


def _strided_attention(native: Any, level: str, case: Case) -> Arrays:
    q, k, v, bias = (case.arguments[name] for name in ("q", "k", "v", "bias"))
    past, slots = case.arguments.get("past"), case.statics["slots"]
    count = 0 if past is None else past["count"]
    d = q.shape[-1]
    found = []
    for b in range(len(q)):
        ring = [np.zeros((slots, d), np.float32), np.zeros((slots, d), np.float32), np.zeros(slots, np.float32)] \
            if past is None else [np.ascontiguousarray(past[name][b]) for name in ("keys", "values", "bias")]
        rows = [np.ascontiguousarray(a[b]) for a in (q, k, v, bias)]
        found.append(native.strided_attention(*rows, *ring, count, case.statics["n_heads"], case.statics["stride"],
                                              level))
    out, keys, values, biases = (np.stack(parts) for parts in zip(*found, strict=True))
    return {"out": out, "present.keys": keys, "present.values": values, "present.bias": biases,
            "present.count": count + q.shape[1]}


def _stream(native: Any, level: str, case: Case, kernel: Callable[..., Any], each: tuple[str, ...],
            order: tuple[str, ...]) -> Arrays:
    """A kernel over the chunks of a stream of one row, its state carried."""
    arrays = {name: a[0] if name in (*each, "past") else a for name, a in case.arguments.items()}
    outputs, past = {}, arrays.pop("past")
    for i, part in enumerate(spans(case.statics["chunks"])):
        given = {name: np.ascontiguousarray(a[part]) if name in each else a for name, a in arrays.items()}
        outputs[f"y.{i}"], past = kernel(*(given[name] for name in order), np.ascontiguousarray(past), level)
    return {**{name: y[None] for name, y in outputs.items()}, "present": past[None]}


def _conv_stream(native: Any, level: str, case: Case) -> Arrays:
    return _stream(native, level, case, native.conv_silu, ("x",), ("x", "weight", "bias"))


def _scan_stream(native: Any, level: str, case: Case) -> Arrays:
    return _stream(native, level, case, native.scan_gated, ("dt", "x", "z", "Bm", "Cm"),
                   ("dt", "dt_bias", "x", "z", "Bm", "Cm", "A", "D"))


def _attention_stream(native: Any, level: str, case: Case) -> Arrays:
    q, k, v, bias = (case.arguments[name][0] for name in ("q", "k", "v", "bias"))
    past, statics = case.arguments["past"], case.statics
    ring, count, used = [np.ascontiguousarray(past[name][0]) for name in ("keys", "values", "bias")], past["count"], 0
    outputs: Arrays = {}
    for i, part in enumerate(spans(statics["chunks"])):
        length = part.stop - part.start
        keys = slice(used, used + len(strided_positions(count, length, statics["stride"])))
        rows = [np.ascontiguousarray(a) for a in (q[part], k[keys], v[keys], bias[keys])]
        out, *ring = native.strided_attention(*rows, *ring, count, statics["n_heads"], statics["stride"], level)
        outputs[f"out.{i}"], count, used = out[None], count + length, keys.stop
    names = ("present.keys", "present.values", "present.bias")
    return {**outputs, **{name: a[None] for name, a in zip(names, ring, strict=True)}, "present.count": count}


def _load(native: Any, level: str) -> Callable[[Any], Any]:
    def own(path: Any) -> Any:
        with all_threads():
            return load(path, backend="native", level=level, threads=THREADS)

    return getattr(native, "load", None) or own


def _network(native: Any, level: str, case: Case) -> Arrays:
    component = next(c for c in networks.COMPONENTS if c.name == case.component)
    return networks.run_packed(component, case, _load(native, level))


def _packed_file(native: Any, level: str, case: Case) -> Arrays:
    given = case.arguments
    results = files.read_file(given["file"], given["tokens"], given["damage"], load=_load(native, level))
    return dict(zip(("logits", "config", "refused"), results, strict=True))


def _choose_byte(native: Any, level: str, case: Case) -> Arrays:
    def choose(row: np.ndarray, config: SamplingConfig, step: int) -> int:
        return native.choose_byte(row, config.temp, config.top_k, config.top_p, config.min_p, config.seed, step, level)

    chosen = sampling.choose_bytes(case.arguments["logits"], case.arguments["steps"], choose=choose, **case.statics)
    return {"bytes": chosen}


FUNCTIONS: dict[str, Callable[..., Arrays]] = {
    **{name: _map for name in MAPPED},
    "lane_sum": _lane_sum, "rms_norm": _rms_norm, "unit": _by_row("unit"),
    "slot_softmax": _by_row("softmax", "z"), "log_softmax": _by_row("log_softmax", "z"),
    "row_dot": _row_dot, "pairwise_dot": _pairwise_dot, "slot_sum": _slot_sum,
    "quantise_activations": _quantise_activations, "quantised_linear": _quantised_linear,
    "codebook_linear": _codebook_linear, "strided_attention": _strided_attention,
    "swiglu": _positional("y"), "conv_silu": _positional("y", "present"), "scan_gated": _positional("y", "present"),
    "conv_stream": _conv_stream, "scan_stream": _scan_stream, "attention_stream": _attention_stream,
    "forward": _network, "any_split": _network, "causality": _network,
    "packed_file": _packed_file, "choose_byte": _choose_byte,
}


def backends() -> list[Backend | BackendInfo]:
    """The levels of this machine's processors; those of others are in emulated.py."""
    arm = platform.machine() in ("aarch64", "arm64")
    known = [level for level in LEVELS if level == "scalar" or arm == level.startswith("neon")]
    infos = [BackendInfo(f"native-{level}", f"the C++ runtime at level {level}") for level in known]
    if not have_native():
        why = "the C++ runtime is not built; install Ghost with a C++ compiler and without GHOST_PURE=1"
        return [replace(info, reason=why) for info in infos]
    from ghost_ref import _native

    return [NativeBackend(level, _native, info) if level in _native.levels()
            else replace(info, reason="this CPU cannot run it") for level, info in zip(known, infos, strict=True)]
