"""The components of the kit: complete, true, never failing the reference, and catching faults put in by hand."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from conformance.arithmetic import BINARY32
from conformance.backends.reference import ReferenceBackend
from conformance.case import BACKWARD, FORWARD, Arrays, Case, Component, run_reference
from conformance.components import (
    COMPONENTS,
    elementwise,
    embedding,
    linear,
    losses,
    optimizers,
    rows,
    storage,
)
from conformance.judge import judge
from conformance.run import CaseJudgement
from conformance.tolerance import tolerances
from ghost_ref import numerics, ops, optimizer

NOT_COMPONENTS = {
    "detach": "computes nothing: it ends a gradient",
    "strided_positions": "integers from the stream's shape alone: strided_attention fails if they are wrong",
    "concatenate_rows": "joins what compaction split: component join_rows",
    "compact": "component gather, and skip_around as a whole",
    "restore": "component scatter, and skip_around as a whole",
    "select": "component skip_around",
}
BY_NAME = {c.name: c for c in COMPONENTS}
SIMPLE = [c for m in (elementwise, rows, linear, storage, embedding, losses, optimizers) for c in m.COMPONENTS]
"""The components of one op each."""


def named(components):
    return pytest.mark.parametrize("component", components, ids=[c.name for c in components])


def case_of(name: str, label: str, direction: str = FORWARD, seed: int = 0) -> tuple[Component, Case]:
    component = BY_NAME[name]
    return component, next(c for c in component.cases(seed) if c.label == label and c.direction == direction)


# --- complete ---------------------------------------------------------------------------------------------------------


def test_every_op_is_a_component_or_has_a_reason():
    assert set(ops.__all__) == (set(ops.__all__) & set(BY_NAME)) | set(NOT_COMPONENTS)
    assert not set(NOT_COMPONENTS) & set(BY_NAME)
    assert len(BY_NAME) == len(COMPONENTS)


@named(SIMPLE)
def test_cases_are_named_apart_and_reproducible(component):
    cases, again = list(component.cases(3)), list(component.cases(3))
    assert len({c.name for c in cases}) == len(cases)
    assert all(c.component == component.name for c in cases)
    for a, b in zip(cases, again, strict=True):
        for name, array in a.arguments.items():
            np.testing.assert_array_equal(array, b.arguments[name])


@named(SIMPLE)
def test_every_gradient_has_a_case(component):
    """An op with a backward pass has backward cases that give every gradient it can."""
    module, _, name = component.function.partition(":")
    has_backward = hasattr(importlib.import_module(module), f"{name}_backward")
    backward = [c for c in component.cases(0) if c.direction == BACKWARD]
    assert has_backward == bool(component.gradients) == bool(backward)
    for case in backward:
        gradients = run_reference(component, case, lambda x: x)
        assert set(gradients) == {f"d {g}" for g in component.gradients}
        for gradient in component.gradients:
            assert gradients[f"d {gradient}"].shape == case.arguments[gradient].shape


@named(SIMPLE)
def test_cases_hold_odd_lengths_and_are_judged_by_statistics_too(component):
    cases = list(component.cases(0))
    expected = [tolerances(component, c, BINARY32) for c in cases if c.statistical]
    scaled = any(t.scale is not None for found in expected for t in found.values())
    rounds = any(not t.exact for c in cases for t in tolerances(component, c, BINARY32).values())
    scalar = component.name in ("global_norm", "masked_mean", "project")
    assert scaled == (rounds and not scalar)


# --- true -------------------------------------------------------------------------------------------------------------


def exact(array: np.ndarray) -> list:
    """The numbers of an array with 50 digits."""
    return [exact(row) for row in array] if array.ndim else mpmath.mpf(float(array))


def check_truth(name: str, label: str, output: str, formula: Callable[[Arrays], np.ndarray], direction: str = FORWARD):
    """A truth of the kit against a formula in 50 digits; its bound must not be below the error of the truth itself."""
    component, case = case_of(name, label, direction)
    truth = tolerances(component, case, BINARY32)[output].truth
    with mpmath.workdps(50):
        wanted = np.array(formula(case.arguments | case.statics | case.cotangents), dtype=object)
        error = np.abs(np.vectorize(lambda t, w: float(mpmath.mpf(float(t)) - w))(truth, wanted))
        size = np.abs(np.vectorize(float)(wanted))
    assert truth.shape == wanted.shape
    assert (error <= 1e-14 * size + 1e-15 * size.max()).all(), (error / size).max()


def rms_norm_by_mpmath(a: Arrays) -> list:
    x, gain = exact(a["x"]), exact(a["gain"])
    return [[v * g / mpmath.sqrt(sum(t * t for t in row) / len(row) + mpmath.mpf("1e-5"))
             for v, g in zip(row, gain)] for row in x]


def unit_by_mpmath(a: Arrays) -> list:
    return [[v / mpmath.sqrt(sum(t * t for t in row) + mpmath.mpf("1e-12")) for v in row] for row in exact(a["x"])]


def softmax_by_mpmath(a: Arrays) -> list:
    return [[mpmath.exp(v) / sum(mpmath.exp(t) for t in row) for v in row] for row in exact(a["z"])]


def log_softmax_by_mpmath(a: Arrays) -> list:
    return [[mpmath.log(p) for p in row] for row in softmax_by_mpmath(a)]


def cross_entropy_by_mpmath(a: Arrays) -> object:
    losses_of = [-mpmath.log(softmax_by_mpmath({"z": row})[i][t]) for row, targets in zip(a["logits"], a["targets"])
                 for i, t in enumerate(targets)]
    return sum(losses_of) / a["count"]


def cross_entropy_gradient_by_mpmath(a: Arrays) -> list:
    factor = exact(a["loss"]) / a["count"]
    return [[[(p - (j == t)) * factor for j, p in enumerate(row)]
             for row, t in zip(softmax_by_mpmath({"z": rows_of}), targets)]
            for rows_of, targets in zip(a["logits"], a["targets"])]


def adamw_by_mpmath(a: Arrays) -> list:
    """The formula with its factors as they are, rounded to float32."""
    def f(x: float) -> object:
        return mpmath.mpf(float(np.float32(x)))

    p, m, v = exact(a["p"]), exact(a["m"]), exact(a["v"])
    for step, gradient in enumerate(exact(a["gradients"])):
        t = a["applied"] + step + 1
        m = [f(a["beta1"]) * x + f(1 - a["beta1"]) * g for x, g in zip(m, gradient)]
        v = [f(a["beta2"]) * x + f(1 - a["beta2"]) * g * g for x, g in zip(v, gradient)]
        c1, c2 = f(1 / (1 - a["beta1"] ** t)), f(1 / (1 - a["beta2"] ** t))
        p = [x * f(1 - a["lr"] * a["weight_decay"]) - f(a["lr"]) * (mm * c1) / (mpmath.sqrt(vv * c2) + f(a["eps"]))
             for x, mm, vv in zip(p, m, v)]
    return p


def quantised_linear_by_fractions(a: Arrays) -> list:
    found = []
    for row, codes in zip(a["x"], a["forced"]):
        scale = Fraction(max(abs(float(v)) for v in row)) / 127
        sums = [sum(int(w) * int(q) for w, q in zip(weights, codes)) for weights in a["weight"]]
        values = [s * Fraction(float(w)) * scale for s, w in zip(sums, a["scale"])]
        found.append([mpmath.mpf(v.numerator) / v.denominator for v in values])
    return found


def function_by_mpmath(function: Callable) -> Callable[[Arrays], list]:
    return lambda a: [function(v) for v in exact(a["x"])]


@pytest.mark.parametrize(("name", "label", "output", "formula"), [
    ("rms_norm", "d=17", "y", rms_norm_by_mpmath), ("unit", "d=17", "y", unit_by_mpmath),
    ("slot_softmax", "M=17", "y", softmax_by_mpmath), ("log_softmax", "M=17", "y", log_softmax_by_mpmath),
    ("cross_entropy", "V=17", "loss", cross_entropy_by_mpmath), ("adamw", "n=17", "p", adamw_by_mpmath),
    ("quantised_linear", "int8, k=33", "y", quantised_linear_by_fractions),
    ("quantised_linear", "int8 sums beyond 2^24", "y", quantised_linear_by_fractions),
    ("sigmoid", "wide", "y", function_by_mpmath(lambda v: 1 / (1 + mpmath.exp(-v)))),
    ("silu", "wide", "y", function_by_mpmath(lambda v: v / (1 + mpmath.exp(-v)))),
    ("softplus", "wide", "y", function_by_mpmath(lambda v: mpmath.log1p(mpmath.exp(v)))),
    ("log1p", "tiny", "y", function_by_mpmath(mpmath.log1p)),
])
def test_truths_are_true(name, label, output, formula):
    check_truth(name, label, output, formula)


def test_the_truth_of_a_loss_gradient():
    check_truth("cross_entropy", "V=17", "d logits", cross_entropy_gradient_by_mpmath, BACKWARD)


HOLOMORPHIC = ("sigmoid", "silu", "softplus", "negative_exp", "dropout", "rms_norm", "unit", "slot_softmax", "row_dot",
               "pairwise_dot", "slot_sum", "null_and_slots", "float_linear", "window")


@named([BY_NAME[name] for name in HOLOMORPHIC])
def test_gradients_match_the_complex_step(component):
    """In float64, along a random direction, to 1e-9. Straight-through gradients are asserted in test_ops."""
    rng = np.random.default_rng(1)
    for case in component.cases(0):
        if case.direction != BACKWARD or not case.statistical:
            continue
        wide_case = replace(case, arguments=in_float64(case.arguments), cotangents=in_float64(case.cotangents))
        gradients = run_reference(component, wide_case, lambda x: x)
        for name in component.gradients:
            direction = rng.standard_normal(case.arguments[name].shape)
            moved = wide_case.arguments | {name: wide_case.arguments[name] + 1e-30j * direction}
            outputs = run_reference(component, replace(wide_case, direction=FORWARD, arguments=moved), lambda x: x)
            cotangents = wide_case.cotangents.items()
            wanted = sum((outputs[o] * dy).sum() for o, dy in cotangents).imag / 1e-30
            terms = sum(np.abs(outputs[o].imag * dy).sum() for o, dy in cotangents) / 1e-30
            size = np.abs(gradients[f"d {name}"] * direction).sum() + terms
            assert abs((gradients[f"d {name}"] * direction).sum() - wanted) <= 1e-9 * size, (case.name, name)


def in_float64(arrays: Arrays) -> Arrays:
    return {k: a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for k, a in arrays.items()}


# --- never failing the reference --------------------------------------------------------------------------------------


@named(SIMPLE)
def test_the_reference_passes_with_other_seeds(component):
    for seed in range(100, 105):
        for case in component.cases(seed):
            result = CaseJudgement(component, case).result(ReferenceBackend())
            assert result.tier is None, result


@named([c for c in SIMPLE if c.undecided])
def test_few_decisions_are_left_open(component):
    """Typical inputs are decided nearly everywhere, and exact ties always."""
    for case in component.cases(0):
        if case.direction == FORWARD and case.label in ("normal", "ties", "at the threshold", "k=33"):
            for mask in component.undecided(case, BINARY32).values():
                assert mask.mean() <= 0.01, case.name
                assert not mask.any() or case.label in ("normal", "k=33"), case.name


# --- catching faults --------------------------------------------------------------------------------------------------


def caught(component: Component, fault: Callable[[Component, Case], Arrays]) -> bool:
    """Whether some case of seed 0 rejects what a faulty computation gives."""
    for case in component.cases(0):
        expected = tolerances(component, case, BINARY32)
        with np.errstate(all="ignore"):
            outputs = fault(component, case)
        if judge(outputs, expected).tier:
            return True
    return False


def changed(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Component, Case], Arrays]:
    """The reference's results, each changed where it is a float32 array with a bound."""
    def fault(component: Component, case: Case) -> Arrays:
        outputs = run_reference(component, case, lambda x: x)
        return {name: np.asarray(change(np.asarray(y))) for name, y in outputs.items()}
    return fault


