"""The cognitive memory bank: facts a model can answer with at once, without any gradient.

An entry is a key, the unit hidden state after the final norm at the SEP that ends a prompt, and a value, the true
bytes that followed (completion EOS, at most 32 of them). A slightly different prompt ends in a nearby hidden state, so
cosine similarity finds the entry. The bank changes through the explicit calls below only; the model's
forward pass reads a snapshot of it (`memory_layers`, docs/semantics.md section 4) and never writes.
Symbols: M entries, d d_model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ghost_ref.config import EOS, SEP, ModelConfig, SamplingConfig
from ghost_ref.container import MAX_HEADER, read_container, write_container
from ghost_ref.data import check_bytes, encode_prompt
from ghost_ref.errors import GhostError
from ghost_ref.numerics import lane_sum
from ghost_ref.ops.norm import unit_forward
from ghost_ref.packed import parse_config
from ghost_ref.runtime import Model
from ghost_ref.text_stream import Utf8Stream

FORMAT = "ghost-memory"
ARRAYS = ("keys", "values", "counts", "importance", "age", "uses")  # of a bank, one row per entry
VALUE_BYTES = 32
SNAPSHOT_BYTES = 8  # of a value, seen by the memory layers
DECAY = np.float32(0.99)  # of every stored importance, at every write
UNIT_TOLERANCE = 1e-3  # of a key's length in a file
DEFAULT_MIN_SIMILARITY = 0.8
"""Cosine from which `answer` trusts the bank. Exact prompts give 1 up to rounding."""


@dataclass(frozen=True)
class Recall:
    """One entry as `recall` and `list` show it; similarity is None where nothing was asked. age counts the
    writes since the entry's own, uses its recalls."""

    index: int
    similarity: float | None
    value: bytes
    prompt: bytes
    completion: bytes
    importance: float
    age: int
    uses: int

    @property
    def complete(self) -> bool:
        """Whether the value holds the whole answer, up to its EOS."""
        return self.value.endswith(bytes([EOS]))


