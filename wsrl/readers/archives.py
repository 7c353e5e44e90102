"""Reads zip archives without trusting them: nothing is unpacked to disk, members that lie are refused.

The format: PKWARE's APPNOTE.TXT. The library `zipfile` reads the table of members; their bytes are mapped where they
are stored as they are, and decompressed within bounds where they are deflated.
"""

import io
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from wsrl.checkpoint import CheckpointError, one_line
from wsrl.readers.mapped import Bytes, forget, map_file, memory_limit

MAGIC = b"PK\x03\x04"
TABLE_LIMIT = 16 << 20  # bytes of the table of members
CHUNK = 1 << 20  # bytes
MEND = "write or download it again"
BROKEN = (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError, OverflowError, OSError)


class Archive:
    """The members of a zip archive.

    Attributes:
      path: of the file, for messages.
      size: of the archive in bytes.
      members: name -> size in bytes, unpacked; in the order of the archive.
    """

    def __init__(self, data: Bytes, path: Path):
        """Reads the table of members.

        Args:
          data: the archive, mapped or in memory; itself maybe a member of another.
          path: of the file, for messages.

        Raises:
          CheckpointError: the table is broken; a name occurs twice or leads out of the archive; members overlap.
        """
        self.path = path
        self.size = len(data)
        self._data = data
        try:
            with zipfile.ZipFile(_Window(data)) as archive:
                entries = archive.infolist()
        except BROKEN as error:
            raise CheckpointError(path, f"is not a readable zip archive ({one_line(error)})", MEND) from error
        if entries and min(info.header_offset for info in entries) > 0:
            raise CheckpointError(path, "is the rest of a larger archive", MEND)
        infos = [info for info in entries if info.filename[-1:] != "/"]
        self._infos = {_safe_name(info, path): info for info in infos}
        if len(self._infos) < len(infos):
            raise CheckpointError(path, "two members of the archive have the same name", MEND)
        self.members = {name: info.file_size for name, info in self._infos.items()}
        self._starts = self._locate()
        self._unpacked = lru_cache(maxsize=1)(self._unpack)  # rows of a tensor are often asked for one after the other

    def read(self, name: str, most: int | None = None) -> Bytes:
        """Returns the bytes of a member, its first `most` or all: mapped if stored, else unpacked.

        Raises:
          CheckpointError: there is no such member, it cannot be unpacked, or would take too much memory.
        """
        if name not in self._infos:
            raise CheckpointError(self.path, f"lacks the member {name!r}", MEND)
        info = self._infos[name]
        if info.flag_bits & 1:
            raise CheckpointError(self.path, f"member {name!r} is encrypted", "save it without a password")
        if info.compress_type == zipfile.ZIP_STORED:
            return self._packed(name)[:most]
        if info.compress_type != zipfile.ZIP_DEFLATED:
            raise CheckpointError(self.path, f"member {name!r} is packed in a rare way", "store it unpacked")
        size = info.file_size if most is None else min(most, info.file_size)
        if size > memory_limit(self.size):
            reason = f"member {name!r} would unpack to {size} bytes, too many for a file of {self.size}"
            raise CheckpointError(self.path, reason, "store it unpacked if you trust it")
        return self._unpacked(name, size)

    def _packed(self, name: str) -> Bytes:
        start = self._starts[name]
        return self._data[start : start + self._infos[name].compress_size]

    def _unpack(self, name: str, size: int) -> Bytes:
        packed, result, end = self._packed(name), np.empty(size, np.uint8), 0
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            for start in range(0, len(packed), CHUNK):
                chunk = packed[start : start + CHUNK]
                rest = chunk.data
                while rest and end < size:
                    piece = inflate.decompress(rest, min(CHUNK, size - end))
                    result[end : end + len(piece)] = np.frombuffer(piece, np.uint8)
                    end += len(piece)
                    rest = inflate.unconsumed_tail
                forget(chunk)
        except zlib.error as error:
            reason = f"member {name!r} cannot be unpacked ({one_line(error)})"
            raise CheckpointError(self.path, reason, MEND) from error
        info = self._infos[name]
        if end < size or (size == info.file_size and zlib.crc32(result.data) != info.CRC):
            raise CheckpointError(self.path, f"member {name!r} is damaged", MEND)
        result.flags.writeable = False  # it is handed out again
        return result

    def _locate(self) -> dict[str, int]:
        """Finds where the bytes of each member begin, and that no two members share any."""
        starts, end = {}, 0
        for name, info in sorted(self._infos.items(), key=lambda item: item[1].header_offset):
            header = self._data[info.header_offset : info.header_offset + 30].tobytes()
            if info.header_offset < end or len(header) < 30 or header[:4] != MAGIC:
                raise CheckpointError(self.path, f"member {name!r} lies where another does or where none is", MEND)
            name_length, extra_length = struct.unpack("<HH", header[26:])
            starts[name] = info.header_offset + 30 + name_length + extra_length
            end = starts[name] + info.compress_size
            stored = info.compress_type == zipfile.ZIP_STORED
            if end > self.size or (stored and info.compress_size != info.file_size):
                raise CheckpointError(self.path, f"member {name!r} has a wrong size", MEND)
        return starts


def member_names(head: bytes, path: Path) -> tuple[str, ...]:
    """Returns the names in a zip archive, none if the file is not one.

    Args:
      head: how the file begins.

    Raises:
      CheckpointError: the archive is broken.
    """
    return tuple(open_archive(path).members) if head.startswith(MAGIC) else ()


def open_archive(path: Path) -> Archive:
    """Opens a zip archive.

    Raises:
      CheckpointError: see Archive.
      OSError: the file cannot be read.
    """
    return Archive(map_file(path), path)


def _safe_name(info: zipfile.ZipInfo, path: Path) -> str:
    name = info.filename
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in info.orig_filename:
        reason = f"member {name!a:.80} leads out of the archive"
        raise CheckpointError(path, reason, "download the checkpoint from a source that you trust")
    return name


class _Window(io.RawIOBase):
    """Bytes as the seekable file that `zipfile` asks for; refuses to read a table of absurd size."""

    def __init__(self, data: Bytes):
        self._data = data
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, len(self._data))[whence]
        if at < 0:
            raise OSError("seeks before its beginning")
        self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        stop = len(self._data) if size < 0 else min(self._at + size, len(self._data))
        if stop - self._at > TABLE_LIMIT:
            raise OSError("its table of members is too long")
        result = self._data[self._at : stop].tobytes()
        self._at += len(result)
        return result
