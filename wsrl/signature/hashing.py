"""Pseudo-random numbers that are the same on every machine and for every version of NumPy."""

from hashlib import sha256

import numpy as np
from jaxtyping import Float64, UInt64

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(state: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014): a bijection of 64-bit words that scatters them."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def words(purpose: str, start: int, count: int) -> UInt64[np.ndarray, "count"]:
    """Returns words `start` to `start + count` of the stream of a purpose."""
    seed = np.frombuffer(sha256(purpose.encode()).digest()[:8], "<u8").astype(np.uint64)
    return mix(seed + np.arange(start + 1, start + count + 1, dtype=np.uint64) * GOLDEN)


def rademacher(purpose: str, start: int, count: int, columns: int) -> Float64[np.ndarray, "count columns"]:
    """Returns independent +-1, at most 64 columns, for each of `count` places from `start` on."""
    bits = np.unpackbits(words(purpose, start, count).astype("<u8").view(np.uint8).reshape(-1, 8), axis=1)
    return bits[:, :columns].astype(np.float64) * 2 - 1


def uniform(purpose: str, count: int) -> Float64[np.ndarray, "count"]:
    """Returns independent numbers, uniform on (0, 1)."""
    return ((words(purpose, 0, count) >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def gaussian(purpose: str, rows: int, columns: int) -> Float64[np.ndarray, "rows columns"]:
    """Returns independent standard normal numbers (Box and Muller 1958)."""
    count = rows * columns
    radius = np.sqrt(-2 * np.log(uniform(f"{purpose} radius", count)))
    return (radius * np.cos(2 * np.pi * uniform(f"{purpose} angle", count))).reshape(rows, columns)
