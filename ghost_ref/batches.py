"""Batches of bytes: a pure function of (data, training config, step), so that training can resume anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ghost_ref.config import EOS, PAD, SEP, TrainingConfig
from ghost_ref.data import Dataset, Pair, noisy_prompt, pair_bytes
from ghost_ref.errors import GhostError

WINDOWS, NOISE, DROPOUT, ENTRIES, ORDER = range(1, 6)  # independent random streams; 0 is initialise's
VALUE_BYTES = 8  # of a memory entry, seen by the memory layers


def random_stream(seed: int, purpose: int, step: int, shard: int = 0) -> np.random.Generator:
    """The generator of one purpose at one step: counter-based (Philox), nothing is carried over."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, shard, step]))


@dataclass(frozen=True)
class Batch:
    """tokens, targets (B, L) uint8; loss_mask, valid (B, L): where the loss is taken, targets that are not PAD."""

    tokens: np.ndarray
    targets: np.ndarray
    loss_mask: np.ndarray
    valid: np.ndarray

    def split(self, shards: int) -> list[Batch]:
        """The rows in at most `shards` consecutive parts."""
        parts = min(shards, len(self.tokens))
        arrays = [np.array_split(a, parts) for a in (self.tokens, self.targets, self.loss_mask, self.valid)]
        return [Batch(*rows) for rows in zip(*arrays, strict=True)]


def make_batch(data: Dataset, training: TrainingConfig, step: int) -> Batch:
    """The batch of a step: random windows of a text, or shuffled prompt/completion pairs padded to one length."""
    if data.kind == "text":
        return _text_batch(data.text, training, step)
    return _pairs_batch(data.pairs, training, step)


def check_trainable(data: Dataset, training: TrainingConfig) -> None:
    """Raise GhostError if the data cannot fill a batch."""
    if data.kind == "text":
        if len(data.text) < training.seq_len + 1:
            raise GhostError(f"{data.name} has {len(data.text)} bytes of training text, fewer than seq_len + 1 = "
                             f"{training.seq_len + 1}; give more text or lower seq_len.")
        return
    longest = max(len(pair_bytes(pair)) for pair in data.pairs)
    if longest > training.seq_len:
        raise GhostError(f"{data.name} holds a prompt and completion of {longest} bytes, more than seq_len = "
                         f"{training.seq_len}; raise it with --set seq_len={longest}.")


def _text_batch(text: bytes, training: TrainingConfig, step: int) -> Batch:
    rng = random_stream(training.seed, WINDOWS, step)
    starts = rng.integers(0, len(text) - training.seq_len, training.batch_size)
    content = np.frombuffer(text, np.uint8)
    windows = content[starts[:, None] + np.arange(training.seq_len + 1)]
    everywhere = np.ones((training.batch_size, training.seq_len), bool)
    return Batch(windows[:, :-1], windows[:, 1:], everywhere, everywhere)


def _pairs_batch(pairs: tuple[Pair, ...], training: TrainingConfig, step: int) -> Batch:
    noise = random_stream(training.seed, NOISE, step)
    sequences = []
    for i in range(training.batch_size):
        epoch, position = divmod(step * training.batch_size + i, len(pairs))
        order = random_stream(training.seed, ORDER, epoch).permutation(len(pairs))
        pair = pairs[order[position]]
        if training.prompt_noise and noise.random() < 0.5:  # the other half stays as written
            noisy = Pair(noisy_prompt(pair.prompt, noise, training.prompt_noise), pair.completion, pair.kind)
            pair = noisy if len(pair_bytes(noisy)) <= training.seq_len else pair
        sequences.append(pair_bytes(pair))
    return pad_sequences(sequences)


@dataclass(frozen=True)
class MemoryEntries:
    """Positions (rows, columns), each (M,), whose hidden states the memory layers see in the next step, and the bytes
    that followed them: values (M, 8) uint8, of which the first counts (M,) are bytes of the row."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    counts: np.ndarray


def memory_entries(batch: Batch, training: TrainingConfig, step: int) -> MemoryEntries:
    """`training.memory_entries` random valid positions of the batch, in order; some repeat when there are fewer."""
    rng = random_stream(training.seed, ENTRIES, step)
    rows, columns = np.nonzero(batch.valid)
    count = training.memory_entries
    chosen = np.sort(rng.choice(len(rows), count, replace=len(rows) < count))
    rows, columns = rows[chosen], columns[chosen]
    following = np.pad(batch.targets, ((0, 0), (0, VALUE_BYTES)), constant_values=PAD)
    values = following[rows[:, None], columns[:, None] + np.arange(VALUE_BYTES)]
    counts = np.maximum((np.cumsum(values == PAD, 1) == 0).sum(1), 1).astype(np.int32)
    return MemoryEntries(rows, columns, values, counts)


def pad_sequences(sequences: list[bytes]) -> Batch:
    """Pairs side by side, PAD on the right; the loss is taken on the completion and EOS."""
    width = max(len(s) for s in sequences)
    content = np.full((len(sequences), width), PAD, np.uint8)
    for row, sequence in zip(content, sequences, strict=True):
        row[: len(sequence)] = np.frombuffer(sequence, np.uint8)
    tokens, targets = content[:, :-1], content[:, 1:]
    after_separator = np.cumsum(tokens == SEP, 1) > 0
    valid = targets != PAD
    tokens = np.where(tokens == EOS, PAD, tokens)  # nothing is read after the end
    return Batch(tokens, targets, after_separator & valid, valid)
