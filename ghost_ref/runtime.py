"""Loaded models: the same interface over the C++ runtime and over the NumPy reference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ghost_ref.config import EOS, SEP, ModelConfig, SamplingConfig
from ghost_ref.data import encode_prompt
from ghost_ref.errors import GhostError
from ghost_ref.packed import load_packed
from ghost_ref.sampling import choose_byte
from ghost_ref.state import State, initial_state, state_shapes
from ghost_ref.text_stream import Utf8Stream

Backend = Literal["auto", "native", "reference"]


class Engine(Protocol):
    """What a backend provides; states are opaque to the caller."""

    config: ModelConfig
    level: str

    def new_state(self) -> Any: ...
    def fork(self, state: Any) -> Any: ...
    def forward(self, state: Any, tokens: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray]: ...
    def state_dict(self, state: Any) -> State: ...
    def load_state_dict(self, values: State) -> Any: ...
    def set_memory(self, snapshot: dict[str, np.ndarray] | None) -> None: ...


class ReferenceEngine:
    """The NumPy reference on a packed file."""

    level = "reference"

    def __init__(self, path: str | Path) -> None:
        from ghost_ref import ops
        from ghost_ref.numerics import flush_check

        flush_check()
        self.ops = ops
        self.weights, self.config = load_packed(path)
        self.memory: dict[str, np.ndarray] | None = None

    def new_state(self) -> list[State]:
        return [initial_state(self.config)]

    def fork(self, state: list[State]) -> list[State]:
        return list(state)  # arrays are never written in place

    def forward(self, state: list[State], tokens: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray]:
        from ghost_ref.model import forward

        out = forward(self.weights, self.config, tokens[None], state[0], ops=self.ops, memory=self.memory)
        assert out.state is not None
        state[0] = out.state
        rows = slice(-1, None) if last else slice(None)
        return out.logits[0, rows], out.hidden[0, rows]

    def state_dict(self, state: list[State]) -> State:
        return dict(state[0])

    def load_state_dict(self, values: State) -> list[State]:
        return [check_state(self.config, values)]

    def set_memory(self, snapshot: dict[str, np.ndarray] | None) -> None:
        self.memory = snapshot


class NativeEngine:
    """The C++ runtime on a packed file."""

    def __init__(self, path: str | Path, threads: int, level: str = "") -> None:
        from ghost_ref import _native

        try:
            self.model = _native.Model(os.fspath(path), threads, level)
        except (ValueError, RuntimeError) as error:
            raise GhostError(str(error)) from None
        import json

        self.config = ModelConfig.from_dict(json.loads(self.model.config_json))
        self.level: str = self.model.level

    def new_state(self) -> Any:
        return self.model.new_state()

    def fork(self, state: Any) -> Any:
        return state.fork()

    def forward(self, state: Any, tokens: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray]:
        logits, hidden = self.model.forward(state, tokens, logits="last" if last else "all", hidden=True)
        assert logits is not None and hidden is not None
        return logits, hidden

    def state_dict(self, state: Any) -> State:
        return state.to_dict()

    def load_state_dict(self, values: State) -> Any:
        state = self.model.new_state()
        state.load_dict(check_state(self.config, values))
        return state

    def set_memory(self, snapshot: dict[str, np.ndarray] | None) -> None:
        if snapshot is None:
            self.model.set_memory(np.zeros((0, self.config.d_model), np.float32), np.zeros((0, 8), np.uint8),
                                  np.zeros(0, np.int32))
        else:
            self.model.set_memory(snapshot["keys"], snapshot["values"], snapshot["counts"])


def check_state(config: ModelConfig, values: State) -> State:
    """A state dict with exactly the names, shapes and dtypes of this config. Raises ValueError."""
    shapes = state_shapes(config)
    if set(values) != set(shapes):
        raise ValueError(f"a state of this model has the arrays {sorted(shapes)}, got {sorted(values)}")
    for name, (shape, dtype) in shapes.items():
        if values[name].shape != shape or values[name].dtype != dtype:
            raise ValueError(f"state array {name} must be {np.dtype(dtype)} {shape}, got {values[name].dtype} "
                             f"{values[name].shape}")
    return dict(values)


def have_native() -> bool:
    """Whether the C++ runtime is installed (it is not in a GHOST_PURE=1 build)."""
    try:
        from ghost_ref import _native  # noqa: F401
    except ImportError:
        return False
    return True


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
        """Show a snapshot of a memory bank (`MemoryBank.snapshot()`) to the memory layers; None shows none."""
        self.engine.set_memory(snapshot)

    def logits(self, data: bytes | bytearray | np.ndarray, state: Any = None) -> np.ndarray:
        """float32 logits (L, 256) of the next byte after each byte. Raises TypeError, or ValueError when empty."""
        return self._forward(data, state, last=False)[0]

    def hidden(self, data: bytes | bytearray | np.ndarray, state: Any = None) -> np.ndarray:
        """float32 (L, d): the hidden states after the final norm."""
        return self._forward(data, state, last=False)[1]

    def _forward(self, data: Any, state: Any, last: bool) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(data, bytes | bytearray):
            tokens = np.frombuffer(data, np.uint8)
        elif isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 1:
            tokens = np.ascontiguousarray(data)
        else:
            raise TypeError("data must be bytes or a 1-D uint8 array")
        if not len(tokens):
            raise ValueError("data must hold at least one byte")
        return self.engine.forward(self.new_state() if state is None else state, tokens, last)

    def generate(self, prompt: str | bytes, **options: Any) -> str:
        """The answer to a prompt as text. Options as in `stream`."""
        return "".join(self.stream(prompt, **options))

    def stream(self, prompt: str | bytes, *, state: Any = None, raw: bool = False, **options: Any) -> Iterator[str]:
        """Pieces of the answer, each whole UTF-8 characters.

        options: the fields of SamplingConfig (temp, top_k, top_p, min_p, seed, max_bytes). raw: continue the prompt as
        plain text instead of answering it (no separator is inserted). state: go on from it.
        Raises GhostError on an empty prompt, bad UTF-8 or reserved bytes, TypeError on an unknown option."""
        known = sorted(SamplingConfig.__dataclass_fields__)
        if unknown := sorted(set(options) - set(known)):
            raise TypeError(f"unknown option {unknown[0]!r}; options are {known}")
        sampling = SamplingConfig.from_dict(options)
        data = encode_prompt(prompt)
        return self._decode(self.generate_bytes(data if raw else data + bytes([SEP]), sampling, state))

    @staticmethod
    def _decode(generated: Iterator[int]) -> Iterator[str]:
        decoder = Utf8Stream()
        for byte in generated:
            if piece := decoder.feed(bytes([byte])):
                yield piece
        if piece := decoder.flush():
            yield piece

    def generate_bytes(self, data: bytes, sampling: SamplingConfig, state: Any = None) -> Iterator[int]:
        """The generated bytes one by one, until EOS (not yielded) or sampling.max_bytes."""
        state = self.new_state() if state is None else state
        logits, _ = self._forward(data, state, last=True)
        for step in range(sampling.max_bytes):
            byte = choose_byte(logits[-1], sampling, step)
            if byte == EOS:
                return
            yield byte
            logits, _ = self._forward(bytes([byte]), state, last=True)
