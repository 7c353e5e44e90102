"""Integers with scales and zero points, as ONNX and TFLite quantise weights: value = scale (stored - zero)."""

from pathlib import Path

import numpy as np
from jaxtyping import Num

from wsrl.checkpoint import CheckpointError, LazyTensor


def affine(
    stored: LazyTensor, scale: Num[np.ndarray, " scales"], zero: Num[np.ndarray, " zeros"], axis: int, path: Path
) -> LazyTensor:
    """Returns the tensor that integers stand for; it is computed when its rows are read.

    Args:
      stored: integers of any shape.
      scale, zero: one number for all, or one for each index of `axis`.
      axis: negative ones count from the end.

    Raises:
      CheckpointError: the shapes do not fit together.
    """
    ndim = len(stored.shape)
    axis = axis + ndim if axis < 0 else axis
    length = stored.shape[axis] if 0 <= axis < ndim else 1
    if any(factors.size not in (1, length) for factors in (scale, zero)):
        reason = f"tensor {stored.name!r} of shape {stored.shape} has {scale.size} scales and {zero.size} zero points"
        raise CheckpointError(path, reason, "export it again")

    def along(factors: np.ndarray, start: int, stop: int) -> np.ndarray:
        if factors.size > 1:
            factors = factors[start:stop] if axis == 0 else factors
            factors = factors.reshape([-1 if i == axis else 1 for i in range(ndim)])
        return factors.astype(np.float32)

    def rows(start: int, stop: int) -> np.ndarray:
        values = stored.read_rows(start, stop).astype(np.float32)
        values -= along(zero, start, stop)
        values *= along(scale, start, stop)
        return values

    return LazyTensor(stored.shape, f"scaled {stored.dtype}", rows, str(path), stored.name)
