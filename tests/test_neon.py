"""The AArch64 levels: cross-built, inspected, and run under an emulator of CPUs with and without dot products."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from conformance.backends import emulated
from conformance.results import BackendInfo
from conformance.run import run_kit
from ghost_ref.errors import GhostError

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "conformance" / "golden" / "v1"
BUILD = ROOT / "build" / "judge-aarch64"
COMPILER, EMULATOR, BINUTILS = "aarch64-linux-gnu-g++", "qemu-aarch64", "aarch64-linux-gnu-objdump"
LEVELS = {"max": ["scalar", "neon", "neondot"], "cortex-a76": ["scalar", "neon", "neondot"],
          "cortex-a53": ["scalar", "neon"], "cortex-a72": ["scalar", "neon"]}
FUSED_OR_ESTIMATED = r"\s(fn?madd|fn?msub|fml[as]l?2?|fcmla|frecp[esx]|frsqrt[es])\s"


def make(target: str, *variables: str) -> None:
    makefile = str(ROOT / "conformance/judge_native/Makefile")
    done = subprocess.run(["make", "-s", "-f", makefile, *variables, target], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def programs():
    """The judge and the test of the kernels, built for AArch64."""
    for program, package in ((COMPILER, "g++-aarch64-linux-gnu"), ("make", "make")):
        if not shutil.which(program):
            pytest.skip(f"NOT RUN: no {program}; apt-get install {package}")
    for name in ("ghost-judge", "test-kernels"):
        make(str(BUILD / name), f"CXX={COMPILER}", "LDFLAGS=-static", f"BUILD={BUILD}")
    return BUILD


@pytest.fixture
def run(programs):
    """run(cpu, program, arguments...) under the emulator."""
    if not shutil.which(EMULATOR):
        pytest.skip(f"NOT RUN: no {EMULATOR}; apt-get install qemu-user")
    return lambda cpu, program, *arguments: subprocess.run(
        [EMULATOR, "-cpu", cpu, str(programs / program), *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("cpu", LEVELS)
def test_kernels_equal_plain_arithmetic(run, cpu):
    done = run(cpu, "test-kernels", 1, 25)
    assert done.returncode == 0, done.stdout + done.stderr
    count = re.fullmatch(r"(\d+) checks, 0 failed; levels (.*)\n", done.stdout)
    assert count and int(count[1]) > 400 * len(LEVELS[cpu]) and count[2].split(", ") == LEVELS[cpu]


@pytest.mark.parametrize("cpu", ["max", "cortex-a53"])
def test_golden_vectors_bit_by_bit(run, cpu):
    done = run(cpu, "ghost-judge", GOLDEN)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[1:] == LEVELS[cpu]
    count = re.fullmatch(r"(\d+) results, every bit equal", lines[-1])
    assert count and int(count[1]) > 250 * len(LEVELS[cpu])


def test_a_cpu_without_dot_products_refuses_the_level_by_name(run):
    done = run("cortex-a53", "ghost-judge", GOLDEN, "--level", "neondot")
    assert (done.returncode, done.stdout) == (2, "")
    assert "level is 'neondot', which this machine cannot run (this CPU has no dot products" in done.stderr
    assert "choose one of: scalar, neon." in done.stderr
    done = run("cortex-a53", "ghost-judge", GOLDEN, "--level", "neon")
    assert done.returncode == 0 and done.stdout.splitlines()[0].split()[1:] == ["neon"]


def disassembly(path: Path) -> str:
    if not shutil.which(BINUTILS):
        pytest.skip(f"NOT RUN: no {BINUTILS}; apt-get install binutils-aarch64-linux-gnu")
    return subprocess.run([BINUTILS, "-d", "--no-show-raw-insn", path], check=True, capture_output=True,
                          text=True).stdout


def test_no_fused_and_no_estimated_instruction(programs):
    """GCC fuses multiplications and additions on AArch64 unless it is told not to; last bits would differ."""
    units = [programs / f"{path.stem}.o" for path in (ROOT / "ext/core").glob("*.cpp") if "_avx" not in path.stem]
    assert {"kernels_scalar.o", "kernels_neon.o", "kernels_neondot.o", "pass.o"} <= {unit.name for unit in units}
    for unit in units:
        code = disassembly(unit)
        assert not re.search(FUSED_OR_ESTIMATED, code), unit.name
        assert ("sdot" in code) == (unit.name in ("kernels_neondot.o", "peaks.o")), unit.name  # peaks asks the CPU
    assert re.search(FUSED_OR_ESTIMATED, "  fmla\tv0.4s, v1.4s, v2.4s\n")


@pytest.mark.parametrize("level", ["scalar", "neon", "neondot"])
@pytest.mark.parametrize("compiler", [COMPILER, "clang++"])
def test_units_leak_nothing_and_tiles_stay_in_registers(level, compiler, tmp_path):
    """One exported function, no weak symbols, no code that runs at load time, and no array of sums that the compiler
    left in memory: calls of memset or memcpy betray it."""
    if not all(map(shutil.which, [compiler, COMPILER, BINUTILS])):
        pytest.skip(f"NOT RUN: no {compiler} or no AArch64 headers; apt-get install clang g++-aarch64-linux-gnu")
    rows = map(str.split, (ROOT / "ext/core/levels.txt").read_text().splitlines())
    (flags,) = [row[2:] for row in rows if row[0] == level]
    target = ["--target=aarch64-linux-gnu"] if compiler == "clang++" else []
    unit = tmp_path / "unit.o"
    subprocess.run([compiler, *target, *flags, "-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC",
                    "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fno-exceptions", "-fno-rtti",
                    "-c", str(ROOT / f"ext/core/kernels_{level}.cpp"), "-o", str(unit)], check=True)

    def output(tool: str, *options: str) -> str:
        command = [f"aarch64-linux-gnu-{tool}", *options, str(unit)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    symbols = [line[17:] for line in output("nm", "-C").splitlines()]
    assert [s for s in symbols if s[0] not in "Utrdb"] == [f"T ghost::kernels_{level}()"]
    assert ".init_array" not in output("readelf", "-SW")
    assert not re.search(FUSED_OR_ESTIMATED, disassembly(unit))
    tiles = re.findall(r"^\w+ <\w*(?:trit|byte)_tile.*?\n\n", disassembly(unit) + "\n", re.DOTALL | re.MULTILINE)
    assert len(tiles) >= (0 if level == "scalar" else 3)
    for tile in tiles:
        assert "\tbl\t" not in tile, tile.splitlines()[0]


def test_kernels_of_this_machine_equal_plain_arithmetic():
    """The same program on the CPU that runs this test, at every level that it has."""
    for program in ("g++", "make"):
        if not shutil.which(program):
            pytest.skip(f"NOT RUN: no {program}; apt-get install {program}")
    own = ROOT / "build" / "judge"
    make(str(own / "test-kernels"), f"BUILD={own}")
    done = subprocess.run([own / "test-kernels", "2", "100"], capture_output=True, text=True)
    assert done.returncode == 0 and " 0 failed; levels scalar" in done.stdout, done.stdout


# --- as columns of the conformance kit --------------------------------------------------------------------------------

OTHER = pytest.mark.skipif(platform.machine() in emulated.MACHINES, reason="here they are ordinary levels")


@OTHER
def test_the_kit_runs_the_emulated_levels(run):
    report = run_kit(["native-neon", "native-neondot"], ["exp", "codebook_linear", "attention_stream", "forward"])
    assert report.passed and not [b.reason for b in report.backends if b.reason]
    cells = {(c, b.name): report.cell(c, b.name) for c in report.components for b in report.backends}
    assert {cell.status for cell in cells.values()} == {"PASS"} and cells["forward", "native-neon"].cases >= 2


@OTHER
def test_the_kit_sees_a_wrong_bit_of_an_emulated_level(run, monkeypatch):
    ask = emulated.EmulatedRuntime.ask

    def faulty(self, component, arguments, file=None, **statics):
        found = ask(self, component, arguments, file, **statics)
        if component == "swiglu" and self.level == "neondot":
            found["y"][-1:].view(np.uint32)[:] ^= 1
        return found

    monkeypatch.setattr(emulated.EmulatedRuntime, "ask", faulty)
    report = run_kit(["native-neon", "native-neondot"], ["swiglu", "unit"])
    assert {(f.component, f.backend, f.tier) for f in report.failures()} == {("swiglu", "native-neondot", "exact")}


def test_an_emulated_level_that_refuses_or_dies_is_an_error(run):
    runtime = emulated.EmulatedRuntime("neon")
    with pytest.raises(GhostError, match="the runtime has no dropout"):
        runtime.ask("dropout", {"x": np.zeros(3, np.float32)})
    with pytest.raises(GhostError, match=r"absent\.ghost"):
        runtime.load(Path("absent.ghost"))
    runtime.process.kill()
    runtime.process.wait()
    with pytest.raises(RuntimeError, match="ghost-judge at level neon ended with exit code -9"):
        runtime.unit(np.ones((1, 3), np.float32), "neon")
    assert runtime.unit(np.ones((1, 1), np.float32), "neon") == 1


@OTHER
def test_without_the_means_the_columns_say_what_to_do(monkeypatch, tmp_path):
    def reasons():
        found = emulated.backends()
        assert all(isinstance(info, BackendInfo) for info in found) and len(found) == 2
        return {info.reason for info in found}

    monkeypatch.setattr(emulated, "JUDGE", tmp_path / "ghost-judge")
    (reason,) = reasons()
    assert "apt-get install g++-aarch64-linux-gnu qemu-user" in reason and "make judge-aarch64" in reason
    (tmp_path / "ghost-judge").touch()
    os.utime(tmp_path / "ghost-judge", (0, 0))
    monkeypatch.setattr(emulated, "EMULATOR", "sh")
    (reason,) = reasons()
    assert "older than its sources: make judge-aarch64" in reason
