"""The three configurations: model, training, sampling.

Frozen dataclasses; every field has a default, a help text and a check. Command-line flags, file metadata and
attributes share these names. Unknown keys are errors.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Self

from ghost_ref.errors import GhostError

VOCABULARY = 256
EOS, PAD, SEP = 0xFF, 0xFE, 0xFB
RESERVED_BYTES = frozenset((0xF8, 0xF9, 0xFA, SEP, PAD, EOS))
CODEBOOK_SIZE = 256


def option(default: Any, help: str) -> Any:
    """A dataclass field with a help text."""
    return field(default=default, metadata={"help": help})


class Config:
    """What the three configurations share: parsing, checking, JSON."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from a dict as JSON gives it (lists become tuples). Raises GhostError on an unknown key or a
        value of the wrong type or out of range."""
        known = typing.get_type_hints(cls)
        checked = {}
        for key, value in values.items():
            if key not in known:
                raise GhostError(f"{cls.__name__} has no field {key!r}; it has: {', '.join(sorted(known))}.")
            checked[key] = _coerce(f"{cls.__name__}.{key}", known[key], value)
        return cls(**checked)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked like any other."""
        return type(self).from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values (tuples become lists)."""
        return json.loads(self.to_json())

    def to_json(self) -> str:
        """One line of JSON with sorted keys: the same config always gives the same bytes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))  # type: ignore[call-overload]

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise GhostError(f"{type(self).__name__}.{name} must be {expected}, got {getattr(self, name)!r}.")


