"""Golden vectors: what is on disk is what the kit computes, and answers are judged as told in docs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from conformance import vectors
from conformance.results import FAIL, NOT_RUN, PASS
from ghost_ref.errors import GhostError

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "conformance" / "golden" / "v1"
CHOSEN = ["rms_norm", "quantise_activations", "exceeds", "choose_byte"]


def read(path):
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def described(directory, name):
    return json.loads((directory / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("vectors") / "v"
    vectors.export(directory, seed=7, components=CHOSEN, largest=30_000)
    return directory


@pytest.fixture
def copy(exported, tmp_path):
    return Path(shutil.copytree(exported, tmp_path / "v"))


def right_answers(directory, name):
    """The reference's bits where they are given, else the truth rounded to float32."""
    tensors = read(directory / f"{name}.safetensors")
    found = {}
    for number, case in enumerate(described(directory, name)["cases"]):
        for result in case["results"]:
            output = result["output"]
            bits = tensors.get(f"{number}/bits/{output}")
            truth = tensors.get(f"{number}/truth/{output}") if bits is None else None
            with np.errstate(over="ignore"):
                found[f"{number}/{output}"] = bits if bits is not None else np.asarray(truth, np.float32)
    return found


def write_answers(directory, name, answers, canonical="no"):
    (directory / "answers").mkdir(exist_ok=True)
    save_file(answers, directory / "answers" / f"{name}.safetensors", metadata={"canonical": canonical})


def first(directory, name, direction, output):
    """The number of a component's first case of a direction, and the name of its answer."""
    cases = described(directory, name)["cases"]
    number = next(i for i, case in enumerate(cases) if case["direction"] == direction)
    return number, f"{number}/{output}"


def judged(directory, name, number):
    """The result of one case."""
    case = described(directory, name)["cases"][number]["name"]
    return next(r for r in vectors.judge_directory(directory).results if (r.component, r.case) == (name, case))


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("canonical", ["yes", "no"])
def test_right_answers_pass(copy, canonical):
    for name in CHOSEN:
        write_answers(copy, name, right_answers(copy, name), canonical)
    report = vectors.judge_directory(copy)
    assert {r.status for r in report.results} == {PASS}
    assert len(report.results) == sum(len(described(copy, name)["cases"]) for name in CHOSEN)
    assert not report.absent


def test_a_wrong_bit_fails_where_bits_are_claimed(copy):
    answers = right_answers(copy, "rms_norm")
    number, name = first(copy, "rms_norm", "forward", "y")
    answers[name].ravel()[3:4].view(np.uint32)[:] ^= 1
    write_answers(copy, "rms_norm", answers, "yes")
    result = judged(copy, "rms_norm", number)
    assert (result.status, result.tier, result.output) == (FAIL, "exact", "y")
    assert result.index == np.unravel_index(3, answers[name].shape) and result.detail == "1 differ"
    write_answers(copy, "rms_norm", answers, "no")
    assert judged(copy, "rms_norm", number).status == PASS


@pytest.mark.parametrize("spoil, tier", [
    (lambda y: y * np.float32(1 + 1e-5), "hard"),
    (lambda y: np.where(np.arange(y.size).reshape(y.shape) == 3, np.float32(np.nan), y), "finite"),
    (lambda y: y[..., :-1].copy(), "shape"),
    (lambda y: y.astype(np.int32), "shape"),
])
@pytest.mark.parametrize("direction, output", [("forward", "y"), ("backward", "d x")])
def test_wrong_answers_fail(copy, spoil, tier, direction, output):
    answers = right_answers(copy, "rms_norm")
    number, name = first(copy, "rms_norm", direction, output)
    answers[name] = spoil(answers[name])
    write_answers(copy, "rms_norm", answers)
    result = judged(copy, "rms_norm", number)
    assert (result.status, result.tier, result.output) == (FAIL, tier, output)


