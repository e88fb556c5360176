"""PyTorch as an independent witness: scan, RMSNorm, attention, AdamW.

Optional: it runs where PyTorch happens to be installed.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.arithmetic import Arithmetic
from conformance.backend import Absence, Backend
from conformance.case import BACKWARD, Arrays, Case, Component, named_outputs
from conformance.results import BackendInfo

INFO = ("torch", "PyTorch on the CPU, an independent witness")

# Its own formulas round once more in places (AdamW's moments are interpolated: m + (g - m)·(1 - beta)).
ARITHMETIC = Arithmetic("torch", unit=2.0**-23)


def rms_norm(x, gain):
    """x / sqrt(mean(x²) + 1e-5) · gain"""
    import torch

    return torch.nn.functional.rms_norm(x, (x.shape[-1],), gain, eps=1e-5)


def selective_scan(x, dt, A, Bm, Cm, D, past=None, length=None):
    """Step by step; rows that have ended keep their state and give zero."""
    import torch

    batch, steps, channels = x.shape
    h = torch.zeros(batch, channels, A.shape[1]) if past is None else past
    outputs = []
    for t in range(steps):
        decay = torch.exp(dt[:, t, :, None] * A)
        after = decay * h + (dt[:, t] * x[:, t])[..., None] * Bm[:, t, None, :]
        y = (after * Cm[:, t, None, :]).sum(-1) + D * x[:, t]
        if length is not None:
            alive = (t < torch.as_tensor(length))[:, None]
            y, after = torch.where(alive, y, 0.0), torch.where(alive[..., None], after, h)
        h = after
        outputs.append(y)
    return torch.stack(outputs, 1), h


def strided_attention(q, k, v, bias, past=None, *, n_heads, stride, slots):
    """Dense attention with a mask: token t sees the last `slots` keys of tokens 0, stride, … up to itself."""
    import torch

    batch, length, d = q.shape
    heads = [a.reshape(batch, -1, n_heads, d // n_heads).transpose(1, 2) for a in (q, k, v)]
    latest, number = torch.arange(length)[:, None] // stride, torch.arange(k.shape[1])[None]
    seen = (number <= latest) & (number > latest - slots)
    scores = heads[0] @ heads[1].transpose(2, 3) / math.sqrt(d // n_heads) + bias[:, None, None, :]
    p = torch.softmax(torch.where(seen, scores, -torch.inf), -1)
    out = (p @ heads[2]).transpose(1, 2).reshape(batch, length, d)
    ring = {"keys": torch.zeros(batch, slots, d), "values": torch.zeros(batch, slots, d),
            "bias": torch.zeros(batch, slots)}
    for j in range(k.shape[1]):
        for name, source in (("keys", k), ("values", v), ("bias", bias)):
            ring[name][:, j % slots] = source[:, j].detach()
    return out, {**ring, "count": length}


def adamw(p, gradients, m, v, *, lr, beta1, beta2, eps, weight_decay, applied):
    """torch.optim.AdamW, one step for each of the gradients."""
    import torch

    parameter = torch.nn.Parameter(p.clone())
    optimizer = torch.optim.AdamW([parameter], lr, (beta1, beta2), eps, weight_decay)
    optimizer.state[parameter] = {"step": torch.tensor(float(applied)), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
    state = optimizer.state[parameter]
    return parameter.detach(), state["exp_avg"], state["exp_avg_sq"]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "adamw": adamw, "rms_norm": rms_norm, "selective_scan": selective_scan, "strided_attention": strided_attention}


class TorchWitness:
    """float32 on the CPU."""

    info = BackendInfo(*INFO)
    arithmetic = ARITHMETIC
    exact = False

    def absence(self, component: Component, case: Case) -> Absence | None:
        if component.name not in FUNCTIONS:
            return Absence("the witness covers the scan, RMSNorm, attention and AdamW")
        if component.name == "strided_attention" and case.arguments.get("past") is not None:
            return Absence("the witness attends to one whole sequence")
        return None

    def run(self, component: Component, case: Case) -> Arrays:
        import torch

        arrays = [_to_torch(case.arguments.get(name)) for name in component.arguments]
        chosen = [component.arguments.index(name) for name in component.gradients]
        backward = case.direction == BACKWARD
        for i in chosen if backward else ():
            arrays[i].requires_grad_()
        out = FUNCTIONS[component.name](*arrays, **case.statics)
        if not backward:
            return {name: np.asarray(value) for name, value in named_outputs(component, out).items()}
        first = out[0] if isinstance(out, tuple) else out
        dout = torch.from_numpy(case.cotangents[component.outputs[0]])
        grads = torch.autograd.grad(first, [arrays[i] for i in chosen], dout, materialize_grads=True)
        return {f"d {name}": g.numpy() for name, g in zip(component.gradients, grads, strict=True)}


def _to_torch(x: Any) -> Any:
    import torch

    return torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x


def backends() -> list[Backend | BackendInfo]:
    if importlib.util.find_spec("torch") is None:
        return [BackendInfo(*INFO, "PyTorch is not installed (an optional witness: pip install torch)")]
    return [TorchWitness()]
