"""Whether two checkpoints hold the same numbers, whatever the format: a proof without any knowledge of the network.

A converter may transpose a tensor, put the gates of a recurrent layer in another order, or flatten maps the other way
round; all of it is undone here. It may also drop or add constants, so a tensor that one file alone holds is no
difference, but one of the same size that holds other numbers is.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import permutations

import numpy as np

from wsrl.canonical.rows import read_whole
from wsrl.checkpoint import Checkpoint, LazyTensor
from wsrl.signature.digest import TensorDigest, tensor_digest

GATES = (2, 3, 4)  # of a recurrent layer, or parts that are stacked along an axis
SHORTEST = 16  # axis that may be regrouped
WHOLE = 2**26  # entries of a tensor that is read as a whole
MOST_AXES = 4  # of one that may be transposed


def same_numbers(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether two checkpoints whose matrices have one digest hold the same numbers in the same order.

    Raises:
      CheckpointError: a file cannot be read.
    """
    own, other = _digests(a), _digests(b)
    return not _are_changed(own, other) and all(_same_layout(x, other[d]) for d, x in own.items() if d in other)


Digests = dict[TensorDigest, LazyTensor]


def _digests(checkpoint: Checkpoint) -> Digests:
    lazy = (
        tensor if isinstance(tensor, LazyTensor) else LazyTensor.of(tensor, checkpoint.path, name)
        for name, tensor in checkpoint.tensors.items()
    )
    return {tensor_digest(tensor): tensor for tensor in lazy if tensor.size > 1}


def _are_changed(own: Digests, other: Digests) -> bool:
    """Whether both hold a tensor of a size that the other does not hold: one that was changed."""
    sizes = [
        Counter(tensor.size for digest, tensor in a.items() if digest not in b) for a, b in ((own, other), (other, own))
    ]
    return bool(sizes[0] & sizes[1])


def _same_layout(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether two tensors of the same numbers hold them in the same order, but for what a converter changes."""
    shapes = [tuple(length for length in tensor.shape if length > 1) for tensor in (a, b)]
    if a.size > WHOLE or len(shapes[0]) > MOST_AXES:
        return shapes[0] == shapes[1] and _same_rows(a, b)
    x, y = (read_whole(tensor).reshape(shape) for tensor, shape in zip((a, b), shapes, strict=True))
    turned = (x.transpose(order).reshape(y.shape) for order in permutations(range(x.ndim)))
    return any(np.array_equal(own, y) or _is_regrouped(own, y) for own in turned)


def _same_rows(a: LazyTensor, b: LazyTensor) -> bool:
    step = max(WHOLE // max(a.size // a.num_rows, 1), 1)
    spans = [(start, min(start + step, a.num_rows)) for start in range(0, a.num_rows, step)]
    return a.shape == b.shape and all(np.array_equal(a.rows(*span), b.rows(*span)) for span in spans)


def _is_regrouped(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two arrays of one shape are equal after the blocks, or the factors, of one axis have changed places."""
    for axis, length in enumerate(x.shape):
        first, wanted = (np.moveaxis(own, axis, 0).reshape(length, -1)[:, 0] for own in (x, y))
        for order in _regroupings(length):
            if np.array_equal(first[order], wanted) and np.array_equal(np.take(x, order, axis), y):
                return True
    return False


def _regroupings(length: int) -> Iterator[np.ndarray]:
    """Orders of an axis with its gates in other places, or read as a grid the other way round."""
    places = np.arange(length)
    if length < SHORTEST:  # of few units every order looks like one of these
        return
    for gates in GATES:
        if length % gates == 0:
            blocks = places.reshape(gates, -1)
            yield from (blocks[list(order)].ravel() for order in permutations(range(gates)))
    for rows in range(2, length // 2 + 1):
        if length % rows == 0:
            yield places.reshape(rows, -1).T.ravel()