class MemoryBank:
    """At most config.memory_capacity entries in slots 0..M-1.

    keys (M, d) float32 unit rows, values (M, 32) uint8 padded with 0, counts (M,) int32 bytes of each value,
    importance (M,) float32, age and uses (M,) int64, prompts and completions lists of bytes for people to read."""

    def __init__(self, config: ModelConfig, model_crc: str = "") -> None:
        self.config, self.model_crc = config, model_crc
        self.keys = np.zeros((0, config.d_model), np.float32)
        self.values = np.zeros((0, VALUE_BYTES), np.uint8)
        self.counts = np.zeros(0, np.int32)
        self.importance = np.zeros(0, np.float32)
        self.age = np.zeros(0, np.int64)
        self.uses = np.zeros(0, np.int64)
        self.prompts: list[bytes] = []
        self.completions: list[bytes] = []

    @classmethod
    def for_model(cls, model: Model) -> MemoryBank:
        """An empty bank tied to the packed file that `model` was loaded from."""
        return cls(model.config, read_model_crc(model.path))

    def __len__(self) -> int:
        return len(self.keys)

    # --- writing ------------------------------------------------------------------------------------------------

    def put(self, key: np.ndarray, value: bytes, importance: float = 1.0, prompt: bytes = b"",
            completion: bytes | None = None) -> int:
        """Store an entry and return its slot.

        key (d,) float32 is made a unit vector (canonical order); value keeps its first 32 bytes. First every stored
        importance is multiplied by float32(0.99) and ages by one write. The slot is that of the same non-empty
        prompt, else a new one, else, in a full bank, the one of least importance (ties: the lowest).
        Raises ValueError on a bad shape, an empty value or a negative importance, GhostError on a key that is not
        finite or is zero."""
        unit = self._unit(key)
        if not value:
            raise ValueError("value must hold at least one byte")
        if not 0 <= importance < float("inf"):
            raise ValueError(f"importance must be finite and not negative, got {importance!r}")
        self.importance *= DECAY
        self.age += 1
        slot = self._free_slot(prompt)
        value = value[:VALUE_BYTES]
        self.keys[slot] = unit
        self.values[slot] = np.frombuffer(value.ljust(VALUE_BYTES, b"\0"), np.uint8)
        self.counts[slot], self.importance[slot] = len(value), importance
        self.age[slot] = self.uses[slot] = 0
        self.prompts[slot] = prompt
        self.completions[slot] = value.removesuffix(bytes([EOS])) if completion is None else completion
        return slot

    def _free_slot(self, prompt: bytes) -> int:
        if prompt and prompt in self.prompts:
            return self.prompts.index(prompt)
        if len(self) == self.config.memory_capacity:
            return int(np.argmin(self.importance))
        for name in ARRAYS:
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array, shape=(1, *array.shape[1:]))]))
        self.prompts.append(b"")
        self.completions.append(b"")
        return len(self) - 1

    def forget(self, index: int) -> None:
        """Remove the entry in slot `index`; the later ones move down by one. Raises GhostError if there is none."""
        if not 0 <= index < len(self):
            raise GhostError(f"There is no entry {index} in a memory bank of {len(self)}; entries count from 0.")
        for name in ARRAYS:
            setattr(self, name, np.delete(getattr(self, name), index, axis=0))
        del self.prompts[index], self.completions[index]

    def forget_matching(self, prompt: bytes) -> int:
        """Remove the entries with exactly this prompt. Returns how many there were."""
        matching = [i for i, stored in enumerate(self.prompts) if stored == prompt]
        for index in reversed(matching):
            self.forget(index)
        return len(matching)

    # --- reading ------------------------------------------------------------------------------------------------

    def nearest(self, key: np.ndarray, k: int = 1) -> list[Recall]:
        """The k entries of highest cosine, (Σ₁₆ unit(key)·key_j) in float32, best first, ties to the lowest slot."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        similarity = lane_sum(self.keys * self._unit(key))
        order = np.argsort(-similarity, kind="stable")[:k]
        return [self._entry(int(j), float(similarity[j])) for j in order]

    def recall(self, key: np.ndarray, k: int = 1) -> list[Recall]:
        """`nearest`, counted as a use of each entry returned."""
        found = self.nearest(key, k)
        for entry in found:
            self.uses[entry.index] += 1
        return [replace(entry, uses=entry.uses + 1) for entry in found]

    def list(self) -> list[Recall]:
        """All entries in slot order."""
        return [self._entry(i, None) for i in range(len(self))]

    def snapshot(self) -> dict[str, np.ndarray]:
        """What the memory layers see: keys (M, d) float32, values (M, 8) uint8, counts (M,) int32 in 1..8. Copies."""
        return {"keys": self.keys.copy(), "values": self.values[:, :SNAPSHOT_BYTES].copy(),
                "counts": np.minimum(self.counts, SNAPSHOT_BYTES).astype(np.int32)}

    def _entry(self, i: int, similarity: float | None) -> Recall:
        return Recall(i, similarity, self.values[i, : self.counts[i]].tobytes(), self.prompts[i], self.completions[i],
                      float(self.importance[i]), int(self.age[i]), int(self.uses[i]))

    def _unit(self, key: np.ndarray) -> np.ndarray:
        if key.shape != (self.config.d_model,) or key.dtype != np.float32:
            raise ValueError(f"key must be ({self.config.d_model},) float32, got {key.shape} {key.dtype}")
        if not np.isfinite(key).all() or not key.any():
            raise GhostError("The hidden state is zero or not finite and cannot be a memory key; check the model "
                             "with `ghost verify`.")
        return unit_forward(key)[0]

    # --- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> int:
        """Write the bank atomically (a container of format ghost-memory). Returns its size in bytes."""
        tensors: dict[str, np.ndarray] = {name: getattr(self, name) for name in ARRAYS}
        for name, texts in (("prompt", self.prompts), ("completion", self.completions)):
            tensors[f"{name}_bytes"] = np.frombuffer(b"".join(texts), np.uint8)
            tensors[f"{name}_lengths"] = np.array([len(text) for text in texts], np.int64)
        return write_container(path, tensors, format=FORMAT, config_json=self.config.to_json(),
                               extra_metadata={"model_crc32c": self.model_crc})

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None) -> MemoryBank:
        """Read a bank. Raises GhostError on a bad file, and on one made with another packed file than `model`'s:
        keys are hidden states and mean nothing to another model."""
        tensors, metadata = read_container(path, format=FORMAT)
        bank = cls(parse_config(path, metadata["config"]), metadata.get("model_crc32c", ""))
        if model is not None and bank.model_crc != read_model_crc(model.path):
            raise GhostError(f"{path} was made with another model than {model.path}; use this model's own bank, or add "
                             "the pairs again in a new --bank file.")
        bank._fill(path, tensors)
        return bank

    def _fill(self, path: str | Path, tensors: dict[str, np.ndarray]) -> None:
        entries = len(tensors["counts"]) if tensors.get("counts", np.zeros(())).ndim == 1 else 0
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            "keys": (np.float32, (entries, self.config.d_model)), "values": (np.uint8, (entries, VALUE_BYTES)),
            "counts": (np.int32, (entries,)), "importance": (np.float32, (entries,)),
            "age": (np.int64, (entries,)), "uses": (np.int64, (entries,)),
            "prompt_lengths": (np.int64, (entries,)), "completion_lengths": (np.int64, (entries,))}
        _require(path, set(tensors) == {*expected, "prompt_bytes", "completion_bytes"}, "it has not the right tensors")
        for name, (dtype, shape) in expected.items():
            tensor = tensors[name]
            _require(path, tensor.dtype == dtype and tensor.shape == shape, f"{name} has a wrong type or shape")
        _require(path, entries <= self.config.memory_capacity, "it has more entries than its capacity")
        _require(path, bool(((tensors["counts"] >= 1) & (tensors["counts"] <= VALUE_BYTES)).all()),
                 f"a value is not 1 to {VALUE_BYTES} bytes long")
        for name in ("importance", "age", "uses"):
            _require(path, bool((tensors[name] >= 0).all()), f"a value of {name} is negative")
        length = np.sqrt(lane_sum(tensors["keys"] * tensors["keys"]))
        _require(path, bool((np.abs(length - 1) <= UNIT_TOLERANCE).all()), "a key is not a unit vector")
        for name in ARRAYS:
            setattr(self, name, tensors[name])
        self.prompts = _split_texts(path, "prompt", tensors)
        self.completions = _split_texts(path, "completion", tensors)


def _require(path: str | Path, condition: bool, what: str) -> None:
    if not condition:
        raise GhostError(f"{path} is no sound memory bank: {what}; add the pairs again in a new --bank file.")


def _split_texts(path: str | Path, name: str, tensors: dict[str, np.ndarray]) -> list[bytes]:
    content, lengths = tensors[f"{name}_bytes"], tensors[f"{name}_lengths"].tolist()
    _require(path, content.dtype == np.uint8 and content.ndim == 1 and min(lengths, default=0) >= 0
             and sum(lengths) == len(content), f"{name}_bytes does not fit {name}_lengths")
    ends = np.cumsum([0, *lengths])
    return [content[a:b].tobytes() for a, b in pairwise(ends)]


def read_model_crc(path: str | Path) -> str:
    """The checksum that the packed file of a loaded model holds: what ties a bank to it."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            metadata = json.loads(file.read(min(length, MAX_HEADER)))["__metadata__"]
        return str(metadata["crc32c"])
    except (OSError, ValueError, KeyError, TypeError):
        raise GhostError(f"A memory bank needs the packed file of its model, but {path} cannot be read.") from None


