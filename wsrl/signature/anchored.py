"""Sketches of the tensors that touch the network's inputs or outputs, whose order is the same in every copy.

Of a matrix M [hidden units, inputs] with rows at length 1, the Gram matrix M^T M over the inputs stays as it is when
hidden units are permuted, or scaled by any number, and most of it is left when the network is fine-tuned or quantized;
networks of other seeds share only what their data have in common. Here it is multiplied by fixed signs from both sides
(Achlioptas 2003), so that scalar products stay about as they were.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float64

from wsrl.canonical.rows import row_chunks
from wsrl.checkpoint import Tensor
from wsrl.signature.binormalization import DEAD
from wsrl.signature.hashing import rademacher
from wsrl.wiring.wiring import Segment, TensorAxis, Wiring

COLUMNS = 48
PAIRS = np.triu_indices(COLUMNS)
FEATURES = len(PAIRS[0])
PIECE = 2**20  # entries read at a time


@dataclass(frozen=True)
class Anchor:
    """How a tensor touches inputs or outputs.

    Attributes:
      fixed: axes whose order is known: inputs or outputs first, then the taps of a kernel.
      others: the other axes, whose neurons may be permuted.
    """

    fixed: tuple[int, ...]
    others: tuple[int, ...]


def find_anchors(wiring: Wiring, tensors: Iterable[str]) -> dict[str, Anchor]:
    """Returns how tensors touch the network's inputs or, if none does, its outputs; the others are left out.

    Outputs are the weaker anchor: a fine-tuned network has a new head, and what no known operation reads, the scores of
    a router say, is taken for an output.
    """
    neurons: dict[str, set[int]] = {}
    first: set[TensorAxis] = set()  # what the network's input goes into
    for operation in wiring.operations:
        for name, axis in (*operation.reads, *operation.writes):
            neurons.setdefault(name, set()).add(axis)
        if not operation.inputs:
            first |= {*operation.reads} - {*operation.writes}
    for role in ("input", "output"):
        anchors = {name: _anchor(name, neurons.get(name, set()), first, wiring, role) for name in tensors}
        found = {name: anchor for name, anchor in anchors.items() if anchor}
        if found:
            return found
    return {}


def _anchor(
    name: str, neurons: Collection[int], first: Collection[TensorAxis], wiring: Wiring, role: str
) -> Anchor | None:
    axes, shape = wiring.axes[name], wiring.shapes[name]

    def touches(axis: int) -> bool:
        if shape[axis] == 1:  # the channel of a gray image has no group in every format
            return role == "input" and (name, axis) in first
        segments = axes[axis]
        return segments is not None and _roles(segments, wiring) == {role}

    touching = [axis for axis in range(len(axes)) if touches(axis)]
    # an axis that an operation reads or writes holds neurons, be their order understood or not; a matrix has no taps
    taps = [i for i, axis in enumerate(axes) if axis is None and i not in neurons] if len(axes) > 2 else []
    others = [i for i in range(len(axes)) if i not in (*touching, *taps)]
    return Anchor((*touching, *taps), tuple(others)) if len(touching) == 1 and others else None


def _roles(axis: tuple[Segment, ...], wiring: Wiring) -> set[str]:
    return {wiring.groups[s.group].role if s.group is not None else "unknown" for s in axis}


def sketch(tensor: Tensor, anchor: Anchor) -> Float64[np.ndarray, "1176"] | None:
    """Sketches the Gram matrix over the fixed axes, less what independent entries would give, at length 1.

    Returns None if all entries are 0.

    Raises:
      CheckpointError: the tensor holds NaN or Inf, or cannot be read.
    """
    fixed = prod(tensor.shape[i] for i in anchor.fixed)
    others = prod(tensor.shape[i] for i in anchor.others)
    signs = rademacher("anchored", 0, fixed, COLUMNS).reshape(*(tensor.shape[i] for i in anchor.fixed), COLUMNS)
    order = [*anchor.others, *anchor.fixed]
    products = np.zeros((*(tensor.shape[i] for i in anchor.others), COLUMNS))
    squares = np.zeros(products.shape[:-1])
    for first, last, rows in row_chunks(tensor, entries=PIECE):
        piece = rows.transpose(order).astype(np.float64)
        here = slice(first, last)
        own = tuple(here if i == 0 else slice(None) for i in anchor.others)
        along = tuple(here if i == 0 else slice(None) for i in anchor.fixed)
        products[own] += np.tensordot(piece, signs[along], axes=len(anchor.fixed))
        squares[own] += np.square(piece).sum(tuple(range(len(anchor.others), piece.ndim)))
    products, squares = products.reshape(others, COLUMNS), squares.ravel()
    alive = squares > DEAD * squares.max()
    if not alive.any():
        return None
    units = products[alive] / np.sqrt(squares[alive])[:, None]
    flat = signs.reshape(fixed, COLUMNS)
    pairs = (units.T @ units / alive.sum() - flat.T @ flat / fixed)[PAIRS]
    length = np.linalg.norm(pairs)
    return pairs / length if length else None
