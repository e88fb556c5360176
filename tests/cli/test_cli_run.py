"""`ghost run`: answers, sessions, streams."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from command_line import GHOST, ROOT, ghost, sentence

from ghost_ref.cli import main
from ghost_ref.runtime import Model, load


def answers(monkeypatch: pytest.MonkeyPatch, text: str) -> list[bytes]:
    """Make every model answer `text`; returns the list of what it is asked."""
    asked: list[bytes] = []

    def generate(self, data, sampling, state=None):
        asked.append(data)
        yield from text.encode()[: sampling.max_bytes]

    monkeypatch.setattr(Model, "generate_bytes", generate)
    return asked


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_run_prints_the_answer_alone(path: str, capsys) -> None:
    expected = load(path, backend="reference").generate("list pods", max_bytes=20)
    assert main(["run", path, "--max-bytes", "20", "list pods"]) == 0
    captured = capsys.readouterr()
    assert captured.out == expected + "\n" and captured.err == ""


def test_run_passes_the_sampling_flags(path: str, capsys) -> None:
    options = {"max_bytes": 30, "temp": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "seed": 7}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert main(["run", path, "hello", *flags]) == 0
    assert capsys.readouterr().out == load(path, backend="reference").generate("hello", **options) + "\n"


def test_raw_adds_no_separator(path: str, capsys, monkeypatch) -> None:
    asked = answers(monkeypatch, "x")
    assert main(["run", path, "To be"]) == 0 and main(["run", path, "To be", "--raw"]) == 0
    assert asked == [b"To be\xfb", b"To be"]


def test_stream_prints_whole_characters_as_they_come(path: str, monkeypatch) -> None:
    answers(monkeypatch, "Brücke 🌉!")
    written: list[str] = []
    monkeypatch.setattr(sys, "stdout", Recorder(written))
    assert main(["run", path, "q", "--stream"]) == 0
    assert written[:-1] == list("Brücke 🌉!") and written[-1] == "\n"


class Recorder(io.StringIO):
    """A stdout that remembers what was shown at each flush."""

    def __init__(self, written: list[str]) -> None:
        super().__init__()
        self.written, self.shown = written, 0

    def flush(self) -> None:
        if self.getvalue()[self.shown :]:
            self.written.append(self.getvalue()[self.shown :])
        self.shown = len(self.getvalue())


@pytest.mark.parametrize(("prompt", "message"), [
    ("", "prompt is empty"), ("a\udcffb", "reserved control byte 0xFF at offset 1"),
    ("\udcc3", "not UTF-8"), ("\ud800", "lone surrogate")])
def test_bad_prompts(path: str, prompt: str, message: str, capsys) -> None:
    assert message in sentence(capsys, "run", path, prompt)


def test_prompts_from_a_pipe(path: str, capsys, monkeypatch) -> None:
    asked = answers(monkeypatch, "42")
    pipe(monkeypatch, b"first\r\n\n  \n/etc?\n\xc3\xbcber\nbad \xfb byte\n/temp 0.5\n/settings\n/exit\nnever\n")
    assert main(["run", path]) == 2
    captured = capsys.readouterr()
    assert asked == [b"first\xfb", "über".encode() + b"\xfb"]
    assert captured.out.splitlines()[:2] == ["42", "42"]
    assert "temp 0.5" in captured.out
    assert captured.err.splitlines() == [
        "ghost: line 4: There is no command /etc?; /help shows the commands.",
        "ghost: line 6: The prompt holds the reserved control byte 0xFB at offset 4; it must be UTF-8 text, which "
        "never holds the bytes 0xF8 to 0xFF."]


def test_session_commands(path: str, capsys, monkeypatch) -> None:
    answers(monkeypatch, "abcdefgh")
    pipe(monkeypatch, b"/max-bytes 3\nq\n/reset\nq\n/help\n/top_k many\n/temp 1000\n/quit\nq\n")
    assert main(["run", path, "--max-bytes", "5"]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[:2] == ["abc", "abcde"]
    assert "/max-bytes N" in captured.out and captured.out.count("abc") == 2
    assert "needs a number, got 'many'" in captured.err and "temp must be in 0..100" in captured.err


def test_a_session_on_a_terminal(path: str) -> None:
    """Through a real terminal: questions, a bad one, Ctrl-C at the prompt, and Ctrl-D."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([*GHOST, "run", path, "--max-bytes", "3"], cwd=ROOT,
                               stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
                               # a background job ignores SIGINT, and so would its children
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    os.close(follower)
    screen = read_until(leader, "> ")
    os.write(leader, b"hello\n")
    screen += read_until(leader, "> ")
    os.write(leader, b"/nonsense\n")
    screen += read_until(leader, "> ")
    while not select.select([leader], [], [], 1)[0]:  # a signal that comes before input() waits is not seen by it
        process.send_signal(signal.SIGINT)
    screen += read_until(leader, "> ")
    for _ in range(60):  # a second signal, still on its way, makes readline forget what it has read
        os.write(leader, b"\x04")
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
            break
    assert process.wait(1) == 0
    os.close(leader)
    assert "Ask something" in screen and "There is no command /nonsense" in screen and "Traceback" not in screen


def read_until(terminal: int, end: str) -> str:
    seen = ""
    while not seen.endswith(end):
        assert select.select([terminal], [], [], 60)[0], f"nothing more came after {seen!r}"
        seen += os.read(terminal, 1024).decode("utf-8", "replace")
    return seen


def test_ctrl_c_stops_the_answer_not_the_session(path: str, capsys, monkeypatch) -> None:
    asked: list[bytes] = []

    def generate(self, data, sampling, state=None):
        asked.append(data)
        yield ord("a")
        if len(asked) == 1:
            raise KeyboardInterrupt
        yield ord("b")

    lines = iter(["one", "two"])

    def read_line(prompt: str = "") -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(Model, "generate_bytes", generate)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", read_line)
    assert main(["run", path]) == 0
    assert asked == [b"one\xfb", b"two\xfb"]
    assert capsys.readouterr().out.splitlines()[1:3] == ["a", "ab"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_no_traceback_when_the_reader_leaves_or_the_disk_is_full(path: str, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen([*GHOST, "info", path], cwd=ROOT, env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 141
    process.stderr.close()
    if os.path.exists("/dev/full"):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([*GHOST, "info", path], cwd=ROOT, env=environment, stdout=full,
                                  stderr=subprocess.PIPE)
        assert done.returncode == 2
        assert done.stderr.startswith(b"ghost: ") and b"no space is left on the disk" in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_closed_standard_streams_get_a_sentence(path: str) -> None:
    for redirection, message in ((">&-", b"Standard output is closed"), ("<&-", b"Standard input is closed")):
        prompt = "hello" if redirection == ">&-" else ""
        done = subprocess.run(["sh", "-c", f'"$0" -m ghost_ref run "$1" {prompt} --max-bytes 2 {redirection}', GHOST[0],
                               path], cwd=ROOT, capture_output=True)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count(b"\n") == 1
    done = subprocess.run(["sh", "-c", '"$0" -m ghost_ref run "$1" "" 2>&-', GHOST[0], path], cwd=ROOT,
                          capture_output=True)
    assert done.returncode == 2 and done.stdout == b""


def test_output_in_a_terminal_without_utf8(path: str) -> None:
    done = ghost("run", path, "hello", "--max-bytes", "9", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stderr == b""