# --- with a model ----------------------------------------------------------------------------------------------------


def remember(model: Model, bank: MemoryBank, prompt: str | bytes, completion: str | bytes,
             importance: float = 1.0) -> int:
    """One-shot learning: store how `completion` follows `prompt`; an older entry of the same prompt is replaced.
    Returns the slot. Raises GhostError on text that is empty, not UTF-8 or holds reserved bytes."""
    data = encode_prompt(prompt)
    text = completion.encode("utf-8", "surrogatepass") if isinstance(completion, str) else completion
    if not text:
        raise GhostError("The completion is empty; give at least one byte.")
    check_bytes(text, "The completion")
    key, _ = read_prompt(model, data)
    return bank.put(key, text + bytes([EOS]), importance, data, text)


def read_prompt(model: Model, prompt: bytes) -> tuple[np.ndarray, Any]:
    """(hidden state (d,) at the SEP that ends `prompt`, the model's state there), with no memory shown, so that a key
    does not depend on what the bank holds."""
    model.set_memory(None)
    state = model.new_state()
    return model.hidden(prompt + bytes([SEP]), state)[-1], state


def answer(model: Model, bank: MemoryBank, prompt: str | bytes, sampling: SamplingConfig,
           min_similarity: float = DEFAULT_MIN_SIMILARITY) -> tuple[str, Recall | None]:
    """(answer, the entry it came from or None).

    If the nearest entry's cosine reaches `min_similarity`, its value is the answer; where the value was cut at 32
    bytes the model reads it and goes on. Otherwise the model answers alone, its memory layers seeing the bank.
    Raises GhostError on a bad prompt."""
    return answer_all(model, bank, [prompt], [sampling], min_similarity)[0]


