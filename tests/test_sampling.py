"""Philox against its published vectors, the sampling rules against plain float64, UTF-8 streaming."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_ref.config import EOS, RESERVED_BYTES, SamplingConfig
from ghost_ref.errors import GhostError
from ghost_ref.philox import philox4x32
from ghost_ref.sampling import NEVER_CHOSEN, choose_byte, uniform
from ghost_ref.text_stream import Utf8Stream

ALLOWED = [b for b in range(256) if b not in RESERVED_BYTES or b == EOS]


def random_logits(rng: np.random.Generator, scale: float = 2.0) -> np.ndarray:
    return (scale * rng.standard_normal(256)).astype(np.float32)


# Philox


# Random123 1.14, tests/kat_vectors: counter, key, expected words.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    out = philox4x32(words(counter), words(key))
    assert out.dtype == np.uint32
    assert out.tolist() == words(expected)


def test_philox_broadcasts_over_leading_axes():
    rng = np.random.default_rng(0)
    counter = rng.integers(0, 1 << 32, (3, 1, 4), dtype=np.uint32)
    key = rng.integers(0, 1 << 32, (5, 2), dtype=np.uint32)
    out = philox4x32(counter, key)
    assert out.shape == (3, 5, 4)
    for i in range(3):
        for j in range(5):
            assert np.array_equal(out[i, j], philox4x32(counter[i, 0], key[j]))


def test_philox_refuses_wrong_widths():
    with pytest.raises(ValueError, match="counter"):
        philox4x32([0, 0, 0], [0, 0])
    with pytest.raises(OverflowError):
        philox4x32([1 << 32, 0, 0, 0], [0, 0])


def test_uniform_uses_both_halves_of_seed_and_step():
    assert uniform(0, 0) == np.float32((0x6627E8D5 >> 8) / 2**24)
    values = {float(uniform(seed, step)) for seed in (0, 1, 1 << 32) for step in (0, 1, 1 << 32)}
    assert len(values) == 9
    assert all(0 <= v < 1 for v in values)
    steps = np.array([uniform(7, step) for step in range(4096)])
    assert steps.dtype == np.float32 and steps.max() > 0.999 and steps.min() < 0.001
    assert abs(steps.mean() - 0.5) < 0.02


# Greedy and refusals


def test_greedy_takes_the_lowest_of_equal_bytes():
    logits = np.zeros(256, np.float32)
    assert choose_byte(logits, SamplingConfig(), 0) == 0
    logits[[200, 100, 101]] = 1
    assert choose_byte(logits, SamplingConfig(), 0) == 100
    logits[:] = -5
    logits[40], logits[30] = 0.0, -0.0
    assert choose_byte(logits, SamplingConfig(), 0) == 30


@pytest.mark.parametrize("temp", [1e-50, 1e-45, 1e-30, 1e-6])
def test_a_tiny_temperature_is_greedy(temp):
    logits = random_logits(np.random.default_rng(1), 30)
    assert choose_byte(logits, SamplingConfig(temp=temp), 5) == choose_byte(logits, SamplingConfig(), 5)


@pytest.mark.parametrize("temp", [0.0, 1.0, 100.0])
def test_reserved_bytes_are_never_chosen(temp):
    assert NEVER_CHOSEN == (0xF8, 0xF9, 0xFA, 0xFB, 0xFE)
    logits = np.full(256, -3e38, np.float32)
    logits[list(NEVER_CHOSEN)] = 3e38
    chosen = {choose_byte(logits, SamplingConfig(temp=temp), step) for step in range(200)}
    assert chosen.isdisjoint(NEVER_CHOSEN)
    logits[EOS] = 1
    assert choose_byte(logits, SamplingConfig(temp=temp), 0) == EOS


@pytest.mark.parametrize("temp", [0.0, 1.0])
@pytest.mark.parametrize("byte", [0, 65, 0xF8, EOS])
def test_nan_is_refused(temp, byte):
    logits = np.zeros(256, np.float32)
    logits[byte] = np.nan
    with pytest.raises(GhostError, match="NaN"):
        choose_byte(logits, SamplingConfig(temp=temp), 0)


@pytest.mark.parametrize("temp", [0.0, 1.0])
def test_an_infinite_highest_logit_is_refused(temp):
    logits = np.zeros(256, np.float32)
    logits[3] = np.inf
    with pytest.raises(GhostError, match="infinite"):
        choose_byte(logits, SamplingConfig(temp=temp), 0)
    logits[:] = -np.inf
    logits[0xF8] = 0
    with pytest.raises(GhostError, match="infinite"):
        choose_byte(logits, SamplingConfig(temp=temp), 0)


def test_minus_infinity_has_probability_zero():
    logits = np.full(256, -np.inf, np.float32)
    logits[[9, 77]] = 0
    chosen = {choose_byte(logits, SamplingConfig(temp=100.0), step) for step in range(100)}
    assert chosen == {9, 77}


def test_wrong_shape_or_dtype_is_refused():
    with pytest.raises(ValueError, match="float32"):
        choose_byte(np.zeros(255, np.float32), SamplingConfig(), 0)
    with pytest.raises(ValueError, match="float32"):
        choose_byte(np.zeros(256), SamplingConfig(), 0)  # type: ignore[arg-type]


# The rules


def slow_distribution(logits: np.ndarray, config: SamplingConfig) -> list[tuple[int, float]]:
    """(byte, probability) in sorted order, written as plainly as possible in float64."""
    ranked = sorted(ALLOWED, key=lambda b: (-float(logits[b]), b))
    if config.top_k:
        ranked = ranked[:config.top_k]
    highest = max(float(logits[b]) for b in ranked)
    weights = [np.exp((float(logits[b]) - highest) / config.temp) for b in ranked]
    probabilities = [w / sum(weights) for w in weights]
    kept = []
    for byte, p in zip(ranked, probabilities):
        kept.append((byte, p))
        if config.top_p < 1 and sum(q for _, q in kept) >= config.top_p:
            break
    kept = [(byte, p) for byte, p in kept if p >= config.min_p * probabilities[0]]
    total = sum(p for _, p in kept)
    return [(byte, p / total) for byte, p in kept]


def slow_choice(distribution: list[tuple[int, float]], u: float) -> tuple[int, float]:
    """The chosen byte, and how far u is from the nearest border between two bytes."""
    borders = np.cumsum([p for _, p in distribution])
    index = min(int(np.argmax(borders > u)), len(borders) - 1)
    return distribution[index][0], float(np.min(np.abs(borders - u)))


CONFIGS = [
    SamplingConfig(temp=1.0),
    SamplingConfig(temp=0.7, top_k=40),
    SamplingConfig(temp=1.3, top_p=0.9),
    SamplingConfig(temp=1.0, min_p=0.05),
    SamplingConfig(temp=0.8, top_k=1),
    SamplingConfig(temp=2.0, top_k=50, top_p=0.8, min_p=0.1),
    SamplingConfig(temp=1.0, top_p=1e-50),
    SamplingConfig(temp=1.0, min_p=1.0),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_rules_agree_with_a_slow_float64_version(config):
    rng = np.random.default_rng(2)
    compared = 0
    for step in range(300):
        config = config.replace(seed=int(rng.integers(0, 1 << 63)))
        logits = random_logits(rng)
        expected, margin = slow_choice(slow_distribution(logits, config), float(uniform(config.seed, step)))
        if margin > 1e-5:
            compared += 1
            assert choose_byte(logits, config, step) == expected
    assert compared > 250


def test_top_p_takes_the_shortest_prefix_that_reaches_p():
    logits = np.full(256, -np.inf, np.float32)
    logits[[50, 20, 30, 10]] = 0  # four bytes of exactly 1/4, in the order 10, 20, 30, 50
    for top_p, expected in [(0.2, {10}), (0.25, {10}), (0.26, {10, 20}), (0.5, {10, 20}),
                            (0.75, {10, 20, 30}), (0.76, {10, 20, 30, 50}), (1.0, {10, 20, 30, 50})]:
        config = SamplingConfig(temp=1.0, top_p=top_p)
        assert {choose_byte(logits, config, step) for step in range(100)} == expected


def test_ties_at_the_border_of_top_k_go_to_the_lowest_bytes():
    logits = np.zeros(256, np.float32)
    logits[9] = 0.5
    config = SamplingConfig(temp=1.0, top_k=3)
    assert {choose_byte(logits, config, step) for step in range(100)} == {9, 0, 1}


def test_min_p_is_relative_to_the_most_probable_byte():
    logits = np.full(256, -np.inf, np.float32)
    logits[[1, 2, 3]] = np.log([1.0, 0.5, 0.1]).astype(np.float32)
    for min_p, expected in [(0.0, {1, 2, 3}), (0.09, {1, 2, 3}), (0.11, {1, 2}), (0.49, {1, 2}), (0.51, {1})]:
        config = SamplingConfig(temp=1.0, min_p=min_p)
        assert {choose_byte(logits, config, step) for step in range(200)} == expected


def test_top_p_of_one_keeps_the_whole_tail(monkeypatch):
    logits = np.full(256, -11, np.float32)
    logits[:100] = 0  # rounding lets the running sum reach 1 at about byte 230
    monkeypatch.setattr("ghost_ref.sampling.uniform", lambda seed, step: np.float32(1 - 2.0**-24))
    assert choose_byte(logits, SamplingConfig(temp=1.0), 0) == 255
    assert choose_byte(logits, SamplingConfig(temp=1.0, top_p=1 - 2.0**-24), 0) < 245


@pytest.mark.parametrize("config", [SamplingConfig(temp=1.0, seed=11),
                                    SamplingConfig(temp=0.9, top_k=20, top_p=0.95, min_p=0.01, seed=12)])
def test_frequencies_follow_the_distribution(config):
    draws = 20_000
    logits = random_logits(np.random.default_rng(3))
    distribution = slow_distribution(logits, config)
    counts = np.bincount([choose_byte(logits, config, step) for step in range(draws)], minlength=256)
    expected = np.array([draws * p for _, p in distribution])
    observed = np.array([counts[byte] for byte, _ in distribution])
    assert observed.sum() == draws  # nothing outside the kept bytes
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum()) if rare.any() else expected
    observed = np.append(observed[~rare], observed[rare].sum()) if rare.any() else observed
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)  # four standard deviations


def test_the_same_seed_and_step_give_the_same_byte_in_any_order():
    logits = random_logits(np.random.default_rng(4))
    config = SamplingConfig(temp=1.0, seed=(1 << 64) - 1)
    kept = logits.copy()
    forward = [choose_byte(logits, config, step) for step in range(64)]
    backward = [choose_byte(logits, config, step) for step in reversed(range(64))]
    assert forward == backward[::-1]
    assert forward != [choose_byte(logits, config.replace(seed=1), step) for step in range(64)]
    assert np.array_equal(logits, kept)


@st.composite
def sampling_cases(draw):
    """Logits with many ties, infinities and extremes; any valid options; any step."""
    pool = draw(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    logits = rng.choice(np.array(pool, np.float32), 256)
    if draw(st.booleans()):
        logits[rng.integers(0, 248)] = rng.normal()
    unit = st.floats(0, 1)
    word = st.integers(0, (1 << 64) - 1)
    config = SamplingConfig(temp=draw(st.floats(0, 100)), top_k=draw(st.integers(0, 256)),
                            top_p=draw(unit.filter(bool)), min_p=draw(unit), seed=draw(word))
    return logits, config, draw(word)


def choice_or_refusal(logits: np.ndarray, config: SamplingConfig, step: int) -> int:
    """choose_byte, with the refusal as the -1 of the C++ core."""
    try:
        return choose_byte(logits, config, step)
    except GhostError:
        return -1


@given(sampling_cases())
def test_every_choice_is_allowed_and_possible(case):
    logits, config, step = case
    byte = choice_or_refusal(logits, config, step)
    highest = logits[ALLOWED].max()
    if not np.isfinite(highest):
        assert byte == -1
    else:
        assert byte in ALLOWED and np.isfinite(logits[byte])
        if config.top_k == 1 or config.min_p == 1 or np.float32(config.temp) == 0:
            assert logits[byte] == highest
        ranked = sorted(ALLOWED, key=lambda b: (-logits[b], b))
        assert byte in ranked[:config.top_k or 256]


# The C++ twin


@pytest.fixture(scope="module")
def native():
    return pytest.importorskip("ghost_ref._native", reason="the C++ runtime is not built: run `make build`")


def assert_native_agrees(native, logits: np.ndarray, config: SamplingConfig, step: int) -> None:
    expected = choice_or_refusal(logits, config, step)
    options = (config.temp, config.top_k, config.top_p, config.min_p, config.seed)
    for level in native.levels():
        assert native.choose_byte(logits, *options, step, level) == expected, level


def test_native_chooses_the_same_bytes(native):
    rng = np.random.default_rng(5)
    for step in range(3000):
        logits = random_logits(rng, float(rng.choice([0.1, 1.0, 3.0, 30.0])))
        if step % 2:
            logits = np.round(logits * 4) / 4  # many ties
        config = SamplingConfig(temp=float(rng.choice([0.0, 0.3, 1.0, 2.5])),
                                top_k=int(rng.choice([0, 1, 5, 100, 256])),
                                top_p=float(rng.choice([1.0, 0.95, 0.5, 1e-3])),
                                min_p=float(rng.choice([0.0, 0.02, 0.5])), seed=int(rng.integers(0, 1 << 63)))
        assert_native_agrees(native, logits, config, step)


@given(case=sampling_cases(), nan=st.booleans())
def test_native_agrees_on_extreme_cases(native, case, nan):
    logits, config, step = case
    if nan:
        logits[17] = np.nan
    assert_native_agrees(native, logits, config, step)


# Text


SAMPLE = "naïve: 日本語 🦊 e\u0301\n"


@given(st.one_of(st.text().map(str.encode), st.binary()), st.lists(st.integers(0, 60)))
def test_pieces_are_the_text_of_the_joined_bytes(data, cuts):
    stream, pieces, start = Utf8Stream(), [], 0
    for cut in sorted(min(c, len(data)) for c in cuts):
        pieces.append(stream.feed(data[start:cut]))
        start = cut
    pieces += [stream.feed(data[start:]), stream.flush()]
    assert "".join(pieces) == data.decode("utf-8", "replace")


def test_no_piece_holds_half_a_character():
    stream = Utf8Stream()
    pieces = [stream.feed(bytes([byte])) for byte in SAMPLE.encode()]
    assert "".join(pieces) == SAMPLE
    assert [p for p in pieces if p] == list(SAMPLE)
    assert stream.flush() == ""


def test_flush_replaces_an_unfinished_character_and_starts_afresh():
    stream = Utf8Stream()
    assert stream.feed("🦊".encode()[:3]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.feed(b"ok") == "ok"
    assert stream.feed(b"\xff") == "\ufffd"
