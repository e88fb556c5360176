"""The benchmarks' protocol and page, without measuring anything."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
STORED = Path(__file__).resolve().parent / "benchmark_results"

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").exists(), reason="needs the source tree")


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_turns_rotate_and_every_contestant_has_one_a_round():
    from protocol import take_turns

    order: list[str] = []

    def turn(name):
        return lambda: order.append(name) or float(len(order))

    samples = take_turns({name: turn(name) for name in "abc"}, 3)
    assert order == list("abc" "bca" "cab")
    assert samples == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}


def test_the_quickest_variant_is_the_one_with_the_lowest_median():
    from protocol import quickest

    unlucky = iter([9.0, 1.0, 1.0])
    assert quickest({"steady": lambda: 2.0, "unlucky once": lambda: next(unlucky)}) == "unlucky once"


def test_ratios_are_taken_turn_by_turn():
    from protocol import ratios, spread

    assert ratios([10.0, 40.0, 90.0], [1.0, 2.0, 3.0]) == {"median": 20.0, "lowest": 10.0, "highest": 30.0}
    assert spread([1.0, 2.0, 5.0]) == {"median": 2.0, "lowest": 1.0, "highest": 5.0, "relative": 2.0}


def test_results_survive_a_file_and_grow_by_more_turns(tmp_path):
    from protocol import Cell, Results

    results = Results("t", {"cpu": "x"}, {"ghost": "1"}, absent={"peer": "not here"})
    results.add(Cell({"rows": 2}, "product", {"a": [1.0]}, {"a": "option"}))
    results.add(Cell({"rows": 2}, "product", {"a": [2.0], "b": [3.0]}))
    results.add(Cell({"rows": 3}, "product", {"a": [4.0]}))
    results.save(tmp_path / "folder" / "t.json")
    loaded = Results.load(tmp_path / "folder" / "t.json")
    assert loaded == results
    assert [cell.samples for cell in loaded.cells] == [{"a": [1.0, 2.0], "b": [3.0]}, {"a": [4.0]}]
    assert loaded.find(rows=3) == [loaded.cells[1]]


@pytest.mark.parametrize("content", ["", "[]", "{\"cells\": 1}", "{\"cells\": [{}], \"topic\": \"t\"}"])
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    from protocol import Results

    from ghost_ref.errors import GhostError

    path = tmp_path / "matmul.json"
    path.write_text(content)
    with pytest.raises(GhostError, match="does not hold results"):
        Results.load(path)


def test_more_turns_only_on_the_same_machine_and_versions(tmp_path):
    from protocol import Results, arguments, begin

    from ghost_ref.errors import GhostError
    from ghost_ref.runtime import have_native

    if not have_native():
        pytest.skip("needs the native runtime")
    options = arguments("Doc.", 1).parse_args(["--more", "--results", str(tmp_path)])
    first = begin("t", options)
    first.versions["a peer"] = "told as it ran"
    first.save(tmp_path / "t.json")
    assert begin("t", options) == first
    Results("t", {"cpu": "another"}, first.versions).save(tmp_path / "t.json")
    with pytest.raises(GhostError, match="another machine"):
        begin("t", options)


def test_a_bar_is_judged_by_its_worst_problem():
    from bars import Bar

    figures = {"small": {"median": 5.0}, "large": {"median": 2.0}}
    at_least = Bar("b", 3, "x", lambda results: figures)
    at_most = Bar("b", 4, "x", lambda results: figures, at_most=True)
    assert at_least.worst({}) == ("large", {"median": 2.0}) and not at_least.met(figures["large"])
    assert at_most.worst({}) == ("small", {"median": 5.0}) and not at_most.met(figures["small"])
    assert at_most.met(figures["large"]) and at_least.met(figures["small"])
    assert Bar("b", 3, "x", lambda results: {}).worst({}) is None
    assert not at_least.met({"median": float("nan")}) and not at_most.met({"median": float("nan")})


def test_the_page_and_its_plots_from_stored_results(tmp_path):
    pytest.importorskip("matplotlib")
    from render import main

    pages = []
    for name in ("first", "second"):
        page = tmp_path / name / "speed.md"
        page.parent.mkdir()
        assert main(["--results", str(STORED), "--page", str(page)]) == 0
        pages.append({path.name: path.read_bytes() for path in page.parent.rglob("*.*")})
    assert pages[0] == pages[1], "the same results must give the same bytes"
    text = pages[0]["speed.md"].decode()
    assert "| GEMV beside TQ2_0, up to 256x1024 | ≥ 4 x | 5.00 (4.00 to 6.00), 512x256 | met |" in text
    assert "| ≥ 75 % of peak | 50.0 (50.0 to 50.0), 512x256 | **not met** |" in text
    assert "| ≥ 90 % of peak | 100 (100 to 100), 512x256, n = 8 | met |" in text
    assert "| ≥ 150 GMAC/s | 160 (160 to 160), 512x256, n = 8 | met |" in text
    assert "| scan, per state update, beside ggml_ssm_scan | ≥ 12 x | 20.0 (20.0 to 20.0), 64 tokens | met |" in text
    assert "| ≥ 8 x | 9.00 (9.00 to 9.00), beside Q4_0, OpenMP | met |" in text
    assert "PyTorch float32, bytes/s | ≥ 2 x | 2.50 (2.40 to 2.60), v12, compiled scan | met |" in text
    assert "| ≥ 60 % | 50.0 (50.0 to 50.0), 1 thread | **not met** |" in text
    assert "| 1B, peak memory over its 2-bit codes | ≤ 1.4 x | 1.20 (1.20 to 1.20), 1B | met |" in text
    assert "| 8 | 10,000 (10,000 to 10,000) | 20,000 (20,000 to 20,000) |" in text
    assert "| vpdpbusd, 512 bits, GMAC/s | 410 (400 to 420) |" in text
    assert "| v12, first byte after 64 bytes, fresh process, standalone | ≤ 30 ms | not measured | - |" in text
    assert "Not run: TQ2_0 1024 x 384: needs columns in multiples of 256." in text
    assert {"gemv.svg", "mamba.svg"} <= set(pages[0]) and all(f"plots/{p}" in text for p in pages[0] if p != "speed.md")


def test_no_results_are_one_sentence(tmp_path, capsys):
    from render import main

    assert main(["--results", str(tmp_path), "--page", str(tmp_path / "speed.md")]) == 2
    assert "holds no results" in capsys.readouterr().err
    shutil.copy(STORED / "matmul.json", tmp_path / "training.json")
    assert main(["--results", str(tmp_path), "--page", str(tmp_path / "speed.md")]) == 2
    assert "training.json is not what its script writes" in capsys.readouterr().err


def test_the_committed_page_belongs_to_the_committed_results(tmp_path):
    results, page = ROOT / "benchmarks" / "results", ROOT / "docs" / "speed.md"
    pytest.importorskip("matplotlib")
    from render import main

    assert main(["--results", str(results), "--page", str(tmp_path / "speed.md")]) == 0
    assert (tmp_path / "speed.md").read_text() == page.read_text()


def test_two_bit_codes_of_onnxruntime():
    from onnx_peer import pack_two_bit

    trits = np.random.default_rng(0).integers(-1, 2, (3, 64)).astype(np.float32)
    packed = pack_two_bit(trits, 32)
    assert packed.shape == (3, 2, 8) and packed.dtype == np.uint8
    unpacked = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], -1).reshape(3, 64)
    np.testing.assert_array_equal(unpacked.astype(np.float32) - 2, trits)


def test_the_shapes_of_the_gguf_model(tmp_path):
    from mamba_gguf import _tensors

    tensors = dict(_tensors(512, 6, 1024, 32, np.random.default_rng(0)))
    assert all(value.dtype == np.float32 for value in tensors.values())
    matrices = sum(value.size for value in tensors.values() if value.ndim == 2)
    assert 10.2e6 < matrices < 10.4e6
    assert tensors["blk.5.ssm_x.weight"].shape == (64, 1024)
    assert len(tensors) == 2 + 6 * 10


def test_programs_that_are_missing_are_one_sentence(tmp_path, monkeypatch):
    from llama_cpp import programs

    from ghost_ref.errors import GhostError

    monkeypatch.setenv("GHOST_BENCH_CACHE", str(tmp_path))
    with pytest.raises(GhostError, match=r"run python benchmarks/llama_cpp\.py"):
        programs("OpenMP")


def test_every_part_of_make_bench_is_a_script():
    from run import parts

    for quick in (False, True):
        for command in parts(quick, Path("results")).values():
            assert (ROOT / "benchmarks" / command[0]).exists()
