"""ghost-run, the packed model without Python: what it answers, prints and refuses, against `ghost run`."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from device_build import build, expected_check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import SMALL, random_weights

from ghost_ref.cli import main
from ghost_ref.container import write_container
from ghost_ref.data import encode_prompt
from ghost_ref.errors import GhostError
from ghost_ref.packed import save_packed
from ghost_ref.presets import preset
from ghost_ref.runtime import load

MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
AARCH64 = ("aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu")
I686 = "i686-linux-gnu-g++"


@pytest.fixture(scope="module")
def program() -> str:
    return str(build() / "ghost-run")


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("device") / "small.ghost"
    save_packed(file, random_weights(SMALL, 1), SMALL)
    return str(file)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("device") / "tiny.ghost"
    save_packed(file, random_weights(preset("tiny"), 3), preset("tiny"))
    return file


@pytest.fixture(scope="module")
def v12(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("device") / "v12.ghost"
    save_packed(file, random_weights(preset("v12"), 4), preset("v12"))
    return file


@pytest.fixture(scope="module")
def reference(path):
    return load(path, backend="reference")


def call(*command: str | bytes, input: bytes = b"", **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=input, capture_output=True, timeout=120, **options)


def sentence(*command: str | bytes, input: bytes = b"", code: int = 2) -> str:
    """The one line on stderr of a command that must fail, without the program's name."""
    done = call(*command, input=input)
    assert done.returncode == code and done.stdout == b"", done
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("ghost-run: ") and line.endswith(".")
    return line.removeprefix("ghost-run: ")


# --- answers -------------------------------------------------------------------------------------------------------


def test_the_answer_alone_on_standard_output(program, path, reference):
    done = call(program, path, "list pods", "--max-bytes", "20")
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout.decode() == reference.generate("list pods", max_bytes=20) + "\n"


@MANY
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12),
       st.sampled_from([0.0, 0.3, 1.0, 100.0]), st.integers(0, 256), st.sampled_from([1e-3, 0.1, 0.9, 1.0]),
       st.sampled_from([0.0, 0.01, 0.2]), st.integers(0, 2**64 - 1), st.booleans(), st.booleans())
def test_the_same_text_as_the_reference(program, path, reference, prompt, temp, k, p, m, seed, raw, stream):
    options = {"max_bytes": 24, "temp": temp, "top_k": k, "top_p": p, "min_p": m, "seed": seed}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    switches = ["--raw"] * raw + ["--stream"] * stream
    done = call(program, *flags, *switches, "--", path, prompt)
    expected = reference.generate(prompt, raw=raw, **options)  # at temperature 100: mostly invalid UTF-8
    assert done.stdout.decode() == expected + "\n" and done.returncode == 0


def test_a_prompt_of_any_length_from_standard_input(program, path, reference):
    text = ("Wie heißt die Brücke? 🌉\n" * 400)[:9001].encode()[:9000].decode("utf-8", "ignore")
    done = call(program, path, "--stdin", "--max-bytes=9", input=text.encode())
    assert done.stdout.decode() == reference.generate(text, max_bytes=9) + "\n"
    done = call(program, path, "--stdin", "--raw", "--max-bytes=9", input=b"x")
    assert done.stdout.decode() == reference.generate("x", raw=True, max_bytes=9) + "\n"


@MANY
@given(st.binary(min_size=1, max_size=12) | st.binary(min_size=1, max_size=3).map(lambda b: b"ok\xf0\x9f" + b))
def test_bad_prompts_get_the_sentence_of_the_reference(program, path, prompt):
    try:
        encode_prompt(prompt)
    except GhostError as error:
        if b"\0" not in prompt:
            assert sentence(program, "--", path, prompt) == str(error)
        first = re.search(rb"[\xf8-\xff]", prompt)
        if not first or "reserved" not in str(error):
            assert sentence(program, path, "--stdin", input=prompt) == str(error)
    else:
        assert call(program, path, "--stdin", "--max-bytes=1", input=prompt).returncode == 0


def test_empty_prompts(program, path):
    assert sentence(program, path, "") == sentence(program, path, "--stdin") == \
        "The prompt is empty; give at least one byte."


LINES = (b"first\r\n\n  \n/etc?\n\xc3\xbcber\nbad \xfb byte\n/temp 0.5\n/seed 9\nagain\n/reset\nagain\n"
         b"/max-bytes many\n/top_p 0\n/exit\nnever\n")


