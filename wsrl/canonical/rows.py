"""Tensors in pieces: rows of the first axis, few enough for memory."""

import mmap
from collections.abc import Callable, Iterator
from math import prod

import numpy as np
from jaxtyping import Float

from wsrl.checkpoint import Tensor

CHUNK = 8 * 2**20  # entries read at a time: 32 MiB of float32

ReadRows = Callable[[int, int], np.ndarray]


def row_reader(tensor: Tensor) -> ReadRows:
    """Returns (start, stop) -> float32 rows of a tensor's first axis; one without axes has one row."""
    if isinstance(tensor, np.ndarray):
        values = (tensor if tensor.ndim else tensor[None]).astype(np.float32, copy=False)
        return lambda start, stop: values[start:stop]
    shape = tensor.shape or (1,)
    return lambda start, stop: tensor.rows(start, stop).reshape(stop - start, *shape[1:])


def row_chunks(
    tensor: Tensor, start: int = 0, stop: int | None = None, step: int = 1, entries: int = CHUNK
) -> Iterator[tuple[int, int, Float[np.ndarray, "rows *rest"]]]:
    """Yields (first, last + 1, rows) of a tensor as float32, in pieces of at most about `entries` numbers.

    Args:
      tensor: its first axis is cut; a tensor without axes is one row.
      start, stop: rows to read; all where they are left out.
      step: pieces hold a multiple of so many rows, but for the last one.
      entries: of a piece, unless `step` rows already are more.
    """
    shape = tensor.shape or (1,)
    end: int = shape[0] if stop is None else stop
    read = row_reader(tensor)
    size = max(entries // max(prod(shape[1:]) * step, 1), 1) * step
    for first in range(start, end, size):
        last = min(first + size, end)
        yield first, last, read(first, last)


def read_whole(tensor: Tensor) -> Float[np.ndarray, "..."]:
    """Returns a tensor as float32."""
    return np.asarray(tensor, np.float32)


def forget_pages(tensor: Tensor) -> None:
    """Gives the pages of a mapped file back, which otherwise count as memory until all of the file has been read.

    They come back from the system's cache when they are needed again. Does nothing for tensors that are not mapped, and
    where the system has no such call.
    """
    if isinstance(tensor, np.ndarray) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    owner = tensor.read_rows(0, 1)
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)
