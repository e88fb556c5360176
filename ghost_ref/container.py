"""The one container for packed models and checkpoints (docs/file-format.md): a safetensors file whose
metadata names the format and the config and holds a CRC-32C of the whole file.

``write_container`` replaces a file atomically; ``read_container`` accepts only what it can vouch for. For files that
should not be in memory as a whole there are ``stream_container`` and ``read_header``. The C++ core has its own reader
with the same rules (ext/core/safetensors.h); the limits below are shared with it.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.numpy

from ghost_ref.atomic import explain, write_at, write_atomically
from ghost_ref.crc32c import crc32c
from ghost_ref.errors import GhostError

FORMAT_VERSION = 1
MAX_FILE = 1 << 33
MAX_HEADER = 1 << 20
MAX_TENSORS = 8192
MAX_DIMENSIONS = 8
MAX_METADATA = 64
PIECE = 1 << 20  # bytes of a large file in memory at a time

# The accepted element types, in the order in which safetensors lays the tensors out.
DTYPES = {name: np.dtype(kind) for name, kind in {
    "U64": "u8", "I64": "i8", "F64": "f8", "F32": "f4", "U32": "u4", "I32": "i4",
    "F16": "f2", "U16": "u2", "I16": "i2", "I8": "i1", "U8": "u1"}.items()}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_CRC_KEY = b'"crc32c":"'
_BLANK = b"0" * 8  # what the checksum's digits are read as
_WRONG_CRC = "its checksum does not match its content"
_MADE_BY = {"ghost-packed": "a packed model made by `ghost pack`",
            "ghost-checkpoint": "a checkpoint made by `ghost train`",
            "ghost-memory": "a memory bank made by `ghost memory`"}

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


def write_container(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], *, format: str,
                    config_json: str, extra_metadata: Mapping[str, str] | None = None,
                    keep_previous: bool = False) -> int:
    """Write a container and return its size in bytes.

    Equal input gives equal bytes. The file appears at once and complete, or the old one stays as it was; with
    ``keep_previous`` the old one stays too, as ``<path>.previous``. Raises GhostError if a tensor holds NaN
    or infinity or the file cannot be written, TypeError on an element type outside ``DTYPES``."""
    path = os.fspath(path)
    data = encode_container(path, tensors, format=format, config_json=config_json,
                            extra_metadata=extra_metadata)
    write_atomically(path, data, keep_previous=keep_previous)
    return len(data)


def stream_container(path: str | os.PathLike[str], shapes: Shapes, tensors: Iterable[tuple[str, np.ndarray]], *,
                     format: str, config_json: str) -> int:
    """``write_container`` for tensors that come one by one, in any order: gives the same bytes without ever holding
    more than one tensor.

    shapes: ``{name: ("F16", (3, 4))}`` of all of them. Raises ValueError if a tensor that comes is not one of these,
    comes twice or never, and whatever the iterator raises; the old file then stays as it was."""
    path = os.fspath(path)
    header = _header(shapes, _metadata(format, config_json, None))
    start = 8 + len(header)
    entries = _check_header(path, header)
    size = container_size(shapes, format=format, config_json=config_json)
    _check_tensors(path, entries, size - start)

    def write(descriptor: int) -> None:
        missing = set(shapes)
        for name, tensor in tensors:
            if name not in missing:
                raise ValueError(f"tensor {name!r} is not expected, or came before")
            missing.remove(name)
            dtype, shape = shapes[name]
            if tensor.dtype != DTYPES[dtype] or tensor.shape != shape:
                raise ValueError(f"tensor {name!r} should be {dtype} {shape}, got {tensor.dtype} {tensor.shape}")
            if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
                raise GhostError(f"Cannot write {path}: tensor {name!r} holds NaN or infinity.")
            little = np.ascontiguousarray(tensor, DTYPES[dtype].newbyteorder("<"))
            write_at(descriptor, little.reshape(-1).view(np.uint8).data, start + entries[name]["data_offsets"][0])
        if missing:
            raise ValueError(f"tensor {min(missing)!r} never came")
        write_at(descriptor, len(header).to_bytes(8, "little") + header, 0)
        digits = 8 + header.index(_CRC_KEY) + len(_CRC_KEY)
        write_at(descriptor, b"%08x" % _file_crc(descriptor, digits), digits)

    write_atomically(path, write)
    return size


def read_header(path: str | os.PathLike[str], *, format: str) -> tuple[dict[str, tuple[str, tuple[int, ...]]],
                                                                      dict[str, str]]:
    """The shapes (as of ``stream_container``, sorted by name) and the metadata of a container of that format.

    Checks what ``read_container`` checks but the finiteness of the values, with one piece of the file in memory."""
    path = os.fspath(path)
    with _opened(path) as (file, size):
        first = file.read(9)
        header = first[8:] + file.read(_header_length(path, first, size, format) - 1)
        entries = _check_beginning(path, header, format)
        metadata = entries.pop("__metadata__")
        digits = _crc_digits(path, header, metadata["crc32c"])
        if _file_crc(file.fileno(), digits) != int(metadata["crc32c"], 16):
            raise _damaged(path, _WRONG_CRC)
    _check_tensors(path, entries, size - 8 - len(header))
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in sorted(entries.items())}, metadata


def read_container(path: str | os.PathLike[str], *,
                   format: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors (writable copies, sorted by name) and the metadata of a container of that format.

    Raises GhostError, one sentence that names the file and what to do, unless every rule of
    docs/file-format.md that does not depend on the config holds: size limits, header, ranges without hole or
    overlap, format, version, CRC, no NaN or infinity."""
    path = os.fspath(path)
    with _opened(path) as (file, size):
        data = file.read(size)
    return decode_container(path, data, format=format)


