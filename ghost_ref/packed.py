"""The packed model file (docs/file-format.md): weights of `forward` <-> tensors on disk, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ghost_ref.config import CODEBOOK_SIZE, ModelConfig
from ghost_ref.container import (
    DTYPE_NAMES,
    DTYPES,
    Shapes,
    container_size,
    read_container,
    read_header,
    stream_container,
)
from ghost_ref.errors import GhostError
from ghost_ref.parameters import CODEBOOK, INT8, TERNARY, parameter_specs

Weights = dict[str, np.ndarray]
FORMAT = "ghost-packed"
TRITS_PER_BYTE = 5
POWERS = 3 ** np.arange(TRITS_PER_BYTE, dtype=np.uint8)


def pack_trits(trits: np.ndarray) -> np.ndarray:
    """Row-major trits, 5 to a byte: byte = Σ_j (t_{5b+j} + 1)·3^j; padding trits are 0.   any -> (bytes,) uint8"""
    codes = np.ones(-trits.size % TRITS_PER_BYTE + trits.size, np.uint8)
    np.add(trits.ravel(), 1, out=codes[: trits.size], casting="unsafe")
    digits = codes.reshape(-1, TRITS_PER_BYTE)
    packed = digits[:, -1].copy()
    for j in reversed(range(TRITS_PER_BYTE - 1)):
        packed *= 3
        packed += digits[:, j]
    return packed


def unpack_trits(packed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The float32 trits of `pack_trits`. Raises ValueError on a byte above 242 or a padding trit that is not 0."""
    if packed.size and packed.max() > 242:
        raise ValueError("holds a byte above 242")
    codes = (packed[:, None] // POWERS) % np.uint8(3)
    size = math.prod(shape)
    if (codes.ravel()[size:] != 1).any():
        raise ValueError("has padding trits that are not zero")
    return codes.ravel()[:size].reshape(shape).astype(np.float32) - np.float32(1)


def packed_shapes(config: ModelConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{tensor: (safetensors dtype, shape)} of a packed model."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, spec in parameter_specs(config).items():
        stem = name.removesuffix(".weight")
        if spec.storage in (TERNARY, CODEBOOK):
            rows, columns = spec.shape
            shapes[f"{stem}.trits"] = ("U8", (-(-rows * columns // TRITS_PER_BYTE),))
            if spec.storage == TERNARY:
                shapes[f"{stem}.scale"] = ("F16", (rows,))
            else:
                shapes[f"{stem}.index"] = ("U8", (rows, -(-columns // config.codebook_group)))
        elif spec.storage == INT8:
            shapes[name] = ("I8", spec.shape)
            shapes[f"{name}_scale"] = ("F16", spec.shape[:1])
        elif name.endswith(".codebook"):
            shapes[name] = ("F16", (CODEBOOK_SIZE,))
        elif not name.endswith((".threshold", ".scale")):
            shapes[name] = ("F16", spec.shape)
    return shapes


def tensor_kind(name: str, dtype: str) -> str:
    """What a tensor of a packed file is, for the storage table."""
    for ending, kind in ((".trits", "trits (1.6 bit)"), (".index", "codebook indices"), (".codebook", "codebooks"),
                         (".scale", "row scales"), ("weight_scale", "row scales"), ("A_log_scale", "row scales")):
        if name.endswith(ending):
            return kind
    return "int8 matrices" if dtype == "I8" else "vectors (float16)"


def estimate_storage(config: ModelConfig) -> dict[str, int]:
    """Bytes of the packed file by kind of tensor, the header, and ``total``: the file's size to the byte."""
    _require_quantised(config)
    shapes = packed_shapes(config)
    total = container_size(shapes, format=FORMAT, config_json=config.to_json())
    costs: dict[str, int] = {}
    for name, (dtype, shape) in shapes.items():
        kind = tensor_kind(name, dtype)
        costs[kind] = costs.get(kind, 0) + math.prod(shape) * (2 if dtype == "F16" else 1)
    costs = dict(sorted(costs.items(), key=lambda item: -item[1]))
    return {**costs, "header": total - sum(costs.values()), "total": total}


def _require_quantised(config: ModelConfig) -> None:
    if config.linear != "ternary":
        raise GhostError(f"Only ternary models can be packed; this one has linear={config.linear!r}.")


def save_packed(path: str | Path, weights: Mapping[str, Any] | Iterable[tuple[str, Any]], config: ModelConfig) -> int:
    """Write the weights of `quantise` as a packed file, atomically. Returns its size in bytes.

    weights: a mapping, or (name, weight) pairs made one by one in any order: then no more than one weight is in memory
    at a time."""
    _require_quantised(config)
    shapes = packed_shapes(config)
    pairs = ((name, weights[name]) for name in shapes) if isinstance(weights, Mapping) else weights
    tensors = ((name, _stored(name, np.asarray(weight), shapes)) for name, weight in pairs)
    return stream_container(path, shapes, tensors, format=FORMAT, config_json=config.to_json())


def _stored(name: str, weight: np.ndarray, shapes: Shapes) -> np.ndarray:
    """A weight as its tensor in the file."""
    if not np.isfinite(weight).all():
        raise GhostError(f"{name} holds a value that is not finite; the model cannot be packed.")
    if name.endswith(".trits"):
        weight = pack_trits(weight)
    stored = weight.astype(DTYPES[shapes[name][0]])
    assert stored.shape == shapes[name][1], name
    return stored


def check_packed(path: str | Path) -> ModelConfig:
    """The config of a packed file whose header, checksum and shapes are right; the tensors are not kept. Raises
    GhostError like `load_packed`."""
    shapes, metadata = read_header(path, format=FORMAT)
    config = parse_config(path, metadata["config"])
    _require_quantised(config)
    check_shapes(path, shapes, packed_shapes(config))
    return config


def load_packed(path: str | Path) -> tuple[Weights, ModelConfig]:
    """(weights for `forward` as float32, config) of a packed file. Raises GhostError with one sentence if anything
    about the file is not as docs/file-format.md says."""
    tensors, metadata = read_container(path, format=FORMAT)
    config = parse_config(path, metadata["config"])
    _require_quantised(config)
    expected = packed_shapes(config)
    check_tensors(path, tensors, expected)
    specs = parameter_specs(config)
    weights: Weights = {}
    for name, value in tensors.items():
        if name.endswith(".trits"):
            try:
                weights[name] = unpack_trits(value, specs[f"{name.removesuffix('.trits')}.weight"].shape)  # type: ignore[arg-type]
            except ValueError as error:
                raise GhostError(f"{path}: tensor {name} {error}; the file is damaged, pack the model again.") from None
        elif name.endswith(".index"):
            weights[name] = value
        else:
            if value.dtype == np.int8 and value.size and value.min() == -128:
                raise GhostError(f"{path}: tensor {name} holds -128; the file is damaged, pack the model again.")
            weights[name] = value.astype(np.float32)
    return weights, config


def parse_config(path: str | Path, text: str) -> ModelConfig:
    """The ModelConfig of a file's metadata, complete and without unknown fields."""
    import json

    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise GhostError(f"{path}: the config in its metadata is not JSON ({error}).") from None
    if not isinstance(values, dict) or set(values) != set(ModelConfig().to_dict()):
        raise GhostError(f"{path}: the config in its metadata has missing or unknown fields; it was not written by "
                         "this version of Ghost.")
    try:
        return ModelConfig.from_dict(values)
    except GhostError as error:
        raise GhostError(f"{path}: the config in its metadata is bad: {error}") from None


def check_tensors(path: str | Path, tensors: Weights, expected: Shapes) -> None:
    """`check_shapes` of arrays."""
    check_shapes(path, {name: (DTYPE_NAMES[value.dtype], value.shape) for name, value in tensors.items()}, expected)


def check_shapes(path: str | Path, found: Shapes, expected: Shapes) -> None:
    """Raise GhostError unless the tensors found have exactly the expected names, dtypes and shapes."""
    if missing := sorted(set(expected) - set(found)):
        raise GhostError(f"{path}: tensor {missing[0]} is missing; the file does not fit its own config.")
    if extra := sorted(set(found) - set(expected)):
        raise GhostError(f"{path}: tensor {extra[0]} is not part of the model its config describes.")
    for name, (dtype, shape) in expected.items():
        if found[name] != (dtype, shape):
            raise GhostError(f"{path}: tensor {name} should be {dtype} {list(shape)}, found {found[name][0]} "
                             f"{list(found[name][1])}.")