def last_lost(y: np.ndarray) -> np.ndarray:
    y = y.copy()
    y.reshape(-1)[-1:] = 0
    return y


RESULT_FAULTS = {
    "float16 result": lambda y: y.astype(np.float16).astype(np.float32),
    "bfloat16 result": lambda y: (y.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32),
    "1e-6 too large": lambda y: y * np.float32(1 + 1e-6),
    "last element lost": last_lost,
    "NaN swallowed, sign lost": lambda y: np.abs(np.nan_to_num(y)),
}
DISCRETE = {"round_float16", "rint", "quantise_activations", "int8_rows", "ternarise", "codebook_ternarise"}


@pytest.mark.parametrize("fault", RESULT_FAULTS)
@named(SIMPLE)
def test_faulty_results_are_caught(component, fault):
    if "float16" in fault and component.name in DISCRETE:
        pytest.skip("its results are float16 numbers or small integers")
    assert caught(component, changed(RESULT_FAULTS[fault]))


ONE_ULP = ("exp", "log", "log1p", "sigmoid", "silu", "softplus", "negative_exp", "dropout", "dequantise_rows",
           "mean_value_embedding", "quantised_linear", "unit", "slot_softmax", "rms_norm", "adamw")


@named([BY_NAME[name] for name in ONE_ULP])
def test_a_bias_of_one_ulp_is_caught(component):
    assert caught(component, changed(lambda y: np.nextafter(y, np.copysign(np.float32(np.inf), y))))


