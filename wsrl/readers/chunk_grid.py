"""Puts rows of an array together from the chunks of a regular grid, one chunk in memory at a time."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped


@dataclass(frozen=True)
class ChunkGrid:
    """An array whose chunks are stored apart.

    Attributes:
      shape, dtype: of the array.
      chunk: shape of a chunk; those at the upper edges reach beyond the array.
      read: place of a chunk in the grid -> its entries, of the shape of a chunk.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    read: Callable[[tuple[int, ...]], np.ndarray]

    def rows(self, start: int, stop: int) -> Shaped[np.ndarray, "rows ..."]:
        """Returns rows of the first axis; an array without axes is one row."""
        if not self.shape:
            return self.read(()).reshape(1)[start:stop]
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        lows, highs = (start, *[0] * (len(self.shape) - 1)), (max(start, stop), *self.shape[1:])
        result = np.empty([high - low for low, high in zip(lows, highs, strict=True)], self.dtype)
        axes = list(zip(lows, highs, self.chunk, strict=True))
        for place in itertools.product(*(range(low // n, -(-high // n)) for low, high, n in axes)):
            source, target = [], []
            for at, (low, high, n) in zip(place, axes, strict=True):
                first, last = max(low, at * n), min(high, (at + 1) * n)
                source.append(slice(first - at * n, last - at * n))
                target.append(slice(first - low, last - low))
            result[tuple(target)] = self.read(place)[tuple(source)]
        return result
