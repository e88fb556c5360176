"""Golden vectors: cases with their answers as files, for implementers in any language (docs/conformance-vectors.md).

`export` writes a directory of vectors; an implementation in any language reads the arguments, writes its answers beside
them, and `judge_directory` judges those like any backend's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from conformance.arithmetic import BINARY32
from conformance.case import FORWARD, Case, Component, run_reference
from conformance.components import COMPONENTS
from conformance.judge import judge
from conformance.model_vectors import ARGUMENTS, OUTPUTS, write_model
from conformance.results import FAIL, NOT_RUN, PASS, BackendInfo, Cell, Report, Result
from conformance.run import choose_components, machine
from conformance.tolerance import Statistics, Tolerance, exact_tolerances, tolerances
from ghost_ref import __version__
from ghost_ref.atomic import explain
from ghost_ref.errors import GhostError

FORMAT, VERSION = "ghost-conformance-vectors", 1
MANIFEST, ANSWERS = "MANIFEST.json", "answers"
LARGEST_INTEGER = 2**53
MODEL = "model"  # the packed model's vectors, beside those of the components
PARTS = ("truth", "bound", "scale", "undecided")  # arrays of a Tolerance, one tensor each

Tensors = dict[str, np.ndarray]


def export(directory: str | Path, seed: int = 0, components: Sequence[str] | None = None,
           largest: int | None = None) -> int:
    """Write the vectors of a seed into a new directory; returns the number of cases. Without `components`: of all, and
    of a small packed model.

    largest: bytes of arrays a component may have; what does not fit is counted in its file, or in the manifest if
    nothing fits. GhostError if the directory exists or cannot be written, or for unknown names."""
    directory = Path(directory)
    if directory.exists():
        raise GhostError(f"{directory} already exists; export into a new directory.")
    chosen = choose_components(components)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as made:
            work = Path(made) / "vectors"
            work.mkdir()
            counts = _export_all(work, chosen, seed, components is None, largest)
            shutil.move(work, directory)
    except OSError as error:
        raise explain(error, "write", str(directory)) from None
    return sum(counts.values())


def _export_all(directory: Path, chosen: Sequence[Component], seed: int, model: bool,
                largest: int | None) -> dict[str, int]:
    """The components' files, the model's and the manifest; returns the number of cases in each."""
    counts = {component.name: _export_component(directory, component, seed, largest) for component in chosen}
    if model:
        counts[MODEL] = _export_model(directory, seed)
    if not any(counts.values()):
        raise GhostError(f"No case fits into {largest} bytes; export with a larger --largest.")
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}
    _write_json(directory / MANIFEST, {
        "format": FORMAT, "version": VERSION, "seed": seed, "largest": largest,
        "generator": f"ghost-lm {__version__}", "files": files,
        "left_out": [name for name, count in counts.items() if not count]})
    return counts


def _export_component(directory: Path, component: Component, seed: int, largest: int | None) -> int:
    cases = list(component.cases(seed))
    kept = _fitting(component, cases, largest)
    if not kept:
        return 0
    tensors: Tensors = {}
    described = []
    for number, case in enumerate(kept):
        tensors |= {f"{number}/{name}": array for name, array in _case_arrays(case).items()}
        bits = component.canonical and case.direction == FORWARD
        if bits:
            outputs = run_reference(component, case, lambda x: x)
            tensors |= {f"{number}/bits/{name}": np.asarray(value) for name, value in outputs.items()}
        results = []
        for name, tolerance in tolerances(component, case, BINARY32).items():
            tensors |= {f"{number}/{part}/{name}": array for part, array in _parts(tolerance).items()}
            results.append({"output": name, "limits": tolerance.limits and asdict(tolerance.limits)})
        described.append({"name": case.name, "direction": case.direction, "statics": _plain_statics(case),
                          "bits": bits, "results": results})
    _write_component(directory, {
        "component": component.name, "arguments": component.arguments, "outputs": component.outputs,
        "gradients": component.gradients, "canonical": component.canonical, "left_out": len(cases) - len(kept),
        "cases": described}, tensors)
    return len(described)


def _export_model(directory: Path, seed: int) -> int:
    """A packed model and its logits, which every implementation must give bit by bit."""
    cases = write_model(directory / f"{MODEL}.ghost", seed)
    tensors: Tensors = {}
    described = []
    for number, case in enumerate(cases):
        tensors |= {f"{number}/argument/{name}": array for name, array in case.arguments.items()}
        tensors |= {f"{number}/bits/{name}": array for name, array in case.outputs.items()}
        described.append({"name": f"{FORWARD}/{case.label}", "direction": FORWARD, "statics": {"chunks": case.chunks},
                          "bits": True, "results": [{"output": name, "limits": None} for name in case.outputs]})
    _write_component(directory, {"component": MODEL, "file": f"{MODEL}.ghost", "arguments": ARGUMENTS,
                                 "outputs": OUTPUTS, "gradients": (), "canonical": True, "left_out": 0,
                                 "cases": described}, tensors)
    return len(described)


def _write_component(directory: Path, description: dict[str, Any], tensors: Tensors) -> None:
    name = description["component"]
    _write_json(directory / f"{name}.json", description)
    save_file({k: np.ascontiguousarray(v).reshape(v.shape) for k, v in tensors.items()},
              directory / f"{name}.safetensors")


def _fitting(component: Component, cases: list[Case], largest: int | None) -> list[Case]:
    """The cases that stay within `largest` bytes altogether: the first, typical one of each direction unless it takes
    more than two thirds, then the smallest."""
    if largest is None:
        return cases
    sizes = [_size(component, case) for case in cases]
    first = {case.direction: i for i, case in reversed(list(enumerate(cases)))}
    preferred = {i for i in first.values() if 3 * sizes[i] <= 2 * largest}
    kept, left = set(), largest
    for i in sorted(range(len(cases)), key=lambda i: (i not in preferred, sizes[i])):
        if sizes[i] <= left:
            kept.add(i)
            left -= sizes[i]
    return [cases[i] for i in sorted(kept)]


def _size(component: Component, case: Case) -> int:
    """Bytes of a case's arrays, if every output has a truth, a bound, a scale and bits."""
    outputs = run_reference(component, case, lambda x: x)
    return sum(a.nbytes for a in _case_arrays(case).values()) + 20 * sum(np.size(value) for value in outputs.values())


