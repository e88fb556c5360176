"""The native file reader: its own test program under sanitizers, and agreement with the Python reader."""

import json
import math
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ghost_ref.container import DTYPES, decode_container, write_container
from ghost_ref.crc32c import crc32c
from ghost_ref.errors import GhostError

EXT = Path(__file__).parents[1] / "ext"
SOURCES = [EXT / "tests/test_files.cpp", *(EXT / "core" / f"{name}.cpp" for name in ("json", "safetensors", "source"))]
FLAGS = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-fno-rtti",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CRC_KEY = b'"crc32c":"'


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The test program, compiled with AddressSanitizer and UndefinedBehaviorSanitizer."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("NOT RUN: no g++")
    binary = tmp_path_factory.mktemp("native") / "test_files"
    subprocess.run([compiler, *FLAGS, *map(str, SOURCES), "-o", str(binary)], check=True)
    return binary


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A small valid container."""
    path = tmp_path_factory.mktemp("sample") / "sample.ghost"
    tensors = {"a.trits": np.arange(7, dtype=np.uint8), "a.scale": np.array([0.5, -2], np.float16),
               "b": np.full((2, 3), -5, np.int8), "ü": np.zeros((0, 4), np.float32), "s": np.array(1.5)}
    write_container(path, tensors, format="ghost-packed", config_json='{"d_model":4,"linear":"ternary"}',
                    extra_metadata={"note": "ä\n"})
    return path


class Server:
    """A running test program that answers one line for each blob."""

    def __init__(self, program, mode):
        self.process = subprocess.Popen([program, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, blob: bytes) -> str:
        self.process.stdin.write(struct.pack("<Q", len(blob)) + blob)
        self.process.stdin.flush()
        line = self.process.stdout.readline().decode("utf-8", "replace")
        assert line, f"the program died on {blob!r}"
        return line.rstrip("\n")

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait() == 0


@pytest.fixture(scope="module")
def reader(program):
    server = Server(program, "--check")
    yield server
    server.close()


@pytest.fixture(scope="module")
def json_parser(program):
    server = Server(program, "--json")
    yield server
    server.close()


def run(program, *arguments):
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_native_program(program, sample):
    assert ", 0 failed" in run(program, sample)


def test_random_mutations(program, sample):
    """Memory-safe on mutated files; no changed file is accepted. Some get past the structure, or it tests nothing."""
    words = run(program, "--fuzz", sample, 50_000, 1).split()
    assert int(words[2]) > 100 and int(words[6]) > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_random_mutations(program, sample, seed):
    run(program, "--fuzz", sample, 1_000_000, seed)


def signed(data: bytes) -> bytes:
    """The file with the right checksum, as far as it has a place for one."""
    at = data.find(CRC_KEY)
    if at < 0 or at + len(CRC_KEY) + 8 > len(data):
        return data
    at += len(CRC_KEY)
    data = data[:at] + b"0" * 8 + data[at + 8 :]
    return data[:at] + b"%08x" % crc32c(data) + data[at + 8 :]


def described(tensors, metadata) -> str:
    """What the native program prints of an accepted file."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    parts = []
    for name, array in sorted(tensors.items(), key=lambda item: item[0].encode()):
        shape = "".join(f"{size}," for size in array.shape)
        parts.append(f"{name.encode().hex()}:{names[array.dtype]}:{shape}:{crc32c(array.tobytes()):08x}")
    parts += [f"{key.encode().hex()}={value.encode().hex()}"
              for key, value in sorted(metadata.items(), key=lambda item: item[0].encode())]
    return " ".join(["accept", *parts])


def assert_agree(reader, data: bytes) -> bool:
    """Both readers accept the same content, or both refuse. Returns whether they accept."""
    native = reader.ask(data)
    try:
        expected = described(*decode_container("FILE", data, format="ghost-packed")) if data else "refuse"
    except GhostError as error:
        assert str(error).startswith("FILE ") and str(error).endswith(".")
        expected = "refuse"
    if expected == "refuse":
        assert native.startswith("refuse FILE "), f"only Python refuses {data!r}"
    else:
        assert native == expected
    return expected != "refuse"


