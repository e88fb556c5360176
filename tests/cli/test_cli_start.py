"""What a first answer waits for: `ghost run` imports only what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from command_line import ROOT


def test_an_answer_by_the_native_runtime_imports_no_file_writer(path: str) -> None:
    pytest.importorskip("ghost_ref._native", reason="NOT RUN: the C++ runtime is not built")
    program = ("import sys; from ghost_ref.cli import main; code = main(['run', sys.argv[1], 'x', '--max-bytes=1']); "
               "sys.exit(' '.join(sorted(sys.modules)) if code == 0 else 3)")
    done = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "ghost_ref._native" in loaded, done
    assert not loaded & {"ghost_ref.packed", "ghost_ref.container", "safetensors", "rich", "tempfile", "zipfile",
                         "ghost_ref.model", "ghost_ref.ops", "ghost_ref.trainer"}