def truncated(component: Component, case: Case) -> Arrays:
    """The truth rounded towards zero."""
    truths = run_reference(component, replace(case, arguments=in_float64(case.arguments),
                                              cotangents=in_float64(case.cotangents)), lambda x: x)
    results = {}
    for name, truth in truths.items():
        rounded = np.asarray(truth).astype(np.float32)
        results[name] = np.where(np.abs(rounded) > np.abs(truth), np.nextafter(rounded, np.float32(0)), rounded)
    return results


@named([BY_NAME[name] for name in ("dropout", "sigmoid", "log1p")])
def test_truncation_instead_of_rounding_is_caught(component):
    """Where a result is one or two operations from its arguments."""
    assert caught(component, truncated)


def without_odd_lanes(x: np.ndarray) -> np.ndarray:
    return numerics_lane_sum(x[..., : max(1, x.shape[-1] - x.shape[-1] % 2)])


def half_in_float16(x: np.ndarray) -> np.ndarray:
    middle = x.shape[-1] // 2
    half = x[..., :middle].astype(np.float16).sum(-1, dtype=np.float16).astype(np.float32)
    return half + numerics_lane_sum(x[..., middle:])


def round_half_away(x: np.ndarray) -> np.ndarray:
    return np.copysign(np.floor(np.abs(x) + np.float32(0.5)), x)


