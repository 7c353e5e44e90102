"""What files take on disk, and what their removal would free: each block of the disk counts once."""

import array
import fcntl
import os
import struct
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

BLOCK = 512  # bytes, that `st_blocks` counts
FIEMAP = 0xC020660B  # Linux' ioctl: where the bytes of a file lie
SYNC, SHARED, LAST = 1, 0x2000, 1  # flags
HEADER = struct.Struct("=QQLLLL")  # start, length, flags, extents mapped, extents there is room for, 0
EXTENT = struct.Struct("=QQQQQLLLL")  # logical, physical, length, 0, 0, flags, 0, 0, 0
EXTENTS = 256  # asked for at a time


class OnDisk(NamedTuple):
    """A file as it lies on disk.

    Attributes:
      path: absolute; symbolic links in it are not followed.
      device, inode: of the file that it leads to. Names of one file are hard links.
      links: names of that file in the whole file system.
      size: bytes.
      mtime: nanoseconds.
      allocated: bytes on disk, fewer than `size` for a sparse file.
      shared: bytes of these that another file holds too (copies by reference, as of Btrfs and XFS).
      linked: whether a symbolic link leads there, as in the cache of a hub.
    """

    path: str
    device: int
    inode: int
    links: int
    size: int
    mtime: int
    allocated: int
    shared: int
    linked: bool


def on_disk(path: str) -> OnDisk:
    """Looks at a file. Raises OSError if it is not there."""
    absolute = os.path.abspath(path)
    stat = os.stat(absolute)
    return OnDisk(
        absolute, stat.st_dev, stat.st_ino, stat.st_nlink, stat.st_size, stat.st_mtime_ns, stat.st_blocks * BLOCK,
        _shared(absolute), os.path.realpath(absolute) != absolute,
    )  # fmt: skip


def freed(removed: Collection[OnDisk], kept: Collection[OnDisk]) -> int:
    """Returns the bytes that would be free if files were removed: none of one that keeps a name elsewhere."""
    stay = {(file.device, file.inode) for file in kept}
    names = {file.path: file for file in removed if not file.linked}
    gone = Counter((file.device, file.inode) for file in names.values())
    once = {(file.device, file.inode): file for file in names.values()}
    return sum(
        file.allocated - file.shared for place, file in once.items() if place not in stay and gone[place] >= file.links
    )


def _shared(path: str) -> int:
    """Bytes of a file that lie in extents of other files too; 0 where the system does not say."""
    total, start = 0, 0
    try:
        with open(path, "rb") as file:
            while True:
                room = array.array("B", HEADER.pack(start, 2**64 - 1 - start, SYNC, 0, EXTENTS, 0))
                room.frombytes(bytes(EXTENT.size * EXTENTS))
                fcntl.ioctl(file, FIEMAP, room)
                extents = read_extents(room.tobytes())
                total += sum(length for _, length, flags in extents if flags & SHARED)
                if not extents or extents[-1][2] & LAST:
                    return total
                start = extents[-1][0] + extents[-1][1]
    except OSError:  # another system, or a file system without such a map
        return 0


def read_extents(content: bytes) -> list[tuple[int, int, int]]:
    """Returns (first byte in the file, bytes, flags) of the extents in an answer of FIEMAP."""
    count = HEADER.unpack_from(content)[3]
    found = (EXTENT.unpack_from(content, HEADER.size + i * EXTENT.size) for i in range(count))
    return [(fields[0], fields[2], fields[5]) for fields in found]
