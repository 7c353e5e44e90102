"""Arrays in files that are mapped into memory, and rows of large ones, which are read instead."""

import hashlib
import io
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
from jaxtyping import Int

HEADER = 4096  # bytes, more than the header of a .npy file takes
BLOCK = 1 << 20  # bytes that are read at once


class MappedFile(mmap.mmap):
    """A file that is mapped for reading; it stays readable if it is deleted.

    Attributes:
      descriptor: of the file, open as long as this object lives.
    """

    descriptor: int

    def digest(self) -> str:
        """Returns the SHA-256 of the content, which is read: mapped, all of it would count to the process."""
        found = hashlib.sha256()
        for start in range(0, len(self), BLOCK):
            found.update(os.pread(self.descriptor, BLOCK, start))
        return found.hexdigest()


def map_file(path: Path) -> MappedFile | None:
    """Maps a file; None if it is missing or empty."""
    try:
        with open(path, "rb") as file:
            found = MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)
            found.descriptor = os.dup(file.fileno())
    except (FileNotFoundError, ValueError):
        return None
    weakref.finalize(found, os.close, found.descriptor)
    return found


def show_array(content: mmap.mmap) -> np.ndarray:
    """Shows a mapped .npy file of two axes as an array. Raises ValueError if it is none."""
    header = io.BytesIO(content[:HEADER])
    if np.lib.format.read_magic(header) != (1, 0):
        raise ValueError("another version of .npy")
    shape, _, own = np.lib.format.read_array_header_1_0(header)
    if len(shape) != 2:
        raise ValueError(f"{own} {shape}")
    return np.frombuffer(content, own, offset=header.tell()).reshape(shape)


class FileRows:
    """Rows of a large .npy file, read where they are indexed.

    Where rows of a mapped file are looked at here and there, the system maps a good deal around each, and soon the
    whole file counts to the memory of the process. What is read does not; it costs a call a row, of a microsecond where
    the file is in the system's cache, and threads that read so wait for one another.
    """

    by_row = True

    def __init__(self, content: MappedFile):
        self._content, array = content, show_array(content)
        self.dtype, self.shape = array.dtype, array.shape
        self._start, self._bytes = len(content) - array.nbytes, array.strides[0]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int[np.ndarray, " m"]) -> np.ndarray:
        if isinstance(rows, slice):
            first, last, _ = rows.indices(len(self))
            return self._read([(first, last)] if last > first else [])
        return self._read([(row, row + 1) for row in rows.tolist()])

    def _read(self, runs: list[tuple[int, int]]) -> np.ndarray:
        """Reads runs of rows. Raises OSError if the file was cut off meanwhile."""
        file, start, size = self._content.descriptor, self._start, self._bytes
        content = b"".join([os.pread(file, (last - first) * size, start + first * size) for first, last in runs])
        if len(content) != sum(last - first for first, last in runs) * size:
            raise OSError(5, "a file of vectors was cut off while it was read")
        return np.frombuffer(content, self.dtype).reshape(-1, self.shape[1])
