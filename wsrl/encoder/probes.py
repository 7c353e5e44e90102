"""What a sweep starts from: fixed states, the same on every machine and in whatever pieces they are asked for.

The 64 columns of a state are the places of an image of 8 x 8 that goes on periodically.
"""

from functools import lru_cache
from hashlib import sha256
from math import isqrt, prod

import numpy as np
from jaxtyping import Float64, Int

SIDE = 8
COLUMNS = SIDE * SIDE  # bits of a hash


def signs(purpose: str, start: int, count: int) -> Float64[np.ndarray, "count columns"]:
    """Returns +-1 for each column of some places, float64, independent between places, columns and purposes.

    A column is a bit of splitmix64 (Steele, Lea and Flood 2014) of the place.
    """
    state = _seed(purpose) + np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = (state ^ (state >> np.uint64(31))).astype("<u8")
    return np.unpackbits(state.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float64) * 2 - 1


def fixed_states(start: int, count: int, taps: tuple[int, ...]) -> Float64[np.ndarray, "1 entries columns"]:
    """Returns states of entries whose order is fixed, from entry `start` on, for all taps of a kernel.

    A kernel of odd lengths slides over images, a smooth one for each entry; otherwise (patches, pixels, words) every
    entry and tap has signs of its own.
    """
    if taps and prod(taps) > 1 and all(length % 2 for length in taps):
        images = signs("fixed", start, count) @ _smoothing()
        return images[:, shifts(1, 1, taps)[0]].reshape(1, -1, COLUMNS)
    return signs("fixed", start * prod(taps), count * prod(taps))[None]


@lru_cache(maxsize=256)
def shifts(outer: int, inner: int, taps: tuple[int, ...]) -> Int[np.ndarray, "outer entries columns"]:
    """Returns the column that each slot and tap reads at each place; entries are inner x taps.

    Slots lie on a square if they can, on lines of 8 otherwise; kernels are centred where their lengths are odd. The
    first of three lengths shifts along the diagonal.
    """
    slots = np.arange(outer * inner)
    side = isqrt(len(slots))
    y, x = np.divmod(slots, side if side * side == len(slots) else SIDE)
    tap_y, tap_x = np.zeros((2, 1), int)
    for axis, length in enumerate(taps):
        places = np.arange(length) - (length // 2 if length % 2 else 0)
        on_y, on_x = axis != len(taps) - 1, axis != len(taps) - 2 or len(taps) == 1
        tap_y = (tap_y[:, None] + places * on_y).ravel()
        tap_x = (tap_x[:, None] + places * on_x).ravel()
    row, column = np.divmod(np.arange(COLUMNS), SIDE)
    rows = (row + (y[:, None] + tap_y).reshape(-1, 1)) % SIDE
    columns = (column + (x[:, None] + tap_x).reshape(-1, 1)) % SIDE
    return (rows * SIDE + columns).reshape(outer, -1, COLUMNS)


@lru_cache
def _smoothing() -> Float64[np.ndarray, "columns columns"]:
    """Turns signs into images whose amplitudes fall with the frequency, as those of natural images do, of length 1."""
    frequency = np.minimum(np.arange(SIDE), SIDE - np.arange(SIDE))
    damping = 1 / (1 + np.hypot(frequency[:, None], frequency))
    filtered = np.fft.ifft2(damping).real.ravel()
    matrix = filtered[shifts(SIDE, SIDE, ()).reshape(COLUMNS, COLUMNS)]
    return matrix / np.linalg.norm(filtered)


@lru_cache
def _seed(purpose: str) -> np.ndarray:
    return np.frombuffer(sha256(purpose.encode()).digest()[:8], "<u8").astype(np.uint64)
