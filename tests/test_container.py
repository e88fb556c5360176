"""The container: round trips, exact size, detection of every damage, atomic replacement, sentences for bad files."""

import errno
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ghost_ref import atomic
from ghost_ref.container import (
    DTYPES,
    container_size,
    decode_container,
    encode_container,
    read_container,
    write_container,
)
from ghost_ref.crc32c import crc32c
from ghost_ref.errors import GhostError

FORMAT = "ghost-packed"
CONFIG = '{"d_model":4,"linear":"ternary"}'


def sample() -> dict[str, np.ndarray]:
    return {"a.trits": np.arange(7, dtype=np.uint8), "a.scale": np.array([0.5, -2], np.float16),
            "b": np.full((2, 3), -5, np.int8), "empty": np.zeros((0, 4), np.float32), "s": np.array(1.5)}


def write(path, tensors=None, **options) -> int:
    return write_container(path, sample() if tensors is None else tensors,
                           **{"format": FORMAT, "config_json": CONFIG, **options})


# ---- round trips and sizes

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")
FINITE = {"allow_nan": False, "allow_infinity": False}


def arrays(dtype):
    elements = FINITE if dtype.kind == "f" else None
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), elements=elements)


TENSORS = st.dictionaries(NAMES, st.sampled_from(list(DTYPES.values())).flatmap(arrays), max_size=6)
METADATA = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
                           .filter(lambda key: key not in ("format", "format_version", "config", "crc32c")),
                           st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=4)


@settings(deadline=None, max_examples=200)
@given(tensors=TENSORS, metadata=METADATA, config=st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip_and_size(tensors, metadata, config):
    options = {"format": FORMAT, "config_json": config, "extra_metadata": metadata}
    data = bytes(encode_container("FILE", tensors, **options))
    options["extra_metadata"] = dict(reversed(metadata.items()))
    assert data == encode_container("FILE", dict(reversed(tensors.items())), **options)
    back, found = decode_container("FILE", data, format=FORMAT)
    assert list(back) == sorted(tensors)
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
        assert back[name].flags.writeable
    assert found == {"format": FORMAT, "format_version": "1", "config": config, "crc32c": found["crc32c"], **metadata}
    names = {dtype: name for name, dtype in DTYPES.items()}
    shapes = {name: (names[array.dtype], array.shape) for name, array in tensors.items()}
    assert container_size(shapes, **options) == len(data)


def test_strided_and_big_endian_arrays():
    tensors = {"t": np.arange(6, dtype=np.int32).reshape(2, 3).T, "big": np.arange(3, dtype=">f4"),
               "half": np.arange(8, dtype=np.float16)[::2]}
    back, _ = decode_container("FILE", bytes(encode_container("FILE", tensors, format=FORMAT, config_json="{}")),
                               format=FORMAT)
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype.newbyteorder("=")


def test_equal_input_gives_equal_bytes_in_every_process(tmp_path):
    script = textwrap.dedent("""
        import sys, numpy as np
        from ghost_ref.container import encode_container
        data = encode_container("F", {"a": np.arange(3)}, format="x", config_json="{}",
                                extra_metadata={c: c for c in "abcdefgh"})
        sys.stdout.buffer.write(data)""")
    outputs = {subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout for _ in range(3)}
    assert len(outputs) == 1


def test_the_file_is_plain_safetensors(tmp_path):
    from safetensors import safe_open

    write(tmp_path / "m", extra_metadata={"k": "v"})
    with safe_open(tmp_path / "m", "numpy") as file:
        assert set(file.keys()) == set(sample())
        assert file.metadata()["config"] == CONFIG and file.metadata()["k"] == "v"


def test_writer_refuses_what_no_reader_takes(tmp_path):
    for value in (np.nan, np.inf, -np.inf):
        for dtype in (np.float16, np.float32, np.float64):
            with pytest.raises(GhostError, match="'w' holds NaN or infinity"):
                write(tmp_path / "m", {"w": np.array([1, value], dtype)})
    with pytest.raises(TypeError, match="complex64"):
        write(tmp_path / "m", {"w": np.zeros(2, np.complex64)})
    with pytest.raises(ValueError, match="config"):
        write(tmp_path / "m", extra_metadata={"config": "x"})
    with pytest.raises(GhostError):
        write(tmp_path / "m", extra_metadata={str(i): "" for i in range(61)})
    with pytest.raises(GhostError):
        write(tmp_path / "m", {"w": np.zeros((1,) * 9)})
    assert not list(tmp_path.iterdir())


# ---- damage

def test_every_changed_byte_truncation_and_extension_is_refused(tmp_path):
    """All 255 other values of every byte are tried by the native program; here one per bit and a few more."""
    size = write(tmp_path / "m", {"a": np.arange(5, dtype=np.uint8), "b": np.ones(2, np.float16)})
    data = (tmp_path / "m").read_bytes()
    assert len(data) == size
    decode_container("FILE", data, format=FORMAT)
    for i in range(size):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 255, 0x11):
            with pytest.raises(GhostError, match="FILE"):
                decode_container("FILE", data[:i] + bytes([data[i] ^ change]) + data[i + 1 :], format=FORMAT)
        with pytest.raises(GhostError, match="FILE"):
            decode_container("FILE", data[:i], format=FORMAT)
    for more in range(1, 20):
        with pytest.raises(GhostError, match="FILE"):
            decode_container("FILE", data + bytes(more), format=FORMAT)


