"""At which precision a checkpoint holds its numbers."""

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from wsrl.checkpoint import LazyTensor, Tensor
from wsrl.comparison.grid import find_grid

LOOKED_AT = 4096  # entries of a tensor
TENSORS = 8  # that are looked at, the largest,
GRIDS = 2  # and that all have to lie on a grid
FLOATS = {"bfloat16": 16.0, "float8_e4m3fn": 8.0, "float8_e5m2": 8.0}


def main_type(tensors: Mapping[str, Tensor]) -> str:
    """Returns the type that most entries are stored in."""
    entries: Counter[str] = Counter()
    for tensor in tensors.values():
        entries[str(tensor.dtype)] += tensor.size
    return max(entries, key=lambda name: (entries[name], name), default="")


def type_bits(dtype: str) -> float:
    """Returns the bits of an entry of a type such as `float32`, `int8`, `q4_0` or `iq2_xxs`; 0 if it tells none."""
    number = re.search(r"\d+", dtype)
    return FLOATS.get(dtype, float(number.group()) if number else 0.0)


def is_widened(tensors: Mapping[str, Tensor]) -> bool:
    """Whether float32 numbers all are bfloat16 numbers: the low 16 bits of each are 0.

    Looks at the first entries of the largest tensors. Tensors of zeros and ones alone tell nothing.
    """
    wide = [t for t in tensors.values() if str(t.dtype) == "float32" and t.size > 1]
    telling = 0
    for tensor in sorted(wide, key=lambda t: -t.size)[:TENSORS]:
        bits = _first(tensor).view(np.uint32)
        if (bits & 0xFFFF).any():
            return False
        telling += len(np.unique(bits)) > 2
    return telling > 0


def precision(tensors: Mapping[str, Tensor]) -> float:
    """Returns the bits in which most numbers of a checkpoint are known, whatever the type that holds them.

    These are 16 for float32 copies of bfloat16 numbers, and those of the grid for numbers that were rounded to one.
    """
    bits = type_bits(main_type(tensors))
    if bits == 32 and is_widened(tensors):
        bits = 16.0
    largest = sorted((_lazy(t) for t in tensors.values() if t.ndim > 1), key=lambda t: -t.size)[:GRIDS]
    grids = [find_grid(tensor) for tensor in largest]
    found = [float(grid.bits) for grid in grids if grid]
    return min(bits, max(found)) if found and len(found) == len(grids) else bits


def _lazy(tensor: Tensor) -> LazyTensor:
    return tensor if isinstance(tensor, LazyTensor) else LazyTensor.of(tensor, "", "")


def _first(tensor: Tensor) -> np.ndarray:
    lazy = _lazy(tensor)
    rows = max(1, LOOKED_AT * lazy.num_rows // max(lazy.size, 1))
    return np.ascontiguousarray(lazy.read_rows(0, rows), np.float32).ravel()[:LOOKED_AT]
