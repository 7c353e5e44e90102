"""What a child adds to one matrix of its base, seen from fixed directions, without the whole difference.

A change dW is a difference of two stored matrices, a low-rank update s B A (Hu et al., LoRA, 2021), with or without
magnitudes of the rows (Liu et al., DoRA, 2024), a Hadamard or a Kronecker product of two matrices (Yeh et al., LyCORIS,
2024), or factors of the rows or columns of the base (Liu et al., IA3, 2022). All that is asked of it are P^T dW Q for
thin matrices P and Q, and its sum of squares: of low-rank updates and Kronecker products they follow from products with
the factors, which are the same for B M and M^-1 A with any invertible M; of the others they are summed over blocks of
rows.
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


@dataclass(frozen=True)
class Hadamard:
    """The update scale * first * second, entry by entry, of two matrices [outputs, inputs] of low rank."""

    first: LowRank
    second: LowRank
    scale: float

    def project(self, left: Float[np.ndarray, "outputs p"], right: Float[np.ndarray, "inputs q"]) -> Projected:
        """As `LowRank.project`."""
        return _sum(self._blocks(), left, right)

    def _blocks(self) -> Iterator[tuple[int, Float64[np.ndarray, "rows inputs"]]]:
        outputs, inputs = len(self.first.up), self.first.down.shape[1]
        step = max(BLOCK // inputs, 1)
        for start in range(0, outputs, step):
            rows = slice(start, start + step)
            own = (f.scale * f.up[rows].astype(np.float64) @ f.down for f in (self.first, self.second))
            yield start, self.scale * next(own) * next(own)


@dataclass(frozen=True)
class Kronecker:
    """The update scale * (outer x inner), the Kronecker product of two matrices."""

    outer: Float[np.ndarray, "a b"]
    inner: Float[np.ndarray, "c d"]
    scale: float

    def project(self, left: Float[np.ndarray, "outputs p"], right: Float[np.ndarray, "inputs q"]) -> Projected:
        """As `LowRank.project`."""
        outer, inner = self.outer.astype(np.float64), self.inner.astype(np.float64)
        read = np.einsum("cd,bdq->bcq", inner, right.reshape(outer.shape[1], inner.shape[1], -1), optimize=True)
        mixed = np.einsum("ab,bcq->acq", outer, read, optimize=True).reshape(len(left), -1)
        squares = float(np.square(outer).sum() * np.square(inner).sum())
        return Projected(self.scale * left.T @ mixed, self.scale**2 * squares)


@dataclass(frozen=True)
class Scaled:
    """The base with each row, or each column of its inputs, times a factor, less the base."""

    factors: Float[np.ndarray, " n"]
    by_rows: bool
    base: Piece

    def project(self, left: Float[np.ndarray, "outputs p"], right: Float[np.ndarray, "inputs q"]) -> Projected:
        """As `LowRank.project`."""
        return _sum(self._blocks(), left, right)

    def _blocks(self) -> Iterator[tuple[int, Float64[np.ndarray, "rows inputs"]]]:
        more = self.factors.astype(np.float64) - 1
        taps = self.base.shape[2]
        for start, rows in _rows(self.base):
            yield start, rows * (more[start : start + len(rows), None] if self.by_rows else np.repeat(more, taps))


Change = LowRank | Dense | Magnitudes | Hadamard | Kronecker | Scaled  # of a matrix of the base, [outputs, inputs]


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
