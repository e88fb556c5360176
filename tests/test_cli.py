"""The command line: every verb, its JSON, its exit codes, and a sentence for every bad input."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import SMALL, random_weights

from ghost_ref import cli, runtime, training, verify
from ghost_ref.checkpoint import FILE_NAME
from ghost_ref.cli import VERBS, main, training_display
from ghost_ref.errors import GhostError
from ghost_ref.packed import save_packed
from ghost_ref.runtime import Model, load

ROOT = Path(__file__).parents[1]
GHOST = [sys.executable, "-m", "ghost_ref"]
MINIATURE = [f"--set={setting}" for setting in (
    "d_model=16", "d_ff=16", "dt_rank=2", "d_state=4", "codebook_group=16", "batch_size=2", "eval_interval=2",
    "stop_when_solved=false")]


@pytest.fixture(autouse=True)
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb loads the reference, so that the tests need no native code."""
    monkeypatch.setattr(runtime, "have_native", lambda: False)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("model") / "small.ghost"
    save_packed(file, random_weights(SMALL, 1), SMALL)
    return str(file)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "qa10"
    assert train(out) == 0
    return out


def train(out: Path, *more: str, data: str = "qa10", steps: int = 2) -> int:
    return main(["train", "--data", data, "--out", str(out), "--steps", str(steps), *MINIATURE, *more])