numerics_lane_sum = numerics.lane_sum
PATCHES = [
    ("rms_norm", "ghost_ref.ops.norm", "RMS_EPSILON", 1e-6), ("rms_norm", "ghost_ref.ops.norm", "RMS_EPSILON", 1.1e-5),
    ("unit", "ghost_ref.ops.norm", "UNIT_EPSILON", 0.0), ("unit", "ghost_ref.ops.norm", "UNIT_EPSILON", 1e-8),
    *((name, module, "lane_sum", fault) for fault in (without_odd_lanes, half_in_float16)
      for name, module in (("rms_norm", "ghost_ref.ops.norm"), ("unit", "ghost_ref.ops.norm"),
                           ("row_dot", "ghost_ref.ops.linear"), ("pairwise_dot", "ghost_ref.ops.linear"),
                           ("ternarise", "ghost_ref.ops.ternary"), ("codebook_ternarise", "ghost_ref.ops.ternary"),
                           ("log_softmax", "ghost_ref.numerics"))),
    ("slot_softmax", "ghost_ref.numerics", "maximum_reduce", lambda x: x[..., 0]),
    ("slot_softmax", "ghost_ref.numerics", "index_sum", lambda x: x[..., :-1].sum(-1)),
    ("quantise_activations", "ghost_ref.ops.linear", "rint", round_half_away),
    ("quantise_activations", "ghost_ref.ops.linear", "rint", np.trunc),
    ("quantise_activations", "ghost_ref.ops.linear", "ACTIVATION_LEVELS", 128),
    ("quantised_linear", "ghost_ref.ops.linear", "EXACT_FLOAT32", 1 << 30),
    ("quantised_linear", "ghost_ref.ops.linear", "integer_matmul",
     lambda q, w, _: (q @ w.T).astype(np.int32).astype(np.int16).astype(np.float32)),
    ("quantised_linear", "ghost_ref.ops.linear", "integer_matmul", lambda q, w, _: q[..., 1:] @ w[:, 1:].T),
    ("ternarise", "ghost_ref.ops.ternary", "THRESHOLD_RANGE", (0.0, 1.2)),
    ("ternarise", "ghost_ref.ops.ternary", "THRESHOLD_RANGE", (0.3, 1.25)),
    ("ternarise", "ghost_ref.ops.ternary", "KERNEL_WIDTH", 0.25001),
    ("ternarise", "ghost_ref.ops.ternary", "SCALE_SMALLEST", 0.0),
    ("ternarise", "ghost_ref.ops.ternary", "_trits", lambda w, d: np.sign(w) * (np.abs(w) >= d[:, None])),
    ("codebook_ternarise", "ghost_ref.ops.ternary", "nearest_entry",
     lambda a, cb: len(cb) - 1 - np.abs(cb[::-1] - a[..., None]).argmin(-1)),
    ("round_float16", "ghost_ref.ops.ternary", "FLOAT16_LARGEST", 1e30),
    ("adamw", "ghost_ref.optimizer", "adamw_update", lambda p, g, m, v, *rest: ADAMW(p, g, m, v, *rest[:-2], 1.0, 1.0)),
    ("adamw", "ghost_ref.optimizer", "adamw_update", lambda *a: ADAMW(*a[:7], 1.1e-8, *a[8:])),
    ("adamw", "ghost_ref.optimizer", "adamw_update", lambda *a: ADAMW(*a[:8], 0.0, *a[9:])),
    ("project", "ghost_ref.optimizer", "THRESHOLD_RANGE", (0.3, 1.3)),
    ("cross_entropy", "ghost_ref.ops.loss", "_weights", lambda mask, count, dtype: (mask / mask.size).astype(dtype)),
    ("masked_mean", "ghost_ref.ops.loss", "_weights",
     lambda mask, count, dtype: np.full(mask.shape, 1 / max(count, 1), dtype)),
]
ADAMW = optimizer.adamw_update


