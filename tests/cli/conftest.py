"""A small model, a short run, and no native code, for every test of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import train
from models import SMALL, random_weights

from ghost_ref import runtime
from ghost_ref.packed import save_packed


@pytest.fixture(autouse=True)
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb loads the reference, so that the tests need no native code."""
    monkeypatch.setattr(runtime, "have_native", lambda: False)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("model") / "small.ghost"
    save_packed(file, random_weights(SMALL, 1), SMALL)
    return str(file)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "qa10"
    assert train(out) == 0
    return out
