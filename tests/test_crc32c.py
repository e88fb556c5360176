"""CRC-32C against published vectors and against its definition."""

import numpy as np
import pytest

from ghost_ref.crc32c import POLYNOMIAL, crc32c, numpy_crc32c


def table_crc(data: bytes) -> int:
    """One bit at a time, straight from the definition."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (POLYNOMIAL if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize("function", [crc32c, numpy_crc32c, table_crc])
@pytest.mark.parametrize("data, expected", [
    (b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E), (bytes(range(31, -1, -1)), 0x113FDB5C)])
def test_crc_vectors(function, data, expected):
    """RFC 3720, section B.4, and the check value of the CRC catalogue."""
    assert function(data) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 4095, 4096, 4097, 16383, 16384, 32769, 65537])
def test_numpy_crc_equals_table_crc(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    expected = table_crc(data.tobytes())
    for same in (data, data.tobytes(), bytearray(data), memoryview(data)):
        assert numpy_crc32c(same) == crc32c(same) == expected