def test_lines_of_a_pipe_are_answered_as_by_ghost_run(program, path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINES)))
    code = main(["run", path, "--max-bytes", "12"])
    expected = capsys.readouterr()
    done = call(program, path, "--max-bytes", "12", input=LINES)
    assert done.returncode == code == 2 and done.stdout.decode() == expected.out
    wrong = [line.partition(": ")[2] for line in done.stderr.decode().splitlines()]
    assert wrong[:2] == [line.partition(": ")[2] for line in expected.err.splitlines()][:2]
    assert wrong[2:] == ["line 12: /max-bytes needs a whole number, got 'many'.",
                         "line 13: /top-p must be in (0, 1], got 0."]
    assert call(program, path, "--max-bytes=3", input=b"no end of line").stdout.count(b"\n") == 1


def test_session_commands(program, path):
    done = call(program, path, input=b"/help\n/settings\n/quit\n")
    assert "/max-bytes N" in done.stdout.decode() and "max-bytes 256  min-p 0  seed 0  temp 0" in done.stdout.decode()


def test_a_session_on_a_terminal(program, path):
    """Questions, a bad one, Ctrl-C at the prompt and within an answer, Ctrl-D."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([program, path, "--max-bytes", "3"], stdin=follower, stdout=follower, stderr=follower,
                               start_new_session=True)
    os.close(follower)
    screen = read_until(leader, "> ")
    for line in (b"hello\n", b"/nonsense\n", b"/max-bytes 2000000000\n"):
        os.write(leader, line)
        screen += read_until(leader, "> ")
    interrupt_until_prompt(process, leader)
    os.write(leader, b"endless\n")
    while not select.select([leader], [], [], 0.1)[0]:
        pass
    interrupt_until_prompt(process, leader)
    os.write(leader, b"\x04")
    assert process.wait(60) == 0
    os.close(leader)
    assert "Ask something" in screen and "There is no command /nonsense" in screen


def interrupt_until_prompt(process, terminal: int) -> None:
    """Ctrl-C, again where it came before the program waited for input, until there is a new prompt and no more."""
    seen = ""
    for _ in range(60):
        process.send_signal(signal.SIGINT)
        while select.select([terminal], [], [], 1)[0] and len(seen) < 1 << 20:
            seen += os.read(terminal, 1 << 16).decode("utf-8", "replace")
        if seen.endswith("> "):
            return
    raise AssertionError(f"no prompt after Ctrl-C but {seen[-99:]!r}")


def read_until(terminal: int, end: str) -> str:
    seen = ""
    while not seen.endswith(end):
        assert select.select([terminal], [], [], 60)[0], f"nothing more came after {seen!r}"
        seen = (seen + os.read(terminal, 1024).decode("utf-8", "replace"))[-100000:]
    return seen


# --- what can go wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "message"), [
    (["--temp", "hot"], "--temp needs a number, got 'hot'"), (["--temp=nan"], "--temp needs a number"),
    (["--temp=101"], "--temp must be in 0..100, got 101"), (["--top-k", "257"], "--top-k must be in 0..256"),
    (["--top-p=0"], "--top-p must be in (0, 1]"), (["--min-p", "-1"], "--min-p must be in 0..1"),
    (["--seed=-1"], "--seed must be in 0..2^64-1"), (["--seed", str(2**64)], "--seed must be in 0..2^64-1"),
    (["--max-bytes", "1.5"], "--max-bytes needs a whole number"), (["--max-bytes"], "--max-bytes needs a value"),
    (["--threads=0"], "--threads must be in 1..256, got 0"), (["--level=vax"], "choose one of: scalar"),
    (["--bank", "x"], "There is no flag --bank here"), (["--raw=1"], "--raw takes no value"), (["-x"], "no flag -x"),
    ([b"-\xf8\xc3\xa9"], "There is no flag -\ufffdé here"), (["--level", b"\xff"], "level is '\ufffd'"),
    (["two", "prompts"], "Put the prompt in quotes"), (["--stdin"], "either PROMPT or --stdin")])
def test_bad_flags(program, path, flags, message):
    assert message in sentence(program, path, "prompt", *flags)


def test_bad_files(program, path, tmp_path):
    data = bytearray(Path(path).read_bytes())
    (tmp_path / "cut").write_bytes(data[:-1])
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    (tmp_path / "empty").write_bytes(b"")
    write_container(tmp_path / "bank", {}, format="ghost-memory", config_json=SMALL.to_json())
    for verb in ([], ["bench"], ["check"], ["info"]):
        for name, message in (("cut", "is damaged"), ("damaged", "checksum does not match"), ("empty", "is empty"),
                              ("missing", "No such file"), ("bank", "'ghost-packed' is needed"),
                              (".", "is a directory")):
            assert message in sentence(program, *verb, str(tmp_path / name)), (verb, name)
    assert "b\ufffd" in sentence(program, os.fsencode(tmp_path) + b"/b\xff")  # a name need not be UTF-8
    assert "Name a packed model file" in sentence(program, "--raw")
    assert "needs one file" in sentence(program, "check")


def test_when_the_reader_leaves_or_the_disk_is_full(program, path):
    reader, writer = os.pipe()
    os.close(reader)  # before the program starts: it may write all it has sooner than we could leave
    left = subprocess.run([program, path, "x", "--stream"], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert left.returncode == 141 and left.stderr == b""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([program, "info", path], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2 and b"no space is left on the disk" in done.stderr
    for verb in ("bench --repeats 1 --threads 1", "check --prompts 1"):
        done = subprocess.run(["sh", "-c", f"'{program}' {verb} '{path}' >/dev/full"], stderr=subprocess.PIPE)
        assert done.returncode == 2 and b"no space is left on the disk" in done.stderr
    done = subprocess.run(["sh", "-c", f"'{program}' '{path}' </"], stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr == b"ghost-run: Cannot read standard input: Is a directory.\n"
    done = subprocess.run(["sh", "-c", f"'{program}' '{path}' x >&-"], stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.startswith(b"ghost-run: Cannot write to standard output")


def test_too_little_memory_is_a_sentence(program, path):
    limits = [*range(2_000, 12_000, 500), 1_000_000]
    seen = set()
    for kilobytes in limits:
        done = subprocess.run(["sh", "-c", f"ulimit -v {kilobytes}; exec '{program}' '{path}' x --threads 4"],
                              capture_output=True)
        if done.stderr.startswith(b"ghost-run: "):
            assert done.returncode == 2 and done.stderr.count(b"\n") == 1
            seen.add("memory" if b"not enough memory" in done.stderr else "threads")
        else:  # not even the C library found room, or all went well
            assert done.returncode in (0, 127) or done.returncode < 0
    assert done.returncode == 0 and seen


def test_help_and_version(program):
    from ghost_ref import __version__

    text = call(program, "--help").stdout.decode()
    assert text == call(program).stdout.decode() == call(program, "check", "-h").stdout.decode()
    assert text.startswith("usage: ghost-run FILE.ghost [PROMPT]") and "exit code" in text
    assert call(program, "--version").stdout.decode() == f"ghost-run {__version__}\n"


# --- reports ---------------------------------------------------------------------------------------------------------


def test_info(program, path):
    report = json.loads(call(program, "info", path, "--json", "--threads=2").stdout)
    assert report["config"] == SMALL.to_dict() and report["bytes"] == os.path.getsize(path)
    runtime = report["runtime"]
    assert runtime["threads"] == 2 and runtime["model_bytes"] > runtime["state_bytes"] > 0
    text = call(program, "info", path, "--level=scalar").stdout.decode()
    assert f"{os.path.getsize(path):,}" in text and "level: scalar (set by --level)" in text
    better = re.findall(r"^  not (\w+): (this CPU|the operating system|--level asks for scalar)", text, re.MULTILINE)
    assert len(better) == text.count("\n  not ")
    for name, value in SMALL.to_dict().items():
        assert f"\n  {name} {json.dumps(value, separators=(',', ':')) if name != 'linear' else value}\n" in text


def test_bench(program, path):
    report = json.loads(call(program, "bench", path, "--json", "--repeats=2", "--threads=2").stdout)
    (run,) = report["runs"]
    assert run["threads"] == 2 and run["peak_bytes"] > 100_000 and run["load_seconds"] > 0
    for name in ("prefill", "decode", "first_byte"):
        assert 0 < run[name]["lowest"] <= run[name]["median"] <= run[name]["highest"]
    text = call(program, "bench", path, "--repeats=1", env={**os.environ, "GHOST_ISA": "scalar"}).stdout.decode()
    assert "level: scalar (set by GHOST_ISA)" in text and "prefill bytes/s" in text


MOST_MEMORY = 2.85  # times the file, of v12: the promise is below 3; the pages of the C library vary a little
only_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="NOT RUN: no /proc tells a peak here")


def peak_memory(pid: int) -> int:
    """Bytes: the most that was resident so far (VmHWM), 0 if the process has ended."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@only_linux
