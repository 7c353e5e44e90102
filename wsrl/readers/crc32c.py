"""CRC-32C (Castagnoli), by which TensorFlow and LevelDB guard their files, on many stretches of the bytes at once.

The state after bytes is linear in the state before them and in the bytes. So stretches of equal length are gone through
side by side, and their results are joined in pairs by the matrix that stands for a stretch of zeros.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import UInt8, UInt32

POLYNOMIAL = 0x82F63B78  # bits in reverse order
ONES = 0xFFFFFFFF
BLOCKS = ((1 << 20, 1 << 12), (1 << 16, 1 << 10), (1 << 12, 1 << 6))  # bytes at once, and of how many stretches
MASK_DELTA = 0xA282EAD8  # added to checksums that are stored beside what they guard

Matrix = UInt32[np.ndarray, "32"]  # over two elements; entry i is what the matrix makes of bit i


def crc32c(data: UInt8[np.ndarray, " bytes"]) -> int:
    """Returns the checksum of the bytes."""
    state, at = ONES, 0
    for size, count in BLOCKS:
        while at + size <= len(data):
            state = int(_applied(_zeros(size), np.array([state], np.uint32))[0])
            state ^= _from_zero(data[at : at + size], count)
            at += size
    table = _table().tolist()
    for byte in data[at:].tolist():
        state = table[(state ^ byte) & 255] ^ (state >> 8)
    return state ^ ONES


def masked(checksum: int) -> int:
    """A checksum as it is stored: https://github.com/google/leveldb, `util/crc32c.h`."""
    return ((checksum >> 15 | checksum << 17) + MASK_DELTA) & ONES


def _from_zero(block: UInt8[np.ndarray, " bytes"], count: int) -> int:
    """The state after the bytes, if it was zero before, from `count` stretches."""
    columns = np.ascontiguousarray(block.reshape(count, -1).T).astype(np.uint32)
    table, state = _table(), np.zeros(count, np.uint32)
    for column in columns:
        state = table[(state ^ column) & 255] ^ (state >> 8)
    matrix = _zeros(len(columns))
    while len(state) > 1:
        state = _applied(matrix, state[::2]) ^ state[1::2]
        matrix = _applied(matrix, matrix)
    return int(state[0])


def _applied(matrix: Matrix, states: UInt32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    result = np.zeros_like(states)
    for bit in range(32):
        result ^= np.where(states >> np.uint32(bit) & 1, matrix[bit], np.uint32(0))
    return result


@lru_cache(maxsize=8)
def _zeros(length: int) -> Matrix:
    """What a stretch of zeros does to the state."""
    result = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
    power = _table()[result & 255] ^ (result >> 8)  # one zero
    while length:
        result = _applied(power, result) if length & 1 else result
        power, length = _applied(power, power), length >> 1
    return result


@lru_cache(maxsize=1)
def _table() -> UInt32[np.ndarray, "256"]:
    """What each byte does to a state of zero."""
    state = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        state = (state >> 1) ^ np.where(state & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return state
