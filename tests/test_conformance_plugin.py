"""The worked example of a plug-in: found through its entry point, judged, and caught when it is wrong."""

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest

from conformance import backend as backend_module
from conformance.run import run_kit
from ghost_ref.errors import GhostError

EXAMPLE = Path(__file__).parent.parent / "examples" / "conformance_plugin"


@pytest.fixture
def plugin(monkeypatch):
    """The example as if it were installed."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    sys.modules.pop("ghost_plain_numpy", None)
    install(monkeypatch, "ghost_plain_numpy:backends")
    import ghost_plain_numpy

    yield ghost_plain_numpy
    sys.modules.pop("ghost_plain_numpy", None)


def install(monkeypatch, value):
    point = importlib.metadata.EntryPoint("plain-numpy", value, backend_module.GROUP)
    monkeypatch.setattr(backend_module, "entry_points", lambda group: [point] if group == backend_module.GROUP else [])


def test_the_example_passes_what_it_claims_and_says_what_it_does_not(plugin):
    report = run_kit(["plain-numpy"], [*plugin.FUNCTIONS, "log"], seed=1)
    assert report.passed
    assert {report.cell(name, "plain-numpy").status for name in plugin.FUNCTIONS} == {"PASS"}
    cell = report.cell("log", "plain-numpy")
    assert cell.status == "n/a" and "a few components" in cell.reason


def test_a_wrong_epsilon_is_caught(plugin, monkeypatch):
    def wrong(x, gain):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(1e-6)) * gain

    monkeypatch.setitem(plugin.FUNCTIONS, "rms_norm", (wrong, plugin.rms_norm_gradients))
    assert not run_kit(["plain-numpy"], ["rms_norm"]).passed


@pytest.mark.parametrize(("value", "told"), [("no_such_module:backends", "no_such_module"), ("builtins:dict", "str"),
                                             ("math:pi", "float")])
def test_a_plug_in_that_does_not_work_is_named(monkeypatch, value, told):
    install(monkeypatch, value)
    if value == "builtins:dict":
        monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: lambda: ["not a backend"])
    with pytest.raises(GhostError, match=told):
        backend_module.discover(["reference"])
