"""The model: one function that composes ops, shared by every Python backend (docs/semantics.md section 4).

Symbols: B batch, L length, J kept tokens of a layer, d d_model, E d_inner, N d_state, R dt_rank, K d_conv.
`ops` is a vocabulary such as ghost_ref.ops; `weights` is what ghost_ref.quantise.quantise or a packed file gives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import Any

from ghost_ref.config import PAD, ModelConfig
from ghost_ref.state import State

Weights = dict[str, Any]


@dataclass
class Routing:
    """What one routed layer decided, masks (B, L): `passed` by each predictor, `survivors` of both, `kept` in the end;
    and the Mixture-of-Depths scores (B, L), None in layers without."""

    passed: dict[str, Any]
    survivors: Any
    kept: Any = None
    scores: Any = None


@dataclass
class Output:
    """Everything `forward` computes. logits (B, L, 256), hidden (B, L, d) after the final norm."""

    logits: Any
    hidden: Any
    state: State | None
    routing: dict[int, Routing] = field(default_factory=dict)
    depth: Any = None
    surprise_logits: Any = None


@dataclass
class Context:
    """What every part of the forward pass needs to see."""

    weights: Weights
    config: ModelConfig
    ops: Any
    past: State | None
    present: State
    memory: dict[str, Any] | None
    mod_top_k: bool
    dropout: Any

    def __getitem__(self, name: str) -> Any:
        return self.weights[name]

    def linear(self, name: str, x: Any) -> Any:
        """The linear layer `name`, by the form its weights have."""
        if self.config.linear == "float":
            return self.ops.float_linear(x, self[f"{name}.weight"])
        if f"{name}.index" in self.weights:
            codebook = self[f"{name.rpartition('.')[0]}.codebook"]
            return self.ops.codebook_linear(x, self[f"{name}.trits"], self[f"{name}.index"], codebook,
                                            group=self.config.codebook_group)
        return self.ops.quantised_linear(x, self[f"{name}.trits"], self[f"{name}.scale"])

    def int8_rows(self, name: str) -> Any:
        """A matrix stored as int8 rows, as floats."""
        if self.config.linear == "float":
            return self[name]
        return self.ops.dequantise_rows(self[name], self[f"{name}_scale"])

    def get_past(self, name: str) -> Any:
        """An array of the state the chunk starts from, None at the beginning."""
        return None if self.past is None else self.past[name]


def forward(weights: Weights, config: ModelConfig, tokens: Any, state: State | None = None, *, ops: Any,
            memory: dict[str, Any] | None = None, mod_top_k: bool = False, dropout: Any = None) -> Output:
    """Logits of the next byte after every byte.   tokens (B, L) uint8, L >= 1.

    state None: start from the beginning and return no state (training, evaluation of windows); else a state dict of B
    streams, and the output holds the next one. memory: a snapshot {"keys" (M, d) unit rows, "values" (M, 8)
    bytes, "counts" (M,)} of the bank, or None. mod_top_k: Mixture-of-Depths layers take the top k of the whole chunk
    (training only, not causal) instead of the shipped rule score > 0. dropout: a function applied to every branch."""
    if state is not None and len(tokens) > 1:
        return _forward_rows(weights, config, tokens, state, ops=ops, memory=memory)
    if memory is not None and not len(memory["keys"]):
        memory = None
    c = Context(weights, config, ops, state, {}, memory, mod_top_k, dropout or (lambda x: x))
    embedding = c.int8_rows("embedding.weight")
    h0 = _tokenizer(c, tokens, embedding)
    output = Output(None, None, None)
    output.routing = _predictors(c, tokens, h0, output)
    h = h0
    for i in range(config.n_layers):
        h = _layer(c, i, h, tokens, embedding, output)
    output.hidden = ops.rms_norm(h, c["norm_f.weight"])
    if config.linear == "float":
        output.logits = ops.float_linear(output.hidden, embedding)
    else:
        output.logits = ops.quantised_linear(output.hidden, c["embedding.weight"], c["embedding.weight_scale"],
                                             largest_weight=127)
    if state is not None:
        output.state = {**state, **c.present, "position": state["position"] + tokens.shape[1]}
    return output


def _forward_rows(weights, config, tokens, state, **options) -> Output:
    """Several streams: their routers keep different tokens, so each runs on its own."""
    rows = [forward(weights, config, tokens[b : b + 1], {k: v[b : b + 1] for k, v in state.items()}, **options)
            for b in range(len(tokens))]
    join = options["ops"].concatenate_rows
    stacked = {k: join([r.state[k] for r in rows if r.state]) for k in state}
    return Output(join([r.logits for r in rows]), join([r.hidden for r in rows]), stacked)


def _tokenizer(c: Context, tokens: Any, embedding: Any) -> Any:
    """h0 = e + silu(W·[e_{t-K+1} | … | e_t] + b).   tokens (B, L) -> (B, L, d)"""
    e = c.ops.take(embedding, tokens)
    windows, present = c.ops.window(e, past=c.get_past("tokenizer.conv"), width=c.config.d_conv)
    c.present["tokenizer.conv"] = present
    return e + c.ops.silu(c.linear("tokenizer.conv1d", windows) + c["tokenizer.conv1d.bias"])


def _predictors(c: Context, tokens: Any, h0: Any, output: Output) -> dict[int, Routing]:
    """Per routed layer, the tokens that the depth and surprise predictors and PAD leave in."""
    config, ops = c.config, c.ops
    passed: dict[int, dict[str, Any]] = {
        i: {} for i in sorted({*config.mod_layers, *config.depth_layers, *config.surprise_layers})}
    if config.depth_layers:
        importance = ops.take(c["byte_importance"], tokens)
        logit = ops.row_dot(h0, c["depth.weight"]) + c["depth.bias"] + importance
        output.depth = ops.sigmoid(logit) * float(config.n_layers)
        for i in config.depth_layers:
            passed[i]["depth"] = ops.exceeds(output.depth, float(i))
    if config.surprise_layers:
        output.surprise_logits = c.linear("surprise.head", ops.detach(h0)) + c["surprise.head.bias"]
        log_q = ops.log_softmax(ops.detach(output.surprise_logits))
        surprise = ops.surprise(log_q, tokens, past=c.get_past("surprise.log_q"))
        c.present["surprise.log_q"] = log_q[:, -1]
        surprising = ops.exceeds(surprise, config.surprise_threshold)
        for i in config.surprise_layers:
            passed[i]["surprise"] = surprising
    return {i: Routing(masks, reduce(and_, masks.values(), tokens != PAD)) for i, masks in passed.items()}


def _layer(c: Context, i: int, h: Any, tokens: Any, embedding: Any, output: Output) -> Any:
    """Route, compact, run the block on the kept tokens, put them back.   h (B, L, d) -> (B, L, d)"""
    config, ops = c.config, c.ops
    if i not in output.routing:
        return _block(c, i, h, tokens, embedding)
    routing = output.routing[i]
    routing.kept = routing.survivors
    if i in config.mod_layers:
        routing.scores = ops.row_dot(h, c[f"layers.{i}.router.weight"]) + c[f"layers.{i}.router.bias"]
        if c.mod_top_k:
            routing.kept = ops.top_k_mask(ops.detach(routing.scores), routing.survivors, config.mod_capacity)
        else:
            routing.kept = routing.survivors & ops.exceeds(routing.scores, 0.0)
    kept, index, length = ops.compact(h, routing.kept, drop_tail=c.past is not None)
    if not kept.shape[1]:
        return h
    u = _block(c, i, kept, ops.select(tokens, index), embedding)
    if i in config.mod_layers:
        u = ops.weighted_residual(kept, u, ops.sigmoid(ops.select(routing.scores, index)))
    if i in config.depth_layers:
        u = ops.depth_gate(kept, u, ops.select(output.depth, index), layer=i)
    return ops.restore(h, u, index, length)


def _block(c: Context, i: int, h: Any, tokens: Any, embedding: Any) -> Any:
    """The residual branches of layer i on its compacted stream.   h (B, J, d) -> (B, J, d)"""
    config, layer = c.config, f"layers.{i}"

    def normed(u: Any, name: str) -> Any:
        return c.ops.rms_norm(u, c[f"{layer}.norm_{name}.weight"])

    u = h + c.dropout(_mixer(c, f"{layer}.mixer", normed(h, "mixer")))
    if i in config.attention_layers:
        u = u + c.dropout(_attention(c, f"{layer}.attention", normed(u, "attention"), tokens))
    if i in config.memory_layers and c.memory is not None:
        u = u + c.dropout(_memory_query(c, f"{layer}.memory", normed(u, "memory"), embedding))
    if config.d_ff:
        u = u + c.dropout(_ffn(c, f"{layer}.ffn", normed(u, "ffn")))
    return u


def _mixer(c: Context, name: str, x: Any) -> Any:
    """Mamba-1 (arXiv:2312.00752).   x (B, J, d) -> (B, J, d)"""
    config, ops = c.config, c.ops
    E, N, R = config.d_inner, config.d_state, config.dt_rank
    xz = c.linear(f"{name}.in_proj", x)
    conv, c.present[f"{name}.conv"] = ops.causal_conv1d(
        xz[..., :E], c.int8_rows(f"{name}.conv1d.weight"), c[f"{name}.conv1d.bias"], past=c.get_past(f"{name}.conv"))
    xc = ops.silu(conv)
    rbc = c.linear(f"{name}.x_proj", xc)
    dt = ops.softplus(c.linear(f"{name}.dt_proj", rbc[..., :R]) + c[f"{name}.dt_proj.bias"])
    A = ops.negative_exp(c.int8_rows(f"{name}.A_log"))
    y, c.present[f"{name}.ssm"] = ops.selective_scan(
        xc, dt, A, rbc[..., R : R + N], rbc[..., R + N :], c[f"{name}.D"], past=c.get_past(f"{name}.ssm"))
    return c.linear(f"{name}.out_proj", y * ops.silu(xz[..., E:]))


def _attention(c: Context, name: str, x: Any, tokens: Any) -> Any:
    """Strided attention on the layer's own stream.   x (B, J, d) -> (B, J, d)"""
    config, length = c.config, x.shape[1]
    past, count = None, 0
    if c.past is not None:
        count = int(c.past[f"{name}.count"][0])
        past = {k: c.past[f"{name}.{k}"] for k in ("keys", "values", "bias")} | {"count": count}
    strided = c.ops.strided_positions(count, length, config.attention_stride)
    keys = x[:, strided]
    out, ring = c.ops.strided_attention(
        c.linear(f"{name}.q_proj", x), c.linear(f"{name}.k_proj", keys), c.linear(f"{name}.v_proj", keys),
        c.ops.take(c["byte_importance"], tokens[:, strided]), past=past,
        n_heads=config.n_heads, stride=config.attention_stride, slots=config.attention_slots)
    for k in ("keys", "values", "bias"):
        c.present[f"{name}.{k}"] = ring[k]
    if c.past is not None:
        c.present[f"{name}.count"] = c.past[f"{name}.count"] + length
    return c.linear(f"{name}.o_proj", out)


