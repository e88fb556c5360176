"""Compile a patched copy of ext/ into an extension module, each unit only when something that it reads has changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from conformance.mutation.operator import ROOT, Operator
from ghost_ref.bench import available_cpus
from ghost_ref.errors import GhostError

CORE, BINDINGS = "ext/core", "ext/bindings"
FLAGS = "-std=c++17 -O1 -g0 -fPIC -fno-fast-math -ffp-contract=off -fno-math-errno -fvisibility=hidden -Wno-psabi -w"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # what some systems call them


@dataclass
class Builder:
    """objects: where compiled units stay between runs, by the hash of all that they are made from."""

    objects: Path = ROOT / "build" / "mutation"
    compiler: str = ""
    reads: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.compiler = shutil.which(os.environ.get("CXX", "g++")) or ""
        if not self.compiler:
            raise GhostError("Faults in the native core need a C++ compiler: install g++ or set CXX.")
        self.objects.mkdir(parents=True, exist_ok=True)

    def build(self, operator: Operator | None, directory: Path) -> Path:
        """The module with the fault, None: as it is, in `directory`."""
        source = directory / "source"
        for folder in (CORE, BINDINGS):
            shutil.copytree(ROOT / folder, source / folder)
        if operator is not None:
            target = source / operator.file
            target.write_text(operator.patch(target.read_text(encoding="utf-8")), encoding="utf-8")
        with ThreadPoolExecutor(available_cpus()) as pool:
            objects = list(pool.map(lambda unit: self._object(unit, source), units_of_this_machine()))
        module = directory / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
        self._run([*map(str, objects), "-shared", "-pthread", "-o", str(module)])
        return module

    def _object(self, unit: str, tree: Path) -> Path:
        flags = [*FLAGS.split(), *level_flags().get(Path(unit).stem.removeprefix("kernels_"), [])]
        digest = hashlib.sha256(" ".join([self.compiler, *flags]).encode())
        for name in self._files_read(unit):
            digest.update(name.encode() + (tree / name).read_bytes())
        kept = self.objects / f"{digest.hexdigest()[:32]}.o"
        if not kept.exists():
            with tempfile.NamedTemporaryFile(dir=self.objects, suffix=".o", delete=False) as part:
                self._run([*flags, *include_flags(tree), "-c", str(tree / unit), "-o", part.name])
            os.replace(part.name, kept)
        return kept

    def _files_read(self, unit: str) -> list[str]:
        """The unit and the headers of ext/ that it includes."""
        if unit not in self.reads:
            rule = self._run([*FLAGS.split()[:1], *include_flags(ROOT), "-MM", str(ROOT / unit)])
            names = rule.partition(":")[2].replace("\\\n", " ").split()
            self.reads[unit] = sorted(str(Path(n).relative_to(ROOT)) for n in names if n.startswith(str(ROOT / "ext")))
        return self.reads[unit]

    def _run(self, arguments: list[str]) -> str:
        done = subprocess.run([self.compiler, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise GhostError(f"{self.compiler} failed: {done.stderr.strip()[:2000]}")
        return done.stdout


@cache
def level_flags() -> dict[str, list[str]]:
    """{level: the flags of its unit} for this machine."""
    machine = sysconfig.get_platform().rpartition("-")[2]
    rows = [line.split() for line in (ROOT / CORE / "levels.txt").read_text().splitlines() if not line.startswith("#")]
    return {level: flags for level, where, *flags in rows if where in ("any", MACHINES.get(machine, machine))}


def units_of_this_machine() -> list[str]:
    """Every .cpp of the core and its bindings, the kernels of other processors left out."""
    found = [p for folder in (CORE, BINDINGS) for p in sorted((ROOT / folder).glob("*.cpp"))]
    return [str(p.relative_to(ROOT)) for p in found
            if "kernels_" not in p.stem or p.stem.removeprefix("kernels_") in level_flags()]


def include_flags(tree: Path) -> list[str]:
    """Where headers lie: the tree's own, Python's and pybind11's."""
    try:
        import pybind11
    except ImportError:
        raise GhostError("Faults in the native core need pybind11 to compile it: pip install pybind11.") from None
    own = [tree / CORE, tree / BINDINGS]
    return [f"-I{path}" for path in (*own, sysconfig.get_paths()["include"], pybind11.get_include())]
