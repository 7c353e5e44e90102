"""What the kernels of dense sweeps read of a state, and how cotangents go back through them.

A state is [height, probes, width, units]: the taps of one row of a kernel lie side by side, so a window is a matrix of
probes and slots that products read where it lies, and nothing is gathered (the rows of a kernel are summed after).
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy.lib.stride_tricks import as_strided

from wsrl.encoder.dense_network import DenseLayer, DenseLink

State = Float32[np.ndarray, "_height _probes _width _units"]
Reach = tuple[tuple[int, int], tuple[int, int]]  # rows above and below a map, columns left and right of it


class Map(NamedTuple):
    """A state amid zeros."""

    padded: State
    reach: Reach

    @property
    def state(self) -> State:
        """Without the zeros."""
        (top, bottom), (left, right) = self.reach
        height, _, width, _ = self.padded.shape
        return self.padded[top : height - bottom, :, left : width - right]


def amid(state: State, reach: Reach, fill: float = 0.0) -> Map:
    """A state amid others of the same value; itself where nothing reaches out of it and its rows are whole."""
    (top, bottom), (left, right) = reach
    height, probes, width, units = state.shape
    if not (top or bottom or left or right) and state[:1, :1].flags.c_contiguous:
        return Map(state, reach)
    padded = np.full((top + height + bottom, probes, left + width + right, units), fill, np.float32)
    padded[top : top + height, :, left : left + width] = state
    return Map(padded, reach)


def amid_zeros(state: State, link: DenseLink, grid: tuple[int, int]) -> Map:
    """A state amid the zeros that a link reads beyond its edges."""
    return amid(state, reach_of(link, grid, (state.shape[0], state.shape[2])))


def amid_least(state: State, layer: DenseLayer) -> Map:
    """A state amid the least of all numbers, which max pooling reads beyond its edges."""
    reach = reach_of(layer.links[0], layer.grid, (state.shape[0], state.shape[2]))
    return amid(state, reach, -np.inf)


def reach_of(link: DenseLink, grid: Sequence[int], size: Sequence[int]) -> Reach:
    """How far the windows of a link reach out of a map."""
    ends = [o + link.stride * (n - 1) + k for o, n, k in zip(link.offset, grid, link.kernel, strict=True)]
    rows, columns = ((max(0, -o), max(0, end - n)) for o, end, n in zip(link.offset, ends, size, strict=True))
    return rows, columns


def reach_of_readers(network: Sequence[DenseLayer]) -> list[Reach]:
    """How far the readers of each layer reach out of its map, but for those that read the input or take the largest."""
    found: list[Reach] = [((0, 0), (0, 0))] * len(network)
    for layer in network:
        for link in layer.links:
            source = network[link.source]
            if layer.op == "max" or source.op == "input":
                continue
            own = reach_of(link, layer.grid, (1, 1) if source.pool else source.grid)
            rows, columns = ((max(a, c), max(b, d)) for (a, b), (c, d) in zip(found[link.source], own, strict=True))
            found[link.source] = rows, columns
    return found


def windows_of(source: Map, link: DenseLink, grid: Sequence[int]) -> Iterator[State]:
    """Views of a state, one for each tap of a link in row-major order: what all output positions read through it."""
    first = [o + before for o, (before, _) in zip(link.offset, source.reach, strict=True)]
    for tap in product(*map(range, link.kernel)):
        start = [f + t for f, t in zip(first, tap, strict=True)]
        rows, columns = (slice(s, s + link.stride * (n - 1) + 1, link.stride) for s, n in zip(start, grid, strict=True))
        yield source.padded[rows, :, columns]


def unwindow(taps: Sequence[State], link: DenseLink, size: tuple[int, int]) -> State:
    """The transpose of `windows_of`: what each tap reads, added up to a map of this size."""
    rows, probes, columns, units = taps[0].shape
    reach = reach_of(link, (rows, columns), size)
    height, width = (n + sum(r) for n, r in zip(size, reach, strict=True))
    total = Map(np.zeros((height, probes, width, units), np.float32), reach)
    for tap, window in zip(taps, windows_of(total, link, (rows, columns)), strict=True):
        window += tap
    return total.state


def correlate(
    padded: State,
    weight: Float32[np.ndarray, "kernel_height kernel_width units new_units"],
    first: Sequence[int],
    stride: int,
    grid: tuple[int, int],
    bias: Float32[np.ndarray, " new_units"] | None = None,
) -> State:
    """Weights times windows that begin at `first`, `stride` apart.

    One product for each output position and row of the kernel, [probes, kernel_width * units] times
    [kernel_width * units, new_units], of views.
    """
    kernel_height, kernel_width, units, new_units = weight.shape
    row, probe, column, unit = padded.strides
    windows = as_strided(
        padded[first[0] :, :, first[1] :],
        (*grid, kernel_height, padded.shape[1], kernel_width * units),
        (row * stride, column * stride, row, probe, unit),
    )
    products = windows @ weight.reshape(kernel_height, -1, new_units)
    total = products[:, :, 0]
    for other in range(1, kernel_height):
        total += products[:, :, other]
    if bias is not None:
        total += np.tile(bias, (padded.shape[1], 1))  # longer runs than the bias alone
    return total.swapaxes(1, 2)


def correlate_back(cotangent: State, link: DenseLink, size: tuple[int, int]) -> State:
    """The transpose of `correlate`: the cotangent of a state whose map has this size.

    Positions of the state that are `stride` apart are read through the same taps: for each of those phases it is the
    correlation of the cotangent with these taps, turned round.
    """
    assert link.weight is not None
    rows, probes, columns, _ = cotangent.shape
    units = link.weight.shape[2]
    total = np.zeros((size[0], probes, size[1], units), np.float32)
    if (rows, columns) == (1, 1):  # one window: a product of all its taps
        matrix = link.weight.reshape(-1, link.weight.shape[3])
        taps = (cotangent[0, :, 0] @ matrix.T).reshape(probes, *link.kernel, units)
        return unwindow(list(np.moveaxis(taps, 0, 2).reshape(-1, 1, probes, 1, units)), link, size)
    phases = [_phases(n, k, o, link.stride) for n, k, o in zip(size, link.kernel, link.offset, strict=True)]
    reach = [
        (max(0, -min(p.first for p in axis)), max(0, max(p.end for p in axis) - n))
        for axis, n in zip(phases, (rows, columns), strict=True)
    ]
    padded = amid(cotangent, (reach[0], reach[1])).padded
    for y, x in product(*phases):
        weight = link.weight[y.taps, x.taps].swapaxes(2, 3)
        first = [p.first + r[0] for p, r in zip((y, x), reach, strict=True)]
        found = correlate(padded, weight, first, 1, (y.count, x.count))
        total[y.start :: link.stride, :, x.start :: link.stride] = found
    return total


class Phase(NamedTuple):
    """Positions of a state, along one axis, that are read through the same taps.

    Attributes:
      start: of the positions.
      count: of the positions.
      first: output position that reads the first of them through the last tap.
      end: one after the output position that reads the last of them through the first tap.
      taps: last to first.
    """

    start: int
    count: int
    first: int
    end: int
    taps: slice


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
            found.append(Phase(offset + r + stride * least, most - least + 1, least - last, most + 1, taps))
    return found


def first_largest(state: State, layer: DenseLayer) -> list[State]:
    """For each tap, 1 where it reads the first of the largest in its window: there JAX sends the gradient as well."""
    windows = list(windows_of(amid_least(state, layer), layer.links[0], layer.grid))
    largest = reduce(np.maximum, windows)
    found, free = [], np.ones(largest.shape, bool)
    for window in windows:
        chosen = free & (window == largest)
        free &= ~chosen
        found.append(chosen.astype(np.float32))
    return found
