"""The command line as a whole: help, dispatch, exit codes, and files that are no models."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, sentence

from ghost_ref import cli
from ghost_ref.cli import VERBS, main
from ghost_ref.errors import GhostError


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
