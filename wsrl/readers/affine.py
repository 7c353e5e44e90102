"""Integers with scales and zero points: value = scale (stored - zero point), computed when rows are read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Num

from wsrl.checkpoint import CheckpointError, LazyTensor

Factors = Num[np.ndarray, "..."] | LazyTensor


def affine(
    stored: LazyTensor, scale: Factors, zero: Factors | None, path: str | Path, blocks: Sequence[int] = ()
) -> LazyTensor:
    """Returns the tensor that integers stand for.

    Args:
      stored: integers or short floating point, of any shape.
      scale, zero: broadcast against `stored` as NumPy does; or with `blocks`, an entry for each block.
      path: for messages.
      blocks: for each axis, how many neighbors share a factor; 1 on every axis if empty. The last block may be shorter.

    Raises:
      CheckpointError: the shapes do not fit together.
    """
    ndim = max(stored.ndim, 1)
    shape = stored.shape or (1,)
    per_axis = tuple(blocks) or (1,) * ndim
    counts = [-(-n // block) for n, block in zip(shape, per_axis, strict=True)]
    for factors in (scale,) if zero is None else (scale, zero):
        padded = _padded(factors.shape, ndim)
        if len(padded) != ndim or any(n not in (1, count) for n, count in zip(padded, counts, strict=True)):
            reason = f"tensor {stored.name!r} of shape {stored.shape} has scales or zero points of shape"
            raise CheckpointError(path, f"{reason} {tuple(factors.shape)}", "export it again")
    kind = stored.dtype if stored.dtype.startswith("q") else f"q{stored.dtype}"
    return replace(stored, dtype=kind, read_rows=_Rows(stored, scale, zero, per_axis))


def along(factors: Num[np.ndarray, "..."], axis: int, ndim: int) -> Num[np.ndarray, "..."]:
    """Lays a vector of factors along one of `ndim` axes, counted from the end if negative; a number stays one."""
    flat = factors.reshape(-1)
    if flat.size == 1 or not -ndim <= axis < ndim:
        return flat if flat.size == 1 else factors
    return flat.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def _padded(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    return (1,) * (ndim - len(shape)) + tuple(shape)


@dataclass(frozen=True)
class _Rows:
    """Reads rows; entries along an axis in a block of `blocks[axis]` share a factor."""

    stored: LazyTensor
    scale: Factors
    zero: Factors | None
    blocks: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> Float[np.ndarray, "..."]:
        values = np.array(self.stored.read_rows(start, stop), np.float32)
        if self.zero is not None:
            values -= self._spread(self.zero, start, values.shape)
        values *= self._spread(self.scale, start, values.shape)
        return values

    def _spread(self, factors: Factors, start: int, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """Repeats factors over their blocks, for `shape[0]` rows from `start`; axes of one factor stay as they are."""
        array = np.asarray(factors)
        array = array.reshape(_padded(array.shape, len(shape)))
        if len(array) > 1:
            array = array[np.arange(start, start + shape[0]) // self.blocks[0]]
        array = array.astype(np.float32)
        for axis in range(1, len(shape)):
            if array.shape[axis] > 1 and self.blocks[axis] > 1:
                array = np.repeat(array, self.blocks[axis], axis)
        return array[(slice(None), *(slice(n) for n in shape[1:]))]
