"""Ghost's model in PyTorch, as a yardstick of training speed: same shapes, same first values, same batches.

`linear="float"` in the config gives a plain float32 model; `"ternary"` gives what Ghost computes, by
straight-through fake quantisation. Routers and their losses are left out: every layer reads every token. Names and
formulas are those of docs/semantics.md. B batch, L length, d d_model, E d_inner, N d_state, R dt_rank, K d_conv.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ghost_ref.batches import VALUE_BYTES, Batch, make_batch
from ghost_ref.config import PAD, ModelConfig, TrainingConfig
from ghost_ref.constants import SCALE_SMALLEST, THRESHOLD_RANGE
from ghost_ref.data import Dataset
from ghost_ref.initialise import initialise
from ghost_ref.ops.ternary import KERNEL_WIDTH
from ghost_ref.optimizer import EPSILON, parameter_groups
from ghost_ref.parameters import CODEBOOK, INT8, TERNARY, parameter_specs
from ghost_ref.schedule import learning_rate

SCAN_CHUNK = 16  # time steps in one compiled function: more compile for longer and run no faster
NORM_EPSILON, UNIT_EPSILON = 1e-5, 1e-12
Weights = dict[str, Tensor]
Memory = tuple[Tensor, Tensor, Tensor]  # unit keys (M, d), value bytes (M, 8), how many of these count (M,)


def scan_chunk(h: Tensor, x: Tensor, dt: Tensor, A: Tensor, Bm: Tensor, Cm: Tensor) -> tuple[Tensor, Tensor]:
    """Some steps of the selective scan.   h (B, E, N), x, dt (B, T, E), A (E, N), Bm, Cm (B, T, N) -> h, y (B, T, E)"""
    u, ys = dt * x, []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + u[:, t, :, None] * Bm[:, t, None]
        ys.append((h * Cm[:, t, None]).sum(-1))
    return h, torch.stack(ys, 1)


SCANS: dict[str, Callable[[], Any]] = {
    "compiled": lambda: torch.compile(scan_chunk, dynamic=False),
    "eager": lambda: scan_chunk,
}


class StraightThrough(torch.autograd.Function):
    """trits · magnitude with Ghost's gradients of weight, threshold and magnitude (docs/semantics.md section 3)."""

    @staticmethod
    def forward(ctx, weight, threshold, magnitude, trits, mean, delta):
        ctx.save_for_backward(weight, magnitude, trits, mean, delta)
        return trits * magnitude

    @staticmethod
    def backward(ctx, *grads):
        weight, magnitude, trits, mean, delta = ctx.saved_tensors
        (dw,) = grads
        h = (KERNEL_WIDTH * mean)[:, None]
        kernel = (1 - ((weight.abs() - delta[:, None]) / h).abs()).clamp_(min=0)
        dthreshold = -(kernel.mul_(dw).mul_(weight.sign()).mul_(magnitude).sum(1) / h[:, 0]) * mean
        dmagnitude = dw * trits
        if magnitude.shape[1] == 1:
            dmagnitude = dmagnitude.sum(1, keepdim=True)
        return dw, dthreshold, dmagnitude, None, None, None


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` in the forward pass, `x` in the backward."""
    return x + (rounded - x).detach()


def round_float16(x: Tensor) -> Tensor:
    """x as float16 stores it."""
    return straight_through(x, x.detach().half().float())


def fake_int8(x: Tensor, *, float16_scale: bool) -> Tensor:
    """Rows in steps of max|x| / 127."""
    with torch.no_grad():
        scale = x.abs().amax(-1, keepdim=True) / 127
        if float16_scale:
            scale = scale.half().float()
        scale = torch.where(scale == 0, 1.0, scale)
        rounded = torch.round(x / scale).clamp_(-127, 127).mul_(scale)
    return straight_through(x, rounded)


def fake_ternary(weight: Tensor, threshold: Tensor, scale: Tensor | None, codebook: Tensor | None,
                 group: int) -> Tensor:
    """The effective weight: trits times a row scale or, per group of inputs, the nearest codebook entry."""
    with torch.no_grad():
        size = weight.abs()
        mean = size.mean(1)
        below_largest = torch.nextafter(size.amax(1), torch.zeros_like(mean))
        delta = torch.minimum(threshold.clamp(*THRESHOLD_RANGE).half().float() * mean, below_largest)
        trits = (weight > delta[:, None]).float() - (weight < -delta[:, None]).float()
    if codebook is None:
        assert scale is not None
        magnitude = round_float16(scale)[:, None]
    else:
        with torch.no_grad():
            padding = (0, -weight.shape[1] % group)
            kept = F.pad(trits.abs(), padding).unflatten(1, (-1, group)).sum(-1)
            average = F.pad(size * trits.abs(), padding).unflatten(1, (-1, group)).sum(-1) / kept.clamp(min=1)
            entries, order = codebook.sort()
            index = order[torch.bucketize(average, (entries[1:] + entries[:-1]) / 2)]
        magnitude = codebook[index].repeat_interleave(group, 1)[:, : weight.shape[1]]
    return StraightThrough.apply(weight, threshold, magnitude, trits, mean, delta)


def unit(x: Tensor) -> Tensor:
    """x / |x|"""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + UNIT_EPSILON)


class Peer:
    """A model with Ghost's first values, and its trainer. `step` reads Ghost's batch of that step."""

    def __init__(self, config: ModelConfig, training: TrainingConfig, data: Dataset, scan: str = "compiled") -> None:
        self.config, self.training, self.data = config, training, data
        self.params = {name: torch.from_numpy(value).requires_grad_()
                       for name, value in initialise(config, training.seed).items()
                       if ".router." not in name and not name.startswith("depth.")}
        self.scan_chunk = SCANS[scan]()
        self.index, self.memory = 0, None
        decays = parameter_groups(config, training.weight_decay)
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, p in self.params.items():
            groups.setdefault(decays[name], []).append(p)
        self.shares = [share for share, _ in groups]
        self.optimizer = torch.optim.AdamW(
            [{"params": ps, "weight_decay": decay} for (_, decay), ps in groups.items()],
            betas=(training.beta1, training.beta2), eps=EPSILON, fused=True)

    def step(self) -> float:
        """One optimizer step; returns the cross-entropy in nats per byte."""
        batch = make_batch(self.data, self.training, self.index)
        tokens, targets = (torch.from_numpy(a.astype(np.int64)) for a in (batch.tokens, batch.targets))
        logits, surprise, hidden = self.forward(tokens, self.memory if self.index % 2 else None)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        total = loss if surprise is None else loss + F.cross_entropy(surprise.flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.params.values(), self.training.clip_norm)
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            group["lr"] = share * learning_rate(self.training, self.index)
        self.optimizer.step()
        self._project()
        self._remember(batch, hidden.detach())
        self.index += 1
        return loss.item()

    @torch.no_grad()
    def _project(self) -> None:
        for name, p in self.params.items():
            if name.endswith(".threshold"):
                p.clamp_(*THRESHOLD_RANGE)
            elif name.endswith((".scale", ".codebook")):
                p.clamp_(min=SCALE_SMALLEST)

    def _remember(self, batch: Batch, hidden: Tensor) -> None:
        """Random unit hidden states and the bytes that followed them, for the memory layers of the next step."""
        if not self.config.memory_layers or not self.training.memory_entries:
            return
        count = min(self.training.memory_entries, batch.tokens.size)
        chosen = np.random.default_rng(self.index).choice(batch.tokens.size, count, replace=False)
        rows, columns = np.unravel_index(chosen, batch.tokens.shape)
        following = np.pad(batch.targets, ((0, 0), (0, VALUE_BYTES)), constant_values=PAD).astype(np.int64)
        values = torch.from_numpy(following[rows[:, None], columns[:, None] + np.arange(VALUE_BYTES)])
        self.memory = unit(hidden[rows, columns]), values, ((values == PAD).cumsum(1) == 0).sum(1).clamp(min=1)

    def weights(self) -> Weights:
        """The numbers the forward pass computes with: the parameters, or what a packed file would hold of them."""
        if self.config.linear == "float":
            return dict(self.params)
        weights, specs, p = {}, parameter_specs(self.config), self.params
        books = {name: round_float16(value) for name, value in p.items() if name.endswith(".codebook")}
        for name, value in p.items():
            stem = name.removesuffix(".weight")
            if specs[name].storage in (TERNARY, CODEBOOK):
                weights[name] = fake_ternary(value, p[f"{stem}.threshold"], p.get(f"{stem}.scale"),
                                             books.get(f"{stem.rpartition('.')[0]}.codebook"),
                                             self.config.codebook_group)
            elif specs[name].storage == INT8:
                weights[name] = fake_int8(value, float16_scale=True)
            elif not name.endswith((".threshold", ".scale", ".codebook")):
                weights[name] = round_float16(value)
        return weights

    def forward(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits, the surprise head's logits (None without one) and the final hidden states.   tokens (B, L) int64"""
        config, w = self.config, self.weights()
        embedding = w["embedding.weight"]
        e = F.embedding(tokens, embedding)
        padded = F.pad(e, (0, 0, config.d_conv - 1, 0))
        windows = torch.cat([padded[:, k : k + e.shape[1]] for k in range(config.d_conv)], -1)
        h = e + F.silu(self._linear(w, "tokenizer.conv1d", windows) + w["tokenizer.conv1d.bias"])
        surprise = None
        if config.surprise_layers:
            surprise = self._linear(w, "surprise.head", h.detach()) + w["surprise.head.bias"]
        for i in range(config.n_layers):
            layer = f"layers.{i}"
            h = h + self._mixer(w, f"{layer}.mixer", self._norm(w, f"{layer}.norm_mixer", h))
            if i in config.attention_layers:
                x = self._norm(w, f"{layer}.norm_attention", h)
                h = h + self._attention(w, f"{layer}.attention", x, tokens)
            if i in config.memory_layers and memory is not None:
                x = self._norm(w, f"{layer}.norm_memory", h)
                h = h + self._memory_query(w, f"{layer}.memory", x, memory)
            h = h + self._ffn(w, f"{layer}.ffn", self._norm(w, f"{layer}.norm_ffn", h))
        hidden = self._norm(w, "norm_f", h)
        return self._linear(w, "embedding", hidden), surprise, hidden

    def _linear(self, w: Weights, name: str, x: Tensor) -> Tensor:
        if self.config.linear == "ternary":
            x = fake_int8(x, float16_scale=False)
        return F.linear(x, w[f"{name}.weight"])

    def _norm(self, w: Weights, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], w[f"{name}.weight"], NORM_EPSILON)

    def _mixer(self, w: Weights, name: str, x: Tensor) -> Tensor:
        E, N, R, K = self.config.d_inner, self.config.d_state, self.config.dt_rank, self.config.d_conv
        xs, z = self._linear(w, f"{name}.in_proj", x).split(E, -1)
        conv = F.conv1d(F.pad(xs.transpose(1, 2), (K - 1, 0)), w[f"{name}.conv1d.weight"][:, None],
                        w[f"{name}.conv1d.bias"], groups=E)
        xc = F.silu(conv.transpose(1, 2)).contiguous()
        r, Bm, Cm = self._linear(w, f"{name}.x_proj", xc).split([R, N, N], -1)
        dt = F.softplus(self._linear(w, f"{name}.dt_proj", r) + w[f"{name}.dt_proj.bias"])
        A, h, ys = -torch.exp(w[f"{name}.A_log"]), x.new_zeros(len(x), E, N), []
        for parts in zip(*(a.split(SCAN_CHUNK, 1) for a in (xc, dt, Bm, Cm)), strict=True):
            h, y = self.scan_chunk(h, *parts[:2], A, *parts[2:])
            ys.append(y)
        y = torch.cat(ys, 1) + w[f"{name}.D"] * xc
        return self._linear(w, f"{name}.out_proj", y * F.silu(z))

    def _ffn(self, w: Weights, name: str, x: Tensor) -> Tensor:
        gated = F.silu(self._linear(w, f"{name}.gate_proj", x)) * self._linear(w, f"{name}.up_proj", x)
        return self._linear(w, f"{name}.down_proj", gated)

    def _attention(self, w: Weights, name: str, x: Tensor, tokens: Tensor) -> Tensor:
        config, length = self.config, x.shape[1]
        strided = torch.arange(0, length, config.attention_stride)
        slot, newest = torch.arange(len(strided)), torch.arange(length)[:, None] // config.attention_stride
        visible = (slot <= newest) & (slot > newest - config.attention_slots)
        bias = w["byte_importance"][tokens[:, strided]][:, None, None]
        q, k, v = (self._linear(w, f"{name}.{n}_proj", a).unflatten(-1, (config.n_heads, -1)).transpose(1, 2)
                   for n, a in (("q", x), ("k", x[:, strided]), ("v", x[:, strided])))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
        out = scores.masked_fill(~visible, -math.inf).softmax(-1) @ v
        return self._linear(w, f"{name}.o_proj", out.transpose(1, 2).flatten(2))

    def _memory_query(self, w: Weights, name: str, x: Tensor, memory: Memory) -> Tensor:
        keys, values, counts = memory
        inside = (torch.arange(values.shape[1]) < counts[:, None]).float()[..., None]
        mean = (F.embedding(values, w["embedding.weight"].detach()) * inside).sum(1) / counts[:, None]
        null_and_keys = torch.cat([unit(w[f"{name}.null_key"])[None], unit(self._linear(w, f"{name}.k_proj", keys))])
        cosine = unit(self._linear(w, f"{name}.q_proj", x)) @ null_and_keys.T
        p = (cosine * w[f"{name}.score_scale"]).softmax(-1)
        read = p[..., 1:] @ self._linear(w, f"{name}.v_proj", mean)
        gate = torch.sigmoid(x @ w[f"{name}.gate.weight"] + w[f"{name}.gate.bias"])
        return self._linear(w, f"{name}.o_proj", read) * gate[..., None]