fuzzing = settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])

SMALL = st.sampled_from([0, 1, 2, 3, 4, 8, -1, 16, 1 << 31, 1 << 33, 1 << 62, 1 << 63, 1 << 64, 1.0, True, None, "2"])
SHAPES = st.one_of(st.lists(st.integers(0, 3), max_size=3), st.lists(SMALL, max_size=9), SMALL)
TYPES = st.one_of(st.sampled_from([*DTYPES, "BOOL", "BF16", "C64", "F4", "u8", ""]), SMALL)


@st.composite
def plausible_headers(draw):
    """(header entries, body size): tensors one behind the other, some of them spoilt."""
    entries, offset = {}, 0
    for name in draw(st.lists(st.text(max_size=4), max_size=4, unique=True)):
        dtype = draw(st.sampled_from(list(DTYPES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        end = offset + DTYPES[dtype].itemsize * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    if entries and draw(st.booleans()):
        entry = entries[draw(st.sampled_from(sorted(entries)))]
        key = draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))
        entry[key] = draw(TYPES if key == "dtype" else SHAPES)
    return entries, offset + draw(st.sampled_from([0, 0, 0, 1, 8]))


@fuzzing
@given(header=plausible_headers(), metadata=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
       indent=st.sampled_from([None, 1]), ascii=st.booleans(), sort=st.booleans(),
       fill=st.sampled_from([0, 0x3C, 0x7C]))
def test_readers_agree_on_headers(reader, header, metadata, indent, ascii, sort, fill):
    entries, size = header
    own = {"format": "ghost-packed", "format_version": "1", "config": "{}", "crc32c": "00000000"}
    everything = {**entries, "__metadata__": {**metadata, **own}}
    text = json.dumps(everything, ensure_ascii=ascii, sort_keys=sort, indent=indent, separators=(",", ":"))
    try:
        encoded = text.replace('"crc32c": "', '"crc32c":"').encode()
    except UnicodeEncodeError:
        encoded = text.encode("utf-8", "surrogatepass")
    assert_agree(reader, signed(struct.pack("<Q", len(encoded)) + encoded + bytes([fill]) * size))


def test_readers_agree_on_plain_headers(reader, sample):
    """The property tests above reach both answers."""
    data = sample.read_bytes()
    assert assert_agree(reader, data)
    assert not assert_agree(reader, data + b"\0")
    assert assert_agree(reader, signed(data))
    assert not assert_agree(reader, signed(data.replace(b"ghost-packed", b"ghost-locked")))


def test_readers_agree_on_hostile_files(program, reader):
    """The native test's hand-made files are refused by Python too."""
    blobs = subprocess.run([program, "--hostile"], capture_output=True, check=True).stdout
    count = 0
    while blobs:
        size = 8 + int.from_bytes(blobs[:8], "little")
        assert not assert_agree(reader, blobs[8:size])
        blobs, count = blobs[size:], count + 1
    assert count > 100


EDITS = st.tuples(st.sampled_from(["flip", "set", "delete", "insert", "cut"]), st.integers(0, 10**6),
                  st.integers(0, 255), st.sampled_from([b"0", b'"', b",", b"}", b"[", b"\\u0061", b" ", b"-", b"9"]))


def edited(data: bytes, edits) -> bytes:
    for kind, position, value, token in edits:
        at = position % max(1, len(data))
        if kind == "flip":
            data = data[:at] + bytes([data[at] ^ (1 << value % 8)]) + data[at + 1 :] if data else data
        elif kind == "set":
            data = data[:at] + token + data[at + len(token) :]
        elif kind == "delete":
            data = data[:at] + data[at + 1 + value % 4 :]
        elif kind == "insert":
            data = data[:at] + token + data[at:]
        else:
            data = data[:at]
    return data


@fuzzing
@given(edits=st.lists(EDITS, min_size=1, max_size=3), fix_length=st.booleans(), sign=st.booleans())
def test_readers_agree_on_edited_files(reader, sample, edits, fix_length, sign):
    data = edited(sample.read_bytes(), edits)
    if fix_length and b"}" in data[8:]:
        end = data.rindex(b"}") + 1
        data = struct.pack("<Q", end - 8) + data[8:]
    assert_agree(reader, signed(data) if sign else data)


def strict_json(text: str):
    """Python's parser with the rules of the native one."""
    def pairs(items):
        if len({key for key, _ in items}) != len(items):
            raise ValueError
        return dict(items)

    def integer(digits):
        if not -1 << 63 <= int(digits) < 1 << 63:
            raise ValueError
        return -0.0 if digits == "-0" else int(digits)

    def real(digits):
        if math.isinf(float(digits)):
            raise ValueError
        return float(digits)

    def refuse(_):
        raise ValueError
    return json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=real, parse_constant=refuse)


