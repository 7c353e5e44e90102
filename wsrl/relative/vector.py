"""The vector of a child: for each matrix that it changes, what the change does to fixed directions of the base.

With the leading singular vectors P and Q of a base's matrix and the change dW, a matrix has the block P^T dW Q. A new
head has a block of its own: the smoothed projection onto what its rows span, which is blind to the order and the number
of classes. Each block has length 1, or is zero where the child does not change the matrix, so that children of any rank
and learning rate can be compared.
"""

from functools import cache
from math import isqrt
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from wsrl.relative.base import Base
from wsrl.relative.child import Child

KINDS = ("product", "head")
BUDGET = 2**16  # numbers of a vector, about
MOST, FEWEST = 48, 4  # directions of a matrix on each side
HEAD_DIRECTIONS = 64
SMOOTHING = 0.1  # of the projection onto the rows of a head; see `wsrl.encoder.readout.second_order`
TINY = 1e-30
VERSION = 2  # of the computation; vectors of another one are made anew


class Block(NamedTuple):
    """Some entries of a vector.

    Attributes:
      kind: one of `KINDS`.
      module: of the base; empty for the head.
      entries: where they are.
    """

    kind: str
    module: str
    entries: slice


class RelativeEncoder:
    """Makes vectors of the children of one base.

    Args:
      base: of all children.

    Attributes:
      blocks: of every vector, in their order.
      dim: entries of a vector.
    """

    def __init__(self, base: Base):
        self.base = base
        self._most = min(max(isqrt(BUDGET // len(base.matrices)), FEWEST), MOST)
        self._directions = cache(lambda module: base.directions(module, self._most))
        sides = {m: min(self._most, p.shape[0], p.shape[1] * p.shape[2]) for m, p in base.matrices.items()}
        sizes = [(KINDS[0], module, side**2) for module, side in sides.items()]
        sizes.append((KINDS[1], "", _triangle(HEAD_DIRECTIONS)))
        stops = np.cumsum([size for *_, size in sizes]).tolist()
        self.blocks = [Block(k, m, slice(stop - size, stop)) for (k, m, size), stop in zip(sizes, stops, strict=True)]
        self._entries = {block.module: block.entries for block in self.blocks}
        self.dim = stops[-1]

    def embed(self, child: Child) -> tuple[Float32[np.ndarray, " dim"], float]:
        """Returns the vector of a child, and how large its change is.

        Blocks have length 1, or are zero where there is nothing to tell. The size is the norm of what is added to
        matrices of the base over the norm of these matrices; those that stay as they are do not count.

        Raises:
          CheckpointError: a tensor cannot be read, or holds NaN or Inf.
        """
        vector = np.zeros(self.dim, np.float32)
        changed = whole = 0.0
        for module, change in child.changes.items():
            directions = self._directions(module)
            found = change.project(directions.left, directions.right)
            if not found.squares:  # as it is in the base
                continue
            vector[self._entries[module]] = _unit(found.product.ravel())
            changed, whole = changed + found.squares, whole + directions.squares
        if child.heads:
            vector[self._entries[""]] = _unit(np.sum([_head(rows) for rows in child.heads], 0))
        return vector, float(np.sqrt(changed / max(whole, TINY)))


def _head(rows: Float[np.ndarray, "classes features"]) -> Float[np.ndarray, " entries"]:
    """X^T (X X^T + smoothing I)^-1 X of rows X less their mean, at sum of squares 1, along fixed directions."""
    centered = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    projected = centered @ _head_directions(rows.shape[1])
    projected /= max(float(np.linalg.norm(projected)), TINY)
    classes = SMOOTHING * np.eye(len(rows))
    own = projected.T @ np.linalg.solve(projected @ projected.T + classes, projected)
    missing = HEAD_DIRECTIONS - len(own)
    i, j = np.triu_indices(HEAD_DIRECTIONS)
    return np.pad(own, (0, missing))[i, j] * np.where(i == j, 1.0, np.sqrt(2.0))  # as long as the whole matrix


@cache
def _head_directions(features: int) -> Float[np.ndarray, "features directions"]:
    """Orthonormal directions that depend on the number of features alone; all of them if they are few."""
    if features <= HEAD_DIRECTIONS:
        return np.eye(features)
    drawn = np.random.default_rng([features, 62]).standard_normal((features, HEAD_DIRECTIONS))
    return np.linalg.qr(drawn)[0]


def _triangle(size: int) -> int:
    return size * (size + 1) // 2


def _unit(values: Float[np.ndarray, " entries"]) -> Float[np.ndarray, " entries"]:
    length = float(np.linalg.norm(values))
    return values / length if length > TINY else np.zeros_like(values)
