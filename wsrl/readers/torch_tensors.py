"""Lazy tensors over PyTorch's storages: views with offset and strides, checked against the bytes that there are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers.allowlist import PickledArray, Quantizer, Storage, StoredTensor
from wsrl.readers.mapped import MARGIN, Bytes, checked_shape
from wsrl.readers.state_dict import Leaf

MEND = "write or download it again"


class Storages(ABC):
    """Where the bytes of storages lie.

    Attributes:
      path, size: of the file, the size in bytes.
      big_endian: the byte order of the storages.
    """

    def __init__(self, path: Path, size: int, big_endian: bool):
        self.path = path
        self.size = size
        self.big_endian = big_endian

    @abstractmethod
    def locate(self, storage: Storage) -> tuple[int, Callable[[], Bytes]]:
        """Returns the size of a storage in bytes, and what reads it; raises CheckpointError if there is none."""


def lazy_tensors(leaves: Mapping[str, Leaf], storages: Storages) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Makes lazy tensors of what a pickle describes.

    Args:
      leaves: name -> view of a storage, or array.
      storages: where their bytes lie.

    Returns:
      The tensors, and tied ones: name -> name of the tensor that has the same entries of the same storage. Those are
      not among the tensors. Of several names one that is no number in a list is preferred, then the first.

    Raises:
      CheckpointError: a view reaches beyond its storage, or a storage beyond its bytes.
    """
    names: dict[object, list[str]] = {}
    for name, leaf in leaves.items():
        names.setdefault(_entries_of(leaf) or name, []).append(name)
    chosen = {name: min(same, key=lambda n: n.rpartition(".")[2].isdigit()) for same in names.values() for name in same}
    result = {}
    for name, leaf in leaves.items():
        if isinstance(leaf, PickledArray):
            result[name] = LazyTensor.of(leaf.array, storages.path, name)
        else:
            result[name] = _lazy(name, leaf, storages)
    tied = {name: kept for name, kept in chosen.items() if name != kept}
    return {name: tensor for name, tensor in result.items() if name not in tied}, tied


def _entries_of(leaf: Leaf) -> object:
    """Equal for views of the same entries, maybe with their axes in another order; None for an array and no entries."""
    if isinstance(leaf, PickledArray) or not prod(leaf.shape) or len(leaf.shape) != len(leaf.strides):
        return None
    axes = sorted((stride, n) for n, stride in zip(leaf.shape, leaf.strides, strict=True) if n > 1)
    return leaf.storage.key, leaf.dtype, leaf.offset, tuple(axes), leaf.quantizer


def _lazy(name: str, tensor: StoredTensor, storages: Storages) -> LazyTensor:
    path = storages.path
    shape = checked_shape(tensor.shape, path, name)
    itemsize = tensor.dtype.itemsize
    size, read = storages.locate(tensor.storage)
    entries = prod(shape)
    reach = 1 + sum((n - 1) * stride for n, stride in zip(shape, tensor.strides, strict=False)) if entries else 0
    if len(tensor.strides) != len(shape) or tensor.offset + reach > size // itemsize:
        reason = f"tensor {name!r} of shape {list(shape)} reaches beyond its storage of {size} bytes"
        raise CheckpointError(path, reason, MEND)
    if entries > reach and entries * max(itemsize, 4) > MARGIN:  # entries that repeat take no room in the file
        raise CheckpointError(path, f"tensor {name!r} repeats few entries too often", "save it contiguous")
    dtype = tensor.dtype.newbyteorder(">") if storages.big_endian and itemsize > 1 else tensor.dtype
    view = _View(read, dtype, tensor.offset, reach, shape, tensor.strides)
    if tensor.quantizer is None:
        return LazyTensor(shape, tensor.dtype.name, view, str(path), name)
    rows = _Dequantized(view, tensor.quantizer, name, storages)
    return LazyTensor(shape, f"q{tensor.dtype.name}", rows, str(path), name)


@dataclass(frozen=True)
class _View:
    """Reads rows of a view that lies within its storage.

    Attributes:
      read: the bytes of the storage.
      dtype, offset, shape, strides: offset and strides count entries.
      reach: entries from the offset to the last one of the view.
    """

    read: Callable[[], Bytes]
    dtype: np.dtype
    offset: int
    reach: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> np.ndarray:
        if not self.reach:
            return np.empty(self.shape, self.dtype)[start:stop]
        size = self.dtype.itemsize
        plain = np.dtype(f"V{size}")  # NumPy strides no arrays of types that are not its own
        stored = self.read()[self.offset * size : (self.offset + self.reach) * size].view(plain)
        strides = tuple(size * stride for stride in self.strides) or (size,)
        view = np.lib.stride_tricks.as_strided(stored, self.shape or (1,), strides, writeable=False)
        return view[start:stop].view(self.dtype)


class _Dequantized:
    """Reads rows of a quantized view as float32."""

    def __init__(self, view: _View, quantizer: Quantizer, name: str, storages: Storages):
        self._view = view
        self._axis = quantizer.axis
        self._values = []
        for value in (quantizer.scale, quantizer.zero_point):
            if isinstance(value, StoredTensor):
                self._values.append(_lazy(f"{name} (its scale)", value, storages))
            else:
                self._values.append(np.float32(value))
        axis, shape = quantizer.axis, view.shape
        if axis is not None and not (0 <= axis < len(shape) and all(v.shape == (shape[axis],) for v in self._values)):
            raise CheckpointError(storages.path, f"the scales of tensor {name!r} do not fit it", MEND)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        rows = self._view(start, stop)
        scale, zero = (np.asarray(value, np.float32) for value in self._values)
        if self._axis is not None:
            along = [-1 if axis == self._axis else 1 for axis in range(rows.ndim)]
            scale, zero = scale.reshape(along), zero.reshape(along)
            if self._axis == 0:
                scale, zero = scale[start : start + len(rows)], zero[start : start + len(rows)]
        return (rows.astype(np.float32) - zero) * scale
