"""Whether the entries of a tensor lie on a grid, as a quantizer leaves them, and how fine that is."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from wsrl.checkpoint import LazyTensor
from wsrl.comparison.matching import TINY

LINES = 32  # stretches with a scale of their own that are looked at
LONGEST = 512  # entries of a stretch
BLOCK = 32  # entries that share a scale in most block formats; others use multiples, or halves
LEVELS = 300  # of the finest grid
FEWEST = 12  # entries that show a grid
RESIDUAL = 0.02  # of a step: rounding of float32 and of float16 scales
ROUNDING = 0.4  # of a step: more than the root mean square error of rounding, which is 1 / sqrt(12)
PASSED = 0.9  # of the lines
DIVISORS = np.arange(1, 9)  # the least difference may be several steps
FEWEST_BLOCKS = 8  # that show a code book
CODES = 64  # distinct values, over the largest of its block, of a code book
BITS = re.compile(r"(?:iq|tq|q|q?u?int|float)(\d)(?!\d)")
CODED_ERRORS = {8: 0.03, 6: 0.05, 5: 0.1, 4: 0.2, 3: 0.4, 2: 0.7}  # bits -> largest relative error of a format's codes


@dataclass(frozen=True)
class Grid:
    """The grid of a tensor.

    Attributes:
      bits: that number its levels.
      error: by which rounding to it changes a tensor at most, relative.
    """

    bits: int
    error: float


def find_grid(tensor: LazyTensor) -> Grid | None:
    """Returns the grid on which a tensor's entries lie, judged by some rows; None if they lie on none.

    Raises:
      CheckpointError: the rows hold NaN or Inf, or cannot be read.
    """
    if tensor.ndim < 2 or tensor.size < FEWEST:
        return None
    rows = min(tensor.shape[0], max(LINES, LONGEST * LINES // max(tensor.size // tensor.shape[0], 1)))
    found = grid_of(tensor.rows(0, rows))
    coded = BITS.match(tensor.dtype)
    if found is None and coded and int(coded[1]) in CODED_ERRORS:
        return Grid(int(coded[1]), CODED_ERRORS[int(coded[1])])
    return found


def grid_of(values: Float[np.ndarray, "..."]) -> Grid | None:
    """Returns the grid on which the entries of an array of two axes or more lie; None if they lie on none."""
    values = values.astype(np.float64)
    size = max(float(np.sqrt(np.square(values).mean())), TINY)
    for lines in _stretches(values):
        found = _lattice(lines)
        if found is not None:
            levels, step = found
            return Grid(max(int(np.ceil(np.log2(levels + 1))), 1), ROUNDING * step / size)
    blocks = _blocks(values.reshape(-1))
    if len(blocks) >= FEWEST_BLOCKS:
        codes = np.unique(np.round(blocks / np.maximum(np.abs(blocks).max(1, keepdims=True), TINY), 3))
        if len(codes) <= CODES:
            bits = int(np.ceil(np.log2(max(len(codes) / 2, 2))))  # a block's largest may have either sign
            return Grid(bits, CODED_ERRORS.get(bits, CODED_ERRORS[4]))
    return None


def _stretches(values: Float64[np.ndarray, "..."]) -> Iterator[Float64[np.ndarray, "lines entries"]]:
    """What may share a scale: the tensor, an entry of its first axis, of its last, blocks along one of them."""
    first, last = values.reshape(len(values), -1), values.reshape(-1, values.shape[-1]).T
    yield values.reshape(1, -1)[:, : LONGEST * 8]
    yield first[:LINES, :LONGEST]
    yield last[:LINES, :LONGEST]
    yield _blocks(values.reshape(-1))
    yield _blocks(values.reshape(-1), BLOCK // 2)
    if len(values) >= BLOCK:
        yield first[:BLOCK].T[:LINES]


def _blocks(flat: Float64[np.ndarray, "n"], length: int = BLOCK) -> Float64[np.ndarray, "blocks length"]:
    count = len(flat) // length
    return flat[: count * length].reshape(count, length)[: 2 * LINES]


def _lattice(lines: Float64[np.ndarray, "lines entries"]) -> tuple[int, float] | None:
    """The number of levels and the root mean square of the step, if most lines lie on a lattice of their own."""
    if not lines.size or lines.shape[1] < FEWEST:
        return None
    passed, tested, levels, steps = 0, 0, 0, []
    for line in lines:
        distinct = np.unique(line)
        scale = np.abs(line).max()
        gaps = np.diff(distinct)
        gaps = gaps[gaps > 1e-5 * scale]  # less is rounding
        if len(gaps) < 2:
            continue
        tested += 1
        found = _step(gaps)
        if tested - passed > (1 - PASSED) * len(lines) + 1:
            return None
        if found is not None:
            passed += 1
            levels = max(levels, round(gaps.sum() / found))
            steps.append(found)
    if not tested or passed < PASSED * tested:
        return None
    return levels, float(np.sqrt(np.mean(np.square(steps))))


def _step(gaps: Float[np.ndarray, "n"]) -> float | None:
    """The largest number of which all gaps are multiples."""
    for step in gaps.min() / DIVISORS:
        counts = gaps / step
        if gaps.sum() / step > LEVELS:
            return None
        if np.abs(counts - np.round(counts)).max() < RESIDUAL * max(1.0, np.sqrt(counts.max())):
            return float(step)
    return None
