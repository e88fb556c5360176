"""Training with MLX against the NumPy trainer: AdamW's bits, the first step, crossing checkpoints, exact resume, the
guard, fixed shapes, flat memory. Everything runs on MLX's default device; the bounds are those of its CPU backend."""

from __future__ import annotations

import json
import logging
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
kernels = pytest.importorskip("ghost_ref._train", reason="ghost_ref._train is not built")

import ghost_ref as ghost  # noqa: E402
from ghost_ref.batches import make_batch  # noqa: E402
from ghost_ref.checkpoint import FILE_NAME, load_checkpoint  # noqa: E402
from ghost_ref.cli import main  # noqa: E402
from ghost_ref.cli.train import load_trainer, log_lines  # noqa: E402
from ghost_ref.config import PAD, TrainingConfig  # noqa: E402
from ghost_ref.data import Dataset, load_dataset, pair_bytes  # noqa: E402
from ghost_ref.errors import GhostError  # noqa: E402
from ghost_ref.objective import objective  # noqa: E402
from ghost_ref.optimizer import adamw_update  # noqa: E402
from ghost_ref.optimizer import project as reference_project  # noqa: E402
from ghost_ref.presets import PRESETS  # noqa: E402
from ghost_ref.quantise import quantise  # noqa: E402
from ghost_ref.trainer import Trainer, new_checkpoint  # noqa: E402
from ghost_ref.training_ops import training_ops  # noqa: E402
from mlx_backend import optimizer as mlx_optimizer  # noqa: E402
from mlx_backend.trainer import Trainer as MLXTrainer  # noqa: E402
from mlx_backend.trainer import batch_width, pad_batch  # noqa: E402

SMALL = {"d_model": 16, "n_layers": 4, "d_state": 4, "dt_rank": 2, "d_ff": 16, "codebook_group": 16}
PLAN = {"batch_size": 4, "memory_entries": 8}
CONFIG = PRESETS["tiny"].replace(**SMALL)
TEXT = b"the quick brown fox jumps over the lazy dog. " * 60
ULP = 2.0**-24


def text_data() -> Dataset:
    return Dataset("a text", "text", (), TEXT, "digest")


def start(trainer, data=None, config=CONFIG, **settings):
    """A trainer at step 0."""
    data = data or load_dataset("qa10")
    return trainer(new_checkpoint(config, TrainingConfig(**{"steps": 50, **PLAN, **settings}), data), data)


def arrays_of(trainer):
    """Copies of everything a checkpoint holds of a trainer."""
    trainer.sync()
    run = trainer.run
    groups = {"p": run.params, "m": run.first_moments, "v": run.second_moments, "memory": run.memory}
    return {(group, name): np.array(value) for group, arrays in groups.items() for name, value in arrays.items()}


def small_run(out, *, data="qa10", steps=12, **options):
    settings = {**SMALL, **PLAN, "eval_interval": 6, "checkpoint_interval": 3, "stop_when_solved": False,
                **options.pop("settings", {})}
    return ghost.train(data, out, steps=steps, settings=settings, **{"trainer": MLXTrainer, **options})


def metrics_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


# --- the optimizer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("update", [adamw_update, kernels.adamw_update], ids=["numpy", "cython"])
def test_adamw_has_the_bits_of_the_reference(update, compiled):
    """200 steps of gradients of all sizes. Compiled steps are equal too: MLX's CPU kernels do not contract."""
    def step(p, g, m, v, factors):
        return mlx_optimizer.adamw(p, g, m, v, rate=factors["rate"][0], keep=factors["keep"][0], beta1=0.9, beta2=0.99,
                                   c1=factors["c1"], c2=factors["c2"])

    function = mx.compile(step) if compiled else step
    rng = np.random.default_rng(0)
    expected = [rng.normal(size=777).astype(np.float32), np.zeros(777, np.float32), np.zeros(777, np.float32)]
    state = [mx.array(a) for a in expected]
    for t in range(1, 201):
        g = (rng.normal(size=777) * 10.0 ** rng.integers(-6, 2, 777)).astype(np.float32)
        lr = 4e-3 * min(t, 50) / 50
        p, m, v = expected
        update(p, g, m, v, lr, 0.9, 0.99, 1e-8, 0.1, 1 / (1 - 0.9**t), 1 / (1 - 0.99**t))
        factors = mlx_optimizer.step_factors({(1.0, 0.1)}, lr, 0.9, 0.99, t)
        p, m, v = state
        state = function(p, mx.array(g), m, v, factors)
        mx.eval(state)
    for have, want in zip(state, expected, strict=True):
        np.testing.assert_array_equal(np.array(have), want)


