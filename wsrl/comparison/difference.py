"""What the difference of two aligned tensors looks like: its size, rank, whiteness, zeros."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
from jaxtyping import Float

from wsrl.comparison.matching import TINY
from wsrl.comparison.pieces import spread

PIECE = 2**16  # entries that are summed in float32
FIRST = 256  # entries
SPECTRUM = 256  # rows and columns of the part whose singular values are looked at
ENERGY = 0.99  # of the squared difference that a low rank has to hold
ROUNDINGS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

Blocks = Iterable[tuple[Float[np.ndarray, "rows read taps"], ...]]


@dataclass
class Difference:
    """Sums over two tensors a and b of one shape.

    Attributes:
      entries: of either.
      squares_a, squares_b, product, squares, fourth: sums of a^2, b^2, a b, (a - b)^2, (a - b)^4.
      sum_a: of a.
      zeros_a, zeros_b: entries that are 0 in one and not in the other.
      cleared_a, cleared_b: sums of (a - b)^2 over these entries.
      rounded_a, rounded_b: names of the types of which one is the other's rounding.
      singular_values: of a part of a - b, and its shape.
    """

    entries: int = 0
    squares_a: float = 0.0
    squares_b: float = 0.0
    product: float = 0.0
    squares: float = 0.0
    fourth: float = 0.0
    sum_a: float = 0.0
    zeros_a: int = 0
    zeros_b: int = 0
    cleared_a: float = 0.0
    cleared_b: float = 0.0
    rounded_a: set[str] = field(default_factory=lambda: set(ROUNDINGS))
    rounded_b: set[str] = field(default_factory=lambda: set(ROUNDINGS))
    singular_values: np.ndarray | None = None
    part: tuple[int, int] = (0, 0)

    @property
    def change(self) -> float:
        """Norm of the difference over the geometric mean of both norms."""
        return float(np.sqrt(self.squares / max(np.sqrt(self.squares_a * self.squares_b), TINY)))

    @property
    def cosine(self) -> float:
        """Of both."""
        return self.product / max(float(np.sqrt(self.squares_a * self.squares_b)), TINY)

    @property
    def deviation(self) -> float:
        """Root mean square of the difference over the standard deviation of a."""
        variance = self.squares_a / self.entries - (self.sum_a / self.entries) ** 2
        return float(np.sqrt(self.squares / self.entries / max(variance, TINY)))

    @property
    def kurtosis(self) -> float:
        """Of the difference; 3 of normal numbers."""
        return self.fourth * self.entries / max(self.squares**2, TINY)

    @property
    def rank(self) -> int | None:
        """Singular values that hold 99 % of the squared difference; None if they are more than a fourth of all."""
        values = self.singular_values
        if values is None or not values.any():
            return None
        energy = np.cumsum(np.square(values, dtype=np.float64))
        rank = int(np.searchsorted(energy, ENERGY * energy[-1])) + 1
        return rank if rank <= len(values) // 4 else None

    @property
    def structure(self) -> float | None:
        """The largest singular value over what independent entries of that size would have; about 1 for noise."""
        values = self.singular_values
        if values is None or not values.any():
            return None
        rows, columns = self.part
        deviation = np.sqrt(np.square(values, dtype=np.float64).sum() / (rows * columns))
        return float(values[0] / (deviation * (np.sqrt(rows) + np.sqrt(columns))))


def measure(blocks: Blocks, rows: int) -> Difference:
    """Measures two tensors that come in blocks of rows, `rows` in all.

    Raises:
      CheckpointError: one holds NaN or Inf, or cannot be read.
    """
    found = Difference()
    kept, start = spread(rows, SPECTRUM), 0
    parts = []
    for a, b in blocks:
        _add(found, a, b)
        own = kept[(kept >= start) & (kept < start + len(a))] - start
        columns = spread(a[0].size, SPECTRUM)
        parts.append(a[own].reshape(len(own), -1)[:, columns] - b[own].reshape(len(own), -1)[:, columns])
        start += len(a)
    part = np.concatenate(parts)
    if min(part.shape) >= 4 and found.squares:
        found.singular_values = _singular_values(part.astype(np.float64))
        found.part = part.shape
    return found


def _singular_values(part: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " n"]:
    """The singular values, the largest first, by the eigenvalues of the smaller product: a third of the time."""
    product = part @ part.T if len(part) <= part.shape[1] else part.T @ part
    return np.sqrt(np.maximum(np.linalg.eigvalsh(product)[::-1], 0.0))


def _add(found: Difference, a: np.ndarray, b: np.ndarray) -> None:
    """Adds the sums over two blocks; in float32 over pieces that are few enough for its precision."""
    order = sorted(range(a.ndim), key=lambda axis: -a.strides[axis])  # of memory: mostly nothing has to be copied
    x, y = (np.ascontiguousarray(values.transpose(order)).reshape(-1) for values in (a, b))
    for start in range(0, len(x), PIECE):
        _add_piece(found, x[start : start + PIECE], y[start : start + PIECE])


def _add_piece(found: Difference, a: np.ndarray, b: np.ndarray) -> None:
    d = a - b
    squares = float(d @ d)
    found.entries += a.size
    found.squares_a += float(a @ a)
    found.squares_b += float(b @ b)
    found.product += float(a @ b)
    found.sum_a += float(a.sum())
    found.squares += squares
    if not squares:
        return
    d *= d
    found.fourth += float(d @ d)
    zero_a, zero_b = a == 0, b == 0
    if zero_a.any() or zero_b.any():
        only_a, only_b = zero_a & ~zero_b, zero_b & ~zero_a
        found.zeros_a += int(np.count_nonzero(only_a))
        found.zeros_b += int(np.count_nonzero(only_b))
        found.cleared_a += float(d[only_a].sum())
        found.cleared_b += float(d[only_b].sum())
    found.rounded_a = {name for name in found.rounded_a if _is_rounded(a, b, ROUNDINGS[name])}
    found.rounded_b = {name for name in found.rounded_b if _is_rounded(b, a, ROUNDINGS[name])}


def _is_rounded(rounded: np.ndarray, original: np.ndarray, dtype: type) -> bool:
    with np.errstate(over="ignore"):
        first = slice(0, FIRST)  # most tensors are told apart by a few entries
        some = np.array_equal(original[first].astype(dtype).astype(np.float32), rounded[first])
        return some and np.array_equal(original.astype(dtype).astype(np.float32), rounded)