def sentence(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    """The one line on stderr of a command that must fail."""
    assert main(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("ghost: ") and line.endswith(".")
    return line


def report(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    """The JSON document of a command."""
    assert main([*argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def ghost(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*GHOST, *argv], cwd=ROOT, capture_output=True, timeout=120, **options)


# --- help, version, dispatch -----------------------------------------------------------------------------------------


def test_overview_and_version(capsys) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    assert main([]) == 0 and capsys.readouterr().out == text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "ghost 0.1.0\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: ghost {verb}" in text and text.count(f"ghost {verb} ") >= 3


@pytest.mark.parametrize("action", ["add", "ask", "list", "forget"])
def test_every_memory_action_has_help(action: str, capsys) -> None:
    assert main(["memory", "100%.ghost", action, "--help"]) == 0
    assert "--bank" in capsys.readouterr().out


def test_help_does_not_import_numpy() -> None:
    code = ("import sys; from ghost_ref.cli import main; code = main(['--help']); "
            "sys.exit(code or any(name.split('.')[0] in ('numpy', 'rich') for name in sys.modules))")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize(("argv", "message"), [
    (["fly"], "no verb 'fly'"),
    (["eval"], "required: --data"),
    (["run", "m.ghost", "--tmp", "1", "q"], "unrecognized arguments: --tmp"),
    (["run", "m.ghost", "q", "--temp", "warm"], "invalid float value: 'warm'"),
    (["run", "m.ghost", "q", "--threads", "0"], "must be in 1..256, got 0"),
    (["train", "--data", "qa10", "--out", "x", "--steps", "2", "--minutes", "1"], "not both"),
    (["run", "m.ghost", "q", "--temp", "-1"], "temp must be in 0..100"),
    (["run", "m.ghost", "q", "--top-p", "nan"], "top_p must be finite"),
    (["pack", "somewhere"], "required: -o"),
    (["verify", "m.ghost", "--prompts", "0"], "must be in 1.."),
    (["memory", "m.ghost", "burn"], "invalid choice: 'burn'"),
])
def test_bad_arguments(argv: list[str], message: str, capsys) -> None:
    assert message in sentence(capsys, *argv)


@pytest.mark.parametrize(("error", "code", "message"), [
    (GhostError("A sentence."), 2, "ghost: A sentence.\n"),
    (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "/x: there is no permission"),
    (OSError(errno.ENOSPC, "No space left on device"), 2, "no space is left on the disk"),
    (OSError(errno.EIO, "Input/output error", "/x"), 2, "/x: Input/output error."),
    (MemoryError(), 2, "not enough memory"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
])
def test_errors_become_exit_codes_and_sentences(error, code, message, capsys, monkeypatch) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    monkeypatch.setattr(cli, "_close_stdout", lambda: None)
    assert main(["run"]) == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == bool(message)


# --- files that are no models ----------------------------------------------------------------------------------------


def damaged(path: str, kind: str, folder: Path) -> str:
    content = Path(path).read_bytes()
    out = folder / "bad.ghost"
    if kind == "directory":
        out.mkdir()
        return str(out)
    newer = content.replace(b'"format_version":"1"', b'"format_version":"2"')
    out.write_bytes({"empty": b"", "text": b"hello, world, this is no model", "cut": content[:-1], "newer": newer,
                     "flipped": content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]}[kind])
    return str(out)


@pytest.mark.parametrize("verb", ["run", "eval", "verify", "bench", "info", "memory"])
@pytest.mark.parametrize(("kind", "message"), [
    ("empty", "is empty"), ("text", "is not a Ghost file"), ("cut", "damaged"), ("flipped", "checksum"),
    ("newer", "newer Ghost"), ("absent", "there is no such file")])
def test_files_that_are_no_models(verb: str, kind: str, message: str, path: str, tmp_path, capsys) -> None:
    file = damaged(path, kind, tmp_path) if kind != "absent" else str(tmp_path / "absent.ghost")
    more = {"run": ["hello"], "eval": ["--data", "qa10"], "memory": ["list"]}.get(verb, [])
    assert message in sentence(capsys, verb, file, *more)


def test_a_directory_is_no_model(path: str, tmp_path, capsys) -> None:
    assert "is a directory" in sentence(capsys, "run", damaged(path, "directory", tmp_path), "hello")


# --- run -------------------------------------------------------------------------------------------------------------


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
                               stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
    os.close(follower)
    screen = read_until(leader, "> ")
    os.write(leader, b"hello\n")
    screen += read_until(leader, "> ")
    os.write(leader, b"/nonsense\n")
    screen += read_until(leader, "> ")
    while not select.select([leader], [], [], 1)[0]:  # a signal that comes before input() waits is not seen by it
        process.send_signal(signal.SIGINT)
    screen += read_until(leader, "> ")
    os.write(leader, b"\x04")
    assert process.wait(60) == 0
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


def test_output_in_a_terminal_without_utf8(path: str) -> None:
    done = ghost("run", path, "hello", "--max-bytes", "9", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stderr == b""


# --- eval, verify, bench, info ---------------------------------------------------------------------------------------


def test_eval_of_answers(path: str, capsys) -> None:
    result = report(capsys, "eval", path, "--data", "qa10")
    assert (result["protocol"], result["items"], result["data"]) == ("answers", 10, "qa10")
    assert result["wilson95"][0] <= result["share"] <= result["wilson95"][1]
    assert main(["eval", path, "--data", "qa10"]) == 0
    text = capsys.readouterr().out
    assert f"{result['right']} of 10" in text and text.count("wrong: ") == len(result["wrong"])


@pytest.mark.parametrize("protocol", ["p256", "ps"])
def test_eval_of_text(path: str, protocol: str, tmp_path, capsys) -> None:
    data = tmp_path / "text.txt"
    data.write_bytes(b"hello world, " * 40)
    flags = ["--protocol", protocol] if protocol == "ps" else []
    result = report(capsys, "eval", path, "--data", str(data), *flags)
    assert result["protocol"] == protocol and result["bytes"] == (512 if protocol == "p256" else 519)
    assert result["bits_per_byte"] == pytest.approx(result["nats_per_byte"] / np.log(2))
    assert main(["eval", path, "--data", str(data), *flags]) == 0
    assert f"{protocol}: {result['nats_per_byte']:.4f} nats" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.txt", b"", "is empty"), ("a.txt", b"abc\xc3(", "is not UTF-8"), ("a.txt", b"ab\xfbc", "0xFB at offset 2"),
    ("a.txt", b"short", "too few for p256"), ("a.csv", b"a,b", "no data set"), ("a.jsonl", b"", "is empty"),
    ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n', 'a.jsonl, line 2 lacks the key "completion"'),
    ("a.jsonl", b"{", "line 1 is not JSON")])
def test_bad_data(path: str, name: str, content: bytes, message: str, tmp_path, capsys) -> None:
    data = tmp_path / name
    data.write_bytes(content)
    assert message in sentence(capsys, "eval", path, "--data", str(data))


def test_a_protocol_for_other_data(path: str, tmp_path, capsys) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"hello" * 100)
    assert "use p256 or ps" in sentence(capsys, "eval", path, "--data", str(text), "--protocol", "answers")
    assert "use answers" in sentence(capsys, "eval", path, "--data", "qa10", "--protocol", "ps")
    assert "--data with pairs" in sentence(capsys, "eval", path, "--data", str(text), "--memory", "bank")


def test_verify_exits_with_1_on_a_difference(path: str, capsys, monkeypatch) -> None:
    run = {"level": "scalar", "threads": 1, "status": "equal", "logits_compared": 256}
    missing = {"level": "avx2", "threads": 1, "status": "not run", "reason": "This CPU has no AVX2."}
    wrong = {"level": "scalar", "threads": 2, "status": "different", "logits_compared": 256, "first_difference": {
        "prompt": 3, "array": "logits", "position": 5, "byte": 65, "expected": "1.0 (0x3f800000)", "got": "2.0"}}
    result = {"file": path, "prompts": 1, "bytes": 1, "equal": True, "runs": [run, missing]}
    monkeypatch.setattr(verify, "verify_file", lambda file, prompts, on_progress: {**result, "prompts": prompts})
    assert main(["verify", path, "--prompts", "7"]) == 0
    text = capsys.readouterr().out
    assert "7 prompts" in text and "NOT RUN: This CPU has no AVX2." in text and "equal, 256 logits" in text
    result |= {"equal": False, "runs": [run, wrong]}
    assert main(["verify", path]) == 1
    assert "DIFFERENT, first in logits of prompt 3, position 5, byte 65: expected 1.0" in capsys.readouterr().out
    assert report(capsys, "verify", path, code=1)["runs"][1]["first_difference"]["byte"] == 65


def test_verify_without_the_runtime(path: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr(verify, "have_native", lambda: False)
    assert "is not built" in sentence(capsys, "verify", path)


def test_bench(path: str, capsys) -> None:
    result = report(capsys, "bench", path, "--backend", "reference")
    assert result["level"] == "reference" and result["runs"][0]["decode"]["median"] > 0
    assert main(["bench", path, "--backend", "reference"]) == 0
    text = capsys.readouterr().out
    assert "decode bytes/s" in text and "level: the NumPy reference" in text


def test_info_of_a_file_adds_up_to_its_size(path: str, capsys) -> None:
    result = report(capsys, "info", path)
    size = os.path.getsize(path)
    assert result["bytes"] == size == result["storage"]["total"]
    assert sum(result["storage"].values()) == 2 * size
    assert result["config"] == SMALL.to_dict()
    assert main(["info", path]) == 0
    text = capsys.readouterr().out
    assert f"{result['parameters']:,} parameters" in text and f"{size:,}" in text


def test_info_of_a_run(run_dir: Path, capsys) -> None:
    result = report(capsys, "info", str(run_dir))
    assert result["progress"]["step"] == 2 and result["training"]["batch_size"] == 2
    assert result["config"]["d_model"] == 16
    assert result["files"][FILE_NAME] == (run_dir / FILE_NAME).stat().st_size
    assert result["storage"]["total"] == result["files"]["best.ghost"]
    assert main(["info", str(run_dir)]) == 0
    assert "progress" in capsys.readouterr().out


def test_info_of_a_directory_that_is_no_run(tmp_path, capsys) -> None:
    assert "there is no such file" in sentence(capsys, "info", str(tmp_path))


# --- train, pack -----------------------------------------------------------------------------------------------------


def test_train_reports(tmp_path, capsys) -> None:
    result = report(capsys, "train", "--data", "qa10", "--out", str(tmp_path / "run"), "--steps", "2", *MINIATURE)
    assert (result["reason"], result["step"]) == ("done", 2)
    assert result["packed"] == str(tmp_path / "run" / "best.ghost") and result["best"].endswith("of 10 answers right")


def test_train_shows_plain_lines_without_a_terminal(tmp_path, capsys) -> None:
    assert train(tmp_path / "run") == 0
    captured = capsys.readouterr()
    assert "parameters, 2 steps on qa10" in captured.err and "step 1/2  loss " in captured.err
    assert "bits/byte" in captured.err and "bytes/s" in captured.err and "left" in captured.err
    assert "step 2: " in captured.err and "Stopped after step 2" in captured.out


def test_train_shows_a_bar_on_a_terminal(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    step = {"event": "step", "step": 3, "steps": 9, "loss": 1.5, "bpb": 2.164, "bytes_per_second": 12345.6,
            "seconds_left": 83}
    with training_display.display() as shown:
        shown.on_event({"event": "start", "parameters": 1000, "steps": 9, "data": "qa10"})
        shown.on_event(step)
        shown.on_event({"event": "evaluation", "step": 3, "best": True, "share": 0.5, "right": 5, "items": 10})
        shown.on_event({**step, "rejected": "layers.0.mixer.D"})
    screen = capsys.readouterr().err
    assert isinstance(shown, training_display.Bar) and shown.best == "5 of 10 answers right"
    for part in ("loss 1.500", "2.164 bits/byte", "12,346 bytes/s", "1:23 left", "3/9", "mixer.D is not finite"):
        assert part in screen


@pytest.mark.parametrize(("more", "message"), [
    (["--preset", "v99"], "no preset 'v99'"), (["--set", "speed=9"], "no setting 'speed'"),
    (["--set", "lr"], "needs key=value"), (["--set", "lr=-1"], "lr must be positive"),
    (["--set", "d_model=wide"], "d_model must be of type int"),
    (["--backend", "abacus"], "no training backend 'abacus'"),
    (["--steps", "-1"], "steps must be zero or more"), (["--seed", "x"], "invalid int value: 'x'"),
    (["--resume"], "no checkpoint to resume")])
def test_bad_training_requests(more: list[str], message: str, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert message in sentence(capsys, "train", "--data", "qa10", "--out", str(out), *more)
    assert not out.exists()


def test_out_that_exists_is_refused(run_dir: Path, capsys) -> None:
    before = (run_dir / FILE_NAME).read_bytes()
    assert "already exists" in sentence(capsys, "train", "--data", "qa10", "--out", str(run_dir), *MINIATURE)
    assert (run_dir / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize(("flags", "message"), [
    (["--data", "qa20", "--steps", "2"], "not the data this run was trained on"),
    (["--data", "qa10", "--steps", "9"], "steps=2, not 9"),
    (["--data", "qa10", "--steps", "2", "--set", "d_state=5"], "d_state=4, not 5"),
    (["--data", "qa10", "--steps", "2", "--seed", "5"], "seed=0, not 5")])
def test_resume_with_something_else_is_refused(flags, message, run_dir: Path, capsys) -> None:
    assert message in sentence(capsys, "train", "--out", str(run_dir), *MINIATURE, "--resume", *flags)


def test_ctrl_c_leaves_a_run_that_resumes_to_the_same_bits(tmp_path, capsys, monkeypatch) -> None:
    class Interrupted(training_display.Lines):
        def on_event(self, event: dict[str, Any]) -> None:
            super().on_event(event)
            if event["event"] == "step" and event["step"] == 1:
                raise KeyboardInterrupt

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole, steps=3) == 0
    with monkeypatch.context() as patch:
        patch.setattr(training_display, "Lines", Interrupted)
        assert train(broken, steps=3) == 130
    captured = capsys.readouterr()
    assert "interrupted, a checkpoint is saved" in captured.out and "--resume" in captured.out
    assert train(broken, "--resume", steps=3) == 0
    assert (broken / FILE_NAME).read_bytes() == (whole / FILE_NAME).read_bytes()


def test_ctrl_c_in_a_real_process(tmp_path) -> None:
    out = tmp_path / "run"
    endless = ["--steps", "1000000", *MINIATURE, "--set=eval_interval=1000000"]
    argv = ["train", "--data", "qa10", "--out", str(out), *endless]
    process = subprocess.Popen([*GHOST, *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 100
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=100)
    assert process.returncode == 130 and b"Traceback" not in errors and b"--resume" in printed
    assert (out / FILE_NAME).exists()


def test_pack(run_dir: Path, tmp_path, capsys) -> None:
    out = tmp_path / "model.ghost"
    result = report(capsys, "pack", str(run_dir), "-o", str(out))
    assert result == {"file": str(out), "bytes": out.stat().st_size}
    assert load(out, backend="reference").config.d_model == 16
    out.write_bytes(b"precious")
    assert "already exists" in sentence(capsys, "pack", str(run_dir), "-o", str(out))
    assert out.read_bytes() == b"precious"
    assert main(["pack", str(run_dir), "-o", str(out), "--force"]) == 0
    assert "bytes" in capsys.readouterr().out and load(out, backend="reference").config.d_model == 16


def test_pack_of_no_run(tmp_path, capsys) -> None:
    out = str(tmp_path / "m.ghost")
    assert "There is no directory" in sentence(capsys, "pack", str(tmp_path / "absent"), "-o", out)
    assert "there is no such file" in sentence(capsys, "pack", str(tmp_path), "-o", out)


@pytest.mark.parametrize(("number", "message"), [(errno.ENOSPC, "no space is left"), (errno.EACCES, "no permission")])
def test_pack_where_nothing_can_be_written(number, message, run_dir: Path, tmp_path, capsys, monkeypatch) -> None:
    def fail(*args: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    out = tmp_path / "m.ghost"
    assert main(["pack", str(run_dir), "-o", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_permission_for_the_run_directory(tmp_path, capsys, monkeypatch) -> None:
    def fail(self, *args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(training.Path, "mkdir", fail)
    assert "there is no permission" in sentence(capsys, "train", "--data", "qa10", "--out", str(tmp_path / "run"))


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model_file(path: str, tmp_path: Path) -> str:
    copy = tmp_path / "own.ghost"
    copy.write_bytes(Path(path).read_bytes())
    return str(copy)


def test_memory_add_ask_list_forget(model_file: str, capsys) -> None:
    added = report(capsys, "memory", model_file, "add", "list pods", "kubectl get pods")
    assert (added["bank"], added["added"], added["entries"]) == (model_file + ".memory", 1, 1)
    assert main(["memory", model_file, "add", "bridge?", "Brücke", "--importance", "2.5"]) == 0
    assert "holds 2 of at most 8 entries" in capsys.readouterr().out
    assert main(["memory", model_file, "ask", "bridge?", "--min-similarity", "0.999"]) == 0
    assert capsys.readouterr().out == "Brücke\n"
    entries = report(capsys, "memory", model_file, "list")["entries"]
    assert [(e["prompt"], e["completion"], e["uses"]) for e in entries] == [
        ("list pods", "kubectl get pods", 0), ("bridge?", "Brücke", 1)]
    assert entries[1]["importance"] == 2.5
    assert main(["memory", model_file, "list"]) == 0
    assert "kubectl get pods" in capsys.readouterr().out
    assert report(capsys, "memory", model_file, "forget", "list pods")["entries"] == 1
    assert report(capsys, "memory", model_file, "forget", "--index", "0")["forgotten"] == 1
    assert report(capsys, "memory", model_file, "list")["entries"] == []


def test_memory_add_data_and_forget_all(model_file: str, tmp_path, capsys) -> None:
    bank = str(tmp_path / "elsewhere.bank")
    added = report(capsys, "memory", model_file, "add", "--data", "qa10", "--bank", bank)
    assert (added["added"], added["entries"], added["capacity"]) == (10, 8, 8)
    assert not os.path.exists(model_file + ".memory")
    result = report(capsys, "eval", model_file, "--data", "qa10", "--memory", bank)
    assert result["right"] >= 1 and result["memory"] == bank
    assert report(capsys, "memory", model_file, "forget", "--all", "--bank", bank)["forgotten"] == 8


def test_memory_adds_side_by_side_lose_nothing(model_file: str, capsys) -> None:
    calls = [subprocess.Popen([sys.executable, "-m", "ghost_ref", "memory", model_file, "add", f"q{i}", "c"])
             for i in range(4)]
    assert [call.wait() for call in calls] == [0] * 4
    assert {e["prompt"] for e in report(capsys, "memory", model_file, "list")["entries"]} == {"q0", "q1", "q2", "q3"}


def test_memory_ask_far_from_everything(model_file: str, capsys) -> None:
    assert main(["memory", model_file, "add", "a", "b"]) == 0
    capsys.readouterr()
    result = report(capsys, "memory", model_file, "ask", "zzz", "--min-similarity", "1.5", "--max-bytes", "4")
    assert result["from_memory"] is False and result["entry"] is None and isinstance(result["answer"], str)


@pytest.mark.parametrize(("argv", "message"), [
    (["ask", "q"], "There is no memory bank"), (["list"], "There is no memory bank"),
    (["forget", "q"], "There is no memory bank"), (["forget"], "needs one of"),
    (["forget", "q", "--all"], "needs one of"), (["add"], "needs either"), (["add", "q"], "needs either"),
    (["add", "q", "--data", "qa10"], "needs either"), (["add", "q", "c", "--data", "qa10"], "needs either"),
    (["add", "", "c"], "prompt is empty"), (["add", "q", ""], "completion is empty"),
    (["add", "q", "c", "--importance", "nan"], "must be finite"), (["add", "\udcfb", "c"], "reserved"),
    (["ask", "q", "--min-similarity", "nan"], "must be finite"),
    (["ask"], "required: PROMPT"), (["add", "--data", "qa11"], "no data set 'qa11'")])
def test_bad_memory_requests(argv: list[str], message: str, model_file: str, capsys) -> None:
    assert message in sentence(capsys, "memory", model_file, *argv)
    assert not os.path.exists(model_file + ".memory")


def test_memory_misses(model_file: str, tmp_path, capsys) -> None:
    assert main(["memory", model_file, "add", "a", "b"]) == 0
    capsys.readouterr()
    assert "has the prompt 'x'" in sentence(capsys, "memory", model_file, "forget", "x")
    assert "no entry 7" in sentence(capsys, "memory", model_file, "forget", "--index", "7")
    other = tmp_path / "other.ghost"
    save_packed(other, random_weights(SMALL, 2), SMALL)
    message = sentence(capsys, "memory", str(other), "ask", "a", "--bank", model_file + ".memory")
    assert "made with another model" in message
