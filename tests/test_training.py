"""Training runs: exact resume, the non-finite guard, refusals, metrics, early stops, what a run leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ghost_ref as ghost
from ghost_ref import training as training_module
from ghost_ref.batches import make_batch, pad_sequences
from ghost_ref.checkpoint import FILE_NAME, load_checkpoint
from ghost_ref.config import EOS, PAD, TrainingConfig
from ghost_ref.data import Dataset, load_dataset, pair_bytes
from ghost_ref.errors import GhostError
from ghost_ref.optimizer import adamw_update
from ghost_ref.presets import PRESETS
from ghost_ref.schedule import learning_rate
from ghost_ref.trainer import Trainer, new_checkpoint

SMALL = {"d_model": 16, "n_layers": 4, "d_state": 4, "dt_rank": 2, "d_ff": 16, "codebook_group": 16,
         "batch_size": 4, "memory_entries": 8}


def small_run(out, *, data="qa10", steps=12, **options):
    settings = {**SMALL, "eval_interval": 6, "checkpoint_interval": 3, "stop_when_solved": False,
                **options.pop("settings", {})}
    return ghost.train(data, out, steps=steps, settings=settings, **options)


def test_a_run_leaves_metrics_curve_checkpoint_and_packed_model(tmp_path):
    events = []
    result = small_run(tmp_path / "run", on_event=events.append)
    assert result.reason == "done" and result.step == 12 and result.packed == tmp_path / "run" / "best.ghost"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert {"loss", "bpb", "lr", "gradient_norm", "processed", "agreement"} <= set(steps[0])
    assert set(steps[0]["processed"]) == {"1", "2", "3"} and set(steps[0]["agreement"]) == {"1", "3"}
    assert set(steps[0]["processed"]["3"]) == {"depth", "surprise", "mod", "all"}
    evaluations = [line for line in lines if line["event"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [6, 12]
    assert all(0 < fraction < 1 for fraction in evaluations[0]["zero_fractions"].values())
    assert events[-1]["peak_bytes"] > evaluations[0]["step_bytes"] > 0  # the process holds more than the step's arrays
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert load_checkpoint(tmp_path / "run" / FILE_NAME).progress.step == 12
    assert {e["event"] for e in events} == {"start", "step", "evaluation", "checkpoint", "end"}
    assert ghost.pack_run(tmp_path / "run", tmp_path / "m.ghost") == (tmp_path / "m.ghost").stat().st_size
    assert ghost.load(tmp_path / "m.ghost").config.d_model == 16


def interrupted_after(steps):
    def on_event(event):
        if event["event"] == "checkpoint" and event["step"] >= steps:
            raise KeyboardInterrupt
    return on_event


@pytest.mark.parametrize("options", [{}, {"settings": {"dropout": 0.1, "prompt_noise": 0.1}}])
def test_resume_is_bit_exact(tmp_path, options):
    small_run(tmp_path / "whole", **options)
    first = small_run(tmp_path / "parts", on_event=interrupted_after(6), **options)
    assert first.reason == "interrupted" and first.step == 6
    second = small_run(tmp_path / "parts", resume=True, **options)
    assert second.reason == "done" and second.step == 12
    for name in (FILE_NAME, "best.ghost", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_resume_on_text_is_bit_exact(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    options = {"data": str(text), "settings": {"seq_len": 16}}
    small_run(tmp_path / "whole", **options)
    small_run(tmp_path / "parts", on_event=interrupted_after(3), **options)
    small_run(tmp_path / "parts", resume=True, **options)
    assert (tmp_path / "whole" / FILE_NAME).read_bytes() == (tmp_path / "parts" / FILE_NAME).read_bytes()


def test_ctrl_c_ends_after_the_step_and_its_evaluation(tmp_path):
    """A signal during the step of an evaluation: the checkpoint holds both, and resuming gives the same bits."""
    small_run(tmp_path / "whole")

    def interrupt(event):
        if event["event"] == "evaluation" and event["step"] == 6:
            os.kill(os.getpid(), signal.SIGINT)

    first = small_run(tmp_path / "parts", on_event=interrupt)
    assert first.reason == "interrupted" and first.step == 6
    assert load_checkpoint(tmp_path / "parts" / FILE_NAME).progress.evaluations == 1
    small_run(tmp_path / "parts", resume=True)
    for name in (FILE_NAME, "best.ghost", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_a_run_can_be_resumed_from_its_first_moment_and_after_its_end(tmp_path):
    small_run(tmp_path / "whole")

    def stop_at_once(event):
        if event["event"] == "start":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "run", on_event=stop_at_once)
    small_run(tmp_path / "run", resume=True)
    before = (tmp_path / "run" / FILE_NAME).read_bytes()
    assert before == (tmp_path / "whole" / FILE_NAME).read_bytes()
    assert small_run(tmp_path / "run", resume=True).reason == "done"
    assert (tmp_path / "run" / FILE_NAME).read_bytes() == before


def test_one_process_trains_in_a_directory(tmp_path):
    def second(event):
        if event["event"] == "checkpoint":
            with pytest.raises(GhostError, match="Another process is training"):
                small_run(tmp_path / "run", resume=True)

    small_run(tmp_path / "run", on_event=second)


def test_validation_data_belongs_to_the_run(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"some text to validate on, {name}. " * 20)
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    options = {"data": str(text), "settings": {"seq_len": 16}}
    small_run(tmp_path / "run", validation=str(tmp_path / "a.txt"), **options)
    for other in (None, str(tmp_path / "b.txt")):
        with pytest.raises(GhostError, match="other validation data"):
            small_run(tmp_path / "run", validation=other, resume=True, **options)
    with pytest.raises(GhostError, match="validate on the same kind"):
        small_run(tmp_path / "x", validation=str(tmp_path / "a.txt"))
    (tmp_path / "c.txt").write_text("x")
    with pytest.raises(GhostError, match="too short to validate"):
        small_run(tmp_path / "x", validation=str(tmp_path / "c.txt"), **options)


def test_solved_means_every_training_item(tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "EVALUATED_PAIRS", 3)
    asked = []

    def answers(model, pairs):
        asked.append(len(pairs))
        return {"share": 1.0 if len(pairs) == 3 else 0.9}

    monkeypatch.setattr(training_module, "evaluate_answers", answers)
    assert small_run(tmp_path / "run", settings={"stop_when_solved": True}).reason == "done"
    assert asked == [3, 10, 3, 10]


def test_noise_never_cuts_an_answer():
    data = load_dataset("qa20")
    longest = max(len(pair_bytes(p)) for p in data.pairs)
    training = TrainingConfig(steps=9, batch_size=20, seq_len=longest, prompt_noise=0.3)
    for step in range(20):
        batch = make_batch(data, training, step)
        assert ((batch.targets == EOS).sum(1) == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_after_kill_minus_nine_at_random_moments(tmp_path, optimizer):
    """20 kills of a run whose checkpoints are 2 steps apart: the final checkpoint has the uninterrupted run's bits."""
    settings = ["--set", f"optimizer={optimizer}", "--set", "d_model=32", "--set", "batch_size=4", "--set",
                "eval_interval=10", "--set", "checkpoint_interval=2", "--set", "stop_when_solved=false"]

    def command(out, *more):
        return [sys.executable, "-m", "ghost_ref", "train", "--preset", "tiny", "--data", "qa10", "--steps", "120",
                "--out", str(out), *settings, *more]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    rng, kills, out = np.random.default_rng(0), 0, tmp_path / "killed"
    while kills < 20:
        more = ["--resume"] if (out / FILE_NAME).exists() else []  # before step 0 is saved, --out still counts as empty
        process = subprocess.Popen(command(out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.8, 3.0))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if (out / FILE_NAME).exists() and load_checkpoint(out / FILE_NAME).progress.step >= 118:
            for file in out.iterdir():  # finished before 20 kills: once more from the start
                file.rename(tmp_path / f"{kills}-{file.name}")
    subprocess.run(command(out, *(["--resume"] if (out / FILE_NAME).exists() else [])), check=True, capture_output=True)
    assert (out / FILE_NAME).read_bytes() == (tmp_path / "whole" / FILE_NAME).read_bytes()


