"""What the kernels of dense sweeps read of a state, and how cotangents go back through them.

A state is [height, width, units, columns]; its columns are probes or, backward, classes times probes. A layer is one
matrix times what each of its output positions reads, [units, slots] times [slots, columns], with the slots in row-major
order of taps and then units. For that the taps of a row of the kernel are laid side by side, once for each column of
outputs; the rows of the kernel follow one another in memory already. All that is copied are runs of whole positions.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wsrl.encoder.dense_layers import DenseLink

State = Float32[np.ndarray, "_height _width _units _columns"]


def slots(state: State, link: DenseLink, grid: Sequence[int]) -> Float32[np.ndarray, "_rows _cols _slots _columns"]:
    """What each position of a grid reads of a state through a link; zeros where a window reaches out of the map.

    A view of the state where it can be.
    """
    (kernel_height, kernel_width), (top, left), stride = link.kernel, link.offset, link.stride
    height, width, units, columns = state.shape
    rows = stride * (grid[0] - 1) + kernel_height  # that any window reads
    inside = min(top, left) >= 0 and top + rows <= height
    if inside and link.kernel == (1, 1) and left + stride * (grid[1] - 1) < width:
        return state[top : top + rows : stride, left : left + stride * (grid[1] - 1) + 1 : stride]
    if (rows, kernel_width, grid[1]) == (height, width, 1) and inside and state.flags.c_contiguous:
        laid = state[None]
    else:
        laid = np.empty((grid[1], rows, kernel_width, units, columns), np.float32)
        first, end = max(0, -top), min(rows, height - top)  # of the rows that lie in the map
        laid[:, :first], laid[:, end:] = 0, 0
        for tap in range(kernel_width):
            start = left + tap
            begin = max(0, -(start // stride))  # first of the columns that read inside of the map; then the end of them
            until = max(begin, min(grid[1], (width - 1 - start) // stride + 1))
            laid[:begin, :, tap], laid[until:, :, tap] = 0, 0
            read = state[top + first : top + end, start + stride * begin :: stride][:, : until - begin]
            laid[begin:until, first:end, tap] = read.swapaxes(0, 1)
    column, row, _, unit, number = laid.strides
    shape = (*grid, kernel_height * kernel_width * units, columns)
    return np.ndarray(shape, np.float32, laid, strides=(row * stride, column, unit, number))


def correlate(state: State, link: DenseLink, grid: Sequence[int], out: State | None = None) -> State:
    """Weights of a link times what each position of a grid reads through it."""
    assert link.weight is not None
    matrix = link.weight.reshape(-1, link.weight.shape[3]).T
    return np.matmul(matrix, slots(state, link, grid), out=out)


def correlate_back(cotangent: State, link: DenseLink, size: tuple[int, int]) -> State:
    """The transpose of `correlate`: the cotangent of a state whose map has this size.

    Positions of the state that are `stride` apart are read through the same taps: for each of those phases it is the
    correlation of the cotangent with these taps, turned round.
    """
    assert link.weight is not None
    height, width, _, columns = cotangent.shape
    units = link.weight.shape[2]
    if (height, width) == (1, 1):  # one window: a product of all its taps
        taps = link.weight.reshape(-1, link.weight.shape[3]) @ cotangent[0, 0]
        return unwindow(taps.reshape(-1, 1, 1, units, columns), link, size)
    phases = [_phases(n, k, o, link.stride) for n, k, o in zip(size, link.kernel, link.offset, strict=True)]
    whole = all(sum(p.count for p in axis) == n for axis, n in zip(phases, size, strict=True))
    total = (np.empty if whole else np.zeros)((*size, units, columns), np.float32)
    for y, x in product(*phases):
        weight = link.weight[y.taps, x.taps].swapaxes(2, 3)
        turned = DenseLink(link.source, weight, (weight.shape[0], weight.shape[1]), (y.first, x.first), 1)
        correlate(cotangent, turned, (y.count, x.count), total[y.start :: link.stride, x.start :: link.stride])
    return total


def windows_of(state: State, link: DenseLink, grid: Sequence[int], outside: float = 0.0) -> Iterator[State]:
    """Views, one for each tap of a link in row-major order: what all positions of a grid read through it."""
    reach = [_reach(*axis, link.stride) for axis in zip(link.offset, grid, link.kernel, state.shape, strict=False)]
    padded = np.pad(state, [*reach, (0, 0), (0, 0)], constant_values=outside) if any(map(any, reach)) else state
    yield from _views(padded, reach, link, grid)


def unwindow(taps: Sequence[State] | np.ndarray, link: DenseLink, size: tuple[int, int]) -> State:
    """The transpose of `windows_of`: what each tap reads, added up to a map of this size."""
    *grid, units, columns = taps[0].shape
    reach = [_reach(*axis, link.stride) for axis in zip(link.offset, grid, link.kernel, size, strict=True)]
    (above, _), (left, _) = reach
    padded = np.zeros((size[0] + sum(reach[0]), size[1] + sum(reach[1]), units, columns), np.float32)
    for tap, window in zip(taps, _views(padded, reach, link, grid), strict=True):
        window += tap
    return padded[above : above + size[0], left : left + size[1]]


def _reach(offset: int, count: int, kernel: int, size: int, stride: int) -> tuple[int, int]:
    """How far the windows of a link reach out of a map along an axis, before and behind it."""
    return max(0, -offset), max(0, offset + stride * (count - 1) + kernel - size)


def _views(padded: State, reach: Sequence[tuple[int, int]], link: DenseLink, grid: Sequence[int]) -> Iterator[State]:
    for tap in product(*map(range, link.kernel)):
        starts = (o + r[0] + t for o, r, t in zip(link.offset, reach, tap, strict=True))
        yield padded[*(slice(s, s + link.stride * (n - 1) + 1, link.stride) for s, n in zip(starts, grid, strict=True))]


class Phase(NamedTuple):
    """Positions of a state, along one axis, that are read through the same taps.

    Attributes:
      start: of the positions.
      count: of the positions.
      first: output position that reads the first of them through the last tap.
      taps: last to first.
    """

    start: int
    count: int
    first: int
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
            found.append(Phase(offset + r + stride * least, most - least + 1, least - last, taps))
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
