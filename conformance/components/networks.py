"""Whole models: logits, states, gradients, and every decision on the way.

How another backend runs these components:

* An op vocabulary (MLX): call `forward_pass`, `forward_decisions`, `objective_gradients`, with
  `make_ops=lambda forced: Deciding(its_ops, its_codes, its_array, forced)` (conformance/decisions.py), arrays of its
  own kind as arguments, and for the objective its own `value_and_grad`, with the signature of
  `ghost_ref.autodiff.value_and_grad`. The `decisions` argument stays in NumPy.
* A runtime on packed files: `run_packed(component, case, load)`, load(path) -> ghost_ref.runtime.Model.

A decision that differs is judged in `forward_decisions` and `objective`; all else with the reference's decisions.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conformance.arithmetic import Arithmetic
from conformance.case import FORWARD, Arrays, Case, Component, named_outputs, run_reference
from conformance.components.models import SMALL, random_batch, random_memory, random_params
from conformance.components.sequence import spans
from conformance.decisions import Deciding, Margins, undecided
from conformance.judge import same_values
from conformance.tolerance import COMPOSITE_RUNS, disturbed
from ghost_ref import ops as reference
from ghost_ref.autodiff import value_and_grad as reference_value_and_grad
from ghost_ref.batches import Batch
from ghost_ref.config import PAD, ModelConfig, TrainingConfig
from ghost_ref.model import forward
from ghost_ref.objective import objective
from ghost_ref.packed import save_packed
from ghost_ref.presets import preset
from ghost_ref.quantise import quantise
from ghost_ref.runtime import Model
from ghost_ref.state import State, initial_state

Rng = np.random.Generator
MakeOps = Callable[[Any], Deciding]
NETWORK = ("weights", "integers", "tokens", "state", "memory", "decisions")
PROPERTY = NETWORK[:-1]
OBJECTIVE = ("params", "batch", "memory", "decisions")


def reference_ops(forced: Any) -> Deciding:
    """The reference's vocabulary with forced decisions."""
    return Deciding(forced=forced)


def parse_config(text: str) -> ModelConfig:
    """A ModelConfig from a case's statics."""
    return ModelConfig.from_dict(json.loads(text))


def run_forward(ops: Any, weights: Arrays, integers: Arrays, tokens: Any, state: State | None, memory: Arrays | None,
                config: str, chunks: tuple[int, ...]) -> tuple[Arrays, Arrays, State | None]:
    """`forward` chunk by chunk -> {chunk number: logits}, {chunk number: hidden}, last state."""
    logits, hidden = {}, {}
    for i, part in enumerate(spans(chunks)):
        out = forward({**weights, **integers}, parse_config(config), tokens[:, part], state, ops=ops, memory=memory)
        logits[str(i)], hidden[str(i)], state = out.logits, out.hidden, out.state
    return logits, hidden, state


Compute = Callable[[Any, tuple[int, ...]], tuple[Arrays, Arrays, Any]]
"""From (tokens, chunks) to what `run_forward` gives, with all else fixed."""


def vocabulary_compute(ops: Any, weights: Arrays, integers: Arrays, state: State | None, memory: Arrays | None,
                       config: str, array: Callable[[Any], Any] = lambda x: x) -> Compute:
    """The shared `forward` on any vocabulary; array: from the tokens in NumPy to its own kind."""
    return lambda tokens, chunks: run_forward(ops, weights, integers, array(tokens), state, memory, config, chunks)


def packed_compute(model: Model, state: State | None, memory: Arrays | None) -> Compute:
    """A loaded packed file; without a state every row starts its own."""
    def compute(tokens: np.ndarray, chunks: tuple[int, ...]) -> tuple[Arrays, Arrays, Any]:
        model.set_memory(memory)
        rows = [model.new_state() for _ in tokens] if state is None else [model.load_state_dict(state)]
        logits, hidden = {}, {}
        for i, part in enumerate(spans(chunks)):
            pieces = [model.engine.forward(own, np.ascontiguousarray(row[part]), False)
                      for own, row in zip(rows, tokens, strict=True)]
            logits[str(i)], hidden[str(i)] = (np.stack(piece) for piece in zip(*pieces, strict=True))
        return logits, hidden, None if state is None else model.state_dict(rows[0])
    return compute


def run_packed(component: Component, case: Case, load: Callable[[Path], Model]) -> Arrays:
    """`forward`, `any_split` or `causality` through a packed file."""
    given = case.arguments
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ghost"
        save_packed(path, {**given["weights"], **given["integers"]}, parse_config(case.statics["config"]))
        compute = packed_compute(load(path), given["state"], given["memory"])
        if component.name == "forward":
            return named_outputs(component, compute(given["tokens"], case.statics["chunks"]))
        arguments = [given[name] for name in component.arguments]
        return named_outputs(component, PROPERTIES[component.name](*arguments, **case.statics, compute=compute))


