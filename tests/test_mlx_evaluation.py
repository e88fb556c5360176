"""Packed models on MLX: the reference's figures, with and without the fused kernel (as C++ standing in for a GPU)."""

import shutil

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")

from models import SMALL, random_memory, random_weights  # noqa: E402

from ghost_ref.cli import main  # noqa: E402
from ghost_ref.packed import save_packed  # noqa: E402
from ghost_ref.runtime import Model, load  # noqa: E402
from mlx_backend.evaluation import MlxEngine, PackedTrits, load_model  # noqa: E402
from mlx_backend.kernels.host import compile_host  # noqa: E402

TOKENS = np.random.default_rng(3).integers(0, 256, 40).astype(np.uint8)


@pytest.fixture
def path(tmp_path):
    save_packed(tmp_path / "m.ghost", random_weights(SMALL, 7), SMALL)
    return tmp_path / "m.ghost"


def agrees(model, path):
    """Logits in one piece and in three, with a bank and without, as the reference's to rounding."""
    reference = load(path, backend="reference")
    for memory in (None, random_memory(SMALL, 1, 5)):
        reference.set_memory(memory)
        model.set_memory(memory)
        expected, state = reference.logits(TOKENS), model.new_state()
        pieces = np.concatenate([model.logits(part, state) for part in np.split(TOKENS, [7, 8])])
        for got in (model.logits(TOKENS), pieces):
            np.testing.assert_allclose(got, expected, rtol=0, atol=3e-5 * np.abs(expected).max())


def test_packed_models_on_mlx_agree_with_the_reference(path):
    agrees(load_model(path), path)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs g++ or clang++")
def test_the_fused_kernel_takes_the_ternary_matrices(path, tmp_path):
    host, calls = compile_host(tmp_path), []

    def run(kernel, arrays, shapes, constants, grid):
        calls.append(kernel.name)
        inputs = {name: np.array(a) for name, a in arrays.items()}
        return [mx.array(a) for a in host.run(kernel, inputs, shapes, constants, grid).values()]

    engine = MlxEngine(path, run)
    packed = [name for name, w in engine.weights.items() if isinstance(w, PackedTrits)]
    assert "layers.0.mixer.in_proj.trits" in packed and "layers.0.ffn.up_proj.trits" not in packed
    agrees(Model(engine, path), path)
    assert set(calls) == {"ternary_matmul"}


def test_eval_on_mlx_measures_what_the_runtime_does(path, tmp_path, capsys):
    text = tmp_path / "t.txt"
    text.write_bytes(bytes(np.random.default_rng(0).integers(32, 127, 600).astype(np.uint8)))
    found = []
    for backend in ("reference", "mlx"):
        assert main(["eval", str(path), "--data", str(text), "--backend", backend]) == 0
        found.append(float(capsys.readouterr().out.split()[1]))
    assert abs(found[0] - found[1]) <= 2e-4