def test_a_missing_output_fails_and_a_missing_case_is_not_run(copy):
    answers = right_answers(copy, "quantise_activations")
    del answers["0/scale"], answers["1/scale"], answers["1/q"]
    write_answers(copy, "quantise_activations", answers)
    result = judged(copy, "quantise_activations", 0)
    assert (result.status, result.output, result.detail) == (FAIL, "scale", "the backend gave no such output")
    result = judged(copy, "quantise_activations", 1)
    assert result.status == NOT_RUN and "has no 1/" in result.detail
    absent = vectors.judge_directory(copy).absent
    assert {component for component, _ in absent} == set(CHOSEN) - {"quantise_activations"}
    assert all(cell.status == NOT_RUN and "there is no" in cell.reason for cell in absent.values())


def test_decisions_may_differ_only_where_they_are_undecided(copy):
    answers = right_answers(copy, "quantise_activations")
    tensors = read(copy / "quantise_activations.safetensors")
    name, mask = next((k, a) for k, a in tensors.items() if "/undecided/q" in k and a.any() and not a.all())
    number = int(name.split("/")[0])
    answers[f"{number}/q"][mask] += 1
    write_answers(copy, "quantise_activations", answers)
    assert judged(copy, "quantise_activations", number).status == PASS
    answers[f"{number}/q"][~mask] += 1
    write_answers(copy, "quantise_activations", answers)
    assert judged(copy, "quantise_activations", number).tier == "decision"


@pytest.mark.parametrize("damage, words", [
    (lambda d: (d / "rms_norm.safetensors").write_bytes(b"x" + (d / "rms_norm.safetensors").read_bytes()[1:]),
     "rms_norm.safetensors is not the file that MANIFEST.json describes"),
    (lambda d: (d / "rms_norm.json").unlink(), "not a usable manifest"),
    (lambda d: (d / "MANIFEST.json").write_text("{}"), "not a usable manifest"),
    (lambda d: (d / "MANIFEST.json").unlink(), "not a usable manifest"),
    (lambda d: (d / "MANIFEST.json").write_text(json.dumps(described(d, "MANIFEST") | {"version": 2})),
     "version 2, not ghost-conformance-vectors version 1"),
    (lambda d: shutil.rmtree(d / "answers"), "holds no answers"),
    (lambda d: (d / "answers" / "rms_norm.safetensors").write_bytes(b"nonsense"), "not a readable safetensors file"),
    (lambda d: shutil.move(d / "answers" / "rms_norm.safetensors", d / "answers" / "rmsnorm.safetensors"),
     "answers no component of these vectors"),
])
def test_bad_directories_are_told(copy, damage, words):
    write_answers(copy, "rms_norm", right_answers(copy, "rms_norm"))
    damage(copy)
    with pytest.raises(GhostError, match=re.escape(words)) as error:
        vectors.judge_directory(copy)
    assert str(copy) in str(error.value)


def test_exports_refuse_what_they_cannot_do(tmp_path):
    with pytest.raises(GhostError, match="already exists"):
        vectors.export(tmp_path)
    with pytest.raises(GhostError, match="no component 'nonsense'"):
        vectors.export(tmp_path / "new", components=["nonsense"])
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(GhostError, match=r"Cannot write .*file/new: "):
        vectors.export(tmp_path / "file" / "new", components=["rms_norm"])


def test_every_case_is_exported_without_a_limit(exported, tmp_path):
    count = vectors.export(tmp_path / "all", seed=7, components=["exceeds", "choose_byte"])
    limited = [described(exported, name) for name in ("exceeds", "choose_byte")]
    assert count == sum(len(d["cases"]) + d["left_out"] for d in limited)
    assert limited[1]["left_out"] > 0
    seeds = [case["statics"].get("seed") for case in described(tmp_path / "all", "choose_byte")["cases"]]
    assert str(2**64 - 1) in seeds  # JSON readers round such integers


# --- the committed vectors --------------------------------------------------------------------------------------------


def close(name, new, old, bound):
    """Whether a tensor made again is the committed one, as docs/conformance-vectors.md has it."""
    part = name.split("/")[1]
    if new.dtype != old.dtype or new.shape != old.shape:
        return False
    if part == "truth" and bound is not None:
        with np.errstate(invalid="ignore"):
            near = np.abs(new - old) <= 1e-12 * np.abs(old) + 2.0**-20 * bound
        return bool(np.all(np.where(np.isfinite(old), near, (new == old) | (np.isnan(new) & np.isnan(old)))))
    if part in ("bound", "scale"):
        return np.allclose(new, old, rtol=0.01, atol=2.0**-148, equal_nan=True)
    return new.tobytes() == old.tobytes()


