"""A tensor in a few numbers that no order, orientation or scale of its axes changes, and quantization hardly."""

import math
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float, Float64

from wsrl.canonical.rows import read_whole
from wsrl.checkpoint import Tensor
from wsrl.signature.binormalization import Squares, binormalize, outer

SMALLEST = 8  # entries of a tensor that is described
POWERS = (1, 1.5, 3, 4)  # of the moments; lower ones would see what a quantizer rounds to 0
SPREADS = 3  # numbers about the slices of an axis


@dataclass(frozen=True)
class Descriptor:
    """Numbers about one tensor.

    Attributes:
      entries: numbers in the tensor.
      lengths: of its axes longer than 1, the longest first.
      moments: logarithms of the means of |t|, |t|^(3/2), |t|^3 and |t|^4 over the entries t of the tensor after
        binormalization, where the mean of t^2 is 1.
      spreads: of the two longest axes, how unlike their slices are: the standard deviation of the mean |t| of a slice,
        the standard deviation and the mean of the logarithm of its mean t^4. Dead slices do not count.
      gain: logarithm of a scale that is not free; 0 for most tensors.
      parts: the number of parts, of which this is one, that a layer's tensor was cut into.
    """

    entries: int
    lengths: tuple[int, ...]
    moments: Float64[np.ndarray, "4"]
    spreads: Float64[np.ndarray, "6"]
    gain: float = 0.0
    parts: int = 1

    @property
    def values(self) -> Float64[np.ndarray, "11"]:
        """Moments, spreads, gain."""
        return np.concatenate([self.moments, self.spreads, [self.gain]])


def describe(tensor: Tensor, gain: float = 0.0, parts: int = 1) -> Descriptor | None:
    """Describes a tensor; None for tensors of fewer than 8 entries and those that are 0 everywhere.

    Args:
      tensor: to be described.
      gain, parts: see `Descriptor`.

    Raises:
      CheckpointError: the tensor holds NaN or Inf, or cannot be read.
    """
    shape = tuple(n for n in tensor.shape if n > 1)
    if prod(shape) * parts < SMALLEST:
        return None
    if len(shape) < 2:
        return _describe_vector(tensor, parts)
    squares = Squares(tensor)
    scales = binormalize(squares)
    if scales is None:
        return None
    sums = np.zeros(len(POWERS))
    columns = np.zeros((2, prod(shape[1:])))  # sums of |t| and t^4 over the first axis
    rows = np.zeros((2, shape[0]))  # and over the others
    joint = outer(scales[1:]).ravel().astype(squares.dtype)
    product = np.vdot if squares.dtype is np.float64 else _pairwise
    for start, stop, piece in squares:
        scaled = piece * scales[0][start:stop, None].astype(squares.dtype)
        scaled *= joint
        absolute = np.sqrt(scaled)
        cubes = product(scaled, absolute)
        roots = np.sqrt(absolute)
        sums += [absolute.sum(), product(roots, absolute), cubes, product(scaled, scaled)]
        fourth = np.square(scaled, out=scaled)
        for number, values in enumerate((absolute, fourth)):
            rows[number, start:stop] = values @ np.ones(values.shape[1], squares.dtype)
            columns[number] += np.ones(len(values), squares.dtype) @ values
    lengths = tuple(sorted(shape, reverse=True))
    alive = [scale > 0 for scale in scales]
    entries = prod(int(np.count_nonzero(own)) for own in alive)
    spreads = []
    for axis, own in enumerate(alive):
        if shape[axis] >= lengths[1]:
            others = tuple(i for i in range(1, len(shape)) if i != axis)
            slices = columns.reshape(2, *shape[1:]).sum(others) if axis else rows  # sums of |t| and t^4
            spreads.append((shape[axis], *_spread(*(slices[:, own] * np.count_nonzero(own) / entries))))
    spreads = [value for axis in sorted(spreads, reverse=True)[:2] for value in axis[1:]]
    return Descriptor(prod(shape), lengths, np.log(sums / entries), np.array(spreads), gain, parts)


def _describe_vector(tensor: Tensor, parts: int) -> Descriptor | None:
    """Describes a tensor of one axis, whose scale is taken out as a whole."""
    absolute = np.abs(read_whole(tensor).ravel().astype(np.float64))
    scale = np.sqrt(np.square(absolute).mean())
    if scale == 0:
        return None
    t = absolute / scale
    moments = np.log([np.mean(t**power) for power in POWERS])
    return Descriptor(t.size, (t.size, 1), moments, np.zeros(2 * SPREADS), parts=parts)


def _pairwise(a: Float[np.ndarray, "*shape"], b: Float[np.ndarray, "*shape"]) -> float:
    """A scalar product by NumPy's pairwise sum, which is more precise than one of BLAS."""
    return float((a * b).sum())


def _spread(first: Float64[np.ndarray, "slices"], fourth: Float64[np.ndarray, "slices"]) -> tuple[float, float, float]:
    """How unlike the slices of an axis are, from their mean |t| and t^4."""
    logs = np.log(fourth)
    count, mean = len(logs), float(logs.sum()) / len(logs)
    deviations = (values - center for values, center in ((first, float(first.sum()) / count), (logs, mean)))
    of_means, of_logs = (math.sqrt(own @ own / count) for own in deviations)  # np.std takes five times as long
    return of_means, of_logs, mean