def test_a_damaged_checkpoint_falls_back_to_the_previous_one(tmp_path):
    small_run(tmp_path / "run")
    path = tmp_path / "run" / FILE_NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert load_checkpoint(path).progress.step == 9
    (tmp_path / "run" / f"{FILE_NAME}.previous").unlink()
    with pytest.raises(GhostError, match="damaged"):
        load_checkpoint(path)


def test_other_data_or_settings_are_refused_on_resume(tmp_path):
    small_run(tmp_path / "run", steps=6)
    with pytest.raises(GhostError, match="not the data this run was trained on"):
        small_run(tmp_path / "run", steps=6, data="qa20", resume=True)
    with pytest.raises(GhostError, match=r"started with lr=0\.004, not 0\.001"):
        small_run(tmp_path / "run", steps=6, resume=True, settings={"lr": 0.001})
    with pytest.raises(GhostError, match="started with d_ff=16, not 32"):
        small_run(tmp_path / "run", steps=6, resume=True, settings={"d_ff": 32})
    with pytest.raises(GhostError, match="already exists"):
        small_run(tmp_path / "run")
    with pytest.raises(GhostError, match="no checkpoint to resume"):
        small_run(tmp_path / "nothing", resume=True)
    with pytest.raises(GhostError, match="no preset 'v99'"):
        ghost.train("qa10", tmp_path / "x", preset="v99")
    with pytest.raises(GhostError, match="no setting 'colour'"):
        ghost.train("qa10", tmp_path / "x", settings={"colour": 1})
    assert not (tmp_path / "x").exists()