def container_size(shapes: Shapes, *, format: str, config_json: str,
                   extra_metadata: Mapping[str, str] | None = None) -> int:
    """The exact size in bytes of the file that ``write_container`` gives for tensors of these element types
    (keys of ``DTYPES``) and shapes: ``{name: ("F16", (3, 4))}``."""
    metadata = _metadata(format, config_json, extra_metadata)
    size = sum(DTYPES[dtype].itemsize * math.prod(shape) for dtype, shape in shapes.values())
    return 8 + len(_header(shapes, metadata)) + size


def encode_container(path: str, tensors: Mapping[str, np.ndarray], *, format: str, config_json: str,
                     extra_metadata: Mapping[str, str] | None = None) -> bytearray:
    """The bytes of a container; ``path`` is only for the error sentence."""
    arrays = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor, dtype=tensor.dtype.newbyteorder("="), order="C")
        if array.dtype not in DTYPE_NAMES:
            raise TypeError(f"tensor {name!r} has element type {array.dtype}, not one of {', '.join(DTYPES)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise GhostError(f"Cannot write {path}: tensor {name!r} holds NaN or infinity.")
        arrays[name] = array
    metadata = _metadata(format, config_json, extra_metadata)
    header = _header({name: (DTYPE_NAMES[a.dtype], a.shape) for name, a in arrays.items()}, metadata)
    # The library orders the metadata at random: its header is replaced by one of the same meaning and length.
    data = bytearray(safetensors.numpy.save(arrays, metadata))
    start = 8 + int.from_bytes(data[:8], "little")
    if json.loads(data[8:start]) != json.loads(header):
        raise RuntimeError("safetensors wrote another header than expected")
    data[8:start] = header
    _check_tensors(path, _check_header(path, header), len(data) - start)
    digits = header.index(_CRC_KEY) + len(_CRC_KEY) + 8
    data[digits : digits + 8] = b"%08x" % crc32c(data)
    return data


def decode_container(path: str, data: bytes, *, format: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """``read_container`` on bytes already in memory; ``path`` is only for the error sentences."""
    start = 8 + _header_length(path, data[:9], len(data), format)
    header = data[8:start]
    entries = _check_beginning(path, header, format)
    metadata = entries["__metadata__"]
    digits = _crc_digits(path, header, metadata["crc32c"])
    view = memoryview(data)
    if crc32c(view[digits + 8 :], crc32c(_BLANK, crc32c(view[:digits]))) != int(metadata["crc32c"], 16):
        raise _damaged(path, _WRONG_CRC)
    _check_tensors(path, entries, len(data) - start)
    try:  # the library has the last word: it also refuses lone surrogates and -0
        tensors = dict(sorted(safetensors.numpy.load(data).items()))
    except (safetensors.SafetensorError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise _damaged(path, f"tensor {name!r} holds NaN or infinity")
    return tensors, metadata


def _metadata(format: str, config_json: str, extra: Mapping[str, str] | None) -> dict[str, str]:
    own = {"format": format, "format_version": str(FORMAT_VERSION), "config": config_json, "crc32c": "0" * 8}
    extra = extra or {}
    if own.keys() & extra.keys():
        raise ValueError(f"extra_metadata may not set {sorted(own.keys() & extra.keys())}")
    return {**own, **extra}


def _header(shapes: Shapes, metadata: Mapping[str, str]) -> bytes:
    """The JSON header as safetensors writes it, with the metadata sorted, padded with spaces to 8 bytes."""
    order = list(DTYPES)
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in sorted(shapes, key=lambda name: (order.index(shapes[name][0]), name)):
        dtype, shape = shapes[name]
        end = offset + DTYPES[dtype].itemsize * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


@contextmanager
def _opened(path: str) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file and its size; a failure to open or to read it becomes a GhostError."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise GhostError(f"{path} is a directory; name a file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise GhostError(f"{path} is not a regular file; name a file on disk.")
        if status.st_size > MAX_FILE:
            raise GhostError(f"{path} is not a Ghost file: it is larger than {MAX_FILE} bytes.")
        if not status.st_size:
            raise GhostError(f"{path} is empty; copy or make the file again.")
        with open(path, "rb") as file:
            yield file, status.st_size
    except OSError as error:
        raise explain(error, "read", path) from None
    except ValueError as error:  # a name with a null byte
        if isinstance(error, GhostError):
            raise
        raise GhostError(f"Cannot read {path!r}: {error}.") from None


def _file_crc(descriptor: int, digits: int) -> int:
    """CRC-32C of a file with the 8 bytes at offset ``digits`` read as '0'."""
    crc = crc32c(os.pread(descriptor, digits, 0))
    crc, position = crc32c(_BLANK, crc), digits + len(_BLANK)
    while piece := os.pread(descriptor, PIECE, position):
        crc, position = crc32c(piece, crc), position + len(piece)
    return crc


def _damaged(path: str, why: str) -> GhostError:
    return GhostError(f"{path} is damaged: {why}; copy or make the file again.")


def _header_length(path: str, first: bytes, size: int, format: str) -> int:
    """The length of the header of a file of ``size`` bytes that starts with ``first`` (9 bytes)."""
    length = int.from_bytes(first[:8], "little")
    if size < 10 or length > size - 8 or first[8:9] != b"{":
        raise GhostError(f"{path} is not a Ghost file, or it is cut off; "
                         f"pass {_MADE_BY.get(format, format)}.")
    if length > MAX_HEADER:
        raise _damaged(path, f"its header is larger than {MAX_HEADER} bytes")
    return length


def _check_beginning(path: str, header: bytes, format: str) -> dict[str, Any]:
    """The header's entries; the version comes before all that a later version may do differently."""
    entries = _check_header(path, header)
    _check_format(path, entries["__metadata__"], format)
    return entries


def _check_header(path: str, header: bytes) -> dict[str, Any]:
    """The entries of the JSON header, with the metadata checked to be few strings under all four keys."""
    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer,
                             parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not valid JSON ({str(error) or 'nested too deeply'})") from None
    metadata = entries.get("__metadata__")
    if not isinstance(metadata, dict) or not all(type(value) is str for value in metadata.values()):
        raise GhostError(f"{path} is a safetensors file but not a Ghost file: it has no Ghost metadata.")
    if len(metadata) > MAX_METADATA:
        raise _damaged(path, f"it has more than {MAX_METADATA} metadata entries")
    for key in ("format", "format_version", "config", "crc32c"):
        if key not in metadata:
            raise GhostError(f"{path} is a safetensors file but not a Ghost file: "
                             f"its metadata lacks {key!r}.")
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -1 << 63 <= int(digits) < 1 << 63:
        raise ValueError("an integer is too large")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _check_format(path: str, metadata: dict[str, str], format: str) -> None:
    if metadata["format"] != format:
        raise GhostError(f"{path} has the format {metadata['format']!r}, but {format!r} is needed; "
                         f"pass {_MADE_BY.get(format, format)}.")
    version = metadata["format_version"]
    if re.fullmatch("[1-9][0-9]{0,8}", version) is None:
        raise _damaged(path, f"{version!r} is no format version")
    if int(version) > FORMAT_VERSION:
        raise GhostError(f"{path} was written by a newer Ghost (format version {version}, this one reads "
                         f"{FORMAT_VERSION}); upgrade Ghost to read it.")


def _crc_digits(path: str, header: bytes, stored: str) -> int:
    """Where in the file the 8 digits of the checksum are: behind the one key, in lower case."""
    at = header.find(_CRC_KEY) + len(_CRC_KEY)
    if header.count(_CRC_KEY) != 1 or re.fullmatch("[0-9a-f]{8}", stored) is None \
            or header[at : at + 9] != stored.encode() + b'"':
        raise _damaged(path, "its checksum is not written as 8 lower-case hex digits")
    return 8 + at


def _check_tensors(path: str, entries: dict[str, Any], available: int) -> None:
    """Every entry is a known element type with a plausible shape, and the ranges cover the buffer exactly."""
    tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
    if len(tensors) > MAX_TENSORS:
        raise _damaged(path, f"it has more than {MAX_TENSORS} tensors")
    for name, entry in tensors.items():
        if not _plausible(entry):
            raise _damaged(path, f"the type, shape or range of tensor {name!r} is wrong")
    position = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != position:
            raise _damaged(path, f"tensor {name!r} overlaps another or leaves a hole")
        position = end
    if position != available:
        raise _damaged(path, f"its tensors need {position} bytes and it has {available}")


def _plausible(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES or not _counts(shape) or not _counts(offsets):
        return False
    if len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
        return False
    # A zero dimension must not hide absurd ones, which NumPy would refuse in its own words.
    extent = math.prod(max(1, size) for size in shape) * DTYPES[dtype].itemsize
    return extent <= MAX_FILE and offsets[0] + math.prod(shape) * DTYPES[dtype].itemsize == offsets[1]


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