def test_the_projection_is_the_references():
    rng = np.random.default_rng(0)
    params = {name: rng.normal(0, 1, 500).astype(np.float32) for name in ("a.threshold", "a.scale", "b.codebook", "c")}
    projected = mlx_optimizer.project({name: mx.array(p) for name, p in params.items()})
    reference_project(params)
    for name, want in params.items():
        np.testing.assert_array_equal(np.array(projected[name]), want)


@pytest.mark.parametrize("shape", [(1,), (1000,), (64, 448), (1024, 256)])
def test_square_sums_are_within_the_bound_of_two_sequential_sums(shape):
    g = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    have = float(mlx_optimizer.square_sums({"g": mx.array(g)})[0])
    want = float((g.astype(np.float64) ** 2).sum())
    assert abs(have - want) <= (sum(shape) + 2) * ULP * want


# --- batches of one shape -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_every_batch_of_a_run_fits_one_width(noise):
    data = load_dataset("qa20")
    longest = max(len(pair_bytes(pair)) for pair in data.pairs)
    training = TrainingConfig(steps=9, batch_size=20, seq_len=longest + 3, prompt_noise=noise)
    width = batch_width(data, training)
    for step in range(30):
        batch = make_batch(data, training, step)
        padded = pad_batch(batch, width)
        used = batch.tokens.shape[1]
        assert padded.tokens.shape == padded.valid.shape == (20, width)
        assert (padded.tokens[:, used:] == PAD).all() and (padded.targets[:, used:] == PAD).all()
        assert padded.valid.sum() == batch.valid.sum() and padded.loss_mask.sum() == batch.loss_mask.sum()
        np.testing.assert_array_equal(padded.tokens[:, :used], batch.tokens)


@pytest.mark.parametrize("config, traces", [(CONFIG, 2), (CONFIG.replace(memory_layers=()), 1)])
def test_the_step_is_traced_once_per_shape(config, traces):
    trainer = start(MLXTrainer, config=config, steps=0, seq_len=128, prompt_noise=0.2)
    for _ in range(4):
        trainer.step()
    trainer.run.training = trainer.run.training.replace(steps=9)  # as `--minutes` does
    for _ in range(3):
        trainer.step()
    assert trainer.traces == traces


# --- against the NumPy trainer --------------------------------------------------------------------------------------

EXACT = ("ternarise", "codebook_ternarise", "int8_rows", "round_float16", "take", "window", "compact", "select",
         "restore", "exceeds", "top_k_mask", "detach", "strided_positions")
OP_ERROR = 8 * ULP  # of any op, relative to the larger of an element and its row's root mean square: exp has 2 ULP
#                     (4 of these), sigmoid and softplus 4, a product's sum of a few hundred terms a few


def noisy_ops(rng):
    """The NumPy vocabulary with an error of OP_ERROR at most added to every result (Monte-Carlo arithmetic)."""
    def disturb(x):
        if isinstance(x, tuple):
            return tuple(disturb(part) for part in x)
        if isinstance(x, dict):
            return {name: disturb(part) for name, part in x.items()}
        if getattr(x, "dtype", None) != np.float32:
            return x
        size = np.maximum(np.abs(x), np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True)) if x.ndim else 0)
        return (x + OP_ERROR * size * rng.uniform(-1, 1, x.shape)).astype(np.float32)

    table = vars(training_ops())
    return SimpleNamespace(**{name: op if name in EXACT else lambda *a, op=op, **k: disturb(op(*a, **k))
                              for name, op in table.items()})