def test_too_little_data_is_refused(tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(GhostError, match="fewer than seq_len"):
        ghost.train(str(short), tmp_path / "x")
    with pytest.raises(GhostError, match="raise it with --set seq_len"):
        ghost.train("qa10", tmp_path / "x", settings={"seq_len": 8})


@pytest.mark.parametrize("poison", ["embedding.weight", "layers.0.mixer.D", "layers.2.ffn.codebook"])
def test_a_non_finite_step_is_rejected_by_name_and_changes_nothing(poison, monkeypatch):
    data = load_dataset("qa10")
    trainer = Trainer(new_checkpoint(PRESETS["tiny"].replace(d_model=16, d_ff=16), TrainingConfig(steps=9), data), data)
    trainer.step()
    real = training_module.Trainer._gradients

    def poisoned(self, batch, index):
        shards, grads = real(self, batch, index)
        grads[poison].flat[0] = np.nan
        return shards, grads

    before = {k: v.copy() for k, v in {**trainer.run.params, **trainer.run.first_moments}.items()}
    monkeypatch.setattr(training_module.Trainer, "_gradients", poisoned)
    metrics = trainer.step()
    assert metrics["rejected"] == poison
    for name, value in {**trainer.run.params, **trainer.run.first_moments}.items():
        np.testing.assert_array_equal(value, before[name])
    monkeypatch.undo()
    assert "rejected" not in trainer.step()


def test_solved_question_sets_stop_early(tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "evaluate_answers", lambda model, pairs: {"share": 1.0})
    result = small_run(tmp_path / "run", settings={"stop_when_solved": True})
    assert result.reason == "solved" and result.step == 6


def test_patience_stops_a_run_that_does_not_improve(tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "evaluate_answers", lambda model, pairs: {"share": 0.0})
    result = small_run(tmp_path / "run", settings={"patience": 1, "eval_interval": 2})
    assert result.reason == "no improvement" and result.step == 4


def test_minutes_fix_the_number_of_steps_once(tmp_path):
    settings = SMALL | {"stop_when_solved": False}
    result = ghost.train("qa10", tmp_path / "run", minutes=0.02, settings=settings)
    stored = load_checkpoint(tmp_path / "run" / FILE_NAME)
    assert stored.training.steps == result.step >= 12
    again = ghost.train("qa10", tmp_path / "run", minutes=0.02, resume=True, settings=settings)
    assert again.step == result.step


def test_batches_are_a_function_of_the_step():
    data, training = load_dataset("qa20"), TrainingConfig(steps=9, batch_size=7)
    first, again, other = (make_batch(data, training, step) for step in (3, 3, 4))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert first.tokens.shape != other.tokens.shape or (first.tokens != other.tokens).any()
    rows = [bytes(row) for step in range(20) for row in make_batch(data, training, step).tokens]
    prompts = [row.partition(b"\xfb")[0] for row in rows]
    counts = {p.prompt: prompts.count(p.prompt) for p in data.pairs}
    assert sum(counts.values()) == 140 and set(counts.values()) == {7}  # every epoch holds each item once


def test_padding_and_loss_mask():
    batch = pad_sequences([b"ab\xfbcd\xff", b"x\xfby\xff"])
    assert batch.tokens.tolist() == [[97, 98, 0xFB, 99, 100], [120, 0xFB, 121, PAD, PAD]]
    assert batch.targets.tolist() == [[98, 0xFB, 99, 100, EOS], [0xFB, 121, EOS, PAD, PAD]]
    assert batch.loss_mask.tolist() == [[False, False, True, True, True], [False, True, True, False, False]]
    assert batch.valid.sum() == 8
    assert len(pair_bytes(load_dataset("qa10").pairs[0])) > 4


def test_text_windows_stay_inside_the_text():
    data = Dataset("t", "text", (), bytes(range(65)), "")
    batch = make_batch(data, TrainingConfig(steps=1, batch_size=50, seq_len=64), 0)
    assert (batch.tokens == np.arange(64)).all() and (batch.targets == np.arange(1, 65)).all()


def test_learning_rate_curve():
    plan = TrainingConfig(steps=1000, lr=1.0, final_lr=0.1, warmup_steps=100)
    assert learning_rate(plan, 0) == 0.01 and learning_rate(plan, 99) == 1.0
    assert abs(learning_rate(plan, 550) - 0.55) < 1e-12 and abs(learning_rate(plan, 1000) - 0.1) < 1e-12
    assert learning_rate(TrainingConfig(steps=5, lr=1.0), 0) == 1.0  # no room for a warm-up


def test_adamw_against_its_definition_in_float64():
    rng = np.random.default_rng(0)
    p, m, v = (rng.normal(size=50).astype(np.float32) for _ in range(3))
    v = v * v
    expected_p, expected_m, expected_v = p.astype(float), m.astype(float), v.astype(float)
    for t in range(1, 6):
        g = rng.normal(size=50).astype(np.float32)
        c1, c2 = 1 / (1 - 0.9**t), 1 / (1 - 0.99**t)
        adamw_update(p, g, m, v, 1e-2, 0.9, 0.99, 1e-8, 0.1, c1, c2)
        expected_m = 0.9 * expected_m + 0.1 * g
        expected_v = 0.99 * expected_v + 0.01 * g.astype(float) ** 2
        expected_p = expected_p * (1 - 1e-3) - 1e-2 * (expected_m * c1) / (np.sqrt(expected_v * c2) + 1e-8)
    np.testing.assert_allclose(p, expected_p, rtol=0, atol=5 * 16 * 2.0**-24 * 5)
    assert p.dtype == m.dtype == v.dtype == np.float32


def test_float_models_train_and_refuse_to_pack(tmp_path):
    result = small_run(tmp_path / "run", settings={"linear": "float"})
    assert result.packed is None
    with pytest.raises(GhostError, match="Only ternary models can be packed"):
        ghost.pack_run(Path(tmp_path / "run"), tmp_path / "m.ghost")


def test_shards_add_up_to_the_whole_batch():
    """Gradients of 1 and of 3 shards agree within float32 rounding; the bits are a function of the shards alone."""
    data = load_dataset("qa10")
    config = PRESETS["tiny"].replace(d_model=16, d_ff=16)

    def grads(shards):
        trainer = Trainer(new_checkpoint(config, TrainingConfig(steps=9, batch_size=7, shards=shards), data), data)
        batch = make_batch(data, trainer.run.training, 0)
        result = trainer._gradients(batch, 0)[1]
        trainer.close()
        return result

    whole, split, again = grads(1), grads(3), grads(3)
    for name in whole:
        np.testing.assert_array_equal(split[name], again[name])
        size = np.abs(whole[name]).max() + 1e-6
        np.testing.assert_allclose(split[name], whole[name], rtol=0, atol=2e-4 * size, err_msg=name)
