"""`verify_file` and `bench_file`: what they compare, what they find, what they refuse."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from models import SMALL, random_weights

from ghost_ref import bench, verify
from ghost_ref.errors import GhostError
from ghost_ref.packed import save_packed
from ghost_ref.runtime import Model, have_native, load
from ghost_ref.verify import TEXTS, first_difference, make_prompts, read_in_pieces, verify_file

NATIVE = pytest.mark.skipif(not have_native(), reason="the C++ runtime is not built")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("model") / "small.ghost"
    save_packed(file, random_weights(SMALL, 1), SMALL)
    return str(file)


class Faulty:
    """The reference in the place of the runtime, with one fault in one level."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fault: Any = None, level: str = "avx2") -> None:
        self.fault, self.level, self.asked = fault, level, []
        monkeypatch.setattr(verify, "have_native", lambda: True)
        monkeypatch.setattr(verify, "LEVELS", ("scalar", "avx2", "avx512vnni"))
        monkeypatch.setattr(verify, "load", self.load)

    def load(self, path: str, backend: str, threads: int = 1, level: str = "") -> Model:
        if backend == "native":
            self.asked.append((level, threads))
            if level == "avx512vnni":
                raise GhostError("level is 'avx512vnni', which this machine cannot run.")
        model = load(path, backend="reference")
        if backend == "native" and level == self.level and self.fault:
            self.fault(model.engine)
        return model


def flip(array: np.ndarray, *index: int) -> np.ndarray:
    """A copy with the last bit of one element changed."""
    changed = array.copy()
    changed.view(np.uint32)[index] ^= 1
    return changed


def fault_in_logits(engine: Any) -> None:
    """The sixth byte of every stream gets one wrong bit in the logit of byte 65."""
    forward = engine.forward

    def faulty(state, tokens, last):
        start = int(state[0]["position"][0])
        logits, hidden = forward(state, tokens, last)
        return (flip(logits, 5 - start, 65), hidden) if start <= 5 < start + len(tokens) else (logits, hidden)

    engine.forward = faulty


def fault_in_state(engine: Any) -> None:
    state_dict = engine.state_dict

    def faulty(state):
        values = state_dict(state)
        return {**values, "layers.2.mixer.ssm": flip(values["layers.2.mixer.ssm"], 0, 3, 1)}

    engine.state_dict = faulty


def fault_without_memory(engine: Any) -> None:
    engine.set_memory = lambda snapshot: None


