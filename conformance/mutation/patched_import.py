"""A second copy of Python packages beside the loaded ones, with one file patched, under names of its own.

Nothing in the shipped sources knows of it: the copy is compiled from the same files, with imports of the copied
packages renamed, so the clean modules stay what they are and go on giving the truth.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder, TraversableResources
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from conformance.mutation.operator import ROOT, Operator

PREFIX = "mutant_of_"
SHARED = ("ghost_ref.errors",)
"""Modules whose classes the copy and the rest must agree on."""


class PatchedCopy(MetaPathFinder, Loader):
    """Finds `mutant_of_X.rest` as a copy of `X.rest` for the packages X of `roots`. A dot in X becomes two
    underscores."""

    def __init__(self, operator: Operator, roots: Sequence[str]) -> None:
        self.operator, self.roots = operator, tuple(roots)
        self.target = ROOT / operator.file
        self.resources: tempfile.TemporaryDirectory | None = None

    def name_of(self, module: str) -> str:
        """What the copy calls a module; its own name if it is not copied."""
        return _name_in_copy(module, self.roots)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top, dot, rest = name.partition(".")
        if not top.startswith(PREFIX):
            return None
        original = importlib.util.find_spec(top.removeprefix(PREFIX).replace("__", ".") + dot + rest)
        if original is None or not (original.origin or "").endswith(".py"):
            return None
        spec = ModuleSpec(name, self, origin=original.origin, is_package=bool(original.submodule_search_locations))
        spec.has_location = True
        return spec

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None and module.__spec__.origin is not None
        path = Path(module.__spec__.origin)
        if path.samefile(self.target):
            code = _compile_renamed(self.operator.patch(path.read_text(encoding="utf-8")), str(path), self.roots)
        else:
            code = _compile_file(str(path), self.roots)
        exec(code, module.__dict__)

    def get_resource_reader(self, name: str) -> TraversableResources:
        """Files of a package that are no Python: a copy of its directory, with the fault if it is in there."""
        spec = self.find_spec(name)
        assert spec is not None and spec.origin is not None
        directory = Path(spec.origin).parent
        if directory == self.target.parent and self.target.suffix != ".py":
            if self.resources is None:
                self.resources = tempfile.TemporaryDirectory()
                directory = Path(shutil.copytree(directory, Path(self.resources.name, "files")))
                faulty = directory / self.target.name
                faulty.write_text(self.operator.patch(faulty.read_text(encoding="utf-8")), encoding="utf-8")
            directory = Path(self.resources.name, "files")
        return _Directory(directory)


class _Directory(TraversableResources):
    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> Path:
        return self.path


@contextmanager
def patched_copy(operator: Operator, roots: Sequence[str]) -> Iterator[PatchedCopy]:
    """While it lasts, the copy can be imported; afterwards none of its modules is left."""
    finder = PatchedCopy(operator, roots)
    sys.meta_path.insert(0, finder)
    try:
        yield finder
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.startswith(PREFIX)]:
            del sys.modules[name]
        if finder.resources is not None:
            finder.resources.cleanup()


def _name_in_copy(module: str, roots: tuple[str, ...]) -> str:
    for root in roots:
        if (module == root or module.startswith(f"{root}.")) and module not in SHARED:
            return PREFIX + root.replace(".", "__") + module[len(root):]
    return module


@cache
def _compile_file(path: str, roots: tuple[str, ...]) -> CodeType:
    return _compile_renamed(Path(path).read_text(encoding="utf-8"), path, roots)


def _compile_renamed(source: str, path: str, roots: tuple[str, ...]) -> CodeType:
    """The source compiled, importing from the copy."""
    tree = ast.parse(source, path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path} imports relatively"
            node.module = _name_in_copy(node.module, roots)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if (renamed := _name_in_copy(alias.name, roots)) != alias.name:
                    assert alias.asname, f"{path} imports {alias.name} under its own name"
                    alias.name = renamed
    return compile(tree, path, "exec", dont_inherit=True)
