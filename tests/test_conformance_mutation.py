"""Faults planted in the reference, the native core and the MLX ops, and the tables that say which."""

from __future__ import annotations

import importlib
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from conformance import mutation
from conformance.arithmetic import BINARY32
from conformance.backends.reference import ReferenceBackend
from conformance.case import FORWARD, Arrays, Case, Component, run_reference
from conformance.components import COMPONENTS
from conformance.mutation.operator import ROOT, Operator
from conformance.mutation.operators import TABLES
from conformance.mutation.outcome import BROKEN, CAUGHT, EQUIVALENT, SURVIVED
from conformance.mutation.patched_import import patched_copy
from conformance.results import FAIL, PASS
from conformance.run import CaseJudgement
from ghost_ref.errors import GhostError

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the source tree")
EPSILON = Operator("epsilon", "", "ghost_ref/ops/norm.py", "RMS_EPSILON = 1e-5", "RMS_EPSILON = 1e-6", ("rms_norm",))


@pytest.mark.parametrize("target", TABLES)
def test_every_old_text_occurs_once(target):
    for operator in TABLES[target]:
        patched = operator.patch((ROOT / operator.file).read_text(encoding="utf-8"))
        assert operator.new in patched and operator.old != operator.new


@pytest.mark.parametrize("target", TABLES)
def test_names_are_unique_and_say_what_must_catch_them(target):
    assert not [name for name, n in Counter(o.name for o in TABLES[target]).items() if n > 1]
    assert all(o.components and o.description for o in TABLES[target])


def test_a_text_that_occurs_twice_or_never_is_refused():
    with pytest.raises(ValueError, match="2 times"):
        EPSILON.patch("RMS_EPSILON = 1e-5\nRMS_EPSILON = 1e-5")
    with pytest.raises(ValueError, match="0 times"):
        EPSILON.patch("")


def test_a_patched_copy_leaves_the_clean_modules_alone():
    clean = importlib.import_module("ghost_ref.ops.norm")
    with patched_copy(EPSILON, ("ghost_ref",)) as copy:
        faulty = importlib.import_module(copy.name_of("ghost_ref.ops.norm"))
        assert faulty.RMS_EPSILON == 1e-6 and clean.RMS_EPSILON == 1e-5
        assert faulty.lane_sum is not clean.lane_sum
        assert importlib.import_module(copy.name_of("ghost_ref.sampling")).GhostError is GhostError
        x = np.full((1, 4), 1e-3, np.float32)
        assert (faulty.rms_norm(x, x[0]) > clean.rms_norm(x, x[0])).all()
    with pytest.raises(ImportError):
        importlib.import_module(copy.name_of("ghost_ref.ops.norm"))


QUICK = ("exp_nan_swallowed", "lane_lost", "rms_epsilon", "rms_one_ulp", "softplus_threshold", "sigmoid_gradient")


def test_quick_faults_are_caught():
    report = mutation.run(operators=QUICK)
    assert report.passed and report.survivors() == []
    assert {o.status for o in report.outcomes} == {CAUGHT} and {o.operator for o in report.outcomes} == set(QUICK)


@pytest.mark.parametrize("name", ["scan_skip_dropped", "rms_epsilon"])
def test_a_quick_fault_in_the_mlx_ops_is_caught(name):
    pytest.importorskip("mlx.core")
    report = mutation.run(("mlx",), [name])
    assert report.passed and {o.backend for o in report.outcomes} == {"mlx-cpu"}


def test_a_fault_in_a_kernel_body_is_caught():
    pytest.importorskip("mlx.core")
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("needs a C++ compiler")
    report = mutation.run(("mlx",), ["body_lane_lost"])
    assert report.passed and {o.backend for o in report.outcomes} == {"kernel-bodies"}