def test_golden_vectors_are_what_the_kit_makes(tmp_path):
    manifest = vectors.read_manifest(GOLDEN)
    made = tmp_path / "made"
    vectors.export(made, manifest["seed"], largest=manifest["largest"])
    assert set(vectors.read_manifest(made)["files"]) == set(manifest["files"])
    assert vectors.read_manifest(made)["left_out"] == manifest["left_out"]
    for name in (Path(file).stem for file in manifest["files"] if file.endswith(".json")):
        new, old = described(made, name), described(GOLDEN, name)
        for ours, theirs in zip(new["cases"], old["cases"], strict=True):
            for a, b in zip(ours.pop("results"), theirs.pop("results"), strict=True):
                assert (a["limits"] or {}) == pytest.approx(b["limits"] or {}, rel=0.01)
                assert a["output"] == b["output"]
        assert new == old, name
        new, old = read(made / f"{name}.safetensors"), read(GOLDEN / f"{name}.safetensors")
        assert new.keys() == old.keys(), name
        wrong = [k for k in new if not close(k, new[k], old[k], old.get(k.replace("/truth/", "/bound/")))]
        assert not wrong, f"{name}: {wrong}"
    assert (made / "model.ghost").read_bytes() == (GOLDEN / "model.ghost").read_bytes()


def test_golden_vectors_are_small_and_plain():
    files = [path for path in GOLDEN.iterdir() if path.name != "MANIFEST.json"]
    assert {path.name for path in files} == set(vectors.read_manifest(GOLDEN)["files"])
    assert sum(path.stat().st_size for path in files) < 3_200_000

    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    for path in GOLDEN.glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


def test_the_model_of_the_golden_vectors_has_its_bits(tmp_path):
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "v"))
    answers = right_answers(copy, "model")
    write_answers(copy, "model", answers)
    assert {r.status for r in vectors.judge_directory(copy).results} == {PASS}
    answers["4/logits"].ravel()[-1:].view(np.uint32)[:] ^= 1
    write_answers(copy, "model", answers)
    assert [r.case for r in vectors.judge_directory(copy).results if r.status == FAIL] == ["forward/memory"]


def test_the_reader_in_the_docs_answers_a_component(tmp_path):
    text = (ROOT / "docs" / "conformance-vectors.md").read_text()
    program = tmp_path / "reader.py"
    program.write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1))
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "v"))
    subprocess.run([sys.executable, "-I", program, copy], check=True)
    results = vectors.judge_directory(copy).results
    assert len(results) == len(described(copy, "lane_sum")["cases"])
    assert {(r.component, r.status) for r in results} == {("lane_sum", PASS)}


# --- the native judge -------------------------------------------------------------------------------------------------


def build(directory, *variables):
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or shutil.which("make") is None:
        pytest.skip("NOT RUN: there is no C++ compiler or no make")
    subprocess.run(["make", "-s", "-j2", "-f", ROOT / "conformance/judge_native/Makefile", f"CXX={compiler}",
                    f"BUILD={directory}", *variables], check=True)
    return directory / "ghost-judge"


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return build(tmp_path_factory.mktemp("judge"), "OPTIMISE=-O0")


def run(*command):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def sign(directory):
    """Make the manifest fit the files again."""
    path = directory / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: vectors.hashlib.sha256((directory / name).read_bytes()).hexdigest()
                         for name in manifest["files"]}
    path.write_text(json.dumps(manifest))


def rewrite(directory, name, change):
    tensors = read(directory / f"{name}.safetensors")
    change(tensors)
    save_file(tensors, directory / f"{name}.safetensors")
    sign(directory)


def test_native_core_has_the_golden_bits(native):
    done = run(native, GOLDEN)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["component", "scalar"] and lines[-1].endswith("every bit equal")
    listed = {line.split()[0] for line in lines[1:] if not line.startswith("not in")}
    unknown = {line.split()[-1] for line in lines if line.startswith("not in the runtime: ")}
    components = {Path(f).stem for f in vectors.read_manifest(GOLDEN)["files"] if f.endswith(".json")}
    assert components == (listed | unknown) & components and not listed & unknown  # none is passed over in silence
    assert {"rms_norm", "model", "scan_gated", "strided_attention", "codebook_linear"} <= listed
    one = run(native, GOLDEN, "--level", "scalar")
    assert one.returncode == 0 and one.stdout.splitlines()[0].split() == ["component", "scalar"]


