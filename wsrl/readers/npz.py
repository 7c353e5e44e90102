"""Reads NumPy's `.npz`: a zip archive of `.npy` members. Arrays of Python objects stay unread.

The format: numpy.lib.format, NEP 1.
"""

import io
import tokenize
import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor, one_line
from wsrl.readers.archives import Archive, member_names, open_archive
from wsrl.readers.mapped import Bytes, checked_name, checked_shape

SUFFIX = ".npy"
MEND = "write or download it again"
BROKEN = (  # what NumPy lets through of Python's parser
    *(ValueError, KeyError, TypeError, OverflowError, RecursionError, MemoryError),
    *(SyntaxError, tokenize.TokenError),
)
HEADER = 1 << 16  # bytes; NumPy's own headers take 128


def matches(head: bytes, path: Path) -> bool:
    """Whether the file is a zip archive of `.npy` members."""
    names = member_names(head, path)
    return bool(names) and all(name.endswith(SUFFIX) for name in names)


def open_file(path: Path) -> Checkpoint:
    """Opens an `.npz` file; arrays are mapped unless they are compressed.

    Raises:
      CheckpointError: the archive or the header of an array is broken.
    """
    archive = open_archive(path)
    tensors, left_out = {}, []
    for member in archive.members:
        name = checked_name(member.removesuffix(SUFFIX), path)
        tensor = _lazy(archive, member, name)
        if tensor is None:
            left_out.append(name)
        else:
            tensors[name] = tensor
    return Checkpoint(str(path), tensors, {"left_out": tuple(left_out)})


def holds_table(path: Path) -> bool:
    """Whether an `.npz` file holds logs or data rather than a model: nothing but curves, or rows with numbers or names.

    Rows: all arrays are equally long, and one of them is a list of integers or texts, such as steps or labels.

    Raises:
      CheckpointError: the archive or the header of an array is broken.
    """
    archive = open_archive(path)
    headers = [_header(archive.read(member, HEADER), path, member) for member in archive.members]
    arrays = [(shape, dtype) for shape, _, dtype, _ in headers if shape]
    rows = len({shape[0] for shape, _ in arrays}) == 1
    numbered = any(len(shape) == 1 and dtype.kind in "iuUSO" for shape, dtype in arrays)
    return all(len(shape) < 2 for shape, _ in arrays) or (rows and numbered)


def _lazy(archive: Archive, member: str, name: str) -> LazyTensor | None:
    path = archive.path
    shape, fortran, dtype, start = _header(archive.read(member, HEADER), path, name)
    if dtype == np.dtype("V2"):
        dtype = np.dtype(ml_dtypes.bfloat16)  # NumPy has no name for it and stores two bytes without a type
    if dtype.kind not in "biufc" and dtype != ml_dtypes.bfloat16:
        return None
    shape = checked_shape(shape, path, name)
    size = prod(shape) * dtype.itemsize
    if start + size != archive.members[member]:
        reason = f"array {name!r} of shape {list(shape)} does not fill its {archive.members[member]} bytes"
        raise CheckpointError(path, reason, MEND)

    return LazyTensor(shape, dtype.name, _Rows(archive, member, start, dtype, shape, fortran), str(path), name)


@dataclass(frozen=True)
class _Rows:
    """Reads rows of the array whose entries begin at byte `start` of a member."""

    archive: Archive
    member: str
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool

    def __call__(self, start: int, stop: int) -> np.ndarray:
        flat = self.archive.read(self.member)[self.start :].view(self.dtype)
        array = flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(self.shape)
        return (array if self.shape else flat)[start:stop]


def _header(data: Bytes, path: Path, name: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Reads shape, order, dtype and where the entries begin."""
    file = io.BytesIO(data.tobytes())
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        with warnings.catch_warnings(action="ignore"):  # NumPy warns of headers that Python 2 wrote
            shape, fortran, dtype = read(file)
    except BROKEN as error:
        raise CheckpointError(path, f"the header of array {name!r} is broken ({one_line(error)})", MEND) from error
    return shape, fortran, dtype, file.tell()
