"""The memory bank: exact recall, decay, eviction, files, and one-shot answers with a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SMALL, random_weights

from ghost_ref import memory_bank
from ghost_ref.config import EOS, SEP, SamplingConfig
from ghost_ref.container import write_container
from ghost_ref.errors import GhostError
from ghost_ref.memory_bank import ARRAYS, DECAY, MemoryBank, answer, remember
from ghost_ref.packed import save_packed
from ghost_ref.runtime import Model, load

END = bytes([EOS])
GREEDY = SamplingConfig(max_bytes=24)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("model") / "small.ghost"
    save_packed(path, random_weights(SMALL, 1), SMALL)
    return load(path, backend="reference")


def random_key(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SMALL.d_model).astype(np.float32)


def filled(entries: int) -> MemoryBank:
    bank = MemoryBank(SMALL, "00000000")
    for i in range(entries):
        bank.put(random_key(i), b"value no %d" % i + END, prompt=b"prompt %d" % i)
    return bank


def same(a: MemoryBank, b: MemoryBank) -> bool:
    return (all(np.array_equal(getattr(a, name), getattr(b, name)) and getattr(a, name).dtype == getattr(b, name).dtype
                for name in ARRAYS)
            and (a.prompts, a.completions, a.config, a.model_crc) == (b.prompts, b.completions, b.config, b.model_crc))


# --- put, recall, forget ---------------------------------------------------------------------------------------------


def test_an_entry_is_recalled_exactly() -> None:
    bank = filled(5)
    (found,) = bank.recall(random_key(3) * np.float32(7))  # the length of a query does not matter
    assert (found.index, found.value, found.prompt) == (3, b"value no 3" + END, b"prompt 3")
    assert found.completion == b"value no 3"
    assert found.similarity == pytest.approx(1, abs=1e-6)
    assert found.complete and found.age == 1 and found.uses == 1


def test_recall_is_the_canonical_cosine_best_first() -> None:
    bank, query = filled(8), random_key(99)
    found = bank.recall(query, k=3)
    exact = [float(k.astype(np.float64) @ query / np.linalg.norm(query.astype(np.float64))) for k in bank.keys]
    assert [f.index for f in found] == list(np.argsort(exact)[::-1][:3])
    unit = query / np.sqrt(canonical_sum(query * query) + np.float32(1e-12))
    for f in found:
        assert f.similarity == float(canonical_sum(bank.keys[f.index] * unit))


def canonical_sum(x: np.ndarray) -> np.float32:
    lanes = [np.float32(0)] * 16
    for i, value in enumerate(x):
        lanes[i % 16] = lanes[i % 16] + value
    for step in (8, 4, 2, 1):
        lanes = [lanes[i] + lanes[i + step] for i in range(step)]
    return lanes[0]


def test_ties_go_to_the_lowest_slot() -> None:
    bank = MemoryBank(SMALL)
    for i in range(4):
        bank.put(random_key(0), b"%d" % i)
    assert [f.index for f in bank.recall(random_key(0), k=9)] == [0, 1, 2, 3]


def test_only_recalled_entries_count_a_use() -> None:
    bank = filled(4)
    bank.nearest(random_key(1), k=4)
    assert not bank.uses.any()
    bank.recall(random_key(1))
    bank.recall(random_key(1))
    assert bank.uses.tolist() == [0, 2, 0, 0]


def test_every_write_decays_and_ages_the_others() -> None:
    bank = filled(3)
    assert bank.importance.tolist() == [float(np.float32(1) * DECAY * DECAY), float(DECAY), 1.0]
    assert bank.age.tolist() == [2, 1, 0]
    assert bank.importance.dtype == np.float32


def test_a_full_bank_drops_the_least_importance() -> None:
    bank = MemoryBank(SMALL)
    for i in range(SMALL.memory_capacity):
        bank.put(random_key(i), b"old %d" % i, importance=0.5 if i == 5 else 10)
    assert bank.put(random_key(100), b"new") == 5
    assert len(bank) == SMALL.memory_capacity
    assert bank.list()[5].value == b"new" and bank.list()[4].value == b"old 4"


def test_eviction_ties_drop_the_lowest_slot() -> None:
    bank = filled(SMALL.memory_capacity)
    bank.importance[:] = 2
    assert bank.put(random_key(100), b"new") == 0


def test_the_same_prompt_replaces_its_entry() -> None:
    bank = filled(3)
    bank.recall(random_key(1))
    assert bank.put(random_key(50), b"better", prompt=b"prompt 1") == 1
    assert len(bank) == 3
    entry = bank.list()[1]
    assert (entry.value, entry.completion, entry.age, entry.uses, entry.importance) == (b"better", b"better", 0, 0, 1.0)


def test_a_long_value_keeps_its_first_32_bytes() -> None:
    bank = MemoryBank(SMALL)
    bank.put(random_key(0), bytes(range(40)))
    assert bank.list()[0].value == bytes(range(32)) and not bank.list()[0].complete


def test_forget() -> None:
    bank = filled(4)
    bank.forget(1)
    assert [e.prompt for e in bank.list()] == [b"prompt 0", b"prompt 2", b"prompt 3"]
    assert bank.recall(random_key(3))[0].index == 2
    assert bank.forget_matching(b"prompt 3") == 1 and bank.forget_matching(b"prompt") == 0
    assert len(bank) == 2
    with pytest.raises(GhostError, match="no entry 2 in a memory bank of 2"):
        bank.forget(2)


def test_an_empty_bank() -> None:
    bank = MemoryBank(SMALL)
    assert len(bank) == 0 and bank.list() == [] and bank.recall(random_key(0), k=3) == []
    assert bank.snapshot()["keys"].shape == (0, SMALL.d_model)


def test_bad_arguments() -> None:
    bank = filled(2)
    for key in (np.zeros(3, np.float32), random_key(0).astype(np.float64)):
        with pytest.raises(ValueError, match="key must be"):
            bank.put(key, b"x")
    for bad in (np.float32(np.nan) * random_key(0), 0 * random_key(0)):
        with pytest.raises(GhostError, match="zero or not finite"):
            bank.recall(bad)
    with pytest.raises(ValueError, match="at least one byte"):
        bank.put(random_key(0), b"")
    for importance in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="importance"):
            bank.put(random_key(0), b"x", importance=importance)
    with pytest.raises(ValueError, match="k must be"):
        bank.recall(random_key(0), k=0)
    assert bank.age.tolist() == [1, 0], "a refused write must change nothing"


def test_the_snapshot_is_what_the_memory_layers_read() -> None:
    bank = filled(2)
    bank.put(random_key(9), b"abc")
    snapshot = bank.snapshot()
    assert {k: (v.shape, v.dtype.name) for k, v in snapshot.items()} == {
        "keys": ((3, SMALL.d_model), "float32"), "values": ((3, 8), "uint8"), "counts": ((3,), "int32")}
    assert snapshot["counts"].tolist() == [8, 8, 3]
    assert snapshot["values"][0].tobytes() == b"value no"
    snapshot["keys"][:] = 0
    assert bank.keys.any(), "the snapshot must be a copy"


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 12), st.floats(0, 10, width=32)), max_size=30))
def test_writes_against_a_plain_model(writes: list[tuple[int, float]]) -> None:
    """The bank behaves as a list of dicts with the documented rules."""
    bank, plain = MemoryBank(SMALL), []
    for name, importance in writes:
        bank.put(random_key(name), b"%d" % name, importance, prompt=b"p%d" % name)
        for entry in plain:
            entry["importance"] = np.float32(entry["importance"] * DECAY)
        new = {"name": name, "importance": np.float32(importance)}
        slots = [i for i, e in enumerate(plain) if e["name"] == name]
        if not slots and len(plain) == SMALL.memory_capacity:
            slots = [min(range(len(plain)), key=lambda i: plain[i]["importance"])]
        if slots:
            plain[slots[0]] = new
        else:
            plain.append(new)
    assert [e.prompt for e in bank.list()] == [b"p%d" % e["name"] for e in plain]
    assert bank.importance.tolist() == [float(e["importance"]) for e in plain]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [0, 1, 8])
def test_save_and_load_lose_nothing(tmp_path, entries: int) -> None:
    bank = filled(entries)
    if entries:
        bank.recall(random_key(0))
        bank.put(random_key(77), b"\0\xff\0", prompt="Brücke?".encode(), completion=b"")
    size = bank.save(tmp_path / "bank")
    assert size == (tmp_path / "bank").stat().st_size
    assert same(MemoryBank.load(tmp_path / "bank"), bank)


def test_a_bank_of_another_model_is_refused(tmp_path, model: Model) -> None:
    other = tmp_path / "other.ghost"
    save_packed(other, random_weights(SMALL, 2), SMALL)
    bank = MemoryBank.for_model(model)
    remember(model, bank, "list pods", "kubectl get pods")
    bank.save(tmp_path / "bank")
    assert len(MemoryBank.load(tmp_path / "bank", model)) == 1
    with pytest.raises(GhostError, match=r"made with another model than .*other\.ghost"):
        MemoryBank.load(tmp_path / "bank", load(other, backend="reference"))


def test_a_model_file_is_no_bank_and_a_bank_no_model(tmp_path, model: Model) -> None:
    with pytest.raises(GhostError, match="ghost-memory"):
        MemoryBank.load(model.path)
    filled(1).save(tmp_path / "bank")
    with pytest.raises(GhostError, match="ghost-memory"):
        load(tmp_path / "bank", backend="reference")


def test_every_changed_byte_of_a_bank_is_refused(tmp_path) -> None:
    path = tmp_path / "bank"
    filled(1).save(path)
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        with pytest.raises(GhostError):
            MemoryBank.load(path)


@pytest.mark.parametrize(("name", "change", "message"), [
    ("keys", lambda a: a * np.float32(2), "not a unit vector"),
    ("keys", lambda a: a[:, :-1], "wrong type or shape"),
    ("counts", lambda a: a * 0, "1 to 32 bytes"),
    ("counts", lambda a: a + 40, "1 to 32 bytes"),
    ("counts", lambda a: a[:, None], "wrong type or shape"),
    ("importance", lambda a: -a, "importance is negative"),
    ("age", lambda a: a - 100, "age is negative"),
    ("uses", lambda a: a.astype(np.int32), "wrong type or shape"),
    ("prompt_lengths", lambda a: a + 1, "does not fit"),
    ("completion_lengths", lambda a: a * -1, "does not fit"),
    ("prompt_bytes", lambda a: a[:-1], "does not fit"),
    ("surplus", lambda a: a, "right tensors"),
])
def test_a_well_formed_file_with_wrong_content_is_refused(tmp_path, monkeypatch, name, change, message) -> None:
    def write(path, tensors, **options):
        tensors = dict(tensors)
        tensors[name] = np.ascontiguousarray(change(tensors.get(name, np.zeros(3, np.float32))))
        return write_container(path, tensors, **options)

    monkeypatch.setattr(memory_bank, "write_container", write)
    filled(3).save(tmp_path / "bank")
    with pytest.raises(GhostError, match=message):
        MemoryBank.load(tmp_path / "bank")


def test_more_entries_than_the_capacity_are_refused(tmp_path) -> None:
    bank = filled(SMALL.memory_capacity)
    bank.config = SMALL.replace(memory_capacity=3)
    bank.save(tmp_path / "bank")
    with pytest.raises(GhostError, match="more entries than its capacity"):
        MemoryBank.load(tmp_path / "bank")


# --- with a model ----------------------------------------------------------------------------------------------------


def test_one_shot_learning(model: Model) -> None:
    bank = MemoryBank.for_model(model)
    assert remember(model, bank, "list pods", "kubectl get pods") == 0
    assert remember(model, bank, "What spans a river?", "eine Brücke") == 1
    text, entry = answer(model, bank, "What spans a river?", GREEDY, 0.99)
    assert text == "eine Brücke" and entry is not None and entry.index == 1
    assert bank.uses.tolist() == [0, 1]


def test_the_key_is_the_unit_hidden_state_at_the_separator(model: Model) -> None:
    bank = MemoryBank.for_model(model)
    remember(model, bank, b"list pods", b"kubectl get pods")
    hidden = model.hidden(b"list pods" + bytes([SEP]))[-1]
    norm = np.sqrt(canonical_sum(hidden * hidden) + np.float32(1e-12))
    assert np.array_equal(bank.keys[0], hidden / norm)


def test_the_key_does_not_depend_on_what_the_bank_holds(model: Model) -> None:
    bank, fresh = MemoryBank.for_model(model), MemoryBank.for_model(model)
    remember(model, fresh, "second", "2")
    remember(model, bank, "first", "1")
    model.set_memory(bank.snapshot())
    remember(model, bank, "second", "2")
    assert np.array_equal(bank.keys[1], fresh.keys[0])


def test_a_value_cut_at_32_bytes_is_continued_by_the_model(model: Model) -> None:
    bank = MemoryBank.for_model(model)
    long = "find . -type f -name '*.log' -mtime +7 -delete"
    remember(model, bank, "delete old logs", long)
    text, entry = answer(model, bank, "delete old logs", SamplingConfig(max_bytes=40), 0.99)
    assert entry is not None and not entry.complete and entry.completion == long.encode()
    fed = b"delete old logs" + bytes([SEP]) + long.encode()[:32]
    tail = bytes(model.generate_bytes(fed, SamplingConfig(max_bytes=8)))
    assert text == (long.encode()[:32] + tail).decode("utf-8", "replace")


def test_the_answer_is_never_longer_than_asked(model: Model) -> None:
    bank = MemoryBank.for_model(model)
    remember(model, bank, "q", "x" * 60)
    assert answer(model, bank, "q", SamplingConfig(max_bytes=5), 0.99)[0] == "xxxxx"
    assert answer(model, bank, "q", SamplingConfig(max_bytes=0), 0.99)[0] == ""


def test_below_the_threshold_the_model_answers_with_the_bank_in_view(model: Model) -> None:
    bank = MemoryBank.for_model(model)
    alone = answer(model, bank, "list pods", GREEDY)
    assert alone == (model.generate("list pods", max_bytes=24), None)
    for i in range(6):
        remember(model, bank, f"question {i}", f"answer {i}")
    text, entry = answer(model, bank, "list pods", GREEDY, min_similarity=1.1)
    assert entry is None and not bank.uses.any()
    model.set_memory(bank.snapshot())
    shown, logits = model.generate("list pods", max_bytes=24), model.logits(b"list pods")
    model.set_memory(None)
    assert text == shown
    assert not np.array_equal(model.logits(b"list pods"), logits), "the fixture's memory layers must matter"


def test_the_bank_is_out_of_view_after_an_answer(model: Model) -> None:
    before = model.logits(b"list pods")
    bank = MemoryBank.for_model(model)
    remember(model, bank, "a", "b")
    answer(model, bank, "list pods", GREEDY, 1.1)
    assert np.array_equal(model.logits(b"list pods"), before)


@pytest.mark.parametrize(("prompt", "completion", "message"), [
    ("", "x", "prompt is empty"), ("x", "", "completion is empty"), (b"\xfb", b"x", "reserved control byte 0xFB"),
    (b"x", b"\xff", "completion holds the reserved"), (b"\xc3", b"x", "not UTF-8"), ("x", "\ud800", "not UTF-8"),
])
def test_bad_pairs_are_refused(model: Model, prompt, completion, message) -> None:
    bank = MemoryBank.for_model(model)
    with pytest.raises(GhostError, match=message):
        remember(model, bank, prompt, completion)
    assert len(bank) == 0