def _parts(tolerance: Tolerance) -> Tensors:
    """A Tolerance as tensors; bounds and scales, of which a few digits count, as float32 rounded up."""
    found = {part: array for part in PARTS if (array := getattr(tolerance, part)) is not None}
    return {part: _rounded_up(a) if part in ("bound", "scale") else np.asarray(a) for part, a in found.items()}


def _rounded_up(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        single = np.asarray(x, np.float32)
    return np.where(single < x, np.nextafter(single, np.float32(np.inf)), single)


def _case_arrays(case: Case) -> Tensors:
    """Every array of a case by its path: argument/x, argument/past.keys, static/forced.0, cotangent/y."""
    groups = (("argument", case.arguments), ("static", case.statics), ("cotangent", case.cotangents))
    return {f"{group}/{path}": leaf for group, values in groups for path, leaf in _leaves(values)
            if isinstance(leaf, np.ndarray)}


def _plain_statics(case: Case) -> dict[str, Any]:
    """What of a case is not an array, and goes into the JSON file; integers that many readers of JSON would round (RFC
    8259, section 6) as strings."""
    plain = {path: leaf for values in (case.arguments, case.statics) for path, leaf in _leaves(values)
             if not (leaf is None or isinstance(leaf, np.ndarray))}
    return {path: str(leaf) if isinstance(leaf, int) and abs(leaf) > LARGEST_INTEGER else leaf
            for path, leaf in plain.items()}


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What dicts, and tuples of arrays, hold in the end, by path: "past.keys", "forced.0"."""
    for name, value in values.items():
        if isinstance(value, tuple) and any(isinstance(v, (np.ndarray, dict, tuple)) for v in value):
            value = {str(i): v for i, v in enumerate(value)}
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def judge_directory(directory: str | Path) -> Report:
    """Judge the answers an implementation left in DIR/answers/<component>.safetensors, tensors "<case>/<output>".

    Their metadata may hold "canonical": "yes": the reference's bits are claimed, and required, for the cases that have
    them. Cases without any answer are NOT RUN. GhostError for files that are missing, changed or malformed."""
    directory = Path(directory)
    manifest = read_manifest(directory)
    names = sorted(name.removesuffix(".json") for name in manifest["files"] if name.endswith(".json"))
    known = {component.name for component in COMPONENTS} | {MODEL}
    if foreign := [name for name in names if name not in known]:
        raise GhostError(f"{directory / MANIFEST} lists {foreign[0]}, which this version does not know; judge with the "
                         f"version that wrote it ({manifest['generator']}).")
    given = sorted(path.stem for path in (directory / ANSWERS).glob("*.safetensors"))
    if unknown := [name for name in given if name not in names]:
        raise GhostError(f"{directory / ANSWERS / unknown[0]}.safetensors answers no component of these vectors; they "
                         f"are: {', '.join(names)}.")
    if not given:
        raise GhostError(f"{directory / ANSWERS} holds no answers; write <component>.safetensors there.")
    report = Report(manifest["seed"], machine(), [BackendInfo("answers", f"answers in {directory}")], names,
                    answers=str(directory))
    for name in names:
        answers = directory / ANSWERS / f"{name}.safetensors"
        if name in given:
            report.results += _judge_component(directory, name, answers)
        else:
            report.absent[(name, "answers")] = Cell(NOT_RUN, reason=f"there is no {answers}")
    return report


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest, after every file it lists has been found unchanged."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            raise GhostError(f"{path} is of format {manifest['format']} version {manifest['version']}, not {FORMAT} "
                             f"version {VERSION}; export it again.")
        changed = [name for name, digest in manifest["files"].items()
                   if hashlib.sha256((directory / name).read_bytes()).hexdigest() != digest]
        int(manifest["seed"])
    except GhostError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GhostError(f"{path} is not a usable manifest ({error}); export the vectors again.") from error
    if changed:
        raise GhostError(f"{directory / changed[0]} is not the file that {MANIFEST} describes; export it again.")
    return manifest


def _judge_component(directory: Path, name: str, answers: Path) -> list[Result]:
    path = directory / f"{name}.json"
    try:
        cases = json.loads(path.read_text())["cases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GhostError(f"{path} does not describe the cases of a component ({error}); export it again.") from error
    vectors, _ = _read_tensors(directory / f"{name}.safetensors")
    given, metadata = _read_tensors(answers)
    known = {f"{number}/{result['output']}" for number, case in enumerate(cases) for result in case["results"]}
    if strange := sorted(set(given) - known):
        raise GhostError(f"{answers} holds {strange[0]!r}, which answers no case; tensors are named <case>/<output>, "
                         f"such as {min(known)!r}.")
    results = []
    for number, case in enumerate(cases):
        expected = _expected(number, case, vectors, metadata.get("canonical") == "yes")
        outputs = {output: given[f"{number}/{output}"] for output in expected if f"{number}/{output}" in given}
        if not outputs:
            results.append(Result(name, case["name"], "answers", NOT_RUN, detail=f"{answers} has no {number}/..."))
            continue
        verdict = judge(outputs, expected)
        results.append(Result(name, case["name"], "answers", FAIL if verdict.tier else PASS, verdict.margin,
                              verdict.tier, verdict.output, verdict.index, verdict.expected, verdict.got,
                              verdict.detail))
    return results


def _expected(number: int, case: dict[str, Any], vectors: Tensors, canonical: bool) -> dict[str, Tolerance]:
    names = [result["output"] for result in case["results"]]
    if case["bits"] and (canonical or f"{number}/truth/{names[0]}" not in vectors):  # a model has bits only
        return exact_tolerances({name: vectors[f"{number}/bits/{name}"] for name in names})
    found = {}
    for result in case["results"]:
        name = result["output"]
        truth, bound, scale, undecided = (vectors.get(f"{number}/{part}/{name}") for part in PARTS)
        if truth is None:
            raise GhostError(f"The vectors of case {case['name']} lack the truth of {name}; export them again.")
        found[name] = Tolerance(truth, bound, scale, result["limits"] and Statistics(**result["limits"]), undecided)
    return found


def _read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise GhostError(f"{path} is not a readable safetensors file: {error}") from error
    except (TypeError, AttributeError) as error:
        raise GhostError(f"{path} holds a type that NumPy has not ({error}); write F32, F64 or integers.") from error


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
