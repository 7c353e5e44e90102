"""What the kernels of dense sweeps read of a state, and how cotangents go back through them.

A state is [height, width, units, columns]; its columns are probes or, backward, classes times probes. What a row of a
kernel reads at an output position lies together in memory, so that a layer is, for each row of its kernel, one matrix
times [taps x units, columns] at every position, and nothing is copied. Where windows reach out of a map, the map has a
margin of zeros in memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wsrl.encoder.dense_layers import DenseLink

State = Float32[np.ndarray, "_height _width _units _columns"]


class Margin(NamedTuple):
    """Zeros around a map, in positions."""

    above: int = 0
    below: int = 0
    left: int = 0
    right: int = 0

    def covers(self, other: "Margin") -> bool:
        """Whether it is as wide as another everywhere."""
        return all(own >= wanted for own, wanted in zip(self, other, strict=True))


def widest(margins: Iterable[Margin]) -> Margin:
    """The smallest margin that covers all of them."""
    return Margin(*(max(each) for each in zip(Margin(), *margins, strict=True)))


class Bordered(NamedTuple):
    """A state with its margin.

    Attributes:
      whole: zeros in the margin.
      margin: around `inside`.
    """

    whole: State
    margin: Margin

    @classmethod
    def empty(cls, shape: Sequence[int], margin: Margin) -> "Bordered":
        """One of this shape whose inside is not filled yet."""
        above, below, left, right = margin
        height, width, *rest = shape
        whole = np.empty((above + height + below, left + width + right, *rest), np.float32)
        whole[:above], whole[above + height :], whole[:, :left], whole[:, left + width :] = 0, 0, 0, 0
        return cls(whole, margin)

    @classmethod
    def of(cls, state: State, margin: Margin) -> "Bordered":
        """A state with a margin; a copy of it, unless the margin is zero and it lies in one piece."""
        if not any(margin) and state.flags.c_contiguous:
            return cls(state, margin)
        found = cls.empty(state.shape, margin)
        found.inside[...] = state
        return found

    @property
    def inside(self) -> State:
        """The state; a view."""
        above, below, left, right = self.margin
        height, width = self.whole.shape[:2]
        return self.whole[above : height - below, left : width - right]


def reach(link: DenseLink, grid: Sequence[int], size: Sequence[int]) -> Margin:
    """How far the windows of a link, one for each position of a grid, reach out of a map of this size."""
    return Margin(*_reach(link.offset, grid, link.kernel, size, link.stride))


@cache
def _reach(
    offset: tuple[int, int], grid: Sequence[int], kernel: tuple[int, int], size: Sequence[int], stride: int
) -> tuple[int, ...]:
    axes = zip(offset, grid, kernel, size, strict=True)
    return tuple(n for o, g, k, s in axes for n in (max(0, -o), max(0, o + stride * (g - 1) + k - s)))


def correlate(state: Bordered, link: DenseLink, grid: tuple[int, int], out: State | None = None) -> State:
    """Weights of a link times what each position of a grid reads through it; the margin covers its `reach`."""
    weight = link.weight
    assert weight is not None
    (rows, columns), units, whole = link.kernel, weight.shape[3], state.whole
    top, left = state.margin.above + link.offset[0], state.margin.left + link.offset[1]
    if columns == whole.shape[1] and whole.flags.c_contiguous:  # its rows follow one another as well
        rows, columns = 1, rows * columns
    down, across, unit, number = whole.strides
    shape = (*grid, columns * weight.shape[2], whole.shape[3])
    strides = (link.stride * down, link.stride * across, unit, number)
    (matrix, read), *others = [
        (own.T, np.ndarray(shape, np.float32, whole, (top + row) * down + left * across, strides))
        for row, own in enumerate(weight.reshape(rows, -1, units))
    ]
    total: State = np.matmul(matrix, read, out=out)
    for matrix, read in others:
        total += matrix @ read
    return total


def correlate_back(cotangent: State | Bordered, link: DenseLink, size: tuple[int, int]) -> State:
    """The transpose of `correlate`: the cotangent of a state whose map has this size.

    Positions of the state that are `stride` apart are read through the same taps: for each of those phases it is the
    correlation of the cotangent with these taps, turned round.
    """
    weight = link.weight
    assert weight is not None
    inside = cotangent.inside if isinstance(cotangent, Bordered) else cotangent
    height, width, _, columns = inside.shape
    units = weight.shape[2]
    if (height, width) == (1, 1):  # one window: a product of all its taps
        taps = weight.reshape(-1, weight.shape[3]) @ inside[0, 0]
        return unwindow(taps.reshape(-1, 1, 1, units, columns), link, size)
    margin = reach_back(link, (height, width), size)
    if not isinstance(cotangent, Bordered) or not cotangent.margin.covers(margin):
        cotangent = Bordered.of(inside, margin)
    phases = _phases_of(size, link.kernel, link.offset, link.stride)
    whole = all(sum(p.count for p in axis) == n for axis, n in zip(phases, size, strict=True))
    total = (np.empty if whole else np.zeros)((*size, units, columns), np.float32)
    for y, x in product(*phases):
        turned = _turned(link, y, x)._replace(weight=np.ascontiguousarray(weight[y.taps, x.taps].swapaxes(2, 3)))
        correlate(cotangent, turned, (y.count, x.count), total[y.start :: link.stride, x.start :: link.stride])
    return total


def reach_back(link: DenseLink, grid: tuple[int, int], size: tuple[int, int]) -> Margin:
    """The margin of a cotangent on a grid with which `correlate_back` has nothing to copy."""
    return Margin() if grid == (1, 1) else _reach_back(link._replace(weight=None), grid, size)


@cache
def _reach_back(link: DenseLink, grid: tuple[int, int], size: tuple[int, int]) -> Margin:
    phases = product(*_phases_of(size, link.kernel, link.offset, link.stride))
    return widest(reach(_turned(link, y, x), (y.count, x.count), grid) for y, x in phases)


def _turned(link: DenseLink, y: "Phase", x: "Phase") -> DenseLink:
    """How the positions of a phase read the cotangent, still without weights."""
    return DenseLink(link.source, None, (y.number, x.number), (y.first, x.first), 1)


def windows_of(state: State, link: DenseLink, grid: Sequence[int], outside: float = 0.0) -> Iterator[State]:
    """Views, one for each tap of a link in row-major order: what all positions of a grid read through it."""
    margin = reach(link, tuple(grid), state.shape[:2])
    around = [margin[:2], margin[2:], (0, 0), (0, 0)]
    yield from _views(np.pad(state, around, constant_values=outside) if any(margin) else state, margin, link, grid)


def unwindow(taps: Sequence[State] | np.ndarray, link: DenseLink, size: tuple[int, int]) -> State:
    """The transpose of `windows_of`: what each tap reads, added up to a map of this size."""
    height, width, units, columns = taps[0].shape
    margin = reach(link, (height, width), tuple(size))
    around = size[0] + margin.above + margin.below, size[1] + margin.left + margin.right
    found = Bordered(np.zeros((*around, units, columns), np.float32), margin)
    for tap, window in zip(taps, _views(found.whole, margin, link, (height, width)), strict=True):
        window += tap
    return found.inside


def _views(padded: State, margin: Margin, link: DenseLink, grid: Sequence[int]) -> Iterator[State]:
    for tap in product(*map(range, link.kernel)):
        starts = (o + r + t for o, r, t in zip(link.offset, (margin.above, margin.left), tap, strict=True))
        yield padded[*(slice(s, s + link.stride * (n - 1) + 1, link.stride) for s, n in zip(starts, grid, strict=True))]


class Phase(NamedTuple):
    """Positions of a state, along one axis, that are read through the same taps.

    Attributes:
      start: of the positions.
      count: of the positions.
      first: output position that reads the first of them through the last tap.
      taps: last to first.
      number: of the taps.
    """

    start: int
    count: int
    first: int
    taps: slice
    number: int


@cache
def _phases_of(
    size: tuple[int, int], kernel: tuple[int, int], offset: tuple[int, int], stride: int
) -> tuple[list["Phase"], list["Phase"]]:
    """Phases of both axes."""
    down, across = (_phases(n, k, o, stride) for n, k, o in zip(size, kernel, offset, strict=True))
    return down, across


def _phases(size: int, kernel: int, offset: int, stride: int) -> list[Phase]:
    """Phases of an axis whose positions are read through any tap.

    Position offset + r + stride * m is read by output position m - j through tap r + stride * j.
    """
    found = []
    for r in range(min(stride, kernel)):
        last = (kernel - 1 - r) // stride  # of the taps
        least, most = -((offset + r) // stride), (size - 1 - offset - r) // stride
        if most >= least:
            taps = slice(r + stride * last, None, -stride)
            found.append(Phase(offset + r + stride * least, most - least + 1, least - last, taps, last + 1))
    return found


def first_largest(state: State, link: DenseLink, grid: Sequence[int]) -> list[State]:
    """For each tap, 1 where it reads the first of the largest in its window: there JAX sends the gradient as well."""
    windows = list(windows_of(state, link, grid, -np.inf))
    largest = np.maximum.reduce(windows)
    found, free = [], np.ones(largest.shape, bool)
    for window in windows:
        chosen = free & (window == largest)
        free &= ~chosen
        found.append(chosen.astype(np.float32))
    return found
