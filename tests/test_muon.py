"""Muon: nearly orthogonal updates, its definition in float64, its state in checkpoints, and training with it."""

import numpy as np
import pytest

import ghost_ref as ghost
from ghost_ref.checkpoint import FILE_NAME, load_checkpoint
from ghost_ref.config import TrainingConfig
from ghost_ref.data import load_dataset
from ghost_ref.errors import GhostError
from ghost_ref.muon import muon_matrices, muon_update, orthogonalise
from ghost_ref.presets import PRESETS
from ghost_ref.trainer import Trainer, new_checkpoint

SMALL = PRESETS["tiny"].replace(d_model=16, d_ff=16)
MODEL = {"d_model": 16, "d_ff": 16, "codebook_group": 16}


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16), (1, 9)])
def test_an_update_is_nearly_orthogonal(shape):
    u = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    values = np.linalg.svd(orthogonalise(u), compute_uv=False)
    assert values.min() > 0.3 and values.max() < 1.3
    left, singular, right = np.linalg.svd(u.astype(np.float64), full_matrices=False)
    if singular.min() > 0.3 * singular.max():  # then the polynomial has converged: U·Vᵀ up to its plateau
        assert np.abs(orthogonalise(u) - left @ right).max() < 0.35


def test_fused_projections_are_orthogonalised_apart():
    rng = np.random.default_rng(1)
    p, g = rng.standard_normal((2, 24, 8)).astype(np.float32)
    fused, m = p.copy(), np.zeros_like(p)
    muon_update(fused, g, m, 0.02, 0.95, 0.1, fused=2)
    for rows in (slice(0, 12), slice(12, 24)):
        part = p[rows].copy()
        muon_update(part, g[rows], np.zeros_like(part), 0.02, 0.95, 0.1)
        np.testing.assert_array_equal(fused[rows], part)
    np.testing.assert_array_equal(m, g)


def test_its_matrices_are_those_of_the_layers():
    matrices = muon_matrices(SMALL)
    assert matrices["layers.0.mixer.in_proj.weight"] == 2 and matrices["layers.0.ffn.down_proj.weight"] == 1
    assert not [n for n in matrices if "embedding" in n or "head" in n or "conv1d" in n or "A_log" in n]


def test_a_run_learns_and_resumes_with_the_same_bits():
    data = load_dataset("qa10")
    training = TrainingConfig(steps=12, optimizer="muon", batch_size=4)
    whole, first = (Trainer(new_checkpoint(SMALL, training, data), data) for _ in range(2))
    losses = [whole.step()["loss"] for _ in range(12)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    for _ in range(5):
        first.step()
    rest = Trainer(first.run, data)
    for _ in range(7):
        rest.step()
    for name, value in whole.run.params.items():
        np.testing.assert_array_equal(rest.run.params[name], value)


def test_a_checkpoint_carries_its_momentum_and_no_second_moment(tmp_path):
    settings = {**MODEL, "optimizer": "muon", "steps": 4, "batch_size": 2, "eval_interval": 4}
    ghost.train("qa10", tmp_path / "run", settings=settings)
    stored = load_checkpoint(tmp_path / "run" / FILE_NAME)
    name = "layers.0.mixer.in_proj.weight"
    assert stored.training.optimizer == "muon" and name not in stored.second_moments
    assert np.abs(stored.first_moments[name]).max() > 0 and "embedding.weight" in stored.second_moments


@pytest.mark.parametrize("settings", [{"optimizer": "sgd"}, {"muon_lr": 0.0}, {"muon_momentum": 1.0}])
def test_what_is_no_optimizer_is_refused(settings):
    with pytest.raises(GhostError, match="TrainingConfig"):
        TrainingConfig.from_dict(settings)
