"""The matrices of attention as what the function sees of them: products.

Queries meet keys only in scalar products, head by head, and values meet the output projection linearly, so that an
invertible matrix may act between the two of a head (a rotation of the pairs of entries, where positions rotate them).
The products

    sum over heads of  W_q^T W_k      and      sum over heads of  W_o W_v

do not change by that, nor when heads are exchanged, and the number of heads need not be known: each is one product of
two whole matrices. Only where heads share keys and values must their number be known, so that queries that share a key
are added first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float32

from wsrl.canonical.rows import forget_pages, row_chunks
from wsrl.checkpoint import Tensor
from wsrl.wiring.attention_roles import BY_HEAD
from wsrl.wiring.wiring import Operation, Wiring

PIECE = 2**20  # entries read at a time


@dataclass(frozen=True)
class Projection:
    """Rows of a matrix of attention: those of queries, keys or values, or the columns that the output reads.

    Attributes:
      tensor: its name.
      axes: of the tensor that hold these rows.
      rows: how many.
      stretches: the rows of the tensor are cut into so many stretches.
      start: of each stretch, the first row taken.
      columns: numbers in a row.
    """

    tensor: str
    axes: tuple[int, ...]
    rows: int
    columns: int
    stretches: int = 1
    start: int = 0

    def read(self, tensors: Mapping[str, Tensor]) -> Float32[np.ndarray, "rows columns"]:
        """Reads the rows.

        Raises:
          CheckpointError: the tensor holds NaN or Inf, or cannot be read.
        """
        tensor = tensors[self.tensor]
        count = prod(tensor.shape[i] for i in self.axes)
        taken = np.arange(count).reshape(self.stretches, -1)
        taken = taken[:, self.start : self.start + self.rows // self.stretches].ravel()
        result = np.empty((self.rows, self.columns), np.float32)
        for first, last, piece in row_chunks(tensor, entries=PIECE):
            share = np.moveaxis(piece, self.axes, range(len(self.axes)))
            if 0 in self.axes:  # the piece holds some of the rows
                lowest, stop = (count * n // tensor.shape[0] for n in (first, last))
                here = np.flatnonzero((taken >= lowest) & (taken < stop))
                result[here] = share.reshape(-1, self.columns)[taken[here] - lowest]
            else:
                place = slice(*(self.columns * n // tensor.shape[0] for n in (first, last)))
                result[:, place] = share.reshape(count, -1)[taken]
        forget_pages(tensor)
        return result


@dataclass(frozen=True)
class Pair:
    """Two projections that the function sees only multiplied.

    Attributes:
      left, right: their rows meet; `right` has a multiple of the rows of `left`.
      heads: of `left`, each of which meets the same number of heads of `right`; 1 where rows meet one to one.
    """

    left: Projection
    right: Projection
    heads: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Of the product."""
        return self.left.columns, self.right.columns

    def multiply(self, tensors: Mapping[str, Tensor]) -> Float32[np.ndarray, "left_columns right_columns"]:
        """Reads both and multiplies them; raises CheckpointError as `Projection.read` does."""
        left, right = self.left.read(tensors), self.right.read(tensors)
        if len(left) != len(right):
            shared = right.reshape(self.heads, -1, len(left) // self.heads, right.shape[1])
            right = shared.sum(1).reshape(len(left), -1)
        return left.T @ right


def attention_matrices(wiring: Wiring) -> Iterator[tuple[set[str], list[Projection | Pair]]]:
    """Yields, for each attention layer that is understood, its tensors and what to describe in their place."""
    for output in wiring.operations:
        if _part(output) == "o":
            parts, others = _inputs(wiring, output)
            own = _projections(wiring, parts, output)
            if own is not None:
                normed = any(_acts_on_heads(wiring, operation) for operation in others)
                pairs = [] if normed else [_pair(own["k"], own["q"], parts)]
                pairs.append(_pair(own["v"], own["o"], parts))
                paired = [p for pair in pairs if pair is not None for p in (pair.left, pair.right)]
                alone = [projection for projection in own.values() if projection not in paired]
                names = {projection.tensor for projection in own.values()}
                yield names, [*(pair for pair in pairs if pair is not None), *alone]


def _part(operation: Operation) -> str:
    return str(operation.facts["part"].value) if "part" in operation.facts else ""


def _inputs(wiring: Wiring, output: Operation) -> tuple[dict[str, Operation], list[Operation]]:
    """The projections by part that an output projection comes from, and what else lies between them and it."""
    parts: dict[str, Operation] = {}
    others: list[Operation] = []
    places = list(output.inputs)
    for place in places:
        operation = wiring.operations[place]
        if _part(operation) not in ("", "o"):
            parts[_part(operation)] = operation
        elif operation not in others and operation.type != "linear":
            others.append(operation)
            places += [i for i in operation.inputs if i not in places]
    return parts, others


def _acts_on_heads(wiring: Wiring, operation: Operation) -> bool:
    """Whether an operation holds a gain of the entries of a head, or a scale of heads, as norms of queries do."""
    long = [sum(n > 1 for n in wiring.shapes[name]) for name in operation.tensors.values()]
    return max(long, default=0) == 1


def _projections(wiring: Wiring, parts: Mapping[str, Operation], output: Operation) -> dict[str, Projection] | None:
    """Queries, keys, values and output; None where the rows of one of them cannot be told."""
    out = _whole(wiring, output, reads=True)
    wholes = {part: _whole(wiring, operation) for part, operation in parts.items()}
    if out is None or "".join(sorted("".join(parts))) != "kqv" or None in wholes.values():
        return None
    found = {"o": out}
    for part, whole in wholes.items():
        assert whole is not None
        if len(part) == 1:
            found[part] = whole
            continue
        by_head = parts[part].name.replace("/", ".").rpartition(".")[2] in BY_HEAD
        heads = _count(parts[part]) if by_head else 1
        queries = out.rows if "q" in part else 0
        rest, odd = divmod(whole.rows - queries, len(part) - ("q" in part))
        if heads is None or odd or rest <= 0 or any(n % heads for n in (queries, rest)) or len(whole.axes) > 1:
            return None
        start = 0
        for letter in part:
            rows = queries if letter == "q" else rest
            found[letter] = Projection(whole.tensor, whole.axes, rows, whole.columns, heads, start)
            start += rows // heads
    return found


def _whole(wiring: Wiring, operation: Operation, reads: bool = False) -> Projection | None:
    """The matrix of an operation, whose rows are what it writes or, of the output projection, reads."""
    for tensor, _, _ in operation.weights():
        axes = operation.axes_of(tensor, operation.reads if reads else operation.writes)
        shape = wiring.shapes[tensor]
        others = [n for i, n in enumerate(shape) if i not in axes]
        if axes and prod(others) > 1:
            return Projection(tensor, axes, prod(shape[i] for i in axes), prod(others))
    return None


def _pair(left: Projection, right: Projection, parts: Mapping[str, Operation]) -> Pair | None:
    """Two projections as a pair, if it can be told which of their rows meet."""
    if left.rows == right.rows:
        return Pair(left, right)
    heads = _count(next(iter(parts.values())))
    return Pair(left, right, heads) if heads and right.rows % left.rows == 0 and left.rows % heads == 0 else None


def _count(operation: Operation) -> int | None:
    """The number of heads of keys and values, where it is known."""
    fact = operation.facts.get("key_value_heads")
    return fact.value if fact is not None and isinstance(fact.value, int) else None