def loss_spread(run, data, samples=12) -> float:
    """The largest deviation of the first step's loss under errors of OP_ERROR in parameters and all ops: what rounding
    alone can do to it, decisions (rounded activations, trits, routes) that flip included."""
    batch = make_batch(data, run.training, 0)
    counts = int(batch.loss_mask.sum()), int(batch.valid.sum())
    losses = []
    for seed in range(-1, samples):
        rng = np.random.default_rng(abs(seed))
        ops = noisy_ops(rng) if seed >= 0 else training_ops()
        size = ULP if seed >= 0 else 0.0
        params = {k: (p * (1 + size * rng.uniform(-1, 1, p.shape))).astype(np.float32) for k, p in run.params.items()}
        weights = quantise(params, run.config, ops)
        losses.append(float(objective(weights, run.config, run.training, batch, ops=ops, counts=counts)[1][0]))
    return max(abs(loss - losses[0]) for loss in losses[1:])


@pytest.mark.parametrize("kind, config", [
    ("pairs", CONFIG), ("text", CONFIG), ("text", CONFIG.replace(linear="float")), ("text", PRESETS["tiny"]),
], ids=["pairs", "text", "float", "tiny"])
def test_the_first_step_is_the_references_within_the_spread_of_rounding(kind, config):
    """Bound: 4 times the largest deviation of 12 Monte-Carlo samples."""
    data = text_data() if kind == "text" else load_dataset("qa10")
    reference, trainer = (start(make, data, config) for make in (Trainer, MLXTrainer))
    bound = 4 * loss_spread(reference.run, data)
    assert bound < 0.01  # it would not see a fault otherwise
    want, have = reference.step(), trainer.step()
    assert abs(have["loss"] - want["loss"]) <= bound
    assert abs(have["gradient_norm"] / want["gradient_norm"] - 1) <= 0.02
    assert have["lr"] == want["lr"] and have["step"] == want["step"] == 1
    assert list(have) == list(want)
    for i, shares in want["processed"].items():
        assert list(have["processed"][i]) == list(shares)
        for name, share in shares.items():
            assert abs(have["processed"][i][name] - share) <= 0.02
    assert have["agreement"].keys() == want["agreement"].keys()
    assert trainer.run.progress == reference.run.progress
    reference.close()


@pytest.mark.parametrize("kind", ["pairs", "text"])
def test_four_steps_move_every_parameter_as_the_reference_does(kind):
    """Mean difference of a parameter after 4 steps, relative to how far it moved: measured 4e-5 at most, allowed 1e-3.
    A wrong decay of one group shows (about 1e-2), and so do a wrong rate, projection, memory entry or count."""
    data = text_data() if kind == "text" else load_dataset("qa10")
    reference, trainer = (start(make, data) for make in (Trainer, MLXTrainer))
    before = {name: p.copy() for name, p in reference.run.params.items()}
    for _ in range(4):
        reference.step(), trainer.step()
    trainer.sync()
    for name, p in reference.run.params.items():
        moved = np.abs(p - before[name]).mean()
        assert np.abs(trainer.run.params[name] - p).mean() <= 1e-3 * moved, name
    np.testing.assert_array_equal(trainer.run.memory["values"], reference.run.memory["values"])
    np.testing.assert_array_equal(trainer.run.memory["counts"], reference.run.memory["counts"])
    np.testing.assert_allclose(trainer.run.memory["keys"], reference.run.memory["keys"], rtol=0, atol=1e-3)
    reference.close()


def test_loss_curves_stay_together():
    """40 steps: the mean of the last 10 losses within 3 % (measured: see benchmarks/mlx_training.py for 200 steps)."""
    losses = []
    for make in (Trainer, MLXTrainer):
        trainer = start(make, text_data(), seq_len=32, steps=40)
        losses.append([trainer.step()["loss"] for _ in range(40)])
        trainer.close()
    numpy, mlx = (float(np.mean(curve[-10:])) for curve in losses)
    assert numpy < 0.8 * losses[0][0]
    assert abs(mlx / numpy - 1) <= 0.03


