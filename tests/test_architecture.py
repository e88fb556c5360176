"""The rules of docs/architecture.md, checked on the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [p for folder in ("ghost_ref", "mlx_backend", "conformance") for p in sorted((ROOT / folder).rglob("*.py"))]
NATIVE = [p for folder in ("ext", "mlx_backend", "conformance") for p in sorted((ROOT / folder).rglob("*"))
          if p.suffix in (".h", ".cpp", ".pyx", ".pxi")]
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the source tree")


def imports(path: Path) -> set[str]:
    """Modules a file imports at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check():
    assert len(PYTHON) > 40 and len(NATIVE) > 20


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_import_rules(path):
    names, where = imports(path), relative(path)
    assert "tests" not in {n.split(".")[0] for n in names}
    if not where.startswith("conformance/") and where != "ghost_ref/cli/verify.py":
        assert "conformance" not in {n.split(".")[0] for n in names}
    if where.startswith("ghost_ref/ops/"):
        allowed = ("ghost_ref.ops", "ghost_ref.autodiff", "ghost_ref.numerics", "ghost_ref.constants")
        assert all(n.startswith(allowed) or n == "ghost_ref" for n in names if n.startswith("ghost_ref")), names
    if where == "ghost_ref/model.py":
        assert {n for n in names if n.count(".") == 1 and n.startswith("ghost_ref.")} == \
            {"ghost_ref.config", "ghost_ref.state"}
    if where.startswith("mlx_backend/"):
        assert not any(n.startswith("ghost_ref.ops") for n in names)
    if where.startswith("ghost_ref/") and not where.startswith("ghost_ref/cli/"):
        assert not any(n.startswith("mlx") for n in names)


@pytest.mark.parametrize("path", PYTHON + NATIVE, ids=relative)
def test_files_and_functions_are_short(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_FILE
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{node.name} is too long"


@pytest.mark.parametrize("path", [p for p in NATIVE if "ext/core" in relative(p)], ids=relative)
def test_the_core_includes_only_the_standard_library(path):
    for name in re.findall(r'#\s*include\s*[<"]([^>"]+)[>"]', path.read_text()):
        own = (ROOT / "ext" / "core" / name).exists()
        intrinsics = name in ("immintrin.h", "arm_neon.h", "cpuid.h", "xmmintrin.h")
        system = name in ("fcntl.h", "unistd.h", "sys/mman.h", "sys/stat.h", "sched.h", "sys/auxv.h",
                          "sys/syscall.h", "sys/sysctl.h")
        assert own or intrinsics or system or re.fullmatch(r"[a-z_0-9]+(\.h)?", name), name
        assert "python" not in name.lower() and "pybind" not in name


def test_readme_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"ghost_ref", "mlx_backend", "conformance"}
    assert any(n.startswith("ghost_ref/datasets/") for n in names) and "ghost_ref/py.typed" in names
    assert any(n.startswith("conformance/golden/") for n in names)
    native = [n for n in names if n.endswith((".cpp", ".h", ".pyx", ".pxi", ".c"))]
    assert native and all(n.startswith("mlx_backend/kernels/") for n in native)