@pytest.mark.parametrize("threads", [1, 2])
def test_peak_memory_of_bench(program, v12, threads):
    report = json.loads(call(program, "bench", str(v12), "--json", "--repeats=1", f"--threads={threads}").stdout)
    (run,) = report["runs"]
    assert run["peak_bytes"] < MOST_MEMORY * v12.stat().st_size


@only_linux
@pytest.mark.parametrize("threads", [1, 2])
def test_peak_memory_of_a_long_session(program, v12, threads):
    """Many streamed answers to questions of 1 to 3,000 bytes: nothing may stay behind from one to the next."""
    command = [program, v12, "--stream", "--max-bytes=40", "--temp=1", f"--threads={threads}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for size in (1, 300, 3000, 7, 1000, 64, 2000):
            process.stdin.write(b"q" * size + b"\n")
        process.stdin.write(b"/settings\n")
        process.stdin.flush()
        assert any(b"max-bytes 40" in line for line in process.stdout)  # now it waits for the next line
        peak = peak_memory(process.pid)
    assert process.returncode == 0 and 0 < peak < MOST_MEMORY * v12.stat().st_size


@only_linux
def test_peak_memory_of_check(program, v12):
    """It loads the model for every level and number of threads: nothing may stay behind from one to the next."""
    with subprocess.Popen([program, "check", v12, "--prompts=4"], stdout=subprocess.PIPE) as process:
        peak = max(peak_memory(process.pid) for _ in process.stdout)
    assert process.returncode == 0 and 0 < peak < 2.98 * v12.stat().st_size


def checked(done: subprocess.CompletedProcess[bytes]) -> dict[tuple[str, int], tuple[str, str]]:
    """{(level, threads): (hash of logits, hash of answers)} of a successful check."""
    assert done.returncode == 0, done
    rows = re.findall(r"^(\w+) +(\d) +([0-9a-f]{16})  ([0-9a-f]{16})$", done.stdout.decode(), re.MULTILINE)
    assert done.stdout.decode().splitlines()[-1].endswith("the same bits everywhere")
    return {(level, int(threads)): (logits, answers) for level, threads, logits, answers in rows}


def test_check_prints_the_hash_of_the_reference(program, path):
    expected = expected_check(Path(path), 30)
    results = checked(call(program, "check", path, "--prompts=30"))
    assert set(results.values()) == {expected} and {threads for _, threads in results} == {1, 2, 3}
    assert {level for level, _ in results} >= {"scalar"}
    other = checked(call(program, "check", path, "--prompts=31", "--level=scalar", "--threads=1"))
    assert list(other) == [("scalar", 1)] and not set(other.values()) & {expected}


def test_the_binary_is_small_and_needs_only_the_c_library(program, path):
    if not shutil.which("readelf"):
        pytest.skip("NOT RUN: no readelf")
    assert os.path.getsize(program) < 400_000
    dynamic = call("readelf", "-d", program).stdout.decode()
    libraries = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert all(re.match(r"(libc|libm|ld-linux.*)\.so", name) for name in libraries), libraries
    assert b".symtab" not in call("readelf", "-S", program).stdout


# --- other machines --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_aarch64_computes_the_same_bits(tiny):
    """100 prompts of 1 to 64 bytes at every level, with dot products and on a CPU that has none."""
    compiler, emulator, root = AARCH64
    if not shutil.which(emulator):
        pytest.skip(f"NOT RUN: no {emulator}")
    program = str(build("device-aarch64", compiler) / "ghost-run")
    assert os.path.getsize(program) < 400_000
    expected = expected_check(tiny, 100)
    run = [emulator, "-L", root]
    results = checked(call(*run, program, "check", str(tiny), "--prompts=100", "--threads=1"))
    assert results == {(level, 1): expected for level in ("scalar", "neon", "neondot")}
    assert set(checked(call(*run, program, "check", str(tiny), "--prompts=100", "--threads=2",
                            "--level=neondot")).values()) == {expected}
    old = call(*run[:1], "-cpu", "cortex-a53", *run[1:], program, "check", str(tiny), "--prompts=100", "--threads=1")
    assert checked(old) == {(level, 1): expected for level in ("scalar", "neon")}
    refused = next(line for line in old.stdout.decode().splitlines() if line.startswith("neondot"))
    assert "not run: this CPU has no dot products" in refused


@pytest.fixture(scope="module")
def i686() -> Path:
    return build("device-i686", I686, STATIC="1")


@pytest.mark.slow
def test_i686_computes_the_same_bits(i686, tiny):
    expected = expected_check(tiny, 100)
    results = checked(call(str(i686 / "ghost-run"), "check", str(tiny), "--prompts=100"))
    assert results == {("scalar", threads): expected for threads in (1, 2, 3)}


@pytest.mark.slow
def test_i686_does_no_arithmetic_in_x87(i686):
    """Values pass through x87 registers where the calling convention wants it, and 64-bit integers become numbers
    there (exactly: its significand has 64 bits; so is -1, which 1 is made into); nothing else may happen in them."""
    core = [i686 / f"{unit.stem}.o" for unit in (Path(__file__).parents[1] / "ext/core").glob("*.cpp")]
    for unit in filter(Path.exists, core):
        code = call("objdump", "-d", "--no-show-raw-insn", str(unit)).stdout.decode()
        used = set(re.findall(r"\t(f[a-z0-9]+)\b", code))
        allowed = {"fld", "flds", "fldl", "fldt", "fst", "fsts", "fstl", "fstp", "fstps", "fstpl", "fstpt", "fxch",
                   "fldz", "fld1", "fchs", "fildll"}
        assert used <= allowed, f"{unit.name}: {sorted(used - allowed)}"
    assert np.sum([unit.exists() for unit in core]) >= 15
