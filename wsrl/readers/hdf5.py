"""Reads HDF5 files: groups, attributes, and data sets that stay in the file until they are read.

The format: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html. Pyfive, written in Python, reads the
structure. The C library behind h5py ends the process or hangs on some damaged files, which cannot be caught, and
follows links to other files. Contents are mapped, or unpacked a chunk at a time.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np

from wsrl.checkpoint import CheckpointError, LazyTensor, one_line
from wsrl.readers.budget import OBJECT, Budget
from wsrl.readers.chunk_grid import ChunkGrid
from wsrl.readers.hdf5_chunks import Chunks
from wsrl.readers.mapped import Bytes, checked_name, checked_shape, memory_limit
from wsrl.readers.number_types import number_type

SIGNATURE = b"\x89HDF\r\n\x1a\n"
DEPTH = 64  # of groups in groups
STRUCTURE = 32 << 20  # bytes of all but contents that are read; a loop among offsets would read for ever
COMPACT, CONTIGUOUS, CHUNKED = 0, 1, 2
MEND = "write or download it again"

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """A group of an HDF5 file.

    Attributes:
      attributes: a text is a str, an array of texts a list of str.
      groups, tensors: name -> group or data set below it.
      left_out: paths of data sets below it that hold no numbers.
    """

    attributes: dict[str, Any]
    groups: dict[str, "Group"]
    tensors: dict[str, LazyTensor]
    left_out: tuple[str, ...]

    def walk(self, prefix: str = "") -> Iterator[tuple[str, LazyTensor]]:
        """Yields all data sets below, with their paths."""
        yield from ((prefix + name, tensor) for name, tensor in self.tensors.items())
        for name, group in self.groups.items():
            yield from group.walk(f"{prefix}{name}/")


def open_hdf5(data: Bytes, path: Path) -> Group:
    """Returns the root group.

    Args:
      data: the file, mapped; maybe a member of an archive.
      path: for messages.

    Raises:
      CheckpointError: pyfive is missing; the file is truncated or not well-formed; it links to other files; data sets
        overlap, lack bytes in the file, or would take more memory than a file of its size can need.
    """
    try:
        import pyfive
    except ImportError as error:
        raise CheckpointError(path, "HDF5 needs the package pyfive", "pip install 'wsrl[keras]'") from error
    file = _File(data, path)
    root = file.trying(lambda: pyfive.File(cast("BinaryIO", _Window(data))), "is truncated or not well-formed")
    file.base = root.userblock_size
    group = file.group(root, "", 0)
    file.check_overlap()
    return group


class _File:
    """A file under way: what its data sets occupy so far."""

    def __init__(self, data: Bytes, path: Path):
        self.data, self.path, self.base = data, path, 0
        self.budget = Budget(path, len(data))
        self.stretches: set[tuple[int, int, str]] = set()  # start, stop and name of data sets that lie in one piece

    def check_overlap(self) -> None:
        """Sees to it that no two data sets share bytes, unless they are one under two names."""
        end, last = 0, None
        for start, stop, name in sorted(self.stretches):
            if start < end and (start, stop) != last:
                raise CheckpointError(self.path, f"{name!r} overlaps another data set", MEND)
            end, last = max(end, stop), (start, stop)

    def trying(self, read: Callable[[], T], reason: str) -> T:
        """Calls pyfive, which trusts offsets and asserts what it expects: all that it raises means a broken file."""
        try:
            with warnings.catch_warnings(action="error"):
                return read()
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(self.path, f"{reason} ({one_line(error)})", MEND) from error

    def group(self, node: Any, name: str, depth: int) -> Group:
        """Reads a group and all that is below it."""
        import pyfive

        if depth > DEPTH:
            raise CheckpointError(self.path, "has groups in groups without end", MEND)
        groups, tensors, left_out = {}, {}, []
        attributes = self.trying(lambda: dict(node.attrs), f"the attributes of {name or '/'!r} cannot be read")
        self.budget.spend(OBJECT * len(attributes))
        for key in self.budget.each(node):
            inner = f"{name}/{checked_name(key, self.path)}"
            child = self.trying(lambda key=key: node.get_lazy_view(key), f"{inner!r} cannot be read")
            if isinstance(child, pyfive.Group):
                groups[key] = self.group(child, inner, depth + 1)
                left_out += groups[key].left_out
            elif isinstance(child, pyfive.Dataset):
                tensor = self.trying(lambda c=child, i=inner: self._tensor(c, i), f"{inner!r} cannot be read")
                tensors |= {} if tensor is None else {key: tensor}
                left_out += [inner] if tensor is None else []
            else:  # a named type, or a link that leads nowhere
                left_out.append(inner)
        return Group({k: _plain(v) for k, v in attributes.items()}, groups, tensors, tuple(left_out))

    def _tensor(self, dataset: Any, name: str) -> LazyTensor | None:
        """Returns a data set of numbers; None if it is one of texts, references or records, or has no entries."""
        dtype = dataset.dtype
        if isinstance(dtype, np.dtype) and dtype.kind == "V" and dtype.itemsize == 2:
            told = dataset.attrs.get("dtype")  # Keras stores bfloat16 as bytes without meaning
            dtype = number_type("bfloat16") if _plain(told) == "bfloat16" else dtype
        if not isinstance(dtype, np.dtype) or (dtype.kind not in "fiub" and dtype.name != "bfloat16"):
            return None
        shape = checked_shape([int(n) for n in dataset.shape or ()], self.path, name)
        layout, size = dataset.id.layout_class, prod(shape) * dtype.itemsize
        if dataset.shape is None or not size:
            return None
        if size > memory_limit(len(self.data)):  # possible where it is compressed
            raise ValueError(f"it would take {size} bytes, too many for a file of {len(self.data)}")
        if layout == CHUNKED:
            chunks = Chunks.of(dataset, dtype, shape, self.data[self.base :], self.path, name)
            grid = ChunkGrid(shape, dtype, chunks.chunk, chunks.read)
            return LazyTensor(shape, dtype.name, grid.rows, str(self.path), name)
        if layout == CONTIGUOUS:
            start = self.base + dataset.id.data_offset
            if start + size > len(self.data):  # also where none were ever written: it would be all fill values
                raise ValueError(f"it claims {size} bytes, which are not in the file")
            self.stretches.add((start, start + size, name))
            stored = self.data[start : start + size]
        elif layout == COMPACT:
            stored = np.frombuffer(dataset[()].tobytes(), np.uint8)
        else:
            raise ValueError("its contents lie in other files")
        if len(stored) != size:
            raise ValueError(f"it has {len(stored)} bytes, not {size}")
        return LazyTensor.of(stored.view(dtype).reshape(shape), self.path, name)


def _plain(value: Any) -> Any:
    """Bytes as text, arrays of them as lists."""
    if isinstance(value, bytes | np.bytes_):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()] if value.ndim == 1 else value.tolist()
    return value


class _Window(io.RawIOBase):
    """Bytes as the file that pyfive asks for. Reads no further than they go, and no more than any sound file needs."""

    def __init__(self, data: Bytes):
        self._data, self._at = data, 0
        self._left = STRUCTURE

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._data))[whence]
        if self._at < 0:
            raise ValueError("an offset lies before the file")
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = len(self._data) if size < 0 else min(self._at + size, len(self._data))
        result = self._data[self._at : stop].tobytes()
        self._left -= len(result) + 16
        if self._left < 0:
            raise ValueError("its structure is read again and again")
        self._at += len(result)
        return result
