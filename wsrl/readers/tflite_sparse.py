"""Where the entries of a sparse TFLite tensor lie.

The layout: https://github.com/tensorflow/tensorflow, `tensorflow/compiler/mlir/lite/schema/schema.fbs`, table
SparsityParameters, after Kjolstad et al. 2017 (The Tensor Algebra Compiler): the axes are levels, outermost first; a
dense level has every index, a sparse one a list of those that are there. Axes may be cut into blocks, whose inner part
is a level of its own.
"""

from math import prod

import numpy as np
from jaxtyping import Int64

from wsrl.readers.budget import Budget
from wsrl.readers.flatbuffer import FlatBufferError, Table

DENSE = 0
VECTORS = {1: "<i4", 2: "<u2", 3: "u1"}  # types of the lists of a sparse level


def sparse_places(sparsity: Table, shape: tuple[int, ...], most: int, budget: Budget) -> Int64[np.ndarray, " entries"]:
    """Returns the place of each entry that is stored, in C order of the dense tensor.

    Args:
      sparsity: a table SparsityParameters.
      shape: of the dense tensor.
      most: entries that there may be.
      budget: for the levels.

    Raises:
      FlatBufferError: levels do not fit the shape, lists do not fit together, or there are too many entries.
      CheckpointError: there are more levels than the budget allows.
    """
    ndim = len(shape)
    order, blocks = sparsity.array(0, "<i4").tolist(), sparsity.array(1, "<i4").tolist()
    levels = list(budget.each(sparsity.tables(2)))
    if sorted(order) != list(range(ndim + len(blocks))) or len(levels) != len(order):
        raise FlatBufferError("levels of a sparse tensor are not its axes")
    if len(set(blocks)) < len(blocks) or not all(0 <= axis < ndim for axis in blocks):
        raise FlatBufferError("blocks of a sparse tensor are not of its axes")
    sizes = {
        blocks[axis - ndim]: level.integer(1, "<i") for axis, level in zip(order, levels, strict=True) if axis >= ndim
    }
    if any(size < 1 or shape[axis] % size for axis, size in sizes.items()):
        raise FlatBufferError("blocks of a sparse tensor do not fill it")
    slots = np.zeros(1, np.int64)  # of the entries so far, among those of their level
    places = np.zeros(1, np.int64)
    for axis, level in zip(order, levels, strict=True):
        own = blocks[axis - ndim] if axis >= ndim else axis
        length = sizes[own] if axis >= ndim else shape[axis] // sizes.get(axis, 1)
        stride = prod(shape[own + 1 :]) * (1 if axis >= ndim else sizes.get(axis, 1))
        if level.integer(0, "<b") == DENSE:
            if level.integer(1, "<i") != length:
                raise FlatBufferError("a dense level of a sparse tensor has another length than its axis")
            _check(len(slots) * length, most)
            index = np.tile(np.arange(length), len(slots))
            slots = (slots[:, None] * length + np.arange(length)).reshape(-1)
            places = np.repeat(places, length)
        else:
            segments, indices = _vector(level, 2), _vector(level, 4)
            if len(segments) <= slots.max(initial=0) + 1 or (np.diff(segments) < 0).any():
                raise FlatBufferError("a list of a sparse tensor is too short")
            starts, counts = segments[slots], segments[slots + 1] - segments[slots]
            _check(int(counts.sum()), most)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            slots, places = np.repeat(starts, counts) + within, np.repeat(places, counts)
            if len(slots) and not 0 <= slots.min() <= slots.max() < len(indices):
                raise FlatBufferError("a list of a sparse tensor ends beyond it")
            index = indices[slots]
        if len(index) and not 0 <= index.min() <= index.max() < length:
            raise FlatBufferError("an entry of a sparse tensor lies outside of it")
        places = places + index * stride
    return places


def _check(entries: int, most: int) -> None:
    if entries > most:
        raise FlatBufferError("a sparse tensor has more entries than a file of its size can hold")


def _vector(level: Table, field: int) -> Int64[np.ndarray, " entries"]:
    """A list of integers, of a type that the field before it names."""
    kind, table = level.integer(field, "<B"), level.table(field + 1)
    if kind not in VECTORS or table is None:
        raise FlatBufferError("a sparse level has no lists")
    return table.array(0, VECTORS[kind]).astype(np.int64)
