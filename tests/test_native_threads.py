"""The team of threads: its own test program under ThreadSanitizer, and GHOST_TEAM."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ghost_ref.errors import GhostError
from ghost_ref.runtime import have_native, load

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "ext" / name for name in ("tests/test_team.cpp", "core/team.cpp", "core/cpus.cpp")]
FLAGS = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-pthread", "-fsanitize=thread"]
MODEL = ROOT / "conformance/golden/v1/model.ghost"

needs_native = pytest.mark.skipif(not have_native(), reason="pure build: no native runtime")


def test_members_meet_without_races(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("NOT RUN: no g++")
    program = tmp_path / "test_team"
    subprocess.run(["g++", *FLAGS, *map(str, SOURCES), "-o", str(program)], check=True)
    done = subprocess.run([program, "60"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 threads, everybody: runs with up to 8 members\n" in done.stdout


@needs_native
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_who_is_ready_gives_the_same_bits(monkeypatch, threads):
    tokens = np.random.default_rng(threads).integers(0, 128, 300).astype(np.uint8)
    alone = load(MODEL, "native")
    expected, _ = alone.engine.forward(alone.new_state(), tokens, False)
    monkeypatch.delenv("GHOST_TEAM")
    model = load(MODEL, "native", threads)
    state = model.new_state()
    for at in range(300):
        logits, _ = model.engine.forward(state, tokens[at : at + 1], False)
        np.testing.assert_array_equal(logits[0].view(np.uint32), expected[at].view(np.uint32))


@needs_native
def test_an_unknown_team_is_refused(monkeypatch):
    monkeypatch.setenv("GHOST_TEAM", "some")
    with pytest.raises(GhostError, match="GHOST_TEAM is 'some'; set it to all, or unset it"):
        load(MODEL, "native", 2)
