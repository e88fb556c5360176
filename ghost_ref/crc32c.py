"""CRC-32C (Castagnoli), the checksum of every Ghost file.

Reflected polynomial 0x82F63B78, start and final XOR 0xFFFFFFFF (RFC 3720, section B.4). The compiled module
does the work where it is built; the NumPy version below gives the same number without it.
"""

from __future__ import annotations

import importlib

import numpy as np

POLYNOMIAL = 0x82F63B78
# Below this many bytes the plain loop is faster than setting up lanes.
SHORT = 4096


def crc32c(data: bytes | bytearray | memoryview | np.ndarray, before: int = 0) -> int:
    """CRC-32C of the bytes of a contiguous buffer, 0 .. 2^32-1. before: the CRC-32C of what comes before them."""
    return _native_crc32c(data, before) if _native_crc32c is not None else numpy_crc32c(data, before)


def numpy_crc32c(data: bytes | bytearray | memoryview | np.ndarray, before: int = 0) -> int:
    """``crc32c`` in NumPy alone.

    The buffer is cut into equal lanes whose checksums advance together, two bytes a step. A CRC register is
    linear over GF(2), so reg(A || B) = zeros_|B|(reg(A)) xor reg_0(B), where zeros_n appends n zero bytes and
    reg_0 starts from zero; neighbouring lanes are joined pairwise by that rule."""
    octets = np.frombuffer(data, np.uint8)
    register, done = before ^ 0xFFFFFFFF, 0
    if octets.size >= SHORT:
        lanes = 1 << (octets.size.bit_length() // 2 - 1)
        length = octets.size // lanes // 2 * 2
        done = lanes * length
        register = _lanes_register(octets[:done].reshape(lanes, length), register)
    table = _BYTE_TABLE.tolist()
    for octet in octets[done:].tolist():
        register = table[(register ^ octet) & 0xFF] ^ (register >> 8)
    return register ^ 0xFFFFFFFF


def _lanes_register(rows: np.ndarray, register: int) -> int:
    """The register after all bytes of ``rows`` (a power of two, of even length), started at ``register``."""
    words = rows.view("<u2")
    registers = np.zeros(rows.shape[0], np.uint32)
    registers[0] = register
    for column in np.ascontiguousarray(words.T):
        registers = _PAIR_TABLE[(registers ^ column) & np.uint32(0xFFFF)] ^ (registers >> np.uint32(16))
    matrix = _zeros_matrix(rows.shape[1])
    while registers.size > 1:
        registers = _apply(matrix, registers[0::2]) ^ registers[1::2]
        matrix = _apply(matrix, matrix)
    return int(registers[0])


def _zeros_matrix(count: int) -> np.ndarray:
    """The GF(2) matrix that appends ``count`` zero bytes: entry i is the image of bit i; uint32 (32,)."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result, power = bits, _advance(bits)
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result


def _apply(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The GF(2) product of ``matrix`` with each vector; uint32 (n,)."""
    result = np.zeros_like(vectors)
    for i in range(32):
        result ^= matrix[i] * ((vectors >> np.uint32(i)) & np.uint32(1))
    return result


def _advance(registers: np.ndarray) -> np.ndarray:
    """Registers after eight zero bits."""
    for _ in range(8):
        registers = (registers >> np.uint32(1)) ^ (np.uint32(POLYNOMIAL) * (registers & np.uint32(1)))
    return registers


_BYTE_TABLE = _advance(np.arange(256, dtype=np.uint32))
_PAIR_TABLE = _advance(_advance(np.arange(65536, dtype=np.uint32)))

try:
    _native_crc32c = importlib.import_module("ghost_ref._native").crc32c
except ImportError:  # built without native code
    _native_crc32c = None
