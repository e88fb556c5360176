"""Loaded models: the same interface over the C++ runtime and over the NumPy reference."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ghost_ref.config import SEP, ModelConfig, SamplingConfig
from ghost_ref.data import encode_prompt
from ghost_ref.engines import Engine, NativeEngine, ReferenceEngine, generate_bytes
from ghost_ref.errors import GhostError
from ghost_ref.state import State
from ghost_ref.text_stream import Utf8Stream

Backend = Literal["auto", "native", "reference"]
BATCH = 64
"""Streams handed to the native runtime at once, which runs some of them at a time."""


def check_snapshot(config: ModelConfig, snapshot: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless a memory snapshot has keys (M, d), values (M, 8) and counts (M,) in 1..8."""
    if set(snapshot) != {"keys", "values", "counts"}:
        raise ValueError(f"a memory snapshot has keys, values and counts, got {sorted(snapshot)}")
    entries = len(snapshot["keys"])
    expected = {"keys": ((entries, config.d_model), np.float32), "values": ((entries, 8), np.uint8),
                "counts": ((entries,), np.int32)}
    for name, (shape, dtype) in expected.items():
        array = snapshot[name]
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
            raise ValueError(f"memory snapshot {name} must be a {np.dtype(dtype)} array of shape {shape}")
    if entries > config.memory_capacity:
        raise ValueError(f"a memory snapshot holds at most {config.memory_capacity} entries, got {entries}")
    if entries and not (1 <= snapshot["counts"].min() and snapshot["counts"].max() <= 8):
        raise ValueError("memory snapshot counts must be in 1..8")


def have_native() -> bool:
    """Whether the C++ runtime is installed (it is not in a GHOST_PURE=1 build)."""
    try:
        from ghost_ref import _native  # noqa: F401
    except ImportError:
        return False
    return True


def chosen_level(level: str = "") -> dict[str, Any]:
    """What `load` with this level ("": the default) picks here: {"level": the instruction set, or reference where the
    C++ runtime is not built, "chosen_by": --level, GHOST_ISA or default (the best this CPU has), "not_used": {better
    level of this architecture: why}}. Raises GhostError if the level asked for cannot run here."""
    if not have_native():
        if level:
            raise GhostError(f"level is {level!r}, but the C++ runtime is not built (GHOST_PURE=1?); leave it out.")
        return {"level": "reference", "chosen_by": "default", "not_used": {}}
    from ghost_ref import _native

    chosen_by = "--level" if level else "GHOST_ISA" if os.environ.get("GHOST_ISA") else "default"
    try:
        not_used = _native.levels_not_used(level, chosen_by)
        return {"level": level or _native.default_level(), "chosen_by": chosen_by, "not_used": not_used}
    except ValueError as error:
        raise GhostError(str(error)) from None


def describe_level(chosen: dict[str, Any]) -> str:
    """One line for chosen_level's level, one more for each better one that is not used."""
    why = "the best this CPU has" if chosen["chosen_by"] == "default" else f"set by {chosen['chosen_by']}"
    level = "the NumPy reference" if chosen["level"] == "reference" else f"{chosen['level']} ({why})"
    return "\n".join([f"level: {level}", *(f"  not {name}: {why}" for name, why in chosen["not_used"].items())])


