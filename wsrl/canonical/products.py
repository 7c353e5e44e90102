"""Products of two matrices, made unique: GL(dim) acts between the two without changing what they compute.

With the thin QR decompositions left = Q_l R_l and right = Q_r R_r, and the small singular value decomposition
R_l R_r^T = U S V^T, the canonical pair is

    left' = Q_l U sqrt(S) = left (R_r^T V S^-1/2),        right' = Q_r V sqrt(S) = right (R_l^T U S^-1/2),

so that left' right'^T = left right^T and left'^T left' = right'^T right' = S (balanced factors, Baldi and Hornik 1989).
No Q is formed and only S is inverted, so factors without full rank do no harm. R is a square root of the Gram matrix of
the factor, which is summed over pieces of it in float64; columns are brought to length 1 first, so that a badly scaled
basis costs no precision.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float, Float64

from wsrl.canonical.rows import row_chunks
from wsrl.checkpoint import Tensor
from wsrl.wiring.wiring import Product, Slice

NEGLIGIBLE = 1e-7  # of the largest singular value of a product: below is rounding noise


@dataclass(frozen=True)
class Part:
    """Where the shared axis of a product lies in one tensor, weights or biases: its entries are [heads, repeat, dim].

    A slice that is longer than its axis goes on over the axes after it (Flax keeps heads and dim apart).
    """

    along: Slice
    shape: tuple[int, ...]
    repeat: int
    dim: int

    @property
    def head(self) -> int:
        """Entries of a head."""
        return self.repeat * self.dim

    @property
    def last(self) -> int:
        """First axis after the slice."""
        last = self.along.axis + 1
        while prod(self.shape[self.along.axis : last]) < self.along.stop:
            last += 1
        return last

    @property
    def rows(self) -> tuple[int, int, int]:
        """Rows of the tensor from and to which the slice goes, and how many of them hold whole heads."""
        if self.along.axis > 0:
            return 0, self.shape[0], 1
        width = prod(self.shape[1 : self.last])  # entries of the slice in a row
        return self.along.start // width, self.along.stop // width, max(self.head // width, 1)

    def heads(self, rows: np.ndarray, first: int) -> tuple[np.ndarray, int]:
        """Views the heads that lie in some rows.

        Args:
          rows: contiguous, whole heads, from row `first` of the tensor on.
          first: row.

        Returns:
          A view [before, heads, repeat, dim, after] and the number of its first head.
        """
        axis, last = self.along.axis, self.last
        view = rows.reshape(prod(rows.shape[:axis]), prod(rows.shape[axis:last]), prod(rows.shape[last:]))
        offset = first * prod(self.shape[1:last]) if axis == 0 else 0
        start = max(self.along.start - offset, 0)
        stop = max(min(self.along.stop - offset, view.shape[1]), start)
        part = view[:, start:stop].reshape(len(view), -1, self.repeat, self.dim, view.shape[2])
        return part, (start + offset - self.along.start) // self.head


def parts_of(product: Product, shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[Part], list[Part]]:
    """Returns the parts of the left and of the right matrix: weights, then biases if there are any."""
    sides = ((product.left, product.left_bias, 1), (product.right, product.right_bias, product.repeat))
    left, right = (
        [Part(s, shapes[s.tensor], repeat, product.dim) for s in (weights, bias) if s is not None]
        for weights, bias, repeat in sides
    )
    return left, right


@dataclass(frozen=True)
class Moments:
    """Sums over the rows of a factor, by head: the Gram matrix of its columns, and the columns themselves."""

    gram: Float64[np.ndarray, "heads dim dim"]
    total: Float64[np.ndarray, "heads dim"]


def moments(tensors: Mapping[str, Tensor], parts: list[Part], heads: int) -> Moments:
    """Sums the rows of a factor; a bias is one row more. Tensors are read in pieces."""
    dim = parts[0].dim
    gram, total = np.zeros((heads, dim, dim)), np.zeros((heads, dim))
    for part in parts:
        start, stop, step = part.rows
        for first, _, rows in row_chunks(tensors[part.along.tensor], start, stop, step):
            entries, head = part.heads(rows, first)
            columns = _columns(entries).astype(np.float64)
            at = slice(head, head + len(columns))
            gram[at] += columns.transpose(0, 2, 1) @ columns
            total[at] += columns.sum(1)
    return Moments(gram, total)


def balancing(
    left: Moments, right: Moments
) -> tuple[Float64[np.ndarray, "heads dim dim"], Float64[np.ndarray, "heads dim dim"]]:
    """Returns what the columns of the left and of the right factor are multiplied by.

    Singular values are descending. The sign of a singular pair makes the sum of its column positive, in the factor
    where that sum is larger; sums depend on no order of the rows. Directions whose singular value is negligible become
    zero on both sides.
    """
    roots = _root(left.gram), _root(right.gram)
    u, s, vt = np.linalg.svd(roots[0] @ roots[1].transpose(0, 2, 1))
    kept = s > NEGLIGIBLE * s[:, :1]
    inverse = np.where(kept, 1 / np.sqrt(np.where(kept, s, 1.0)), 0.0)[:, None]
    on_left = roots[1].transpose(0, 2, 1) @ vt.transpose(0, 2, 1) * inverse
    on_right = roots[0].transpose(0, 2, 1) @ u * inverse
    sums = (left.total[:, None] @ on_left, right.total[:, None] @ on_right)
    sign = np.where(np.where(np.abs(sums[0]) >= np.abs(sums[1]), *sums) < 0, -1.0, 1.0)
    return on_left * sign, on_right * sign


def multiply(rows: np.ndarray, first: int, part: Part, matrices: Float[np.ndarray, "heads dim dim"]) -> None:
    """Multiplies the heads that lie in some rows, from row `first` of the tensor on, by a matrix each, in place."""
    entries, head = part.heads(rows, first)
    before, heads, repeat, dim, after = entries.shape
    if not entries.size:  # none of the heads lies in these rows
        return
    product = _columns(entries) @ matrices[head : head + heads].astype(rows.dtype)
    entries[...] = product.reshape(heads, before, repeat, after, dim).transpose(1, 0, 2, 4, 3)


def _root(gram: Float64[np.ndarray, "heads dim dim"]) -> Float64[np.ndarray, "heads dim dim"]:
    """R with R^T R = gram, also of singular ones."""
    length = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    unit = np.where(length > 0, 1 / np.where(length > 0, length, 1.0), 0.0)
    values, vectors = np.linalg.eigh(gram * unit[:, :, None] * unit[:, None])
    return np.sqrt(np.maximum(values, 0.0))[:, :, None] * vectors.transpose(0, 2, 1) * length[:, None]


def _columns(entries: np.ndarray) -> np.ndarray:
    """[before, heads, repeat, dim, after] -> [heads, rows, dim]."""
    heads, dim = entries.shape[1], entries.shape[3]
    return entries.transpose(1, 0, 2, 4, 3).reshape(heads, -1, dim)


def product_matrices(
    tensors: Mapping[str, Tensor], products: tuple[Product, ...], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[Part, Float64[np.ndarray, "heads dim dim"]]]:
    """Yields what the heads of each part of each product are multiplied by."""
    for product in products:
        sides = parts_of(product, shapes)
        left, right = (moments(tensors, parts, product.heads) for parts in sides)
        for parts, matrices in zip(sides, balancing(left, right), strict=True):
            for part in parts:
                yield part, matrices