def json_described(value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "n", True: "t", False: "f"}[value]
    if isinstance(value, int):
        return f"i{value}"
    if isinstance(value, float):
        return f"d{value:.17g}"
    if isinstance(value, str):
        return "s" + value.encode().hex()
    if isinstance(value, list):
        return "[" + "".join(json_described(item) + "," for item in value) + "]"
    return "{" + "".join(f"{key.encode().hex()}:{json_described(item)}," for key, item in value.items()) + "}"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1 << 65, 1 << 65), st.text(),
              st.floats(allow_nan=False, allow_infinity=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=12)


def assert_json_agrees(parser, data: bytes):
    native = parser.ask(data)
    try:
        expected = "accept " + json_described(strict_json(data.decode("utf-8")))
    except ValueError:  # JSON or UTF-8, or a lone surrogate in a string
        expected = "refuse"
    assert native == expected if expected != "refuse" else native.startswith("refuse "), (data, native, expected)


@fuzzing
@given(value=JSON, ascii=st.booleans(), indent=st.sampled_from([None, 2]))
@example(value=[1 << 63, 0], ascii=True, indent=None)
@example(value=[(1 << 63) - 1, -1 << 63, 5e-324, 1.7976931348623157e308, -0.0], ascii=True, indent=None)
def test_json_round_trips(json_parser, value, ascii, indent):
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    assert_json_agrees(json_parser, text.encode())


TOKENS = st.sampled_from([b"{", b"}", b"[", b"]", b",", b":", b'"', b'"a"', b"0", b"-", b"-0", b"1", b".", b"e", b"+",
                          b"true", b"null", b" ", b"\n", b"\\", b"\\u", b"d83d", b"de00", b"\xc3\xa9", b"\xe2\x82",
                          b"\xff", b"1e999", b"1e-999", b"9223372036854775808", b"01", b"\x00", b"NaN", b"Infinity"])


@settings(deadline=None, max_examples=1500)
@given(tokens=st.lists(TOKENS, max_size=8))
@example(tokens=[b'"', b"\\u", b"d83d", b"\\u", b"de00", b'"'])
@example(tokens=[b'"', b"\\u", b"d83d", b'"'])
@example(tokens=[b'"\\ud800\\ue000"'])
@example(tokens=[b'"\x1f"'])
@example(tokens=[b'"', b"\xe2\x82"])
@example(tokens=[b'{"a":1,"a":2}'])
@example(tokens=[b'{"a":1,"\\u0061":2}'])
@example(tokens=[b"-0"])
@example(tokens=[b"1e999"])
@example(tokens=[b"1e-999"])
def test_json_tokens(json_parser, tokens):
    assert_json_agrees(json_parser, b"".join(tokens))
