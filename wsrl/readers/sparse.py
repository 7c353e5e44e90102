"""Dense tensors of which a file holds only the entries that are not zero."""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers.mapped import memory_limit


def scattered(
    values: LazyTensor, places: Int[np.ndarray, " entries"], shape: tuple[int, ...], size: int, path: Path
) -> LazyTensor:
    """Returns the dense tensor.

    Args:
      values: [entries], of any type.
      places: of each in the dense tensor, in C order from 0.
      shape: of the dense tensor.
      size: of the file in bytes; bounds the memory that the tensor may take.

    Raises:
      CheckpointError: there are more or fewer places than values, a place lies outside of the tensor or holds two
        values, or the tensor takes too much memory.
    """
    entries = int(np.prod(shape, dtype=object))
    fix = "export it again"
    if 4 * entries > memory_limit(size):
        reason = f"the sparse tensor {values.name!r} would take {4 * entries} bytes, too many for a file of {size}"
        raise CheckpointError(path, reason, "store it densely if you trust it")
    order = np.argsort(places, kind="stable")
    places = places[order]
    inside = not len(places) or (places[0] >= 0 and places[-1] < entries and (np.diff(places) > 0).all())
    if values.shape != places.shape or not inside:
        raise CheckpointError(path, f"the entries of the sparse tensor {values.name!r} have no place in it", fix)
    inner = entries // shape[0] if shape and shape[0] else entries

    def rows(start: int, stop: int) -> np.ndarray:
        start, stop, _ = slice(start, stop).indices(shape[0] if shape else 1)
        first, last = np.searchsorted(places, [start * inner, stop * inner])
        stored = values.read_rows(0, values.num_rows)
        result = np.zeros((stop - start) * inner, stored.dtype)
        result[places[first:last] - start * inner] = stored[order[first:last]]
        return result.reshape(stop - start, *shape[1:])

    return LazyTensor(shape, values.dtype, rows, str(path), values.name)