def load(path: str | Path, backend: Backend = "auto", threads: int = 1, level: str = "") -> Model:
    """Load a packed model file.

    backend: "native" (C++), "reference" (NumPy, defines the bits, slow) or "auto" (native where it is installed).
    threads: of the native runtime, 1..256. level: instruction set ("" lets the CPU and GHOST_ISA decide).
    Raises GhostError (a ValueError) on a bad file, TypeError or ValueError on a bad argument."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or a path, got {type(path).__name__}")
    if backend not in ("auto", "native", "reference"):
        raise ValueError(f"backend must be 'auto', 'native' or 'reference', got {backend!r}")
    if not isinstance(threads, int) or isinstance(threads, bool):
        raise TypeError(f"threads must be an int, got {type(threads).__name__}")
    if not 1 <= threads <= 256:
        raise ValueError(f"threads must be in 1..256, got {threads}")
    if backend == "native" and not have_native():
        raise ValueError("the C++ runtime is not built (GHOST_PURE=1?); install Ghost with a C++ compiler, or use "
                         "backend='reference'")
    if backend == "reference" or not have_native():
        return Model(ReferenceEngine(path), path)
    return Model(NativeEngine(path, threads, level), path)


def as_tokens(data: bytes | bytearray | np.ndarray) -> np.ndarray:
    """uint8 (n,), contiguous. Raises TypeError on anything but bytes."""
    if isinstance(data, bytes | bytearray):
        return np.frombuffer(data, np.uint8)
    if isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 1:
        return np.ascontiguousarray(data)
    raise TypeError("data must be bytes or a 1-D uint8 array")


def spread_options(options: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The options of each of `count` streams; a list holds one value for each. Raises ValueError if it does not."""
    for name, value in options.items():
        if isinstance(value, list | tuple) and len(value) != count:
            raise ValueError(f"{name} has {len(value)} values for {count} prompts")
    return [{name: value[i] if isinstance(value, list | tuple) else value for name, value in options.items()}
            for i in range(count)]