@pytest.mark.parametrize("name, tensor", [("rms_norm", "0/bits/y"), ("choose_byte", "0/bits/bytes"),
                                          ("model", "2/bits/hidden"), ("strided_attention", "0/bits/present.bias")])
def test_native_judge_sees_one_bit(native, tmp_path, name, tensor):
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "v"))

    def flip(tensors):
        raw = tensors[tensor].ravel().view(np.uint8)
        raw[raw.size // 2 // tensors[tensor].itemsize * tensors[tensor].itemsize] ^= 1

    rewrite(copy, name, flip)
    done = run(native, copy)
    assert done.returncode == 1 and "DIFFERENT: " in done.stdout and "every bit equal" not in done.stdout
    different = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("DIFFERENT")]
    assert set(different) == {name}


@pytest.mark.parametrize("damage, words", [
    (lambda d: (d / "silu.safetensors").write_bytes(b""), "not the file that MANIFEST.json describes"),
    (lambda d: (d / "silu.json").unlink(), "cannot be read"),
    (lambda d: (d / "MANIFEST.json").write_text("{"), "not valid JSON"),
    (lambda d: ((d / "silu.safetensors").write_bytes(b"\xff" * 40), sign(d)), "cut off"),
    (lambda d: ((d / "silu.json").write_text('{"canonical": true}'), sign(d)), "no 'component'"),
    (lambda d: rewrite(d, "silu", lambda t: t.pop("0/bits/y")), "has no tensor bits/y"),
    (lambda d: rewrite(d, "rms_norm", lambda t: t.update({"0/argument/gain": np.ones(3, np.float32)})),
     "argument gain of the wrong type or shape"),
    (lambda d: rewrite(d, "quantised_linear", lambda t: t["0/argument/weight"].fill(0.5)), "no integer of its range"),
    (lambda d: (d / "model.ghost").write_bytes(b"x"), "model.ghost"),
])
def test_native_judge_tells_bad_files_in_one_sentence(native, tmp_path, damage, words):
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "v"))
    damage(copy)
    done = run(native, copy)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done


def test_native_judge_refuses_wrong_arguments(native):
    for arguments in ((), (GOLDEN, "--level"), (GOLDEN, "--level", "mmx"), ("nowhere",)):
        done = run(native, *arguments)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done


@pytest.mark.slow
def test_native_judge_under_sanitizers(tmp_path):
    judge = build(tmp_path / "judge", "OPTIMISE=-O1", "SANITIZE=1")
    assert run(judge, GOLDEN).returncode == 0
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "v"))
    path = copy / "scan_gated.safetensors"
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(200):
        bad = bytearray(good)
        for at in rng.integers(0, 2000, 3):  # in the header
            bad[at] = rng.integers(32, 127)
        path.write_bytes(bytes(bad[: rng.integers(1, len(bad))] if rng.random() < 0.2 else bad))
        sign(copy)
        done = run(judge, copy, "--level", "scalar")
        assert done.returncode in (0, 1, 2) and "Sanitizer" not in done.stderr and "runtime error" not in done.stderr


def test_misspelt_answers_are_refused(tmp_path) -> None:
    vectors.export(tmp_path / "v", components=["lane_sum"])
    (tmp_path / "v" / "answers").mkdir()
    save_file({"0/Y": np.zeros(3, np.float32)}, tmp_path / "v" / "answers" / "lane_sum.safetensors")
    with pytest.raises(GhostError, match="holds '0/Y', which answers no case"):
        vectors.judge_directory(tmp_path / "v")


def test_an_export_of_nothing_is_refused(tmp_path) -> None:
    with pytest.raises(GhostError, match="No case fits into 1 bytes"):
        vectors.export(tmp_path / "v", components=["lane_sum"], largest=1)
    assert not (tmp_path / "v").exists()
