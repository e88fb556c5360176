"""The AArch64 levels of the C++ runtime on other machines: ghost-judge, cross-built, in an emulator.

`make judge-aarch64` builds it. One process a level computes all cases: it takes their arrays on its input and
gives the answers back (conformance/judge_native/serve.cpp). On an AArch64 machine they are ordinary native levels.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as write_tensors

from conformance.backend import Backend
from conformance.backends.native import THREADS, NativeBackend
from conformance.case import Arrays
from conformance.mutation.operator import ROOT
from conformance.results import BackendInfo
from ghost_ref.config import ModelConfig
from ghost_ref.engines import OneByOne, check_state
from ghost_ref.errors import GhostError
from ghost_ref.packed import unpack_trits
from ghost_ref.runtime import Model
from ghost_ref.state import State, initial_state, state_shapes

LEVELS = ("neon", "neondot")
MACHINES = ("aarch64", "arm64")
EMULATOR = "qemu-aarch64"
JUDGE = ROOT / "build" / "judge-aarch64" / "ghost-judge"
SOURCES = ("ext/core", "conformance/judge_native")


class EmulatedRuntime:
    """The functions of `ghost_ref._native` that the kit calls, at one level; they take and ignore its name."""

    def __init__(self, level: str) -> None:
        self.level = level
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, component: str, arguments: Arrays, file: Path | None = None, **statics: Any) -> Arrays:
        """The answers to one case, flat float32. GhostError if the runtime refuses, RuntimeError if it dies."""
        case = {"name": "request", "direction": "forward", "statics": statics, "bits": False, "results": []}
        text = json.dumps({"component": component, "canonical": True, "cases": [case], "file": str(file)}).encode()
        tensors = write_tensors({f"0/argument/{k}": np.ascontiguousarray(v) for k, v in arguments.items()})
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            for block in (text, tensors):
                process.stdin.write(len(block).to_bytes(8, "little") + block)
            process.stdin.flush()
            kind, length = process.stdout.read(1), process.stdout.read(8)
            answer = process.stdout.read(int.from_bytes(length, "little"))
        except BrokenPipeError:
            kind, answer = b"", b""
        if kind == b"A":
            return {name.removeprefix("0/"): array for name, array in read_tensors(answer).items()}
        if kind == b"R":
            raise GhostError(answer.decode("utf-8", "replace"))
        self.process = None
        raise RuntimeError(f"{JUDGE.name} at level {self.level} ended with exit code {_end(process)}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            self.process = subprocess.Popen([EMULATOR, "-cpu", "max", str(JUDGE), "--serve", self.level],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            weakref.finalize(self, _end, self.process)
        return self.process

    def numerics_map(self, name: str, x: np.ndarray, level: str) -> np.ndarray:
        return self.ask(name, {"x": x[None] if name == "lane_sum" else x})["y"]

    def unit(self, x: np.ndarray, level: str) -> np.ndarray:
        return self.ask("unit", {"x": x})["y"].reshape(x.shape)

    def softmax(self, x: np.ndarray, level: str) -> np.ndarray:
        return self.ask("slot_softmax", {"z": x})["y"].reshape(x.shape)

    def log_softmax(self, x: np.ndarray, level: str) -> np.ndarray:
        return self.ask("log_softmax", {"z": x})["y"].reshape(x.shape)

    def rms_norm(self, x: np.ndarray, gain: np.ndarray, level: str) -> np.ndarray:
        return self.ask("rms_norm", {"x": x, "gain": gain})["y"].reshape(x.shape)

    def lane_dot(self, a: np.ndarray, b: np.ndarray, level: str) -> np.ndarray:
        return self.ask("row_dot", {"x": a, "weight": b})["y"]

    def slot_sum(self, p: np.ndarray, values: np.ndarray, level: str) -> np.ndarray:
        return self.ask("slot_sum", {"p": p, "values": values})["y"].reshape(len(p), -1)

    def swiglu(self, gate: np.ndarray, up: np.ndarray, level: str) -> np.ndarray:
        return self.ask("swiglu", {"gate": gate, "up": up})["y"].reshape(gate.shape)

    def quantise_rows(self, x: np.ndarray, level: str) -> tuple[np.ndarray, np.ndarray]:
        found = self.ask("quantise_activations", {"x": x})
        return found["q"].reshape(x.shape).astype(np.int8), found["scale"]

    def ternary_linear(self, x: np.ndarray, trits: np.ndarray, scale: np.ndarray, level: str) -> np.ndarray:
        weight = unpack_trits(trits, (len(scale), x.shape[1]))
        return self._linear("quantised_linear", x, weight=weight, scale=scale.astype(np.float32))

    def int8_linear(self, x: np.ndarray, weight: np.ndarray, scale: np.ndarray, level: str) -> np.ndarray:
        return self._linear("quantised_linear", x, 127, weight=weight.astype(np.float32),
                            scale=scale.astype(np.float32))

    def _linear(self, component: str, x: np.ndarray, largest_weight: int = 1, **arguments: np.ndarray) -> np.ndarray:
        return self.ask(component, {"x": x, **arguments}, largest_weight=largest_weight)["y"].reshape(len(x), -1)

    def codebook_linear(self, x: np.ndarray, trits: np.ndarray, index: np.ndarray, codebook: np.ndarray, group: int,
                        level: str) -> np.ndarray:
        arguments = {"x": x, "trits": unpack_trits(trits, (len(index), x.shape[1])), "index": index,
                     "codebook": codebook.astype(np.float32)}
        return self.ask("codebook_linear", arguments, group=group)["y"].reshape(len(x), -1)

    def conv_silu(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, past: np.ndarray,
                  level: str) -> tuple[np.ndarray, np.ndarray]:
        found = self.ask("conv_silu", {"x": x, "weight": weight, "bias": bias, "past": past})
        return found["y"].reshape(x.shape), found["present"].reshape(past.shape)

    def scan_gated(self, *given: Any) -> tuple[np.ndarray, np.ndarray]:
        names = ("dt_raw", "dt_bias", "x", "z", "Bm", "Cm", "A", "D", "past")
        arguments = dict(zip(names, given[:-1], strict=True))
        found = self.ask("scan_gated", arguments)
        return found["y"].reshape(arguments["x"].shape), found["present"].reshape(arguments["past"].shape)

    def strided_attention(self, *given: Any) -> tuple[np.ndarray, ...]:
        names = ("q", "k", "v", "bias", "past.keys", "past.values", "past.bias")
        arguments, (count, n_heads, stride, _) = dict(zip(names, given[:7], strict=True)), given[7:]
        found = self.ask("strided_attention", {name: array[None] for name, array in arguments.items()},
                         slots=len(arguments["past.keys"]), n_heads=n_heads, stride=stride, **{"past.count": count})
        ring = (found[f"present.{name}"].reshape(arguments[f"past.{name}"].shape)
                for name in ("keys", "values", "bias"))
        return found["out"].reshape(arguments["q"].shape), *ring

    def choose_byte(self, logits: np.ndarray, temp: float, top_k: int, top_p: float, min_p: float, seed: int, step: int,
                    level: str) -> int:
        arguments = {"logits": logits[None], "steps": np.array([step], np.uint64)}
        return int(self.ask("choose_byte", arguments, temp=temp, top_k=top_k, top_p=top_p, min_p=min_p,
                            seed=str(seed))["bytes"][0])

    def load(self, path: Path) -> Model:
        return Model(EmulatedEngine(self, path), path)


def _end(process: subprocess.Popen[bytes]) -> int:
    """The exit code, which comes with the end of the input."""
    with suppress(BrokenPipeError):
        process.communicate()
    return process.wait()


class EmulatedEngine(OneByOne):
    """A packed file. Every call loads it again and carries the state in and out; None is the state that the runtime
    makes before the first byte."""

    def __init__(self, runtime: EmulatedRuntime, path: Path) -> None:
        self.runtime, self.path, self.level = runtime, path, runtime.level
        self.memory: dict[str, np.ndarray] | None = None
        config = self._ask(np.zeros(0, np.uint8), None)["config"]
        self.config = ModelConfig.from_dict(json.loads(config.astype(np.uint8).tobytes()))

    def _ask(self, tokens: np.ndarray, state: State | None) -> Arrays:
        arguments: Arrays = {"tokens": tokens}
        arguments |= {f"memory.{name}": array for name, array in (self.memory or {}).items()}
        arguments |= {f"state.{name}": array for name, array in (state or {}).items()}
        chunks = [len(tokens)] if len(tokens) else []
        return self.runtime.ask("model", arguments, self.path, chunks=chunks, threads=THREADS)

    def _state(self, found: Arrays) -> State:
        return {name: found[f"state.{name}"].astype(dtype).reshape(shape)
                for name, (shape, dtype) in state_shapes(self.config).items()}

    def new_state(self) -> list[State | None]:
        return [None]

    def fork(self, state: list[State | None]) -> list[State | None]:
        return list(state)

    def forward(self, state: list[State | None], tokens: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray]:
        found = self._ask(tokens, state[0])
        state[0] = self._state(found)
        rows = slice(-1, None) if last else slice(None)
        return found["logits"].reshape(len(tokens), -1)[rows], found["hidden"].reshape(len(tokens), -1)[rows]

    def state_dict(self, state: list[State | None]) -> State:
        return dict(state[0] if state[0] is not None else initial_state(self.config))

    def load_state_dict(self, values: State) -> list[State | None]:
        return [check_state(self.config, values)]

    def set_memory(self, snapshot: dict[str, np.ndarray] | None) -> None:
        self.memory = snapshot


def why_not() -> str:
    """Why the levels cannot be emulated here, empty if they can."""
    how = "to emulate one: apt-get install g++-aarch64-linux-gnu qemu-user, then make judge-aarch64 in a clone"
    if not JUDGE.exists() or not shutil.which(EMULATOR):
        return f"this CPU is no AArch64; {how}"
    if JUDGE.stat().st_mtime < max(path.stat().st_mtime for path in _sources()):
        return "the judge for AArch64 is older than its sources: make judge-aarch64"
    return ""


def _sources() -> Iterator[Path]:
    for folder in SOURCES:
        yield from (path for path in (ROOT / folder).iterdir() if path.suffix in (".h", ".cpp", ".txt"))


def backends() -> list[Backend | BackendInfo]:
    if platform.machine() in MACHINES:
        return []
    reason = why_not()
    infos = [BackendInfo(f"native-{level}", f"the C++ runtime at level {level}, emulated", reason) for level in LEVELS]
    if reason:
        return list(infos)
    return [NativeBackend(level, EmulatedRuntime(level), info) for level, info in zip(LEVELS, infos, strict=True)]