def _binary32_compute(weights: Arrays, integers: Arrays, state: State, memory: Arrays | None, config: str) -> Compute:
    """The reference in float32, whatever the arrays are."""
    def rounded(arrays: Arrays | None) -> Any:
        return arrays and {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in arrays.items()}

    return vocabulary_compute(reference, rounded(weights), rounded(integers), rounded(state), rounded(memory), config)


def any_split(weights: Any, integers: Any, tokens: Any, state: Any, memory: Any, *, config: str,
              chunks: tuple[int, ...], compute: Compute | None = None) -> dict[str, np.ndarray]:
    """Whether chunks give the bits of the whole: logits by position, the state by array."""
    compute = compute or _binary32_compute(weights, integers, state, memory, config)
    whole, _, last = compute(tokens, (sum(chunks),))
    pieces, _, last_of_pieces = compute(tokens, chunks)
    joined = np.concatenate([np.asarray(piece) for piece in pieces.values()], 1)
    same_state = [same_values(np.asarray(last_of_pieces[name]), np.asarray(last[name])).all() for name in state]
    return {"logits": _same_positions(joined, np.asarray(whole["0"])), "state": np.array(same_state)}


def causality(weights: Any, integers: Any, tokens: Any, state: Any, memory: Any, *, config: str, position: int,
              compute: Compute | None = None) -> dict[str, np.ndarray]:
    """With another byte at `position`: whether every earlier logit keeps its bits, and whether one there changes."""
    compute = compute or _binary32_compute(weights, integers, state, memory, config)
    given = np.array(tokens)
    changed = given.copy()
    changed[:, position] ^= 1
    before, after = (np.asarray(compute(t, (t.shape[1],))[0]["0"]) for t in (given, changed))
    same = _same_positions(before, after)
    return {"before": same[:position], "changes": ~same[position : position + 1]}


