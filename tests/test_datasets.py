"""The shipped question sets: counts, what each kind of row is, and answers that follow from the facts."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ghost_ref import data
from ghost_ref.data import SETS, load_dataset

COUNTS = {"qa10": 10, "qa20": 20, "hard": 45, "qa20_perturbed": 100, "qa20_paraphrase": 40}
THIRD_KEY = {"hard": "hops", "qa20_perturbed": "kind", "qa20_paraphrase": "kind"}


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in SETS[name].read_text(encoding="utf-8").splitlines()]


def prompts(name: str) -> list[str]:
    return [row["prompt"] for row in rows(name)]


def distance(a: str, b: str) -> int:
    """Optimal string alignment: insert, delete, replace, or swap two neighbours."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        replaced = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
        table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, replaced)
        if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
            table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


def words(prompt: str) -> list[str]:
    return prompt.lower().rstrip("?").replace(",", "").split()


def test_sets_are_those_documented():
    assert {load_dataset(name).name: len(load_dataset(name).pairs) for name in SETS} == COUNTS
    readme = (Path(data.__file__).parent / "datasets" / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` | {count} |" in readme for name, count in COUNTS.items())
    assert "21 facts, 16 questions over two of them, 8 over three" in readme
    assert "40 `typo`, 30 `case`, 30 `synonym`" in readme


@pytest.mark.parametrize("name", SETS)
def test_set_files_are_well_formed(name):
    content = SETS[name].read_bytes()
    assert content.endswith(b"\n") and b"\r" not in content and b"\n\n" not in content
    content.decode("utf-8")
    keys = ["prompt", "completion"] + ([THIRD_KEY[name]] if name in THIRD_KEY else [])
    assert all(list(row) == keys for row in rows(name))
    assert all(text == text.strip() for row in rows(name) for text in (row["prompt"], row["completion"]))
    assert len(set(prompts(name))) == COUNTS[name]
    for pair in load_dataset(name).pairs:
        assert 2 <= len(pair.completion) <= 48 and 8 <= len(pair.prompt) <= 64


def test_qa20():
    pairs = load_dataset("qa20").pairs
    assert load_dataset("qa10").pairs == pairs[:10]
    assert all(len(pair.prompt) <= 48 and pair.kind == "" for pair in pairs)
    assert len({pair.completion[0] for pair in pairs}) >= 16
    assert len({pair.completion[0] for pair in pairs[:10]}) == 10
    for a, b in itertools.combinations(prompts("qa20"), 2):
        assert distance(a.lower(), b.lower()) > 0.4 * max(len(a), len(b)), (a, b)


def test_perturbed_rows_are_what_their_kind_says():
    originals = {row["completion"]: row["prompt"] for row in rows("qa20")}
    assert len(originals) == 20
    perturbed = rows("qa20_perturbed")
    assert Counter(row["completion"] for row in perturbed) == dict.fromkeys(originals, 5)
    assert Counter(row["kind"] for row in perturbed) == {"typo": 40, "case": 30, "synonym": 30}
    for row in perturbed:
        prompt, original = row["prompt"], originals[row["completion"]]
        same_words = [a == b for a, b in zip(words(prompt), words(original), strict=True)]
        if row["kind"] == "case":
            assert prompt.lower() == original.lower() and prompt != original
        elif row["kind"] == "typo":
            assert 1 <= distance(prompt, original) <= 2 and prompt.lower() != original.lower(), row
        else:
            assert same_words.count(False) == 1, row
            assert distance(prompt, original) >= 2, row


def test_paraphrases_share_few_words():
    originals = {row["completion"]: row["prompt"] for row in rows("qa20")}
    paraphrases = rows("qa20_paraphrase")
    assert Counter(row["completion"] for row in paraphrases) == dict.fromkeys(originals, 2)
    assert {row["kind"] for row in paraphrases} == {"paraphrase"}
    for row in paraphrases:
        ours, theirs = set(words(row["prompt"])), set(words(originals[row["completion"]]))
        assert len(ours & theirs) <= 0.34 * len(ours | theirs), row


def test_evaluation_sets_hold_no_training_prompt_and_do_not_overlap():
    training = {*prompts("qa20"), *prompts("hard")}
    assert not training & {*prompts("qa20_perturbed"), *prompts("qa20_paraphrase")}
    assert not set(prompts("qa20_perturbed")) & set(prompts("qa20_paraphrase"))


# The world of `hard`: a fact's prompt with the relation it states, and a question's with its chain of
# relations, the first applied first.
FACTS = {
    r"In which city does (\w+) work\?": "works",
    r"Who taught (\w+)\?": "teacher",
    r"Which river crosses (\w+)\?": "river",
    r"Who is the mayor of (\w+)\?": "mayor",
    r"Where does the (\w+) end\?": "mouth",
}
CHAINS = {
    r"Which river crosses the city where (\w+) works\?": ("works", "river"),
    r"Who is the mayor of the city where (\w+) works\?": ("works", "mayor"),
    r"In which city does the teacher of (\w+) work\?": ("teacher", "works"),
    r"Where does the river that crosses (\w+) end\?": ("river", "mouth"),
    r"Where does the river of the city where (\w+) works end\?": ("works", "river", "mouth"),
    r"Which river crosses the city of the teacher of (\w+)\?": ("teacher", "works", "river"),
}


def matching(patterns: dict, prompt: str):
    """The value and the subject of the one pattern that the whole prompt matches."""
    (found,) = [(value, match[1]) for pattern, value in patterns.items()
                if (match := re.fullmatch(pattern, prompt))]
    return found


def test_hard_answers_follow_from_the_facts():
    world: dict[str, dict[str, str]] = {}
    for row in rows("hard"):
        if row["hops"] == 1:
            relation, subject = matching(FACTS, row["prompt"])
            assert subject not in world.setdefault(relation, {})
            world[relation][subject] = row["completion"]
    hops = Counter(row["hops"] for row in rows("hard"))
    assert hops == {1: 21, 2: 16, 3: 8} and hops[2] + hops[3] >= 20 and hops.total() <= 48
    for row in rows("hard"):
        if row["hops"] > 1:
            chain, answer = matching(CHAINS, row["prompt"])
            for relation in chain:
                answer = world[relation][answer]
            assert (answer, len(chain)) == (row["completion"], row["hops"])
