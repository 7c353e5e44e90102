import numpy as np
import pytest

from wsrl.readers.crc32c import crc32c, masked

POLYNOMIAL = 0x82F63B78


def bit_by_bit(content):
    state = 0xFFFFFFFF
    for byte in content:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (POLYNOMIAL if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def test_known_checksums():  # RFC 3720, B.4, and the usual check value
    assert crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283
    assert crc32c(np.zeros(32, np.uint8)) == 0x8A9136AA
    assert masked(0) == 0xA282EAD8


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 70_001])
def test_long_stretches(size):
    data = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    assert crc32c(data) == bit_by_bit(data.tolist())


def test_blocks_of_all_sizes_join():
    data = np.random.default_rng(0).integers(0, 256, (1 << 20) + (1 << 16) + (1 << 12) + 5).astype(np.uint8)
    whole, flipped = crc32c(data), data.copy()
    flipped[-1] ^= 1
    assert crc32c(flipped) != whole
    flipped = data.copy()
    flipped[3] ^= 128
    assert crc32c(flipped) != whole