def test_equal_implementations_are_equal(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = Faulty(monkeypatch)
    seen: list[tuple[int, int]] = []
    report = verify_file(path, prompts=9, threads=(1, 2), max_length=40, on_progress=lambda *done: seen.append(done))
    assert report["equal"] and seen == [(i, 9) for i in range(1, 10)]
    assert faulty.asked == list(itertools.product(verify.LEVELS, (1, 2)))
    assert [(r["level"], r["threads"], r["status"]) for r in report["runs"]] == [
        ("scalar", 1, "equal"), ("scalar", 2, "equal"), ("avx2", 1, "equal"), ("avx2", 2, "equal"),
        ("avx512vnni", 1, "not run"), ("avx512vnni", 2, "not run")]
    assert report["runs"][0]["logits_compared"] == 256 * report["bytes"]
    assert "cannot run" in report["runs"][-1]["reason"]


def test_one_wrong_bit_in_a_logit_is_found_and_placed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Faulty(monkeypatch, fault_in_logits)
    report = verify_file(path, prompts=3, threads=(1,), max_length=40)
    assert not report["equal"]
    statuses = {run["level"]: run["status"] for run in report["runs"]}
    assert statuses == {"scalar": "equal", "avx2": "different", "avx512vnni": "not run"}
    difference = report["runs"][1]["first_difference"]
    assert [difference[key] for key in ("prompt", "array", "position", "byte")] == [0, "logits", 5, 65]
    assert difference["data"] == TEXTS[0].hex()
    expected, got = (int(difference[key].partition("0x")[2].rstrip(")"), 16) for key in ("expected", "got"))
    assert expected ^ got == 1


def test_one_wrong_bit_in_a_state_is_found(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Faulty(monkeypatch, fault_in_state)
    difference = verify_file(path, prompts=1, threads=(1,))["runs"][1]["first_difference"]
    assert (difference["array"], difference["index"]) == ("state layers.2.mixer.ssm", [0, 3, 1])


def test_a_runtime_that_ignores_the_memory_is_found(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Faulty(monkeypatch, fault_without_memory)
    difference = verify_file(path, prompts=2, threads=(1,))["runs"][1]["first_difference"]
    assert difference["prompt"] == 1 and difference["memory_entries"] >= 1


def test_prompts_are_random_bytes_of_every_length_in_random_pieces() -> None:
    prompts = list(make_prompts(SMALL, 400, 0, 300))
    assert [p.data for p in prompts[: len(TEXTS)]] == list(TEXTS)
    lengths = {len(p.data) for p in prompts}
    assert min(lengths) <= 5 and max(lengths) > 290 and max(lengths) <= 300
    assert set(b"".join(p.data for p in prompts[len(TEXTS) :])) == set(range(256))
    assert all(0 < a < b < len(p.data) for p in prompts for a, b in itertools.pairwise(p.cuts))
    assert sum(bool(p.cuts) for p in prompts) > 300
    assert [p.memory is not None for p in prompts[:4]] == [False, True, False, True]
    assert all(len(p.data) == 1 for p in make_prompts(SMALL, 20, 0, 1))
    again = next(itertools.islice(make_prompts(SMALL, 400, 0, 300), 99, None))
    assert (again.data, again.cuts) == (prompts[99].data, prompts[99].cuts)
    assert next(itertools.islice(make_prompts(SMALL, 400, 1, 300), 99, None)).data != again.data


def test_pieces_do_not_change_the_result(path: str) -> None:
    model = load(path, backend="reference")
    prompt = next(p for p in make_prompts(SMALL, 20, 0, 60) if len(p.cuts) >= 2 and p.memory)
    whole = read_in_pieces(model, verify.Prompt(prompt.data, (), prompt.memory))
    assert whole["logits"].shape == (len(prompt.data), 256)
    assert first_difference(whole, read_in_pieces(model, prompt)) is None


def test_nan_is_a_class_and_zero_has_a_sign() -> None:
    nans = np.array([0x7FC00000, 0xFFC00001], np.uint32).view(np.float32)
    assert first_difference({"x": nans}, {"x": nans[::-1].copy()}) is None
    difference = first_difference({"x": np.zeros(2, np.float32)}, {"x": -np.zeros(2, np.float32)})
    assert difference is not None and difference["index"] == [0] and "0x80000000" in difference["got"]
    assert first_difference({"x": np.ones(1, np.float32)}, {"x": nans[:1]}) is not None


def test_shape_and_dtype_differences_are_named() -> None:
    a = np.zeros(2, np.float32)
    for other in (np.zeros(3, np.float32), np.zeros(2), None):
        difference = first_difference({"x": a}, {} if other is None else {"x": other})
        assert difference is not None and difference["expected"] == "float32 (2,)"


def test_bad_requests_are_refused(path: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GhostError, match="no level 'sse9'"):
        verify_file(path, levels=("scalar", "sse9"))
    with pytest.raises(GhostError, match="at least one prompt"):
        verify_file(path, prompts=0)
    with pytest.raises(GhostError, match=r"(?i)no such file"):
        verify_file(tmp_path / "absent.ghost")
    Faulty(monkeypatch)
    with pytest.raises(GhostError, match="None of the levels avx512vnni can run here"):
        verify_file(path, levels=("avx512vnni",))
    monkeypatch.setattr(verify, "have_native", lambda: False)
    with pytest.raises(GhostError, match="not built"):
        verify_file(path)


@NATIVE
def test_the_runtime_computes_the_reference_bits(path: str) -> None:
    report = verify_file(path, prompts=40, seed=3)
    assert report["equal"], report
    assert report["runs"][0]["status"] == "equal" and report["runs"][0]["logits_compared"] > 0


# --- bench -----------------------------------------------------------------------------------------------------------


def test_bench_measures_every_number_of_threads(path: str) -> None:
    report = bench.bench_file(path, threads=(1,), repeats=2, backend="reference")
    assert (report["backend"], report["level"], report["not_used"]) == ("reference", "reference", {})
    (run,) = report["runs"]
    assert run["threads"] == 1 and run["load_seconds"] > 0
    for name in ("prefill", "decode", "first_byte"):
        assert 0 < run[name]["lowest"] <= run[name]["median"] <= run[name]["highest"]
    assert run["peak_bytes"] > run["model_bytes"] > 0


@NATIVE
def test_bench_names_the_level(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOST_ISA", "scalar")
    report = bench.bench_file(path, threads=(1, 2), repeats=1)
    assert (report["backend"], report["level"], report["chosen_by"]) == ("native", "scalar", "GHOST_ISA")
    assert [run["threads"] for run in report["runs"]] == [1, 2]


def test_bench_refuses_with_a_sentence(path: str, tmp_path) -> None:
    with pytest.raises(GhostError, match=r"(?i)no such file"):
        bench.bench_file(tmp_path / "absent.ghost")
    with pytest.raises(GhostError, match="repeats must be in 1"):
        bench.bench_file(path, repeats=0)
