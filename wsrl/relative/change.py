"""What a child adds to one matrix of its base, seen from fixed directions, without the whole difference.

A change dW is a difference of two stored matrices, or a low-rank update s B A (Hu et al., LoRA, 2021), with or without
magnitudes of the rows (Liu et al., DoRA, 2024). All that is asked of it are P^T dW Q for thin matrices P and Q, and its
sum of squares: of a low-rank update they follow from products with the factors, which are the same for B M and M^-1 A
with any invertible M; of the others they are summed over blocks of rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64

from wsrl.comparison.difference import ROUNDINGS
from wsrl.comparison.pieces import BLOCK, Piece

TINY = 1e-30


class Projected(NamedTuple):
    """A change, seen from directions.

    Attributes:
      product: P^T dW Q.
      squares: sum of the squares of all entries of dW.
    """

    product: Float64[np.ndarray, "p q"]
    squares: float


@dataclass(frozen=True)
class LowRank:
    """The update scale * up @ down."""

    up: Float[np.ndarray, "outputs rank"]
    down: Float[np.ndarray, "rank inputs"]
    scale: float

    def project(self, left: Float[np.ndarray, "outputs p"], right: Float[np.ndarray, "inputs q"]) -> Projected:
        """Multiplies the change with directions on both sides.

        Raises:
          CheckpointError: a tensor cannot be read, or holds NaN or Inf.
        """
        up, down = self.up.astype(np.float64), self.down.astype(np.float64)
        squares = float(((up.T @ up) * (down @ down.T)).sum())
        return Projected(self.scale * (left.T @ up) @ (down @ right), self.scale**2 * max(squares, 0.0))


@dataclass(frozen=True)
class Dense:
    """The difference of two stored matrices of one form, read in blocks of rows.

    Where the child is stored in half precision, the base is rounded likewise: what was not trained is no change.
    """

    child: Piece
    base: Piece

    def project(self, left: Float[np.ndarray, "outputs p"], right: Float[np.ndarray, "inputs q"]) -> Projected:
        """As `LowRank.project`."""
        stored = ROUNDINGS.get(self.child.tensor.dtype, np.float64)
        rows = _rows(self.child, self.base)
        return _sum(((start, child - base.astype(stored)) for start, child, base in rows), left, right)


@dataclass(frozen=True)
class Magnitudes:
    """A low-rank update after which each row gets a given length, as in DoRA: m (W + s B A) / ||W + s B A||."""

    low_rank: LowRank
    lengths: Float[np.ndarray, " outputs"]
    base: Piece

    def project(self, left: Float[np.ndarray, "outputs p"], right: Float[np.ndarray, "inputs q"]) -> Projected:
        """As `LowRank.project`."""
        return _sum(self._blocks(), left, right)

    def _blocks(self) -> Iterator[tuple[int, Float64[np.ndarray, "rows inputs"]]]:
        own = self.low_rank
        for start, base in _rows(self.base):
            rows = slice(start, start + len(base))
            moved = base + own.scale * own.up[rows].astype(np.float64) @ own.down
            lengths = np.maximum(np.linalg.norm(moved, axis=1), TINY)
            yield start, moved * (self.lengths[rows] / lengths)[:, None] - base


Change = LowRank | Dense | Magnitudes  # of a matrix of the base, [outputs, inputs]


def _sum(
    blocks: Iterator[tuple[int, Float64[np.ndarray, "rows inputs"]]],
    left: Float[np.ndarray, "outputs p"],
    right: Float[np.ndarray, "inputs q"],
) -> Projected:
    product, squares = np.zeros((left.shape[1], right.shape[1])), 0.0
    for start, rows in blocks:
        product += left[start : start + len(rows)].T @ (rows @ right)
        squares += float(np.vdot(rows, rows))
    return Projected(product, squares)


def matrix_rows(piece: Piece) -> Iterator[tuple[int, Float32[np.ndarray, "rows inputs"]]]:
    """Yields the rows of a piece as a matrix [written, read * taps], few enough for memory, with the first's number."""
    for start, rows in _rows(piece):
        yield start, rows.astype(np.float32)


def _rows(*pieces: Piece) -> Iterator[tuple]:
    """Yields the number of the first row and the same rows of pieces of one shape, float64."""
    rows = pieces[0].shape[0]
    step = max(BLOCK // 2 * rows // max(pieces[0].tensor.size, 1), 1)
    if any(piece.axes[0] != (0,) for piece in pieces):
        step = rows  # the rows of such a layout are not contiguous: it is read once
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield start, *(piece.rows(start, stop).reshape(stop - start, -1).astype(np.float64) for piece in pieces)