def answer_all(model: Model, bank: MemoryBank, prompts: Sequence[str | bytes], samplings: Sequence[SamplingConfig],
               min_similarity: float = DEFAULT_MIN_SIMILARITY) -> list[tuple[str, Recall | None]]:
    """`answer` for many prompts, each with its sampling, decoded together: the same answers."""
    asked = [_look_up(model, bank, encode_prompt(prompt), min_similarity) for prompt in prompts]
    answers: list[bytes] = [b""] * len(asked)
    alone, cut = [], []  # the prompts that the model answers, and those whose entry's value it goes on from
    for i, (question, sampling) in enumerate(zip(asked, samplings, strict=True)):
        if question.entry is None:
            alone.append(i)
            continue
        answers[i] = question.entry.value.removesuffix(bytes([EOS]))[: sampling.max_bytes]
        if not question.entry.complete and len(answers[i]) < sampling.max_bytes:
            cut.append(i)
    rest = [samplings[i].replace(max_bytes=samplings[i].max_bytes - len(answers[i])) for i in cut]
    more = model.engine.generate([asked[i].state for i in cut], [answers[i] for i in cut], rest)
    for i, text in zip(cut, more, strict=True):
        answers[i] += text
    model.set_memory(bank.snapshot() if len(bank) else None)
    try:
        texts = model.engine.generate([model.new_state() for _ in alone],
                                      [asked[i].prompt + bytes([SEP]) for i in alone], [samplings[i] for i in alone])
    finally:
        model.set_memory(None)
    for i, text in zip(alone, texts, strict=True):
        answers[i] = text
    return [(_decode(text), question.entry) for text, question in zip(answers, asked, strict=True)]


@dataclass(frozen=True)
class _Question:
    """A prompt, the state that has read it and its SEP, and the entry that answers it."""

    prompt: bytes
    state: Any
    entry: Recall | None


def _look_up(model: Model, bank: MemoryBank, prompt: bytes, min_similarity: float) -> _Question:
    key, state = read_prompt(model, prompt)
    best = bank.nearest(key)
    found = best and best[0].similarity is not None and best[0].similarity >= min_similarity
    return _Question(prompt, state, bank.recall(key)[0] if found else None)


def _decode(data: bytes) -> str:
    stream = Utf8Stream()
    return stream.feed(data) + stream.flush()