def signed(entries: dict, body: bytes = b"", **metadata) -> bytes:
    """A file with this header and the right checksum, as an attacker would make it."""
    own = {"format": FORMAT, "format_version": "1", "config": "{}", "crc32c": "00000000", **metadata}
    header = json.dumps({**entries, "__metadata__": own}, separators=(",", ":")).encode()
    data = struct.pack("<Q", len(header)) + header + body
    return data.replace(b'"crc32c":"00000000"', b'"crc32c":"%08x"' % crc32c(data))


def test_checksum_in_upper_case_is_refused():
    files = (signed({}, note=str(i)) for i in range(100))
    data, digits = next((data, digits) for data in files
                        if not (digits := data.partition(b'"crc32c":"')[2][:8]).isdigit())
    decode_container("FILE", data, format=FORMAT)
    with pytest.raises(GhostError, match="lower-case"):
        decode_container("FILE", data.replace(digits, digits.upper()), format=FORMAT)


@pytest.mark.parametrize("data, sentence", [
    (signed({}, format="ghost-checkpoint"), "format 'ghost-checkpoint', but 'ghost-packed' is needed; pass a packed"),
    (signed({}, format_version="2"), r"newer Ghost \(format version 2, this one reads 1\); upgrade Ghost"),
    (signed({}, format_version="one"), "'one' is no format version"),
    (signed({}, config=3), "not a Ghost file"),
    (signed({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"xx"), "tensor 'a' is wrong"),
    (signed({"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, b"xxx"), "'a' overlaps another or leaves"),
    (signed({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, b"xxx"), "need 2 bytes and it has 3"),
    (signed({"a": {"dtype": "U8", "shape": [0, 1 << 62], "data_offsets": [0, 0]}}), "tensor 'a' is wrong"),
    (signed({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}, b"\0\x7c"), "'a' holds NaN or infinity"),
    (signed({}).replace(b'"crc32c":"', b'"crc32c":"0'), "not valid JSON|checksum is not written|not a Ghost file"),
    (struct.pack("<Q", 2) + b"{}", "not a Ghost file: it has no Ghost metadata"),
    (struct.pack("<Q", 100_006) + b'{"a":' + b"[" * 100_001, "not valid JSON"),
    (struct.pack("<Q", 1 << 63) + b"{}" * 9, "is not a Ghost file, or it is cut off; pass a packed model"),
    (b"GGUF" + bytes(100), "is not a Ghost file"),
    (b"\x89PNG", "is not a Ghost file"),
])
def test_sentences_for_bad_content(data, sentence):
    with pytest.raises(GhostError, match=f"^FILE .*({sentence})") as caught:
        decode_container("FILE", data, format=FORMAT)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_sentences_for_bad_paths(tmp_path):
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in {"absent": "there is no such file", "": "is a directory", "empty": "is empty",
                           "pipe": "is not a regular file", "a\0b": "null"}.items():
        with pytest.raises(GhostError, match=sentence):
            read_container(f"{tmp_path}/{name}", format=FORMAT)


def fail(code):
    def call(*_, **__):
        raise OSError(code, os.strerror(code))
    return call


def test_sentence_for_no_permission_to_read(tmp_path, monkeypatch):
    write(tmp_path / "m")
    monkeypatch.setattr("builtins.open", fail(errno.EACCES))
    with pytest.raises(GhostError, match="no permission to read it"):
        read_container(tmp_path / "m", format=FORMAT)


# ---- writing

def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "m")
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("path, sentence", [
    ("absent/m", "the directory .*absent does not exist; create it first"),
    ("file/m", "Not a directory"), ("", "is not a regular file"), ("x" * 300, "name too long"),
    ("a\0b", "null")])
def test_sentences_for_paths_that_cannot_be_written(tmp_path, path, sentence):
    (tmp_path / "file").touch()
    with pytest.raises(GhostError, match=f"(?i){sentence}"):
        write(f"{tmp_path}/{path}")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("code, sentence", [
    (errno.ENOSPC, "no space is left on the disk; free some and try again"),
    (errno.EACCES, "no permission to write in .*; change the permissions or choose another path"),
    (errno.ENOENT, "the directory .* takes no new files; choose another path"),  # as /proc
    (errno.EIO, "Input/output error"), (errno.EROFS, "Read-only file system")])
def test_sentences_for_failing_writes(tmp_path, monkeypatch, code, sentence):
    monkeypatch.setattr(atomic.os, "pwrite", fail(code))
    with pytest.raises(GhostError, match=rf"^Cannot write {tmp_path}/m: {sentence}\.$"):
        write(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real/m")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real/m").is_file()


def test_device_is_never_replaced():
    with pytest.raises(GhostError, match="not a regular file"):
        write("/dev/null")
    assert not os.path.isfile("/dev/null")


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(atomic.os, "pwrite", lambda fd, data, offset: real(fd, bytes(data[:7]), offset))
    write(tmp_path / "m")
    read_container(tmp_path / "m", format=FORMAT)


def test_two_writers_do_not_mix(tmp_path, monkeypatch):
    real, refused = os.fsync, []

    def second_writer(descriptor):
        if not refused:
            refused.append(None)
            with pytest.raises(GhostError, match="another process is writing"):
                write(tmp_path / "m", {"other": np.zeros(3)})
        real(descriptor)
    monkeypatch.setattr(atomic.os, "fsync", second_writer)
    write(tmp_path / "m")
    assert refused and set(read_container(tmp_path / "m", format=FORMAT)[0]) == set(sample())
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_left_over_temporary_file_is_reused(tmp_path):
    write(tmp_path / "m")
    for name in (".m.tmp", ".m.previous.tmp"):
        (tmp_path / name).write_bytes(b"x" * 10_000)
    assert write(tmp_path / "m", keep_previous=True) == (tmp_path / "m").stat().st_size
    assert {p.name for p in tmp_path.iterdir()} == {"m", "m.previous"}


CALLS = ("open", "pwrite", "fsync", "link", "replace", "ftruncate")


@pytest.mark.parametrize("keep_previous", [False, True])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("nth", range(3))
def test_any_failing_call_leaves_a_complete_file(tmp_path, monkeypatch, call, nth, keep_previous):
    """The nth use of one system call fails: afterwards the old file (or, once renamed, the new one) is complete,
    and there is no temporary file."""
    path = tmp_path / "m"
    write(path, {"a": np.zeros(1)})
    write(path, {"a": np.zeros(2)}, keep_previous=True)
    old = digest(path)
    new = hashlib.sha256(encode_container("m", sample(), format=FORMAT, config_json=CONFIG)).hexdigest()
    real, count = getattr(os, call), 0

    def failing(*arguments, **options):
        nonlocal count
        count += 1
        if count == nth + 1:
            raise OSError(errno.EIO, "Input/output error")
        return real(*arguments, **options)
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, call, failing)
        try:
            write(path, keep_previous=keep_previous)
            assert count <= nth
        except GhostError:
            assert count > nth
    directory_sync = (call, nth) in {("open", 1), ("fsync", 1)}
    assert digest(path) == (new if count <= nth or directory_sync else old)
    assert {p.name for p in tmp_path.iterdir()} == {"m", "m.previous"}
    read_container(tmp_path / "m.previous", format=FORMAT)


@pytest.mark.parametrize("links", [True, False])
def test_keep_previous(tmp_path, monkeypatch, links):
    """The last but one file stays, with hard links and (as on FAT) without."""
    if not links:
        monkeypatch.setattr(atomic.os, "link", fail(errno.EPERM))
    path, previous = tmp_path / "m", tmp_path / "m.previous"
    write(path, {"a": np.zeros(1)}, keep_previous=True)
    assert not previous.exists()
    for size in range(2, 5):
        before = digest(path)
        write(path, {"a": np.zeros(size)}, keep_previous=True)
        assert digest(previous) == before != digest(path)
    assert {p.name for p in tmp_path.iterdir()} == {"m", "m.previous"}


KILL = """
import os, sys
import numpy as np
from ghost_ref import atomic
from ghost_ref.container import encode_container, read_container, write_container

path, links = sys.argv[1], sys.argv[2] == "links"
names = ("open", "pwrite", "fsync", "link", "replace", "unlink", "ftruncate", "close", "sendfile")
names = [name for name in names if hasattr(os, name)]
real = {name: getattr(os, name) for name in names}

def child(step, tensors, after):
    count = 0
    def wrapped(name):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == step and not after:
                os._exit(9)
            if name == "pwrite":
                arguments = (arguments[0], bytes(arguments[1][:200]), arguments[2])
            try:
                if name == "link" and not links:
                    raise PermissionError(1, "Operation not permitted")
                return real[name](*arguments, **options)
            finally:
                if count == step:
                    os._exit(9)
        return call
    for name in names:
        setattr(atomic.os, name, wrapped(name))
    write_container(path, tensors, format="f", config_json="{}", keep_previous=True)
    os._exit(0)

def content(name):
    return read_container(name, format="f")[0]["a"][0]

step, version, killed = 0, 1, 0
write_container(path, {"a": np.full(90, 1)}, format="f", config_json="{}", keep_previous=True)
finished = False
while not finished:
    step += 1
    for after in (False, True):
        newest = content(path)
        version += 1
        pid = os.fork()
        if pid == 0:
            child(step, {"a": np.full(90, version)}, after)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, 9), step
        finished = code == 0
        killed += not finished
        assert content(path) in (newest, version), step
        if os.path.exists(path + ".previous"):
            assert content(path + ".previous") in (newest, content(path), newest - 1), step
        if finished:
            assert content(path) == version and content(path + ".previous") == newest
assert sorted(os.listdir(os.path.dirname(path))) == ["m", "m.previous"]
print(killed)
"""


@pytest.mark.parametrize("links", ["links", "copies"])
def test_kill_at_every_system_call(tmp_path, links):
    """A process that vanishes before or after any system call leaves complete files under the name and the
    previous name, and the next write tidies up."""
    result = subprocess.run([sys.executable, "-c", KILL, str(tmp_path / "m"), links], capture_output=True, text=True,
                            cwd=Path(__file__).parents[1])
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 30


def test_container_size_of_a_large_model_needs_no_data():
    shapes = {f"w{i}": ("F32", (1 << 20, 100)) for i in range(10)}
    header = container_size({name: (dtype, (0, 100)) for name, (dtype, _) in shapes.items()},
                            format=FORMAT, config_json="{}")
    size = container_size(shapes, format=FORMAT, config_json="{}")
    assert 0 <= size - header - 10 * 4 * math.prod((1 << 20, 100)) < 1000
