"""The data loader, prompts, the training-time noise and the split of text."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ghost_ref import data
from ghost_ref.config import EOS, SEP
from ghost_ref.data import (
    SETS,
    VALID_LINE,
    Pair,
    encode_prompt,
    load_dataset,
    noisy_prompt,
    pair_bytes,
    split_text,
)
from ghost_ref.errors import GhostError

LINE = VALID_LINE.encode()
PODS = Pair(b"list pods", b"kubectl get pods")


def sentence(call, *arguments) -> str:
    """The text of the GhostError that the call raises; it must be one line and end with a full stop."""
    with pytest.raises(GhostError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


@pytest.fixture
def save(tmp_path: Path):
    def write(content: bytes, name: str = "data.jsonl") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write


# Loading


def test_pairs_are_loaded_in_order_with_their_kind(save):
    second = '{"completion": "Brücke", "kind": "typo", "prompt": "bridge", "note": 1}'.encode()
    loaded = load_dataset(save(LINE + b"\n" + second))
    assert loaded.pairs == (PODS, Pair(b"bridge", "Brücke".encode(), "typo"))
    assert (loaded.kind, loaded.text) == ("pairs", b"")
    assert loaded.name.endswith("data.jsonl")


@pytest.mark.parametrize("content", [
    LINE, LINE + b"\n", LINE + b"\r\n", b"\n \t\n" + LINE + b"\r\n\r\n", b"\xef\xbb\xbf" + LINE,
    LINE.replace(b": ", b":"), LINE.replace(b"li", b"\\u006ci"), LINE.replace(b"}", b', "kind": "typo"}'),
])
def test_line_ends_spacing_and_labels_change_neither_pairs_nor_digest(save, content):
    loaded = load_dataset(save(content))
    assert [(p.prompt, p.completion) for p in loaded.pairs] == [(PODS.prompt, PODS.completion)]
    expected = hashlib.sha256(b"pairs\nlist pods\xfbkubectl get pods\xff").hexdigest()
    assert loaded.digest == expected


@pytest.mark.parametrize("other", [
    LINE + b"\n" + LINE, LINE.replace(b"list", b"lists"), LINE.replace(b"get", b"Get"),
    b'{"prompt": "kubectl get pods", "completion": "list pods"}',
])
def test_other_pairs_give_another_digest(save, other):
    assert load_dataset(save(LINE, "a.jsonl")).digest != load_dataset(save(other, "b.jsonl")).digest


def test_text_is_kept_byte_for_byte(save):
    content = "\r\nBrücke\0 \n".encode()
    loaded = load_dataset(save(content, "data.TXT"))
    assert (loaded.kind, loaded.pairs, loaded.text) == ("text", (), content)
    assert loaded.digest == hashlib.sha256(b"text\n" + content).hexdigest()


def test_nul_is_allowed_in_pairs(save):
    loaded = load_dataset(save(b'{"prompt": "\\u0000", "completion": "a\\u0000b"}'))
    assert loaded.pairs == (Pair(b"\0", b"a\0b"),)


def test_only_a_line_feed_ends_a_line(save):
    content = '{"prompt": "a\u2028b",\r"completion": "c\u0085d"}'.encode()
    assert load_dataset(save(content)).pairs == (Pair("a\u2028b".encode(), "c\u0085d".encode()),)


TEXTS = st.text(min_size=1)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.booleans())
def test_any_text_survives_the_file(tmp_path_factory, items, ascii_only):
    items = [tuple(text.encode("utf-8", "replace").decode() for text in item) for item in items]
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}, ensure_ascii=ascii_only) + "\n"
                            for p, c in items), encoding="utf-8", newline="\n")
    assert [(p.prompt.decode(), p.completion.decode()) for p in load_dataset(str(path)).pairs] == items


# Sentences


@pytest.mark.parametrize("spec", ["qa30", "data.csv", "", "jsonl", "dir/"])
def test_unknown_set_names_the_choices(spec):
    text = sentence(load_dataset, spec)
    assert repr(spec) in text and ".jsonl" in text and ".txt" in text
    assert all(name in text for name in SETS)


def test_missing_file_and_directory(tmp_path):
    missing = str(tmp_path / "none.jsonl")
    assert f"There is no file {missing}" in sentence(load_dataset, missing)
    folder = tmp_path / "folder.txt"
    folder.mkdir()
    assert f"{folder} is a directory" in sentence(load_dataset, str(folder))


def test_no_permission(save, monkeypatch):
    path = save(LINE)

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert f"no permission to read {path}" in sentence(load_dataset, path)


@pytest.mark.parametrize("spec", ["a" * 5000 + ".txt", "nul\0.txt", "file.txt/data.txt"])
def test_other_failures_of_the_file_system(save, monkeypatch, tmp_path, spec):
    save(b"x", "file.txt")
    monkeypatch.chdir(tmp_path)
    assert "cannot be read" in sentence(load_dataset, spec)


def test_empty_files(save):
    path = save(b"")
    expected = f"{path} is empty; it must hold one pair a line, such as {VALID_LINE}."
    assert sentence(load_dataset, path) == expected
    path = save(b"", "data.txt")
    assert sentence(load_dataset, path) == f"{path} is empty; it must hold some text."


@pytest.mark.parametrize("content", [b"\n\r\n \n", b"\xef\xbb\xbf"])
def test_blank_file(save, content):
    path = save(content)
    assert sentence(load_dataset, path) == f"{path} holds blank lines only; a valid line is {VALID_LINE}."


@pytest.mark.parametrize("name", ["data.jsonl", "data.txt"])
@pytest.mark.parametrize("byte", range(0xF8, 0x100))
def test_reserved_bytes_are_named_with_their_offset(save, name, byte):
    path = save(b"abc\n" + bytes([byte]) + LINE, name)
    text = sentence(load_dataset, path)
    assert text.startswith(f"{path} holds the reserved control byte 0x{byte:02X} at offset 4;")


@pytest.mark.parametrize("name", ["data.jsonl", "data.txt"])
@pytest.mark.parametrize("tail", [
    b"\x80", b"\xc3(", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf5", b"\xc0\x80",
])
def test_not_utf8_is_named_with_its_offset(save, name, tail):
    path = save(LINE + b"\n" + tail, name)
    text = sentence(load_dataset, path)
    assert text.startswith(f"{path} is not UTF-8: the byte 0x{tail[0]:02X} at offset {len(LINE) + 1} ")


@pytest.mark.parametrize("line, message", [
    (b"list pods", " is not JSON"),
    (b'{"prompt": "a", "completion": "b"', " is not JSON"),
    (b"[" * 100_000, " is not JSON"),
    (b'{"prompt": ' + b"1" * 5000 + b"}", " is not JSON"),
    (b'{"prompt": "a\0", "completion": "b"}', " is not JSON"),
    (VALID_LINE.encode("utf-16-le"), " is not JSON"),
    (b'["a", "b"]', " is not a JSON object"),
    (b"null", " is not a JSON object"),
    (b"{}", ' lacks the key "prompt"'),
    (b'{"completion": "b"}', ' lacks the key "prompt"'),
    (b'{"prompt": "a"}', ' lacks the key "completion"'),
    (b'{"Prompt": "a", "completion": "b"}', ' lacks the key "prompt"'),
    (b'{"prompt": 1, "completion": "b"}', ': "prompt" must be a string'),
    (b'{"prompt": "a", "completion": null}', ': "completion" must be a string'),
    (b'{"prompt": "", "completion": "b"}', ': "prompt" is empty'),
    (b'{"prompt": "a", "completion": ""}', ': "completion" is empty'),
    (b'{"prompt": "a", "completion": "b", "kind": 1}', ': "kind" must be a string or absent'),
])
def test_bad_lines_name_file_line_key_and_a_valid_line(save, line, message):
    path = save(LINE + b"\n\n" + line + b"\n" + LINE)
    assert sentence(load_dataset, path) == f"{path}, line 3{message}; a valid line is {VALID_LINE}."


def test_the_example_line_is_valid(save):
    assert load_dataset(save(LINE)).pairs == (PODS,)


@pytest.mark.parametrize("key", ["prompt", "completion"])
def test_lone_surrogates(save, key):
    row = {"prompt": "ab", "completion": "ab"}
    path = save(LINE + b"\n" + json.dumps(row | {key: "ab\ud800"}).encode())
    text = sentence(load_dataset, path)
    assert text.startswith(f'{path}, line 2: "{key}" holds the lone surrogate U+D800 at character 2,')


# Prompts and pairs


@given(st.text(min_size=1).filter(lambda text: not re.search("[\ud800-\udfff]", text)))
def test_prompt_is_its_utf8_bytes(text):
    assert encode_prompt(text) == encode_prompt(text.encode()) == text.encode()


@pytest.mark.parametrize("prompt, message", [
    ("", "The prompt is empty; give at least one byte."),
    (b"", "The prompt is empty; give at least one byte."),
    (b"ab\xff", "The prompt holds the reserved control byte 0xFF at offset 2;"),
    (b"ab\x80", "The prompt is not UTF-8: the byte 0x80 at offset 2 "),
    ("a\udcff", "The prompt holds the lone surrogate U+DCFF at character 1,"),
])
def test_bad_prompts(prompt, message):
    assert sentence(encode_prompt, prompt).startswith(message)


@pytest.mark.parametrize("prompt", [None, 3, bytearray(b"a"), ["a"]])
def test_prompt_of_another_type(prompt):
    with pytest.raises(TypeError, match="must be str or bytes"):
        encode_prompt(prompt)


def test_pair_bytes():
    assert pair_bytes(PODS) == b"list pods" + bytes([SEP]) + b"kubectl get pods" + bytes([EOS])


# Noise

PROMPTS = st.text(min_size=1, max_size=40).map(lambda text: text.encode("utf-8", "replace"))
SEEDS = st.integers(0, 2**32 - 1)


def without_letters(text: bytes) -> bytes:
    return re.sub(rb"[A-Za-z]", b"", text)


@given(PROMPTS | st.text("aZ é", min_size=1, max_size=8).map(str.encode), SEEDS, st.floats(0, 1))
@example(b"a", 0, 1.0)
def test_noise_touches_ascii_letters_only(prompt, seed, rate):
    noisy = noisy_prompt(prompt, np.random.default_rng(seed), rate)
    assert len(noisy) >= 1
    noisy.decode("utf-8")
    assert without_letters(noisy) == without_letters(prompt)
    assert noisy == noisy_prompt(prompt, np.random.default_rng(seed), rate)


@given(PROMPTS, SEEDS)
def test_no_noise_at_rate_zero(prompt, seed):
    assert noisy_prompt(prompt, np.random.default_rng(seed), 0.0) == prompt


def test_a_letter_alone_is_never_dropped():
    assert {noisy_prompt(b"g", np.random.default_rng(seed), 1.0).lower() for seed in range(200)} == {
        b"g", b"gg", b"f", b"h"}


def test_each_edit_occurs_about_equally_often_and_no_other():
    class EditOnce:
        """A generator that edits position 1 of 3 and leaves the case of the whole alone."""

        def __init__(self, seed):
            self.rng = np.random.default_rng(seed)

        def random(self, size=None):
            return 1.0 if size is None else np.array([1.0, 0.0, 1.0])

        def integers(self, low, high, size):
            return self.rng.integers(low, high, size)

    seen = Counter(noisy_prompt(b"aSc", EditOnce(seed), 0.5) for seed in range(5000))
    assert set(seen) == {b"acS", b"ac", b"aSSc", b"asc", b"aAc", b"aDc"}
    for result in (b"acS", b"ac", b"aSSc", b"asc"):
        assert 880 < seen[result] < 1120
    assert 400 < seen[b"aAc"] < 600 and 400 < seen[b"aDc"] < 600


def test_rate_is_the_share_of_edited_letters():
    prompt = b"g " * 5000
    noisy = noisy_prompt(prompt, np.random.default_rng(1), 0.25).split(b" ")
    changed = sum(word != b"g" for word in noisy[:-1])
    # A fifth of the edits are swaps, which change nothing here: they need a letter after them.
    assert len(noisy) == 5001 and 900 < changed < 1100


def test_whole_prompt_changes_case_with_the_given_rate():
    class CaseOnly:
        """A generator that edits no letter; single draws are real."""

        def __init__(self, seed):
            self.rng = np.random.default_rng(seed)

        def random(self, size=None):
            return self.rng.random() if size is None else np.ones(size)

        def integers(self, low, high, size):
            return np.zeros(size, dtype=np.int64)

    seen = Counter(noisy_prompt("Bé".encode(), CaseOnly(seed), 0.5).decode() for seed in range(4000))
    assert set(seen) == {"Bé", "bé"}  # b"B\xc3\xa9" in upper case is itself
    assert 880 < seen["bé"] < 1120
    seen = Counter(noisy_prompt(b"Ab", CaseOnly(seed), 0.5) for seed in range(4000))
    assert set(seen) == {b"Ab", b"AB", b"ab"} and 1880 < seen[b"Ab"] < 2120 and 880 < seen[b"AB"] < 1120


def test_neighbour_keys():
    keys = {letter: {data._neighbour_key(letter.encode(), side).decode() for side in (0, 1)}
            for letter in "abcdefghijklmnopqrstuvwxyz"}
    assert keys["g"] == {"f", "h"} and keys["q"] == {"w"} and keys["m"] == {"n"} and keys["p"] == {"o"}
    assert all(letter not in near for letter, near in keys.items())
    assert all(letter in keys[other] for letter, near in keys.items() for other in near)
    assert data._neighbour_key(b"Q", 0) == b"W"


# Split


@pytest.mark.parametrize("text, fraction, cut", [
    (b"0123456789", 0.1, 9), (b"0123456789", 0.25, 7), (b"0123456789", 0.0, 10), (b"a", 0.0, 1),
    ("aé".encode(), 0.5, 1), ("a\U0001f600b".encode(), 0.2, 1), ("a\U0001f600b".encode(), 0.1, 5),
])
def test_split(text, fraction, cut):
    assert split_text(text, fraction) == (text[:cut], text[cut:])


def test_split_cuts_where_nanogpt_does():
    assert len(split_text(b"x" * 1_115_394, 0.1)[0]) == 1_003_854


@given(PROMPTS, st.floats(0, 1, exclude_max=True))
def test_split_keeps_characters_whole(text, fraction):
    try:
        training, validation = split_text(text, fraction)
    except GhostError:
        assert len(text[:int(len(text) * (1 - fraction))]) < 4
        return
    assert training + validation == text and training
    assert training.decode() + validation.decode() == text.decode()
    assert 0 <= int(len(text) * (1 - fraction)) - len(training) < 4


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2, float("nan")])
def test_split_fraction_out_of_range(fraction):
    assert "must be in [0, 1)" in sentence(split_text, b"abc", fraction)


@pytest.mark.parametrize("text, fraction", [(b"", 0.0), (b"a", 0.5), ("é".encode(), 0.5)])
def test_split_with_nothing_left(text, fraction):
    assert "leaves nothing to train on" in sentence(split_text, text, fraction)
