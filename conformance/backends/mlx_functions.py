"""The MLX twin of every component: functions of MLX arrays with the component's arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from conformance.components import networks, routing, sequence
from conformance.decisions import Deciding
from mlx_backend import muon as muon_module
from mlx_backend import numerics, ops, optimizer
from mlx_backend.ops import linear
from mlx_backend.ops import routing as routing_ops


def deciding(forced: Any) -> Deciding:
    """The vocabulary with the reference's decisions."""
    return Deciding(ops, lambda x: linear.quantise_activations(x)[0], mx.array, forced)


class WithoutGradients:
    """The vocabulary where nothing is differentiated: mx.compile (MLX 0.32) fails with an IndexError where it merges
    equal stop_gradients, and two linear layers that read one x stop and round it twice."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ops, name)

    def detach(self, x: Any) -> Any:
        return x


def own_decisions(forced: Any) -> Deciding:
    """As `deciding`, to compare the decisions themselves."""
    return Deciding(WithoutGradients(), lambda x: linear.quantise_activations(x)[0], mx.array, forced)


def value_and_grad(function: Callable, params: dict[str, mx.array]) -> tuple[Any, Any, dict[str, mx.array]]:
    """ghost_ref.autodiff.value_and_grad by MLX."""
    (loss, extras), gradients = mx.value_and_grad(function)(params)
    return loss, extras, gradients


def adamw(p, gradients, m, v, *, lr, beta1, beta2, eps, weight_decay, applied):
    """One AdamW step for each of the gradients."""
    group = (1.0, weight_decay)
    for step in range(len(gradients)):
        factors = optimizer.step_factors({group}, lr, beta1, beta2, applied + step + 1)
        p, m, v = optimizer.adamw(p, gradients[step], m, v, rate=factors["rate"][0], keep=factors["keep"][0],
                                  beta1=beta1, beta2=beta2, c1=factors["c1"], c2=factors["c2"], eps=eps)
    return p, m, v


def muon(p, gradients, m, *, lr, momentum, weight_decay, fused):
    """One Muon step for each of the gradients."""
    factors = muon_module.muon_factors(lr, weight_decay, {(p.shape[0] // fused, p.shape[1])})
    for step in range(len(gradients)):
        p, m = muon_module.muon(p, gradients[step], m, rate=factors["muon_rate"][0], keep=factors["muon_keep"],
                                momentum=momentum, fused=fused)
    return p, m


def global_norm(a, b, c):
    """The norm of three gradients taken together."""
    return mx.sqrt(optimizer.square_sums({"a": a, "b": b, "c": c}).sum())


def project(threshold, scale, codebook, weight):
    """The four parameters in their ranges."""
    given = {"x.threshold": threshold, "x.scale": scale, "x.codebook": codebook, "x.weight": weight}
    return tuple(optimizer.project(given).values())


def network_property(name: str, weights, integers, tokens, state, memory, *, config, **statics):
    """`any_split` or `causality` of the shared forward on this vocabulary."""
    compute = networks.vocabulary_compute(ops, weights, integers, state, memory, config, mx.array)
    given = weights, integers, tokens, state, memory
    return networks.PROPERTIES[name](*given, config=config, compute=compute, **statics)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": numerics.exp, "log": mx.log, "log1p": mx.log1p, "rint": mx.round, "lane_sum": numerics.lane_sum,
    "quantise_activations": linear.quantise_activations,
    "conv_stream": partial(sequence.conv_stream, ops=ops), "scan_stream": partial(sequence.scan_stream, ops=ops),
    "attention_stream": partial(sequence.attention_stream, ops=ops),
    "skip_around": partial(routing.skip_around, ops=ops), "join_rows": partial(routing.join_rows, ops=ops),
    "gather": routing_ops.gather, "scatter": routing_ops.scatter,
    "adamw": adamw, "muon": muon, "global_norm": global_norm, "project": project,
    "forward": partial(networks.forward_pass, make_ops=deciding),
    "forward_decisions": partial(networks.forward_decisions, make_ops=own_decisions),
    "objective": partial(networks.objective_gradients, make_ops=deciding, value_and_grad=value_and_grad),
    "objective_decisions": partial(networks.objective_decisions, make_ops=own_decisions),
    "causality": partial(network_property, "causality"),
}
IN_NUMPY = {"decisions": ("forward", "forward_decisions", "objective", "objective_decisions"), "tokens": ("causality",)}
"""Arguments that stay NumPy arrays, and the components in which they do."""


def find(name: str) -> Callable[..., Any] | None:
    """The function of a component; the ops of the vocabulary under their own names."""
    return FUNCTIONS.get(name) or (getattr(ops, name) if name in ops.__all__ else None)
