"""Reads NumPy's `.npz`: a zip archive of `.npy` members. Arrays of Python objects stay unread.

The format: numpy.lib.format, NEP 1.
"""

import io
import re
import tokenize
import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor, one_line
from wsrl.readers.archives import Archive, member_names, open_archive
from wsrl.readers.mapped import Bytes, checked_name, checked_shape
from wsrl.readers.number_types import number_type

SUFFIX = ".npy"
MEND = "write or download it again"
BROKEN = (  # what NumPy lets through of Python's parser
    *(ValueError, KeyError, TypeError, OverflowError, RecursionError, MemoryError),
    *(SyntaxError, tokenize.TokenError),
)
HEADER = 1 << 16  # bytes; NumPy's own headers take 128
SHOWN = 4
_SPLIT = "train(?:ing)?|test(?:ing)?|val(?:id(?:ation)?)?|dev"
DATA = re.compile(  # x, y_train, train_images, ...
    rf"(?:(?:{_SPLIT})_?)?(?:x|y|images?|labels?|targets?|features?|inputs?|data)(?:_?(?:{_SPLIT}))?", re.IGNORECASE
)
ROWS = "each array is as long as a list of integers or texts: the file may hold rows of data, not a network"


def matches(head: bytes, path: Path) -> bool:
    """Whether the file is a zip archive of `.npy` members."""
    names = member_names(head, path)
    return bool(names) and all(name.endswith(SUFFIX) for name in names)


def open_file(path: Path) -> Checkpoint:
    """Opens an `.npz` file; arrays are mapped unless they are compressed.

    A file that may hold rows of data gets a warning.

    Raises:
      CheckpointError: the archive or the header of an array is broken; no array is a matrix, as in curves, indices and
        sparse matrices, or all have names that data sets use, such as `x_train`.
    """
    archive = open_archive(path)
    headers = _headers(archive)
    lazy = {name: _lazy(archive, name, header) for name, header in headers.items()}
    if what := _no_network(headers):
        raise CheckpointError(path, f"{what}, so it is no network", "give a file with the network's weights")
    tensors = {name: tensor for name, tensor in lazy.items() if tensor is not None}
    told = (ROWS,) if _may_be_rows(headers) else ()
    left_out = tuple(name for name in lazy if name not in tensors)
    return Checkpoint(str(path), tensors, {"left_out": left_out, "warnings": told})


def holds_data(path: Path) -> bool:
    """Whether an `.npz` file holds logs or data rather than a model: what is refused, and what may be rows of data.

    Raises:
      CheckpointError: the archive or the header of an array is broken.
    """
    headers = _headers(open_archive(path))
    return bool(_no_network(headers)) or _may_be_rows(headers)


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int


def _no_network(headers: dict[str, _Header]) -> str | None:
    """Says why arrays are no network's, None if they may be."""
    if all(DATA.fullmatch(name) for name in headers):
        return f"holds arrays under the names of data, {', '.join(map(ascii, list(headers)[:SHOWN]))}"
    if not any(len(h.shape) > 1 and (h.dtype.kind in "fcV" or _may_be_codes(h.dtype)) for h in headers.values()):
        return f"holds no matrix, only {', '.join(map(ascii, list(headers)[:SHOWN]))}"
    return None


def _may_be_rows(headers: dict[str, _Header]) -> bool:
    """Whether each array is as long as a list of integers or texts, such as steps or labels."""
    arrays = [h for h in headers.values() if h.shape]
    lists = {h.shape[0] for h in arrays if len(h.shape) == 1 and h.dtype.kind in "iuUSO"}
    return bool(arrays) and all(h.shape[0] in lists for h in arrays)


def _may_be_codes(dtype: np.dtype) -> bool:
    return dtype.kind in "iu" and dtype.itemsize < 8


def _lazy(archive: Archive, name: str, header: _Header) -> LazyTensor | None:
    path, member, dtype = archive.path, name + SUFFIX, header.dtype
    if dtype == np.dtype("V2"):
        dtype = number_type("bfloat16")  # NumPy has no name for it and stores two bytes without a type
    if dtype.kind not in "biufc" and dtype.name != "bfloat16":
        return None
    shape = checked_shape(header.shape, path, name)
    size = prod(shape) * dtype.itemsize
    if header.start + size != archive.members[member]:
        reason = f"array {name!r} of shape {list(shape)} does not fill its {archive.members[member]} bytes"
        raise CheckpointError(path, reason, MEND)
    rows = _Rows(archive, member, header.start, dtype, shape, header.fortran)
    return LazyTensor(shape, dtype.name, rows, str(path), name)


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


def _headers(archive: Archive) -> dict[str, _Header]:
    """Reads shape, order, dtype and where the entries begin, for each array."""
    names = [checked_name(member.removesuffix(SUFFIX), archive.path) for member in archive.members]
    return {name: _header(archive.read(name + SUFFIX, HEADER), archive.path, name) for name in names}


def _header(data: Bytes, path: Path, name: str) -> _Header:
    file = io.BytesIO(data.tobytes())
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        with warnings.catch_warnings(action="ignore"):  # NumPy warns of headers that Python 2 wrote
            shape, fortran, dtype = read(file)
    except BROKEN as error:
        raise CheckpointError(path, f"the header of array {name!r} is broken ({one_line(error)})", MEND) from error
    return _Header(shape, fortran, dtype, file.tell())
