"""Training and evaluation data: question-and-answer pairs (JSONL) or plain text, always as checked bytes.

A pair is read by the model as ``prompt SEP completion EOS``. SEP, EOS and the other control symbols are among
the bytes 0xF8..0xFF, which valid UTF-8 never holds; input that holds one is refused with its offset.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ghost_ref.config import EOS, SEP
from ghost_ref.errors import GhostError

SETS = {name: Path(__file__).parent / "datasets" / f"{name}.jsonl"
        for name in ("qa10", "qa20", "hard", "qa20_perturbed", "qa20_paraphrase")}
"""Name of each shipped question set, and its packaged file."""

VALID_LINE = '{"prompt": "list pods", "completion": "kubectl get pods"}'

_RESERVED = re.compile(rb"[\xf8-\xff]")
_KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_KEY_NEIGHBOURS = {ord(key): (row[max(i - 1, 0)] + row[i + 1:i + 2]).replace(key, "").encode()
                   for row in _KEY_ROWS for i, key in enumerate(row)}


@dataclass(frozen=True)
class Pair:
    """One question with its answer, as UTF-8 bytes, neither of them empty; ``kind`` labels rows of an
    evaluation set (typo, case, synonym, paraphrase) and is empty elsewhere."""

    prompt: bytes
    completion: bytes
    kind: str = ""


@dataclass(frozen=True)
class Dataset:
    """Checked data: ``pairs`` (then ``text`` is empty) or ``text`` (then ``pairs`` is empty).

    ``digest`` is the SHA-256, in hexadecimal, of ``kind``, LF and the bytes the model sees (``text``, or each
    pair's ``pair_bytes``): files with the same pairs but other line ends, spacing or labels have one digest.
    """

    name: str
    kind: Literal["pairs", "text"]
    pairs: tuple[Pair, ...]
    text: bytes
    digest: str


def load_dataset(spec: str) -> Dataset:
    """The data named by ``spec``: a shipped set (``SETS``), a ``.jsonl`` file of pairs or a ``.txt`` file.

    JSONL: one object a line with non-empty strings "prompt" and "completion", and optionally a string "kind";
    other keys are ignored. Lines end with LF or CRLF; blank lines and a leading byte order mark are skipped.
    Text is taken byte for byte, CRLF included. NUL is allowed (in JSON as \\u0000).

    Raises GhostError when the file cannot be read, is empty, is not UTF-8, holds a reserved byte, or has a
    bad line (named, counted from 1).
    """
    if spec in SETS:
        return _pairs_dataset(spec, SETS[spec].read_bytes())
    suffix = Path(spec).suffix.lower()
    if suffix not in (".jsonl", ".txt"):
        raise GhostError(f"There is no data set {spec!r}; give one of {', '.join(SETS)}, "
                         "or a file whose name ends in .jsonl (pairs) or .txt (text).")
    content = _read(spec)
    if not content:
        example = f"one pair a line, such as {VALID_LINE}" if suffix == ".jsonl" else "some text"
        raise GhostError(f"{spec} is empty; it must hold {example}.")
    check_bytes(content, spec)
    if suffix == ".jsonl":
        return _pairs_dataset(spec, content)
    return Dataset(spec, "text", (), content, hashlib.sha256(b"text\n" + content).hexdigest())


def check_bytes(content: bytes, name: str) -> None:
    """Raises GhostError, naming the offset, if ``content`` holds a byte 0xF8..0xFF or is not UTF-8."""
    reserved = _RESERVED.search(content)
    if reserved:
        offset = reserved.start()
        raise GhostError(f"{name} holds the reserved control byte 0x{content[offset]:02X} at offset {offset};"
                         " it must be UTF-8 text, which never holds the bytes 0xF8 to 0xFF.")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GhostError(f"{name} is not UTF-8: the byte 0x{content[error.start]:02X} at offset {error.start}"
                         " does not belong there; save it as UTF-8.") from None


def encode_prompt(text: str | bytes) -> bytes:
    """The prompt as checked UTF-8 bytes.

    Raises GhostError for an empty prompt, a reserved byte, bytes that are not UTF-8 or a string with a lone
    surrogate; TypeError for anything but str or bytes.
    """
    if not isinstance(text, str | bytes):
        raise TypeError(f"A prompt must be str or bytes, got {type(text).__name__}.")
    prompt = _encode(text, "The prompt") if isinstance(text, str) else text
    if not prompt:
        raise GhostError("The prompt is empty; give at least one byte.")
    check_bytes(prompt, "The prompt")
    return prompt


def pair_bytes(pair: Pair) -> bytes:
    """The byte string the model trains on: ``prompt SEP completion EOS``."""
    return pair.prompt + bytes((SEP,)) + pair.completion + bytes((EOS,))


def noisy_prompt(prompt: bytes, rng: np.random.Generator, rate: float) -> bytes:
    """A misspelt copy of a prompt, for training-time augmentation.

    Each ASCII letter gets, with probability ``rate``, one of five equally likely edits: swapped with the next
    byte if that is a letter too, dropped, doubled, its case flipped, or replaced by a neighbour in its row of
    a QWERTY keyboard. Then, with probability ``rate``, all ASCII letters become upper or all lower case. All
    other bytes stay, in order, so UTF-8 stays UTF-8. The result depends on ``prompt``, ``rate`` and the state
    of ``rng`` alone, and a prompt of at least one byte never becomes empty.
    """
    hit = rng.random(len(prompt)) < rate
    edit = rng.integers(0, 5, len(prompt))
    side = rng.integers(0, 2, len(prompt))
    noisy = bytearray()
    t = 0
    while t < len(prompt):
        letter, after = prompt[t:t + 1], prompt[t + 1:t + 2]
        if hit[t] and letter.isalpha():
            if edit[t] == 0 and after.isalpha():
                noisy += after
                t += 1
            elif edit[t] == 1:
                letter = b""
            elif edit[t] == 2:
                letter += letter
            elif edit[t] == 3:
                letter = letter.swapcase()
            elif edit[t] == 4:
                letter = _neighbour_key(letter, int(side[t]))
        noisy += letter
        t += 1
    if rng.random() < rate:
        noisy = noisy.upper() if rng.random() < 0.5 else noisy.lower()
    return bytes(noisy) or prompt


def split_text(text: bytes, validation_fraction: float) -> tuple[bytes, bytes]:
    """(training, validation): the first int(n * (1 - validation_fraction)) of n bytes, and the rest.

    A cut inside a UTF-8 character moves back to its first byte. Raises GhostError if the fraction is not in
    [0, 1) or nothing is left to train on.
    """
    if not 0 <= validation_fraction < 1:
        raise GhostError(f"validation_fraction must be in [0, 1), got {validation_fraction!r}.")
    cut = int(len(text) * (1 - validation_fraction))
    while 0 < cut < len(text) and text[cut] & 0xC0 == 0x80:
        cut -= 1
    if cut == 0:
        raise GhostError(f"A text of {len(text)} bytes leaves nothing to train on after setting "
                         f"{validation_fraction} of it aside for validation; give a longer text.")
    return text[:cut], text[cut:]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise GhostError(f"There is no file {path}; check the path, or name one of the shipped sets: "
                         f"{', '.join(SETS)}.") from None
    except IsADirectoryError:
        raise GhostError(f"{path} is a directory; give a .jsonl or .txt file.") from None
    except PermissionError:
        raise GhostError(f"There is no permission to read {path}; change its mode or its owner.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise GhostError(f"{path!r} cannot be read: {error}.") from None


def _pairs_dataset(name: str, content: bytes) -> Dataset:
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    pairs = tuple(_parse_line(line, f"{name}, line {number}")
                  for number, line in enumerate(lines, start=1) if line.strip())
    if not pairs:
        raise GhostError(f"{name} holds blank lines only; a valid line is {VALID_LINE}.")
    seen = b"".join(pair_bytes(pair) for pair in pairs)
    return Dataset(name, "pairs", pairs, b"", hashlib.sha256(b"pairs\n" + seen).hexdigest())


def _parse_line(line: bytes, where: str) -> Pair:
    try:
        row = json.loads(line.decode())  # loads() would guess an encoding from bytes
    except (ValueError, RecursionError):
        raise GhostError(f"{where} is not JSON; a valid line is {VALID_LINE}.") from None
    if not isinstance(row, dict):
        raise GhostError(f"{where} is not a JSON object; a valid line is {VALID_LINE}.")
    kind = row.get("kind", "")
    if not isinstance(kind, str):
        raise GhostError(f'{where}: "kind" must be a string or absent; a valid line is {VALID_LINE}.')
    return Pair(_field(row, "prompt", where), _field(row, "completion", where), kind)


def _field(row: dict[str, Any], key: str, where: str) -> bytes:
    if key not in row:
        raise GhostError(f'{where} lacks the key "{key}"; a valid line is {VALID_LINE}.')
    if not isinstance(row[key], str):
        raise GhostError(f'{where}: "{key}" must be a string; a valid line is {VALID_LINE}.')
    if not row[key]:
        raise GhostError(f'{where}: "{key}" is empty; a valid line is {VALID_LINE}.')
    return _encode(row[key], f'{where}: "{key}"')


def _encode(text: str, name: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise GhostError(f"{name} holds the lone surrogate U+{ord(text[error.start]):04X} at character "
                         f"{error.start}, which has no UTF-8 form; remove it.") from None


def _neighbour_key(letter: bytes, side: int) -> bytes:
    neighbours = _KEY_NEIGHBOURS[letter.lower()[0]]
    key = neighbours[side % len(neighbours):][:1]
    return key.upper() if letter.isupper() else key
