"""Numbers that were rounded: whether to a floating-point type, and of several networks which."""

import ml_dtypes
import numpy as np

from wsrl.canonical.rows import read_whole, row_chunks
from wsrl.checkpoint import Checkpoint
from wsrl.comparison.relation import Relation
from wsrl.origins.keeper import Copy

WHOLE = 2**26  # entries of a tensor that is read
TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def rounded_from(a: Checkpoint, b: Checkpoint) -> str | None:
    """Returns `a` or `b`, the one whose numbers all are those of the other in float16 or bfloat16; else None.

    Only checkpoints of the same names and shapes are looked at.

    Raises:
      CheckpointError: a file cannot be read.
    """
    if {n: t.shape for n, t in a.tensors.items()} != {n: t.shape for n, t in b.tensors.items()}:
        return None
    for side, own, other in (("a", a, b), ("b", b, a)):
        types = {str(tensor.dtype) for tensor in own.tensors.values()}
        narrow = types & TYPES.keys()
        if len(narrow) == 1 and types <= {*narrow, "float32"} and all(_is_rounded(own, other, n) for n in own.tensors):
            return side
    return None


def _is_rounded(own: Checkpoint, other: Checkpoint, name: str) -> bool:
    dtype = TYPES.get(str(own.tensors[name].dtype), np.float32)
    pieces = zip(row_chunks(own.tensors[name]), row_chunks(other.tensors[name]), strict=True)
    with np.errstate(over="ignore"):
        return all(np.array_equal(y.astype(dtype).astype(np.float32), x) for (*_, x), (*_, y) in pieces)


def largest_errors(original: Copy, copy: Copy, relation: Relation) -> float:
    """Returns the largest difference of two aligned tensors, relative, as a mean over the tensors.

    Rounding moves no number by more than half a step; of a network that differs a little from the one that was
    rounded, some numbers are farther away.

    Raises:
      CheckpointError: a file cannot be read.
    """
    a, b = original.open().tensors, copy.open().tensors
    errors = []
    for layer in relation.layers:
        own, other = a.get(layer.a or ""), b.get(layer.b or "")
        if own is not None and other is not None and own.shape == other.shape and own.size <= WHOLE:
            x, y = read_whole(own), read_whole(other)
            errors.append(float(np.abs(x - y).max(initial=0) / max(np.abs(y).max(initial=0), 1e-30)))
    return float(np.mean(errors)) if errors else np.inf