def _coerce(name: str, kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        return _coerce(name, next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise GhostError(f"{name} must be a list of integers, got {value!r}.")
        return tuple(_coerce(name, int, item) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise GhostError(f"{name} must be of type {kind.__name__}, got {value!r}.")
    if kind is float and not abs(value) < float("inf"):
        raise GhostError(f"{name} must be finite, got {value!r}.")
    return value


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """Shape and features of a model; a file holds the whole of it. Layer indices are 0-based."""

    d_model: int = option(256, "width of the residual stream")
    n_layers: int = option(8, "number of layers")
    d_state: int = option(16, "scan state per channel")
    d_conv: int = option(4, "taps of the causal convolutions")
    expand: int = option(2, "channels of the Mamba block per d_model")
    dt_rank: int = option(16, "rank of the time-step projection")
    d_ff: int = option(1024, "hidden width of the gated FFN; 0: layers without an FFN")
    linear: str = option("ternary", "weights and activations: ternary (int8 activations) or float (no quantisation)")
    codebook_group: int = option(128, "FFN inputs that share one codebook index, a multiple of 16")
    attention_layers: tuple[int, ...] = option((), "layers with strided attention")
    n_heads: int = option(4, "attention heads")
    attention_stride: int = option(64, "one key and value for every this many tokens of the layer's stream")
    attention_slots: int = option(32, "attention keys kept (a ring)")
    memory_layers: tuple[int, ...] = option((), "layers that query the memory bank")
    memory_capacity: int = option(512, "entries of the memory bank")
    mod_layers: tuple[int, ...] = option((), "layers routed by Mixture of Depths")
    mod_capacity: float = option(0.5, "share of the surviving tokens a Mixture-of-Depths layer trains on")
    depth_layers: tuple[int, ...] = option((), "layers routed by the depth predictor")
    surprise_layers: tuple[int, ...] = option((), "layers routed by the surprise predictor")
    surprise_threshold: float = option(0.05, "nats of surprise above which a byte is processed")

    @property
    def d_inner(self) -> int:
        """Channels of the Mamba block, expand * d_model."""
        return self.expand * self.d_model

    def __post_init__(self) -> None:
        sizes = {"d_model": 16384, "n_layers": 1024, "d_state": 256, "d_conv": 16, "expand": 8, "dt_rank": 4096,
                 "d_ff": 65536, "codebook_group": 65536, "n_heads": 256, "attention_stride": 1 << 20,
                 "attention_slots": 4096, "memory_capacity": 1 << 20}
        for name, largest in sizes.items():
            least = 0 if name == "d_ff" else 1
            self._require(least <= getattr(self, name) <= largest, name, f"in {least}..{largest}")
        self._require(self.d_conv >= 2, "d_conv", "at least 2")
        self._require(self.linear in ("ternary", "float"), "linear", "'ternary' or 'float'")
        self._require(self.codebook_group % 16 == 0, "codebook_group", "a multiple of 16")
        self._require(self.d_model % self.n_heads == 0, "n_heads", f"a divisor of d_model ({self.d_model})")
        self._require(0 < self.mod_capacity <= 1, "mod_capacity", "in (0, 1]")
        self._require(self.surprise_threshold >= 0, "surprise_threshold", "zero or more")
        for name in ("attention_layers", "memory_layers", "mod_layers", "depth_layers", "surprise_layers"):
            layers = getattr(self, name)
            first = 1 if name in ("mod_layers", "depth_layers", "surprise_layers") else 0
            self._require(list(layers) == sorted(set(layers))
                          and all(first <= i < self.n_layers for i in layers),
                          name, f"increasing layer indices in {first}..{self.n_layers - 1}")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """How the next byte is chosen. Order: temperature, top-k, top-p, min-p. Temperature 0 is greedy."""

    temp: float = option(0.0, "temperature; 0 takes the most probable byte")
    top_k: int = option(0, "keep the k most probable bytes; 0 keeps all")
    top_p: float = option(1.0, "keep the smallest set of bytes whose probability reaches p")
    min_p: float = option(0.0, "drop bytes below this share of the most probable byte's probability")
    seed: int = option(0, "seed of the counter-based generator")
    max_bytes: int = option(256, "stop after this many bytes")

    def __post_init__(self) -> None:
        self._require(0 <= self.temp <= 100, "temp", "in 0..100")
        self._require(0 <= self.top_k <= VOCABULARY, "top_k", "in 0..256")
        self._require(0 < self.top_p <= 1, "top_p", "in (0, 1]")
        self._require(0 <= self.min_p <= 1, "min_p", "in 0..1")
        self._require(0 <= self.seed < 1 << 64, "seed", "in 0..2^64-1")
        self._require(0 <= self.max_bytes, "max_bytes", "zero or more")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """How a model is trained. One step reads batch_size sequences; everything random is a function of (seed, step)."""

    steps: int = option(0, "optimizer steps; 0: chosen for the data, or from minutes")
    minutes: float = option(0.0, "train for about this long: steps are fixed after a short measurement")
    batch_size: int = option(12, "sequences a step")
    shards: int = option(2, "parts of a batch computed in parallel, one thread each; they fix the bits")
    seq_len: int = option(64, "bytes of a text window, and the longest prompt plus completion")
    lr: float = option(4e-3, "peak learning rate")
    final_lr: float = option(0.05, "learning rate at the end, as a share of the peak (cosine)")
    warmup_steps: int = option(100, "steps of linear warm-up, at most a tenth of all steps")
    optimizer: str = option("adamw", "adamw, or muon: Muon on the layers' matrices and AdamW on the rest")
    muon_lr: float = option(2e-2, "Muon, peak learning rate; warm-up and cosine as for lr")
    muon_momentum: float = option(0.95, "Muon, momentum")
    beta1: float = option(0.9, "AdamW, first moment")
    beta2: float = option(0.99, "AdamW, second moment")
    weight_decay: float = option(0.1, "AdamW, on quantised matrices only")
    clip_norm: float = option(1.0, "largest global gradient norm")
    dropout: float = option(0.0, "dropout on every residual branch")
    prompt_noise: float = option(0.0, "rate of typing errors put into prompts (question-answer data)")
    seed: int = option(0, "seed of initial values, batches, dropout")
    mod_weight: float = option(0.01, "weight of the loss that aligns top-k routing with its threshold")
    depth_weight: float = option(0.0001, "weight of the mean depth gate, the price of processing a byte")
    memory_entries: int = option(64, "detached entries shown to the memory layers in every second step")
    validation_fraction: float = option(0.05, "share of a text's end kept for validation when no file is given")
    eval_interval: int = option(0, "steps between evaluations through the packed path; 0: a tenth of all steps")
    patience: int = option(0, "stop after this many evaluations without improvement; 0: never")
    stop_when_solved: bool = option(True, "question-answer data: stop once every training item is answered exactly")
    checkpoint_interval: int = option(0, "steps between checkpoints; 0: at every evaluation")

    def __post_init__(self) -> None:
        for name in ("batch_size", "seq_len", "shards"):
            self._require(1 <= getattr(self, name) <= 1 << 20, name, "in 1..1048576")
        for name in ("steps", "warmup_steps", "memory_entries", "eval_interval", "patience", "checkpoint_interval"):
            self._require(0 <= getattr(self, name) <= 1 << 31, name, "zero or more")
        for name in ("minutes", "weight_decay", "mod_weight", "depth_weight"):
            self._require(getattr(self, name) >= 0, name, "zero or more")
        self._require(self.optimizer in ("adamw", "muon"), "optimizer", "'adamw' or 'muon'")
        for name in ("beta1", "beta2", "muon_momentum", "dropout", "prompt_noise", "validation_fraction"):
            self._require(0 <= getattr(self, name) < 1, name, "in [0, 1)")
        self._require(0 <= self.final_lr <= 1, "final_lr", "in 0..1")
        for name in ("lr", "muon_lr"):
            self._require(getattr(self, name) > 0, name, "positive")
        self._require(self.clip_norm > 0, "clip_norm", "positive")
        self._require(0 <= self.seed < 1 << 63, "seed", "in 0..2^63-1")
