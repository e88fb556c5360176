"""Golden vectors: cases with their answers as files, for implementers in any language (docs/conformance-vectors.md).

`export` writes a directory of vectors; an implementation in any language reads the arguments, writes its answers beside
them, and `judge_directory` judges those like any backend's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from conformance.arithmetic import BINARY32
from conformance.case import FORWARD, Case, Component, run_reference
from conformance.components import COMPONENTS
from conformance.judge import judge
from conformance.results import FAIL, NOT_RUN, PASS, BackendInfo, Cell, Report, Result
from conformance.run import choose_components, machine
from conformance.tolerance import Statistics, Tolerance, exact_tolerances, tolerances
from ghost_ref import __version__
from ghost_ref.errors import GhostError

FORMAT, VERSION = "ghost-conformance-vectors", 1
MANIFEST, ANSWERS = "MANIFEST.json", "answers"
PARTS = ("truth", "bound", "scale", "undecided")  # arrays of a Tolerance, one tensor each

Tensors = dict[str, np.ndarray]


def export(directory: str | Path, seed: int = 0, components: Sequence[str] | None = None,
           largest: int | None = None) -> int:
    """Write the vectors of a seed into a new directory; returns the number of cases.

    largest: leave out cases with more numbers than this. GhostError if the directory exists, or for unknown names."""
    directory = Path(directory)
    if directory.exists():
        raise GhostError(f"{directory} already exists; export into a new directory.")
    chosen = choose_components(components)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as made:
        work = Path(made) / "vectors"
        work.mkdir()
        count = sum(_export_component(work, component, seed, largest) for component in chosen)
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(work.iterdir())}
        _write_json(work / MANIFEST, {"format": FORMAT, "version": VERSION, "seed": seed,
                                      "generator": f"ghost-lm {__version__}", "files": files})
        shutil.move(work, directory)
    return count


def _export_component(directory: Path, component: Component, seed: int, largest: int | None) -> int:
    tensors: Tensors = {}
    described = []
    for case in component.cases(seed):
        arrays = _case_arrays(case)
        expected = tolerances(component, case, BINARY32)
        if largest and sum(a.size for a in arrays.values()) + sum(t.truth.size for t in expected.values()) > largest:
            continue
        number = len(described)
        tensors |= {f"{number}/{name}": array for name, array in arrays.items()}
        bits = component.canonical and case.direction == FORWARD
        if bits:
            outputs = run_reference(component, case, lambda x: x)
            tensors |= {f"{number}/bits/{name}": np.ascontiguousarray(value) for name, value in outputs.items()}
        results = [_describe_result(number, name, t, tensors) for name, t in expected.items()]
        described.append({"name": case.name, "direction": case.direction, "statics": _plain_statics(case),
                          "bits": bits, "results": results})
    if not described:
        return 0
    _write_json(directory / f"{component.name}.json", {
        "component": component.name, "arguments": component.arguments, "outputs": component.outputs,
        "gradients": component.gradients, "canonical": component.canonical, "cases": described})
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, directory / f"{component.name}.safetensors")
    return len(described)


def _describe_result(number: int, name: str, tolerance: Tolerance, tensors: Tensors) -> dict[str, Any]:
    for part in PARTS:
        if (array := getattr(tolerance, part)) is not None:
            tensors[f"{number}/{part}/{name}"] = np.asarray(array)
    limits = tolerance.limits and {k: getattr(tolerance.limits, k).hex() for k in ("rms", "mean", "gain")}
    return {"output": name, "limits": limits}


def _case_arrays(case: Case) -> Tensors:
    """Every array of a case by its path: argument/x, argument/past.keys, static/forced, cotangent/y."""
    found: Tensors = {}
    for group, values in (("argument", case.arguments), ("static", case.statics), ("cotangent", case.cotangents)):
        for name, value in values.items():
            parts = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
            found |= {f"{group}/{k}": v for k, v in parts.items() if isinstance(v, np.ndarray)}
    return found


def _plain_statics(case: Case) -> dict[str, Any]:
    """What of a case is not an array, and goes into the JSON file."""
    plain = {k: v for k, v in case.statics.items() if not isinstance(v, (np.ndarray, dict))}
    for group in (case.arguments, case.statics):
        for name, value in group.items():
            if isinstance(value, dict):
                plain |= {f"{name}.{k}": v for k, v in value.items() if not isinstance(v, np.ndarray)}
    return plain


def judge_directory(directory: str | Path) -> Report:
    """Judge the answers an implementation left in DIR/answers/<component>.safetensors, tensors "<case>/<output>".

    Their metadata may hold "implementation" (a name) and "canonical" ("yes": the reference's bits are claimed, and
    required, for the cases that have them). GhostError for files that are missing, changed or malformed."""
    directory = Path(directory)
    manifest = read_manifest(directory)
    names = sorted(name.removesuffix(".json") for name in manifest["files"] if name.endswith(".json"))
    known = {component.name for component in COMPONENTS}
    if foreign := [name for name in names if name not in known]:
        raise GhostError(f"{directory / MANIFEST} lists {foreign[0]}, which this version does not know; judge with the "
                         f"version that wrote it ({manifest['generator']}).")
    report = Report(manifest["seed"], machine(), [BackendInfo("answers", f"answers in {directory}")], names)
    for name in names:
        answers = directory / ANSWERS / f"{name}.safetensors"
        if answers.exists():
            report.results += _judge_component(directory, name, answers)
        else:
            report.absent[(name, "answers")] = Cell(NOT_RUN, reason=f"there is no {answers}")
    if not report.results:
        raise GhostError(f"{directory / ANSWERS} holds no answers; write <component>.safetensors there.")
    return report


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest, after every file it lists has been found unchanged."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            raise GhostError(f"{path} is of format {manifest['format']} version {manifest['version']}, not {FORMAT} "
                             f"version {VERSION}; export it again.")
        for name, digest in manifest["files"].items():
            if hashlib.sha256((directory / name).read_bytes()).hexdigest() != digest:
                raise GhostError(f"{directory / name} is not the file that {MANIFEST} describes; export it again.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GhostError(f"{path} is not a usable manifest ({error}); export the vectors again.") from error
    return manifest


def _judge_component(directory: Path, name: str, answers: Path) -> list[Result]:
    described = json.loads((directory / f"{name}.json").read_text())
    vectors, _ = _read_tensors(directory / f"{name}.safetensors")
    given, metadata = _read_tensors(answers)
    results = []
    for number, case in enumerate(described["cases"]):
        expected = _expected(number, case, vectors, metadata.get("canonical") == "yes")
        outputs = {output: given[f"{number}/{output}"] for output in expected if f"{number}/{output}" in given}
        verdict = judge(outputs, expected)
        results.append(Result(name, case["name"], "answers", FAIL if verdict.tier else PASS, verdict.margin,
                              verdict.tier, verdict.output, verdict.index, verdict.expected, verdict.got,
                              verdict.detail))
    return results


def _expected(number: int, case: dict[str, Any], vectors: Tensors, canonical: bool) -> dict[str, Tolerance]:
    names = [result["output"] for result in case["results"]]
    if canonical and case["bits"]:
        return exact_tolerances({name: vectors[f"{number}/bits/{name}"] for name in names})
    found = {}
    for result in case["results"]:
        name = result["output"]
        parts = {part: vectors.get(f"{number}/{part}/{name}") for part in PARTS}
        limits = result["limits"] and Statistics(**{k: float.fromhex(v) for k, v in result["limits"].items()})
        found[name] = Tolerance(parts["truth"], parts["bound"], parts["scale"], limits, parts["undecided"])
    return found


def _read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise GhostError(f"{path} is not a readable safetensors file: {error}") from error


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