@pytest.mark.parametrize(("name", "module", "attribute", "fault"), PATCHES,
                         ids=[f"{name}-{attribute}-{i}" for i, (name, _, attribute, _) in enumerate(PATCHES)])
def test_faults_inside_an_op_are_caught(monkeypatch, name, module, attribute, fault):
    def faulty(component: Component, case: Case) -> Arrays:
        with monkeypatch.context() as patch:
            patch.setattr(importlib.import_module(module), attribute, fault)
            return run_reference(component, case, lambda x: x)

    assert caught(BY_NAME[name], faulty)


BACKWARD_FAULTS = {
    "quantised_linear": lambda name, g: g * np.float32(126 / 127) if name == "d scale" else g,
    "ternarise": lambda name, g: g * 0 if name == "d threshold" else g,
    "codebook_ternarise": lambda name, g: -g if name == "d threshold" else g,
    "take": lambda name, g: np.where(np.arange(len(g)).reshape(-1, *[1] * (g.ndim - 1)) == 255, 0, g),
    "rms_norm": lambda name, g: g * np.float32(1.00001) if name == "d gain" else g,
    "binary_cross_entropy": lambda name, g: np.abs(g),
    "float_linear": lambda name, g: g.astype(np.float16).astype(np.float32) if name == "d weight" else g,
}


@pytest.mark.parametrize("name", BACKWARD_FAULTS)
def test_faulty_gradients_are_caught(name):
    def faulty(component: Component, case: Case) -> Arrays:
        outputs = run_reference(component, case, lambda x: x)
        if case.direction != BACKWARD:
            return outputs
        return {k: BACKWARD_FAULTS[name](k, g) for k, g in outputs.items()}

    assert caught(BY_NAME[name], faulty)