def _same_positions(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Positions at which (B, L, V) arrays have the same bits."""
    return np.asarray(same_values(a, b).all((0, 2)))


PROPERTIES: dict[str, Callable[..., Any]] = {"any_split": any_split, "causality": causality}


def forward_pass(weights: Any, integers: Any, tokens: Any, state: Any, memory: Any, decisions: Any, *, config: str,
                 chunks: tuple[int, ...], make_ops: MakeOps = reference_ops) -> Any:
    """(logits, hidden, state) with these decisions. integers: trits, indices and int8 rows; weights: all others."""
    return run_forward(make_ops(decisions), weights, integers, tokens, state, memory, config, chunks)


def forward_decisions(weights: Any, integers: Any, tokens: Any, state: Any, memory: Any, decisions: Any, *,
                      config: str, chunks: tuple[int, ...], make_ops: MakeOps = reference_ops) -> Any:
    """The own decisions, each made where all before it are the given ones."""
    ops = make_ops(decisions)
    run_forward(ops, weights, integers, tokens, state, memory, config, chunks)
    return ops.own


def objective_gradients(params: Any, batch: Any, memory: Any, decisions: Any, *, config: str,
                        make_ops: MakeOps = reference_ops,
                        value_and_grad: Callable = reference_value_and_grad) -> Any:
    """(loss, {parameter: gradient}) of `objective` through `quantise`, top-k routing included."""
    ops = make_ops(decisions)
    loss, _, gradients = value_and_grad(lambda p: run_objective(ops, p, batch, memory, config), params)
    return loss, gradients


def objective_decisions(params: Any, batch: Any, memory: Any, decisions: Any, *, config: str,
                        make_ops: MakeOps = reference_ops) -> Any:
    """The own decisions in training, those about the parameters first."""
    ops = make_ops(decisions)
    run_objective(ops, params, batch, memory, config)
    return ops.own


def run_objective(ops: Any, params: Arrays, batch: Arrays, memory: Arrays | None, config: str) -> tuple[Any, Any]:
    """(loss, None) of a batch, its arrays by name (conformance/components/models.py)."""
    parsed = parse_config(config)
    rows = Batch(*(batch[name] for name in ("tokens", "targets", "loss_mask", "valid")))
    counts = batch["counts"][0], batch["counts"][1]
    return objective(quantise(params, parsed, ops), parsed, TrainingConfig(), rows, ops=ops, counts=counts,
                     memory=memory)[0], None


# --- cases ------------------------------------------------------------------------------------------------------------


def network_case(component: str, label: str, config: ModelConfig, params: Arrays, tokens: np.ndarray,
                 chunks: tuple[int, ...] | None = None, memory: Arrays | None = None, stateless: bool = False,
                 statistical: bool = False) -> Case:
    """A forward case with the decisions that the float32 reference takes."""
    packed = quantise(params, config, reference)
    integers = {k: v + v.dtype.type(0) for k, v in packed.items()  # a file has no -0
                if k.endswith((".trits", ".index")) or f"{k}_scale" in packed}
    weights = {k: v for k, v in packed.items() if k not in integers}
    state = None if stateless else initial_state(config, len(tokens))
    chunks, ops = chunks or (tokens.shape[1],), Deciding()
    run_forward(ops, weights, integers, tokens, state, memory, config.to_json(), chunks)
    arguments = dict(zip(NETWORK, (weights, integers, tokens, state, memory, ops.own), strict=True))
    return Case(component, label, FORWARD, arguments, {"config": config.to_json(), "chunks": chunks},
                statistical=statistical)


def every_layer_keeps_some(params: Arrays, config: ModelConfig, tokens: np.ndarray, memory: Arrays | None = None,
                           mod_top_k: bool = False) -> bool:
    """Whether no layer is left out: vocabularies of static shapes run every layer, and decide about skipped tokens."""
    weights = quantise(params, config, reference)
    out = forward(weights, config, tokens, ops=reference, memory=memory, mod_top_k=mod_top_k)
    return all(routing.kept.any() for routing in out.routing.values())


def _small_forward(component: str, rng: Rng) -> Callable[..., Case]:
    """Cases of one small model with random weights."""
    common = random_params(SMALL, rng)

    def case(label: str, tokens: np.ndarray, chunks: tuple[int, ...] | None = None, **options: Any) -> Case:
        params = common
        while options.get("stateless") and not every_layer_keeps_some(params, SMALL, tokens, options["memory"]):
            params = random_params(SMALL, rng)  # not other tokens: some routers keep none whatever the text
        return network_case(component, label, SMALL, params, tokens, chunks, **options)
    return case


def _text(rng: Rng, rows: int, length: int) -> np.ndarray:
    return rng.integers(0, 256, (rows, length)).astype(np.uint8)


def _forward(rng: Rng, extensive: bool) -> Iterator[Case]:
    case, memory = _small_forward("forward", rng), random_memory(SMALL, rng, 5)
    yield case("memory", _text(rng, 1, 24), memory=memory, statistical=True)
    yield case("byte by byte", _text(rng, 1, 5), (1,) * 5, memory=memory)
    padded = _text(rng, 1, 17)
    padded[0, 4:13] = PAD
    yield case("chunks with PAD", padded, (5, 1, 8, 3))
    yield case("two windows", _text(rng, 2, 11), memory=memory, stateless=True)
    yield _only_pad_skipped(rng)
    yield _at_the_thresholds(rng)
    if extensive:
        yield case("every byte", rng.permutation(256).astype(np.uint8)[None], (100, 156), memory=memory)
        tiny = preset("tiny")
        yield network_case("forward", "tiny", tiny, random_params(tiny, rng), _text(rng, 1, 64), (40, 24))


def _only_pad_skipped(rng: Rng) -> Case:
    """A router that keeps everything: what is skipped, is skipped for being PAD."""
    config = replace(SMALL, n_layers=2, attention_layers=(1,), memory_layers=(), mod_layers=(1,), depth_layers=(),
                     surprise_layers=())
    params = random_params(config, rng)
    params["layers.1.router.bias"][...] = 100.0
    tokens = rng.integers(0, PAD, (1, 6)).astype(np.uint8)
    tokens[0, 2:4] = PAD
    return network_case("forward", "only PAD skipped", config, params, tokens)


def _at_the_thresholds(rng: Rng) -> Case:
    """Every router at its threshold, which turns a token away: score 0, depth 2 at layer 2, and for the first byte the
    surprise of a uniform prediction."""
    config = replace(SMALL, memory_layers=(), mod_layers=(1,), depth_layers=(2,), surprise_layers=(3,),
                     surprise_threshold=float(np.float32(math.log(256))))
    params = random_params(config, rng)
    for name in ("layers.1.router.weight", "layers.1.router.bias", "depth.weight", "depth.bias", "byte_importance"):
        params[name][...] = 0
    return network_case("forward", "at the thresholds", config, params, rng.integers(0, PAD, (1, 7)).astype(np.uint8))


def _forward_decisions(rng: Rng, extensive: bool) -> Iterator[Case]:
    case, memory = _small_forward("forward_decisions", rng), random_memory(SMALL, rng, 5)
    yield case("chunks", _text(rng, 1, 20), (13, 7), memory=memory)
    yield case("two windows", _text(rng, 2, 11), memory=memory, stateless=True)
    if extensive:
        tiny = preset("tiny")
        yield network_case("forward_decisions", "tiny", tiny, random_params(tiny, rng), _text(rng, 1, 64), (40, 24))


def objective_case(component: str, label: str, config: ModelConfig, rng: Rng, rows: int, length: int, entries: int,
                   statistical: bool = False) -> Case:
    """A training batch with the decisions that the float32 reference takes."""
    params, batch = random_params(config, rng), random_batch(rng, rows, length)
    memory = random_memory(config, rng, entries) if entries else None
    while not every_layer_keeps_some(params, config, batch["tokens"], memory, mod_top_k=True):
        params, batch = random_params(config, rng), random_batch(rng, rows, length)
    ops = Deciding()
    run_objective(ops, params, batch, memory, config.to_json())
    arguments = dict(zip(OBJECTIVE, (params, batch, memory, ops.own), strict=True))
    return Case(component, label, FORWARD, arguments, {"config": config.to_json()}, statistical=statistical)


def _objective(rng: Rng, extensive: bool) -> Iterator[Case]:
    yield objective_case("objective", "memory shown", SMALL, rng, 2, 12, 5, statistical=True)
    yield objective_case("objective", "no memory", SMALL, rng, 1, 9, 0)
    if extensive:
        yield objective_case("objective", "tiny", preset("tiny"), rng, 2, 32, 8, statistical=True)


def _property_case(component: str, rng: Rng, label: str, tokens: np.ndarray, **statics: Any) -> Case:
    """A case of `any_split` or `causality`; they make their own decisions."""
    memory = random_memory(SMALL, rng, 5)
    made = network_case(component, label, SMALL, random_params(SMALL, rng), tokens, memory=memory)
    return replace(made, arguments={name: made.arguments[name] for name in PROPERTY},
                   statics={"config": SMALL.to_json(), **statics})


def _any_split(rng: Rng, extensive: bool) -> Iterator[Case]:
    for chunks in ((1,) * 9, (16, 1, 15), tuple(int(n) for n in rng.integers(1, 20, 9 if extensive else 3))):
        yield _property_case("any_split", rng, f"chunks {chunks}", _text(rng, 1, sum(chunks)), chunks=chunks)


def _causality(rng: Rng, extensive: bool) -> Iterator[Case]:
    for length in (1, 17, 33):
        for position in sorted({0, length - 1, *rng.integers(length, size=8).tolist()}):
            yield _property_case("causality", rng, f"L={length}, byte {position}", _text(rng, 1, length),
                                 position=position)


def _objective_decisions(rng: Rng, extensive: bool) -> Iterator[Case]:
    yield objective_case("objective_decisions", "memory shown", SMALL, rng, 2, 12, 5)
    if extensive:
        yield objective_case("objective_decisions", "tiny", preset("tiny"), rng, 2, 32, 8)


# --- margins ----------------------------------------------------------------------------------------------------------


def _undecided(name: str) -> Callable[[Case, Arithmetic], dict[str, np.ndarray]]:
    """Of the component `name`: where its decisions may differ, by output."""
    def of_case(case: Case, arithmetic: Arithmetic) -> dict[str, np.ndarray]:
        component = next(c for c in COMPONENTS if c.name == name)
        made: list[Margins] = []

        def make_ops(forced: Any) -> Margins:
            made.append(Margins(forced, arithmetic))
            return made[-1]

        noted = replace(case, statics={**case.statics, "make_ops": make_ops})
        run_reference(component, noted, lambda x: x.astype(np.float64))
        for run in range(COMPOSITE_RUNS):
            run_reference(component, noted, disturbed(arithmetic, run))
        return {f"decisions.{k}": mask for k, mask in undecided(made[0], made[1:]).items()}
    return of_case


_OWN = "conformance.components.networks"
_EXACT = ("integers", "decisions")
COMPONENTS = (
    Component("forward", f"{_OWN}:forward_pass", NETWORK, ("logits", "hidden", "state"), _forward,
              exact_arguments=_EXACT, composite=True),
    Component("forward_decisions", f"{_OWN}:forward_decisions", NETWORK, ("decisions",), _forward_decisions,
              canonical=False, decisions=("decisions",), undecided=_undecided("forward_decisions"),
              exact_arguments=_EXACT, composite=True),
    Component("any_split", f"{_OWN}:any_split", PROPERTY, ("same",), _any_split, exact_arguments=PROPERTY),
    Component("causality", f"{_OWN}:causality", PROPERTY, ("same",), _causality, exact_arguments=PROPERTY),
    Component("objective", f"{_OWN}:objective_gradients", OBJECTIVE, ("loss", "gradients"), _objective,
              canonical=False, exact_arguments=_EXACT, composite=True),
    Component("objective_decisions", f"{_OWN}:objective_decisions", OBJECTIVE, ("decisions",), _objective_decisions,
              canonical=False, decisions=("decisions",), undecided=_undecided("objective_decisions"),
              exact_arguments=_EXACT, composite=True),
)
