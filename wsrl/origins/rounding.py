"""Of several networks that round to a quantized one: which it was made of."""

import numpy as np

from wsrl.canonical.rows import read_whole
from wsrl.comparison.relation import Relation
from wsrl.origins.keeper import Copy

WHOLE = 2**26  # entries of a tensor that is read


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
