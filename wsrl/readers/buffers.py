"""Tells constants of infinite entries, such as masks and bounds, from weights: a network learns no infinity."""

import numpy as np

from wsrl.checkpoint import LazyTensor
from wsrl.readers.number_types import LARGEST_BFLOAT16

SHARE = 1 / 8  # of infinite entries, from which on a matrix with finite ones other than zero is a mask

SHORT = 64  # entries; a longer tensor without a finite one is taken for weights that overflowed


def is_infinite_constant(tensor: LazyTensor) -> bool:
    """Whether a tensor is a mask or bound.

    Its first or last row has an infinite entry and none is NaN. The finite entries are zero, or in a tensor of two axes
    or more the infinite ones are many; without finite entries it is a bound only if it is short. The largest finite
    numbers of a type stand for infinity.

    Args:
      tensor: of floating point; two of its rows are read, and all if one of them is infinite.

    Raises:
      CheckpointError: rows cannot be read.
    """
    if not tensor.size or tensor.dtype not in LIMITS:
        return False
    last = tensor.num_rows - 1
    if not any(_infinite(tensor, tensor.read_rows(row, row + 1)).any() for row in (0, last)):
        return False
    values = np.asarray(tensor.read_rows(0, tensor.num_rows))
    infinite = _infinite(tensor, values)
    with np.errstate(invalid="ignore", over="ignore"):
        finite = values[~infinite].astype(np.float32)
    if np.isnan(finite).any() or (not finite.size and tensor.size > SHORT):
        return False
    return not finite.any() or (tensor.ndim > 1 and bool(infinite.mean() >= SHARE))


def _infinite(tensor: LazyTensor, values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # of signaling NaN
        return np.abs(np.asarray(values).astype(np.float64)) >= LIMITS[tensor.dtype]


LIMITS = {
    **{np.dtype(kind).name: float(np.finfo(kind).max) for kind in (np.float64, np.float32, np.float16)},
    "bfloat16": LARGEST_BFLOAT16,
}