@pytest.mark.parametrize("first, second", [(Trainer, MLXTrainer), (MLXTrainer, Trainer)], ids=["to-mlx", "to-numpy"])
def test_a_checkpoint_crosses_and_the_loss_goes_on(tmp_path, first, second):
    small_run(tmp_path / "one", steps=12, trainer=first)

    def stop(event):
        if event["event"] == "checkpoint" and event["step"] >= 6:
            raise KeyboardInterrupt

    assert small_run(tmp_path / "both", trainer=first, on_event=stop).step == 6
    stored = load_checkpoint(tmp_path / "both" / FILE_NAME)
    before = {("p", k): v for k, v in stored.params.items()} | {("m", k): v for k, v in stored.first_moments.items()} \
        | {("v", k): v for k, v in stored.second_moments.items()} | {("memory", k): v for k, v in stored.memory.items()}
    taken_over = arrays_of(second(stored, load_dataset("qa10")))
    assert taken_over.keys() == before.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(taken_over[key], value)
    result = small_run(tmp_path / "both", trainer=second, resume=True)
    assert result.reason == "done" and result.step == 12
    alone, crossed = ([m["loss"] for m in metrics_of(tmp_path / name) if m["event"] == "step"]
                      for name in ("one", "both"))
    assert alone[:6] == crossed[:6]
    np.testing.assert_allclose(crossed[6:], alone[6:], rtol=0.02)


# --- a run of its own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, step, options", [
    ("evaluation", 6, {}), ("checkpoint", 9, {"settings": {"dropout": 0.1, "prompt_noise": 0.1}}),
], ids=["plain", "noisy"])
def test_resume_is_bit_exact(tmp_path, kind, step, options):
    def interrupt(event):
        if event["event"] == kind and event["step"] == step:
            signal.raise_signal(signal.SIGINT)

    small_run(tmp_path / "whole", **options)
    first = small_run(tmp_path / "parts", on_event=interrupt, **options)
    assert first.reason == "interrupted" and first.step == step
    assert small_run(tmp_path / "parts", resume=True, **options).reason == "done"
    for name in (FILE_NAME, "best.ghost", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_dropout_is_a_function_of_seed_and_step():
    losses = {}
    for name, settings in {"without": {}, "once": {"dropout": 0.3}, "again": {"dropout": 0.3}}.items():
        trainer = start(MLXTrainer, text_data(), seq_len=32, **settings)
        losses[name] = [trainer.step()["loss"] for _ in range(3)]
    assert losses["once"] == losses["again"] != losses["without"]
    trainers = [start(MLXTrainer, text_data(), seq_len=32, dropout=0.3, seed=seed) for seed in (0, 1)]
    batch = make_batch(text_data(), trainers[0].run.training, 0)
    keys = {tuple(t._batch_arrays(batch, step)["key"].tolist()) for t in trainers for step in (0, 1, 2)}
    assert len(keys) == 6


def test_files_and_metrics_are_those_of_the_numpy_trainer(tmp_path):
    small_run(tmp_path / "numpy", trainer=Trainer)
    small_run(tmp_path / "mlx")
    names = [sorted(f.name for f in (tmp_path / run).iterdir()) for run in ("numpy", "mlx")]
    assert names[0] == names[1]
    for want, have in zip(metrics_of(tmp_path / "numpy"), metrics_of(tmp_path / "mlx"), strict=True):
        assert list(have) == list(want)


class Poisoned(MLXTrainer):
    """A trainer whose loss holds a NaN that reaches one parameter, or none."""

    poison = ""

    def _loss(self, params, memory, arrays):
        loss, *rest = super()._loss(params, memory, arrays)
        extra = (params[self.poison] * float("nan")).sum() if self.poison else mx.array(float("inf"))
        return (loss + extra, *rest)


@pytest.mark.parametrize("poison", ["embedding.weight", "layers.0.mixer.D", "layers.2.ffn.codebook", ""])
def test_a_non_finite_step_is_rejected_by_name_and_changes_nothing(poison, monkeypatch):
    trainer = start(MLXTrainer)
    trainer.step()
    before = arrays_of(trainer)
    monkeypatch.setattr(Poisoned, "poison", poison)
    poisoned = Poisoned(trainer.run, trainer.data)
    metrics = poisoned.step()
    assert metrics["rejected"] == (poison or "loss") and "lr" not in metrics
    assert (metrics["step"], trainer.run.progress.rejected) == (2, 1)
    for key, value in arrays_of(poisoned).items():
        np.testing.assert_array_equal(value, before[key])
    assert "rejected" not in MLXTrainer(trainer.run, trainer.data).step()


def test_too_many_rejected_steps_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Poisoned, "poison", "norm_f.weight")
    with pytest.raises(GhostError, match=r"21 steps had to be rejected because norm_f\.weight was not"):
        small_run(tmp_path / "run", trainer=Poisoned, steps=30)


