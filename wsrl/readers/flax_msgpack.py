"""Reads what `flax.serialization` writes: a tree in MessagePack whose leaves are arrays of an extension type.

The layout: `flax/serialization.py` in https://github.com/google/flax. Arrays stay in the mapped file; the msgpack
package would copy every one.
"""

from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.readers.budget import OBJECT, Budget
from wsrl.readers.flax_names import model_names
from wsrl.readers.mapped import checked_name, checked_shape, map_file
from wsrl.readers.messagepack import Extension, PackError, Walker

ARRAY, SCALAR = 1, 3  # numbers of Flax's extension types
CHUNKED = "__msgpack_chunked_array__"  # marks an array of more than 1 GiB, stored in flat pieces
MEND = "write or download it again"
KINDS = (
    *(np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
    *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.bool_),
)
DTYPES = {np.dtype(kind).name: np.dtype(kind) for kind in KINDS}


def matches(head: bytes, path: Path) -> bool:
    """Whether the file begins with a map that is not empty, whose first key is a printable text."""
    try:
        key = Walker(memoryview(head), Budget(path, len(head))).first_key()
    except PackError:
        return False
    return bool(key) and key.isprintable()


def open_file(path: Path) -> Checkpoint:
    """Opens a Flax MessagePack file; tensors are called by their keys, see flax_names.model_names.

    Raises:
      CheckpointError: the file is truncated, not well-formed, or claims what it does not hold.
    """
    data = map_file(path)
    budget = Budget(path, len(data))
    walker = Walker(data.data, budget)
    leaves: dict[tuple[str, ...], LazyTensor] = {}
    left_out: list[str] = []
    try:
        tree = walker.value()
        if walker.position != len(data):
            raise PackError("bytes follow its end")
        waiting: list[tuple[tuple[str, ...], object]] = [((), tree)]
        while waiting:
            keys, value = waiting.pop()
            if isinstance(value, dict) and CHUNKED not in value:
                waiting += reversed([((*keys, key), inner) for key, inner in value.items()])
            elif isinstance(value, list):
                waiting += reversed([((*keys, str(i)), inner) for i, inner in enumerate(value)])
            elif (tensor := _tensor(value, checked_name("/".join(keys), path), path, budget)) is not None:
                leaves[keys] = tensor
            else:
                left_out.append("/".join(keys))
    except PackError as error:
        raise CheckpointError(path, f"is truncated or not well-formed ({error})", MEND) from error
    tensors, training = model_names(leaves)
    return Checkpoint(str(path), tensors, {"left_out": (*left_out, *training)})


def _tensor(value: object, name: str, path: Path, budget: Budget) -> LazyTensor | None:
    """Returns a leaf that is an array of numbers, else None."""
    if isinstance(value, Extension):
        array = _array(value, name, path, budget)
        return None if array is None else LazyTensor.of(array, path, name)
    match value:
        case {"shape": dict(lengths), "chunks": dict(chunks)}:
            shape = checked_shape(_in_order(lengths), path, name)
            pieces = [_array(piece, name, path, budget) for piece in _in_order(chunks)]
        case _:
            return None
    flat = [piece.reshape(-1) for piece in pieces if piece is not None]
    if len(flat) < len(pieces) or not flat or len({piece.dtype for piece in flat}) > 1:
        raise PackError(f"the pieces of {name!r} are not arrays of one type")
    if sum(map(len, flat)) != prod(shape):
        raise PackError(f"the pieces of {name!r} do not make up its shape")
    return LazyTensor(shape, flat[0].dtype.name, lambda a, b: _rows(flat, shape, a, b), str(path), name)


def _array(value: object, name: str, path: Path, budget: Budget) -> np.ndarray | None:
    """Shows the array of an extension, which is a list of its shape, type and bytes; None for other extensions."""
    if not isinstance(value, Extension) or value.type not in (ARRAY, SCALAR):
        return None
    budget.spend(OBJECT)
    match Walker(value.content, budget).value():
        case [list(lengths), str(kind), memoryview() as content]:
            shape = checked_shape(lengths, path, name)
        case _:
            raise PackError(f"{name!r} is not an array as Flax writes it")
    if kind not in DTYPES:  # complex numbers, keys of random number generators
        return None
    if len(content) != prod(shape) * DTYPES[kind].itemsize:
        raise PackError(f"{name!r} has {len(content)} bytes, not those of its shape")
    return np.frombuffer(content, DTYPES[kind]).reshape(shape)


def _rows(pieces: list[np.ndarray], shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    """Rows of the first axis of an array in flat pieces."""
    start, stop, _ = slice(start, stop).indices(shape[0] if shape else 1)
    first, last = start * prod(shape[1:]), stop * prod(shape[1:])
    parts, begin = [], 0
    for piece in pieces:
        parts.append(piece[max(first - begin, 0) : max(last - begin, 0)])
        begin += len(piece)
    return np.concatenate(parts).reshape(stop - start, *shape[1:])


def _in_order(numbered: dict) -> list:
    """Values of a map whose keys are 0, 1, 2, ...; None for one that is missing."""
    return [numbered.get(str(i)) for i in range(len(numbered))]
