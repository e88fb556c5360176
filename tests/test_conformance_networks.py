"""The kit on sequences and whole models: bounds of any bracketing, forced decisions, faults that must be caught."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from scan_bounds import parallel_bound, sequential_bound

from conformance.arithmetic import BINARY32, Arithmetic
from conformance.case import run_reference
from conformance.components import files, networks, routing, sampling, sequence
from conformance.components.models import SMALL, random_memory, random_params
from conformance.decisions import Deciding
from conformance.judge import judge
from conformance.tolerance import exact_tolerances, tolerances
from ghost_ref import model, objective, ops
from ghost_ref.model import forward
from ghost_ref.quantise import quantise
from ghost_ref.state import initial_state

MODULES = (sequence, routing, networks, sampling, files)
COMPONENTS = {c.name: c for module in MODULES for c in module.COMPONENTS}
EXP_ULP = 2


def first_case(name, seed=0, label=None):
    return next(c for c in COMPONENTS[name].cases(seed) if label in (None, c.label))


def reference(component, case):
    return run_reference(component, case, lambda x: x)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", COMPONENTS)
def test_the_reference_passes(name, seed):
    component = COMPONENTS[name]
    for case in component.cases(seed):
        verdict = judge(reference(component, case), tolerances(component, case, BINARY32))
        assert verdict.tier is None, (case.name, verdict)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPONENTS)
def test_the_reference_passes_extensively(name):
    component = COMPONENTS[name]
    for case in component.cases(100, extensive=True):
        verdict = judge(reference(component, case), tolerances(component, case, BINARY32))
        assert verdict.tier is None, (case.name, verdict)


@pytest.mark.parametrize(("name", "seed"), [("forward", 312), ("forward_decisions", 401)])
def test_parameters_that_skip_every_text_are_drawn_again(name, seed, monkeypatch):
    looks = []

    def keeps_some(*arguments, **options):
        looks.append(original(*arguments, **options))
        assert len(looks) < 50, "no end in sight"
        return looks[-1]

    original = networks.every_layer_keeps_some
    monkeypatch.setattr(networks, "every_layer_keeps_some", keeps_some)
    assert list(COMPONENTS[name].cases(seed))
    assert looks.count(False) > 0  # such parameters these seeds do draw


# --- scans ------------------------------------------------------------------------------------------------------------


def scan_inputs(seed, length):
    rng = np.random.default_rng(seed)
    arguments = sequence._scan_arguments(rng, 1, length, 4, 3)
    return [arguments[name] for name in ("x", "dt", "A", "Bm", "Cm", "D", "past")]


def bracketed(a, b, rng):
    """All prefixes of the compositions (a, b) of steps in float32, by a random tree of combinations."""
    if len(a) == 1:
        return a, b
    cut = int(rng.integers(1, len(a)))
    (a1, b1), (a2, b2) = bracketed(a[:cut], b[:cut], rng), bracketed(a[cut:], b[cut:], rng)
    return np.concatenate([a1, a2 * a1[-1]]), np.concatenate([b1, a2 * b1[-1] + b2])


@pytest.mark.parametrize("seed", range(20))
def test_the_scans_bound_holds_for_any_bracketing(seed):
    rng, length = np.random.default_rng(seed), int(np.random.default_rng(seed).integers(2, 70))
    x, dt, A, Bm, Cm, D, past = scan_inputs(seed, length)
    case = replace(first_case("selective_scan"), arguments=dict(zip(("x", "dt", "A", "Bm", "Cm", "D", "past"), (
        x, dt, A, Bm, Cm, D, past), strict=True)), statistical=False)
    expected = tolerances(COMPONENTS["selective_scan"], case, BINARY32)
    a = np.exp(dt[0, :, :, None] * A)
    b = (dt * x)[0, :, :, None] * Bm[0, :, None, :]
    ones, start = np.ones_like(past), past
    _, h = bracketed(np.concatenate([ones, a]), np.concatenate([start, b]), rng)
    y = (h[1:] * Cm[0, :, None, :]).sum(-1) + D * x[0]
    assert judge({"y": y[None], "present": h[-1:]}, expected).tier is None
    worse = h[-1:] + 4 * expected["present"].bound.astype(np.float32)
    assert judge({"y": y[None], "present": worse}, expected).tier == "hard"


def test_the_scans_bound_agrees_with_the_one_derived_by_hand():
    """Running error charges additions when a sum is used, the derivation as they happen: within a factor of 2."""
    arrays = scan_inputs(3, 64)
    case = replace(first_case("selective_scan"), arguments=dict(zip(("x", "dt", "A", "Bm", "Cm", "D", "past"), arrays,
                                                                   strict=True)), statistical=False)
    found = tolerances(COMPONENTS["selective_scan"], case, BINARY32)["present"].bound
    exact = [array.astype(np.float64) for array in arrays]
    sequential, parallel = sequential_bound(*exact, EXP_ULP)[1], parallel_bound(*exact, EXP_ULP, 64)[1]
    assert (found > 0.7 * sequential).all() and (found < 6 * parallel).all()


# --- forced decisions -------------------------------------------------------------------------------------------------


def test_forcing_a_models_own_decisions_changes_no_bit():
    rng = np.random.default_rng(0)
    weights = quantise(random_params(SMALL, rng), SMALL, ops)
    tokens, memory = rng.integers(0, 256, (1, 20)).astype(np.uint8), random_memory(SMALL, rng, 5)

    def logits(vocabulary):
        return forward(weights, SMALL, tokens, initial_state(SMALL), ops=vocabulary, memory=memory).logits

    recording = Deciding()
    free = logits(ops)
    np.testing.assert_array_equal(logits(recording), free)
    np.testing.assert_array_equal(logits(Deciding(forced=recording.own)), free)
    kinds = {name.split()[1] for name in recording.own}
    assert kinds == {"codes", "exceeds"}
    changed = {name: np.zeros_like(own) if "codes" in name else own for name, own in recording.own.items()}
    assert not np.array_equal(logits(Deciding(forced=changed)), free)


@pytest.mark.parametrize("name", ["forward_decisions", "objective_decisions"])
def test_a_decision_may_differ_only_inside_its_margin(name):
    """With coarse arithmetic some decisions are open; every other one that is flipped is caught, one by one."""
    component, case = COMPONENTS[name], first_case(name)
    coarse = Arithmetic("coarse", unit=2.0**-16)
    own = reference(component, case)
    assert judge(own, tolerances(component, case, BINARY32)).tier is None
    expected = tolerances(component, case, coarse)
    rng, open_flips, caught = np.random.default_rng(0), 0, set()
    for output, tolerance in expected.items():
        for inside in (True, False):
            places = np.argwhere(tolerance.undecided == inside)
            if not len(places):
                continue
            changed = own[output].copy()
            at = tuple(places[rng.integers(len(places))])
            changed[at] = ~changed[at] if changed.dtype == bool else changed[at] + changed.dtype.type(1)
            tier = judge(own | {output: changed}, expected).tier
            assert tier == (None if inside else "decision"), (output, at)
            open_flips += inside
            caught |= set() if inside else {output.split()[1]}
    assert open_flips > 3
    assert caught == ({"codes", "exceeds"} if name == "forward_decisions" else
                      {"codes", "exceeds", "top_k", "trits", "index", "int8", "scale"})


def test_almost_every_decision_is_decided():
    """Else the margin rule would excuse everything."""
    for name in ("forward_decisions", "objective_decisions"):
        expected = tolerances(COMPONENTS[name], first_case(name), BINARY32)
        undecided = sum(int(t.undecided.sum()) for t in expected.values())
        assert undecided < 0.005 * sum(t.truth.size for t in expected.values())


# --- faults in the model ----------------------------------------------------------------------------------------------

FAULTS = {  # module, function, what is replaced, by what, and the components that must see it
    "dropped bias": (model, "_tokenizer", ' + c["tokenizer.conv1d.bias"]', "",
                     {"forward", "forward_decisions", "objective", "objective_decisions"}),
    "memory gate omitted": (model, "_memory_query", " * gate[..., None]", "", {"forward", "objective"}),
    "null slot attended": (model, "_memory_query", "p[..., 1:]", "p[..., :-1]", {"forward", "objective"}),
    "B and C swapped": (model, "_mixer", "rbc[..., R : R + N], rbc[..., R + N :]",
                        "rbc[..., R + N :], rbc[..., R : R + N]", {"forward", "objective"}),
    "dropped carry of the scan": (model, "_mixer", 'past=c.get_past(f"{name}.ssm")', "past=None",
                                  {"forward", "any_split"}),
    "dropped carry of the window": (model, "_tokenizer", 'past=c.get_past("tokenizer.conv")', "past=None",
                                    {"forward", "any_split"}),
    "stale state after a chunk": (model, "forward", "{**state, **c.present,", "{**c.present, **state,",
                                  {"forward", "any_split"}),
    "state of skipped tokens": (model, "_layer", "drop_tail=c.past is not None)", "drop_tail=False) if c.past is None "
                                "else (h, None, None)", {"forward"}),
    "leaked future byte": (model, "_tokenizer", "take(embedding, tokens)",
                           "take(embedding, tokens[:, [*range(1, tokens.shape[1]), 0]])",
                           {"forward", "causality", "any_split", "objective"}),
    "wrong threshold": (model, "_layer", "ops.exceeds(routing.scores, 0.0)", "ops.exceeds(routing.scores, 0.25)",
                        {"forward_decisions"}),
    "PAD processed": (model, "_predictors", "tokens != PAD", "tokens == tokens", {"forward"}),
    "gate of the wrong layer": (model, "_layer", "layer=i)", "layer=i + 1)", {"objective"}),
    "routing loss forgotten": (objective, "objective", "loss + aligned *", "loss + 0.0 * aligned *", {"objective"}),
    "gradient into the surprise head's input": (model, "_predictors", "ops.detach(h0)", "h0", {"objective"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_the_model_are_caught(fault, monkeypatch):
    module, name, old, new, seen_by = FAULTS[fault]
    source = textwrap.dedent(inspect.getsource(getattr(module, name)))
    assert old in source
    prepared = [(component, case, clean(component, case)) for component in map(COMPONENTS.__getitem__, sorted(seen_by))
                for case in component.cases(0)]
    scope = dict(vars(module))
    exec(source.replace(old, new), scope)
    monkeypatch.setattr(module, name, scope[name])
    if name in ("forward", "objective"):
        monkeypatch.setattr(networks, name, scope[name])
    assert {component.name for component, case, expected in prepared if fails(component, case, expected)} == seen_by


def fails(component, case, expected):
    """Whether a case fails, or cannot run with the recorded decisions."""
    try:
        return judge(reference(component, case), expected).tier is not None
    except ValueError:
        return True


CLEAN: dict[tuple[str, str], dict] = {}


def clean(component, case):
    """Tolerances of a case of seed 0, computed once."""
    key = component.name, case.label
    if key not in CLEAN:
        CLEAN[key] = tolerances(component, case, BINARY32)
    return CLEAN[key]


# --- other backends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["forward", "any_split", "causality"])
def test_the_runtime_gives_the_references_bits(name):
    pytest.importorskip("ghost_ref._native", reason="the C++ runtime is not built: run `make build`")
    from ghost_ref.runtime import load

    component = COMPONENTS[name]
    for case in component.cases(0):
        outputs = networks.run_packed(component, case, lambda path: load(path, backend="native"))
        assert judge(outputs, exact_tolerances(reference(component, case))).tier is None
        if name != "forward":
            assert all(same.all() for same in outputs.values())


def test_philox_gives_the_published_words():
    component = COMPONENTS["philox4x32"]
    expected = np.stack([sampling.words(row[2]) for row in sampling.PUBLISHED])
    np.testing.assert_array_equal(reference(component, first_case("philox4x32"))["words"], expected)


def test_special_logits_are_refused_and_reserved_bytes_never_chosen():
    component = COMPONENTS["choose_byte"]
    for case in component.cases(0):
        chosen = reference(component, case)["bytes"]
        assert not set(chosen.tolist()) & set(sampling.NEVER_CHOSEN)
        if "special" in case.label:
            assert [(c == sampling.REFUSED) for c in chosen[:5]] == [True, True, True, False, True]


def test_damaged_files_are_refused_and_tensors_come_back():
    assert reference(COMPONENTS["packed_file"], first_case("packed_file"))["refused"].all()
    assert reference(COMPONENTS["packed_tensors"], first_case("packed_tensors"))["same"].all()
