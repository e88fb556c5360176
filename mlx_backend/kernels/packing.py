"""Trits in 2 bits each, as the ternary matmul kernel reads them."""

from __future__ import annotations

import numpy as np

TRITS_PER_WORD = 16


def pack_trits(weight: np.ndarray) -> np.ndarray:
    """Trits (n, K) -> (n, ceil(K / 16)) uint32 of codes trit + 1, 16 to a word, lowest bits first; the end of a row is
    filled with zero trits."""
    rows, inner = weight.shape
    codes = np.ones((rows, -(-inner // TRITS_PER_WORD) * TRITS_PER_WORD), np.uint32)
    codes[:, :inner] = weight.astype(np.int8) + 1
    shifts = np.arange(0, 2 * TRITS_PER_WORD, 2, dtype=np.uint32)
    return np.bitwise_or.reduce(codes.reshape(rows, -1, TRITS_PER_WORD) << shifts, -1)