def test_the_command_trains_packs_and_verifies(tmp_path, capsys):
    out, packed = str(tmp_path / "run"), str(tmp_path / "m.ghost")
    flags = [f"--set={name}={value}" for name, value in {**SMALL, **PLAN}.items()]
    assert main(["train", "--data", "qa10", "--out", out, "--steps", "4", "--backend", "mlx", *flags]) == 0
    assert main(["train", "--data", "qa10", "--out", out, "--steps", "4", "--backend", "mlx", "--resume", *flags]) == 0
    assert main(["pack", out, "-o", packed]) == 0
    assert main(["verify", packed, "--prompts", "4"]) == 0
    capsys.readouterr()


def test_backends_are_named_and_missing_ones_explained(monkeypatch):
    assert load_trainer("numpy") is Trainer and load_trainer("mlx") is MLXTrainer
    with pytest.raises(GhostError, match=r"no training backend 'abacus'; the backends are: numpy, mlx\."):
        load_trainer("abacus")
    monkeypatch.setitem(__import__("sys").modules, "mlx.core", None)
    with pytest.raises(GhostError, match=r'pip install "ghost-lm\[mlx\]".*"ghost-lm\[mlx-cpu\]"'):
        load_trainer("mlx")


def test_what_a_backend_logs_is_shown_while_it_trains():
    shown: list[str] = []
    with log_lines(shown.append):
        logging.getLogger("ghost.mlx").info("selective scan: %s", "ops")
    logging.getLogger("ghost.mlx").info("afterwards")
    assert shown == ["selective scan: ops"]


@pytest.mark.slow
def test_memory_does_not_grow_over_ten_thousand_steps():
    """Minutes. From step 1,000 to 10,000, in MLX's own count and as the system sees it; two traces."""
    config = CONFIG.replace(d_model=8, n_heads=2, n_layers=2, attention_layers=(), memory_layers=(0,), mod_layers=(1,),
                            depth_layers=(), surprise_layers=())
    trainer = start(MLXTrainer, text_data(), config, seq_len=8, steps=10_000, batch_size=2, dropout=0.1)
    active, resident = [], []
    for step in range(1, 10_001):
        assert "rejected" not in trainer.step()
        if step % 1000 == 0:
            active.append(mx.get_active_memory())
            resident.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert max(active) < active[0] + 4096, active  # sizes of reused buffers vary; one lost number a step makes 36,000
    assert resident[-1] <= resident[0] + (2 << 20), resident  # 2 MiB, 200 bytes a step
    assert trainer.traces == 2


def test_a_scan_that_cannot_run_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    from ghost_ref.cli import main

    monkeypatch.setenv("GHOST_SCAN", "fast")
    assert main(["train", "--backend", "mlx", "--data", "qa10", "--out", str(tmp_path / "run")]) == 2
    assert "GHOST_SCAN=fast is unknown" in capsys.readouterr().err and not (tmp_path / "run").exists()