class Model:
    """A packed model ready to answer. `config` is its ModelConfig, `level` the instruction set that runs it."""

    def __init__(self, engine: Engine, path: str | Path) -> None:
        self.engine, self.path = engine, Path(path)
        self.config, self.level = engine.config, engine.level

    def new_state(self) -> Any:
        """A fresh recurrent state: pass it to several calls to go on where the last one stopped."""
        return self.engine.new_state()

    def fork(self, state: Any) -> Any:
        """An independent copy of a state."""
        return self.engine.fork(state)

    def state_dict(self, state: Any) -> State:
        """The state as named arrays (docs/semantics.md section 6)."""
        return self.engine.state_dict(state)

    def load_state_dict(self, values: State) -> Any:
        """A state from named arrays. Raises ValueError if they do not fit the model."""
        return self.engine.load_state_dict(values)

    def set_memory(self, snapshot: dict[str, np.ndarray] | None) -> None:
        """Show a snapshot of a memory bank (`MemoryBank.snapshot()`) to the memory layers; None shows none.

        Raises ValueError if the snapshot does not fit the model."""
        if snapshot is not None:
            check_snapshot(self.config, snapshot)
        self.engine.set_memory(snapshot)

    def logits(self, data: bytes | bytearray | np.ndarray, state: Any = None) -> np.ndarray:
        """float32 logits (L, 256) of the next byte after each byte. Raises TypeError, or ValueError when empty."""
        return self._forward(data, state, last=False)[0]

    def hidden(self, data: bytes | bytearray | np.ndarray, state: Any = None) -> np.ndarray:
        """float32 (L, d): the hidden states after the final norm."""
        return self._forward(data, state, last=False)[1]

    def _forward(self, data: Any, state: Any, last: bool) -> tuple[np.ndarray, np.ndarray]:
        tokens = as_tokens(data)
        if not len(tokens):
            raise ValueError("data must hold at least one byte")
        return self.engine.forward(self.new_state() if state is None else state, tokens, last)

    def generate(self, prompt: str | bytes, *, state: Any = None, raw: bool = False, **options: Any) -> str:
        """The answer to a prompt as text. Arguments and errors as of `stream`."""
        data, sampling = self._prepare(prompt, raw, options)
        states = [self.new_state() if state is None else state]
        return self.engine.generate(states, [data], [sampling])[0].decode("utf-8", "replace")

    def stream(self, prompt: str | bytes, *, state: Any = None, raw: bool = False, **options: Any) -> Iterator[str]:
        """Pieces of the answer, each whole UTF-8 characters.

        options: the fields of SamplingConfig (temp, top_k, top_p, min_p, seed, max_bytes). raw: continue the prompt as
        plain text instead of answering it (no separator is inserted). state: go on from it.
        Raises GhostError on an empty prompt, bad UTF-8 or reserved bytes, TypeError on an unknown option."""
        data, sampling = self._prepare(prompt, raw, options)
        return self._decode(self.generate_bytes(data, sampling, state))

    @staticmethod
    def _prepare(prompt: str | bytes, raw: bool, options: dict[str, Any]) -> tuple[bytes, SamplingConfig]:
        known = sorted(SamplingConfig.__dataclass_fields__)
        if unknown := sorted(set(options) - set(known)):
            raise TypeError(f"unknown option {unknown[0]!r}; options are {known}")
        sampling = SamplingConfig.from_dict(options)
        data = encode_prompt(prompt)
        return data if raw else data + bytes([SEP]), sampling

    @staticmethod
    def _decode(generated: Iterator[int]) -> Iterator[str]:
        decoder = Utf8Stream()
        for byte in generated:
            if piece := decoder.feed(bytes([byte])):
                yield piece
        if piece := decoder.flush():
            yield piece

    def step_batch(self, states: Sequence[Any], tokens: bytes | np.ndarray) -> np.ndarray:
        """One byte for each of B streams, whose states advance: float32 logits (B, 256) of their next bytes.

        Every stream gets the bits that it would get alone; the native runtime reads its weights once for all of them.
        A stream that has nothing to read is left out. Raises GhostError if two streams share a state or a state is of
        another model, ValueError unless there is one byte for every state."""
        data = np.frombuffer(bytes(tokens), np.uint8) if not isinstance(tokens, np.ndarray) else tokens
        if data.dtype != np.uint8 or data.shape != (len(states),) or not len(states):
            raise ValueError(f"step_batch needs one byte for every state: {len(states)} states, tokens {data.dtype} "
                             f"{data.shape}")
        return self.engine.step(states, np.ascontiguousarray(data))

    def generate_batch(self, prompts: Sequence[str | bytes], *, states: Sequence[Any] | None = None, raw: bool = False,
                       **options: Any) -> list[str]:
        """The answers to B prompts, decoded together: text for text what `generate` gives one by one.

        An option is one value for all, or a list of B. states: B different states to go on from; without it the prompts
        are taken BATCH at a time, so that memory does not grow with their number. The native runtime reads its weights
        once for several streams; when one ends, the next takes its place.
        Raises GhostError and TypeError as `stream` does (then states may have read a part), ValueError unless every
        list has B values."""
        prepared = [self._prepare(prompt, raw, each)
                    for prompt, each in zip(prompts, spread_options(options, len(prompts)), strict=True)]
        if states is not None and len(states) != len(prepared):
            raise ValueError(f"generate_batch needs a state for every prompt: {len(states)} for {len(prepared)}")
        size = BATCH if states is None else max(1, len(prepared))
        answers = []
        for start in range(0, len(prepared), size):
            part = prepared[start : start + size]
            own = [self.new_state() for _ in part] if states is None else states
            answers += self.engine.generate(own, [data for data, _ in part], [sampling for _, sampling in part])
        return [answer.decode("utf-8", "replace") for answer in answers]

    def losses(self, texts: Sequence[bytes | np.ndarray], states: Sequence[Any] | None = None) -> list[np.ndarray]:
        """What every byte but the first of each text costs: float32 (n - 1) of -log softmax(logits)[byte], in nats.

        The logarithm is the canonical one (docs/numerics.md), so the figures are the same bits on the reference and on
        every level of the native runtime, however many texts are read together. A state (fresh ones by default) reads
        all of its text but the last byte. Raises ValueError on a text of fewer than two bytes, TypeError on what is not
        bytes, GhostError if two texts have the same state."""
        arrays = [as_tokens(text) for text in texts]
        if any(len(array) < 2 for array in arrays):
            raise ValueError("every text must hold at least two bytes")
        if states is not None and len(states) != len(arrays):
            raise ValueError(f"losses needs a state for every text: {len(states)} for {len(arrays)}")
        return self.engine.judge([self.new_state() for _ in arrays] if states is None else states, arrays)

    def generate_bytes(self, data: bytes, sampling: SamplingConfig, state: Any = None) -> Iterator[int]:
        """The generated bytes one by one, until EOS (not yielded) or sampling.max_bytes."""
        return generate_bytes(self.engine, self.new_state() if state is None else state, data, sampling)
