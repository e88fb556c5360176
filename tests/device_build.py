"""The device build for tests: compiled by its own Makefile, kept in build/ between runs; and what it must compute."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ghost_ref.config import EOS, SamplingConfig
from ghost_ref.philox import philox4x32
from ghost_ref.runtime import load

ROOT = Path(__file__).parents[1]
KEY = (0x47686F73, 0x74000000)  # "Ghost"


def build(name: str = "device", compiler: str = "g++", **variables: str) -> Path:
    """The folder with ghost-run, libghost.a and libghost.so.0 of one build. Skips where the compiler is missing."""
    if not all(map(shutil.which, (compiler, "make", "awk"))):
        pytest.skip(f"NOT RUN: no {compiler}, make or awk")
    folder = ROOT / "build" / name
    settings = [f"{key}={value}" for key, value in {"CXX": compiler, "BUILD": str(folder), **variables}.items()]
    subprocess.run(["make", "-s", f"-j{os.cpu_count()}", "-f", str(ROOT / "ext/cli/Makefile"), *settings], check=True)
    return folder


def check_prompt(number: int) -> bytes:
    """Prompt `number` of `ghost-run check`."""
    length = 1 + philox4x32((number, 0, 0, 0), KEY)[0] % 64
    words = [word for block in range(1, 5) for word in philox4x32((number, block, 0, 0), KEY)]
    return b"".join(int(word).to_bytes(4, "little") for word in words)[:length]


def fnv(value: int, words: list[int]) -> int:
    """FNV-1a with 32-bit words for bytes."""
    for word in words:
        value = (value ^ word) * 1099511628211 % (1 << 64)
    return value


def expected_check(path: Path, prompts: int) -> tuple[str, str]:
    """The two hashes that `ghost-run check --prompts N` must print, by the NumPy reference."""
    model = load(path, backend="reference")
    logits_hash = answers_hash = 14695981039346656037
    for number in range(prompts):
        prompt = check_prompt(number)
        state = model.new_state()
        logits = model.logits(prompt, state)
        bits = np.where(np.isnan(logits), np.uint32(0x7FC00000), logits.view(np.uint32))
        logits_hash = fnv(logits_hash, bits.ravel().tolist())
        answer = list(model.generate_bytes(prompt, SamplingConfig(temp=1.0, seed=number, max_bytes=8)))
        answers_hash = fnv(answers_hash, [*answer, EOS if len(answer) < 8 else 0x100])
    return f"{logits_hash:016x}", f"{answers_hash:016x}"
