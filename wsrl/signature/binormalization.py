"""Scales of the axes of a tensor that give all its slices the same mean square.

For a matrix this is binormalization (Livne and Golub 2004), the scaling of Sinkhorn and Knopp (1967) on squares: the
scaled matrix does not change when rows and columns of the original are multiplied by numbers other than 0, up to signs.
So it takes out every scale that a neuron, a norm or a quantizer may have, without knowing of any.

A tensor is read in pieces along its first axis, once an iteration; the scales of the other axes follow from sums over
the first.
"""

from collections.abc import Iterator
from math import prod

import numpy as np
from jaxtyping import Float, Float64

from wsrl.canonical.rows import read_whole, row_chunks
from wsrl.checkpoint import Tensor

PIECE = 2**17  # entries: a piece stays in the processor's cache
KEPT = 2**22  # entries of a tensor that stays in memory between the passes
DOUBLE = 2**16  # entries of a tensor that is squared in float64; of larger ones float32's errors average out
TOLERANCES = {np.float64: 1e-8, np.float32: 3e-6}  # of the mean squares, relative: float32 rounds the last ones away
PASSES = 100  # over the squares; dense matrices take four to eight
STREAMED_PASSES = 8  # over the file, of a tensor that does not stay in memory
BOUNDS = 1e-12, 1e12  # of the factors and their inverses
TINY = 1e-30  # keeps a quotient finite
DEAD = 1e-10  # of the largest mean square of an axis: a slice with less is dead, as weight decay leaves some

Scales = list[Float64[np.ndarray, "_slices"]]


class Squares:
    """The squares of a tensor, piece by piece along its first axis longer than 1; a small one is read only once.

    Iterating yields (first, last + 1, squares [rows, rest] in float64 or, of large tensors, float32), up to a common
    factor. The caller must not change them.

    Attributes:
      shape: of the tensor without its axes of length 1, at least two axes.
    """

    def __init__(self, tensor: Tensor):
        self.shape = tuple(n for n in tensor.shape if n > 1)
        self.tensor = tensor
        self.dtype = np.float64 if prod(self.shape) <= DOUBLE else np.float32
        self.factor = self.dtype(0)
        self.kept = list(self._read()) if prod(self.shape) <= KEPT else None

    def __iter__(self) -> Iterator[tuple[int, int, Float[np.ndarray, "rows rest"]]]:
        return iter(self._read() if self.kept is None else self.kept)

    def _read(self) -> Iterator[tuple[int, int, Float[np.ndarray, "rows rest"]]]:
        rows = self.shape[0]
        if self.tensor.shape[0] == rows:
            pieces = row_chunks(self.tensor, entries=PIECE)
        else:  # an axis of length 1 stands in front
            pieces = iter([(0, rows, read_whole(self.tensor))])
        for first, last, values in pieces:
            wide = values.reshape(last - first, -1).astype(self.dtype)
            if not self.factor:  # so that squares of small numbers are not lost
                largest = np.abs(wide).max()
                self.factor = self.dtype(1 / largest if largest else 0)
            wide *= self.factor or 1
            yield first, last, np.square(wide, out=wide)


def binormalize(squares: Squares) -> Scales | None:
    """Returns factors for the squares, one vector for each axis; None if all entries are 0.

    Dead slices get the factor 0: they count no more than if they were not there.

    Raises:
      CheckpointError: the tensor holds NaN or Inf, or cannot be read.
    """
    shape = squares.shape
    alive = [np.ones(n) for n in shape]  # 0 for dead slices
    scales = [np.ones(n) for n in shape]
    living = list(shape)  # the number of slices that are not dead
    before = 1.0
    for number in range(STREAMED_PASSES if squares.kept is None else PASSES):
        joint = (outer(scales[1:]).ravel() / prod(living[1:])).astype(squares.dtype, copy=False)
        if number == 0:
            means = np.concatenate([piece @ joint for _, _, piece in squares])
            living[0] = _bury(alive[0], means)
            scales[0] = _inverse(means, alive[0])
        total = np.zeros(len(joint))
        for start, stop, piece in squares:
            if number:
                scales[0][start:stop] = _inverse(piece @ joint, alive[0][start:stop])
            total += scales[0][start:stop].astype(squares.dtype, copy=False) @ piece
        worst = 0.0  # the largest change along all axes but the first, whose factors follow from the others
        for axis in range(1, len(shape)):
            along = _contract(total, scales[1:], axis - 1)
            if number == 0:
                living[axis] = _bury(alive[axis], along)
                if not living[axis]:
                    return None
            means = along / (prod(living) // living[axis])
            worst = max(worst, float(np.abs(means * scales[axis] * alive[axis] - alive[axis]).max()))
            scales[axis] = _inverse(means, alive[axis])
        # convergence is linear: what the next pass would change is known
        if worst * min(worst / before, 1.0) < TOLERANCES[squares.dtype]:
            break
        before = max(worst, TINY)
    return scales


def outer(scales: Scales) -> Float64[np.ndarray, "..."]:
    """Returns the product of one factor from each vector, for all combinations."""
    joint = scales[0]
    for scale in scales[1:]:
        joint = joint[..., None] * scale
    return joint


def _contract(total: Float64[np.ndarray, "rest"], scales: Scales, axis: int) -> Float64[np.ndarray, "slices"]:
    """Multiplies a tensor, given flat, by a vector along every axis but one, and sums."""
    for scale in reversed(scales[axis + 1 :]):
        total = total.reshape(-1, len(scale)) @ scale
    for scale in scales[:axis]:
        total = scale @ total.reshape(len(scale), -1)
    return total


def _bury(alive: Float64[np.ndarray, "slices"], means: Float[np.ndarray, "slices"]) -> int:
    """Sets dead slices to 0, in place, and returns how many others there are."""
    alive[:] = means > DEAD * means.max()
    return int(np.count_nonzero(alive))


def _inverse(means: Float[np.ndarray, "slices"], alive: Float64[np.ndarray, "slices"]) -> Float64[np.ndarray, "slices"]:
    """Returns 1 / means, and 0 for dead slices; without total support the factors would run away."""
    return alive / np.minimum(np.maximum(means, BOUNDS[0]), BOUNDS[1])
