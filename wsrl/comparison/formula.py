"""Tensors that a formula fills: Fourier bases, filter banks, position codes, which independent networks share.

Their neighboring entries follow from one another, as a sinusoid's do: x[t] = a x[t-1] + b x[t-2], with a and b of its
own for each row. Learned weights hardly do, except along the taps of a smooth filter.
"""

import numpy as np
from jaxtyping import Float

from wsrl.comparison.matching import TINY
from wsrl.comparison.pieces import BLOCKS

LONG = 12  # neighbors that are looked at, at least
PREDICTED = 0.95  # share of the squares that follows from the neighbors


def is_formula(sample: Float[np.ndarray, "written read taps"], most: int) -> bool:
    """Whether the entries of a tensor follow from their neighbors along one of its axes.

    Args:
      sample: of `Piece.sample(most)`.
      most: an axis of this length stands for a longer one, in stretches of neighbors.
    """
    for axis, length in enumerate(sample.shape):
        stretch = most // BLOCKS if length == most else length
        if stretch >= LONG:
            rows = np.moveaxis(sample, axis, -1).reshape(-1, stretch).astype(np.float64)
            if _predicted(rows) > PREDICTED:
                return True
    return False


def _predicted(rows: Float[np.ndarray, "rows neighbors"]) -> float:
    """Share of the squares that the two entries before each explain, by least squares for each row."""
    target, one, two = rows[:, 2:], rows[:, 1:-1], rows[:, :-2]
    a, b, c = (one * one).sum(1), (one * two).sum(1), (two * two).sum(1)
    u, v = (one * target).sum(1), (two * target).sum(1)
    determinant = a * c - b * b
    good = determinant > 1e-9 * np.maximum(a * c, TINY)
    safe = np.where(good, determinant, 1.0)
    first = np.where(good, (c * u - b * v) / safe, u / np.maximum(a, TINY))
    second = np.where(good, (a * v - b * u) / safe, 0.0)
    left = np.square(target - first[:, None] * one - second[:, None] * two).sum()
    return 1.0 - float(left / max(np.square(target).sum(), TINY))