def _memory_query(c: Context, name: str, x: Any, embedding: Any) -> Any:
    """Cosine attention over the bank's entries and a null slot.   x (B, J, d) -> (B, J, d)"""
    ops, memory = c.ops, c.memory
    assert memory is not None
    values = ops.mean_value_embedding(ops.detach(embedding), memory["values"], memory["counts"])
    keys = ops.unit(c.linear(f"{name}.k_proj", memory["keys"]))
    null = ops.unit(c[f"{name}.null_key"])
    query = ops.unit(c.linear(f"{name}.q_proj", x))
    cosine = ops.null_and_slots(ops.row_dot(query, null), ops.pairwise_dot(query, keys))
    p = ops.slot_softmax(cosine * c[f"{name}.score_scale"])
    read = ops.slot_sum(p[..., 1:], c.linear(f"{name}.v_proj", values))
    gate = ops.sigmoid(ops.row_dot(x, c[f"{name}.gate.weight"]) + c[f"{name}.gate.bias"])
    return c.linear(f"{name}.o_proj", read) * gate[..., None]


def _ffn(c: Context, name: str, x: Any) -> Any:
    """down(silu(gate(x)) · up(x)).   x (B, J, d) -> (B, J, d)"""
    gated = c.ops.silu(c.linear(f"{name}.gate_proj", x)) * c.linear(f"{name}.up_proj", x)
    return c.linear(f"{name}.down_proj", gated)
