"""Maps files into memory and shows stretches of them as arrays, checking what a header claims before it is believed."""

import mmap
import stat
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from wsrl.checkpoint import CheckpointError

HEAD = 4096  # bytes that are looked at to tell a format
MARGIN = 32 << 20  # bytes that reading a file may take beyond twice its size
SMALL = 1 << 20  # bytes; smaller files are read at once: a mapping holds a file descriptor, and those are few
LONGEST_NAME = 4096  # characters
MOST_AXES = 32
MOST_ENTRIES = 1 << 48

Bytes = UInt8[np.ndarray, " bytes"]


def map_file(path: Path) -> Bytes:
    """Returns the bytes of a file, mapped rather than read unless they are few.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size > SMALL:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        file.seek(0)
        return np.frombuffer(file.read(), np.uint8)


def forget(data: Bytes) -> None:
    """Gives back the memory that bytes of a mapped file take since they were looked at; they can be looked at again.

    Without it all that is read once, such as packed bytes while they are unpacked, would stay in memory.

    Args:
      data: a stretch of what `map_file` returns; of other bytes nothing is given back.
    """
    whole = data
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    file = whole.base.obj if isinstance(whole.base, memoryview) else None
    if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # which Windows lacks
        start = data.ctypes.data - whole.ctypes.data
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # the page before belongs to others too
        if first < start + len(data):
            file.madvise(mmap.MADV_DONTNEED, first, start + len(data) - first)


def read_head(path: Path) -> bytes:
    """Returns how a file begins, at most HEAD bytes; nothing for a folder.

    Raises:
      CheckpointError: the file is empty, or a pipe or a device.
      OSError: it cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise CheckpointError(ascii(str(path)), "is not a file's name", "check the path") from error
    if stat.S_ISDIR(mode):
        return b""
    if not stat.S_ISREG(mode):  # a pipe would wait for ever
        raise CheckpointError(path, "is neither a file nor a folder", "give a checkpoint file")
    with open(path, "rb", buffering=0) as file:
        head = file.read(HEAD)
    if not head:
        raise CheckpointError(path, "is empty", "write or download it again")
    return head


def memory_limit(size: int) -> int:
    """Bytes of memory that a file of `size` bytes may make us take."""
    return 2 * size + MARGIN


def checked_shape(shape: object, path: Path, name: str) -> tuple[int, ...]:
    """Returns a shape as a tuple of Python integers.

    Raises:
      CheckpointError: it is no list of whole numbers, has too many axes or an absurd number of entries.
    """
    fix = "write or download the file again"
    if not isinstance(shape, list | tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise CheckpointError(path, f"the shape of tensor {name!r} is not a list of whole numbers", fix)
    if len(shape) > MOST_AXES or prod(max(n, 1) for n in shape) > MOST_ENTRIES:
        raise CheckpointError(path, f"the shape of tensor {name!r} is absurd", fix)
    return tuple(shape)


def checked_name(name: object, path: Path) -> str:
    """Returns a tensor's name.

    Raises:
      CheckpointError: it is no text that can be written in UTF-8, or very long.
    """
    try:
        if isinstance(name, str) and len(name) <= LONGEST_NAME and (name.isascii() or name.encode()):
            return name
    except UnicodeEncodeError:
        pass
    reason = f"{ascii(name)[:80] if isinstance(name, str) else type(name).__name__} is not a tensor's name"
    raise CheckpointError(path, reason, "write or download the file again")