def test_faulty_code_that_does_not_load_or_names_no_component_is_no_catch(monkeypatch):
    pytest.importorskip("mlx.core")
    broken = replace(HARMLESS, file="mlx_backend/ops/norm.py", new="RMS_EPSILON = 1 / 0")
    monkeypatch.setitem(TABLES, "mlx", (broken, replace(broken, name="nowhere", new="RMS_EPSILON = 2",
                                                        components=("no_such_component",))))
    report = mutation.run(("mlx",))
    assert [o.status for o in report.outcomes] == [BROKEN, BROKEN] and not report.passed
    assert "ZeroDivisionError" in report.outcomes[0].detail and "no such component" in report.outcomes[1].detail


HARMLESS = Operator("harmless", "the same", EPSILON.file, EPSILON.old, "RMS_EPSILON = 1e-5 + 0", ("rms_norm",))


@pytest.mark.parametrize(("changes", "status", "passed"), [
    ({}, SURVIVED, False),
    ({"equivalent": "Adding zero to a positive number changes nothing."}, EQUIVALENT, True),
    ({"new": "RMS_EPSILON = 1e-6", "equivalent": "It is not."}, BROKEN, False),
    ({"new": "RMS_EPSILON = 1 / 0"}, BROKEN, False),
])
def test_what_is_no_fault_survives_and_what_raises_is_no_catch(monkeypatch, changes, status, passed):
    monkeypatch.setitem(TABLES, "numpy", (replace(HARMLESS, **changes),))
    report = mutation.run()
    assert [o.status for o in report.outcomes] == [status] and report.passed is passed


def test_a_planted_fault_is_found_by_counting_failures_of_clean_backends(monkeypatch):
    norm = importlib.import_module("ghost_ref.ops.norm")
    clean = mutation.false_failures(2, ["reference"], ["rms_norm"])
    assert clean.passed and clean.judged["rms_norm"] > 20 and clean.runs == 2
    truth = importlib.import_module("conformance.tolerance").tolerances
    monkeypatch.setattr("conformance.run.tolerances", lambda *a: _with_true_epsilon(norm, truth, *a))
    monkeypatch.setattr(norm, "RMS_EPSILON", 1e-4)
    dirty = mutation.false_failures(2, ["reference"], ["rms_norm"], first_seed=7)
    assert not dirty.passed and {seed for seed, _ in dirty.failures} == {7, 8}
    assert dirty.to_json()["failures"][0]["component"] == "rms_norm"


def _with_true_epsilon(norm, truth, *arguments):
    faulty, norm.RMS_EPSILON = norm.RMS_EPSILON, 1e-5
    try:
        return truth(*arguments)
    finally:
        norm.RMS_EPSILON = faulty


def test_unknown_names_are_refused():
    with pytest.raises(GhostError, match="no mutation target 'cobol'"):
        mutation.run(("cobol",))
    with pytest.raises(GhostError, match="no fault 'nothing'"):
        mutation.run(operators=["nothing"])


@pytest.mark.slow
@pytest.mark.parametrize("target", TABLES)
def test_every_fault_is_caught_or_proved_equivalent(target):
    report = mutation.run((target,))
    assert report.passed, [(o.operator, o.component, o.status, o.detail) for o in report.survivors()]


class Unwritten:
    """Gives an answer that it was handed, but forgets to write the last element of its output."""

    info, arithmetic, exact = ReferenceBackend.info, BINARY32, True

    def __init__(self, right: np.ndarray) -> None:
        self.right = right

    def run(self, component: Component, case: Case) -> Arrays:
        y = np.empty_like(self.right)
        y.reshape(-1)[:-1] = self.right.reshape(-1)[:-1]
        return {"y": y}


def test_what_a_backend_forgets_to_write_cannot_hold_the_right_answer_by_chance():
    component = next(c for c in COMPONENTS if c.name == "exp")
    for case in component.cases(0):
        if case.direction == FORWARD and case.arguments["x"].size:
            judgement = CaseJudgement(component, case)
            assert judgement.result(ReferenceBackend()).status == PASS
            right = run_reference(component, case, lambda x: x)["y"].copy()
            last_answer = right.copy()
            del last_answer  # its memory is the next to be handed out
            assert judgement.result(Unwritten(right)).status == FAIL, case.name
