"""Reads tables of LevelDB, as TensorFlow writes the index of a checkpoint: sorted keys and values in guarded blocks.

The format: https://github.com/google/leveldb, `doc/table_format.md`. Only blocks that are not compressed are known.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wsrl.checkpoint import CheckpointError
from wsrl.readers.budget import Budget
from wsrl.readers.crc32c import crc32c, masked
from wsrl.readers.mapped import Bytes
from wsrl.readers.protobuf import WireError, varint

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")  # the last bytes
FOOTER = 48
TRAILER = 5  # bytes behind a block: its compression and its checksum
LONGEST_KEY = 1 << 13
MEND = "save or download it again"


def read_table(data: Bytes, path: Path, budget: Budget) -> dict[bytes, memoryview]:
    """Returns all keys and values of a table.

    Args:
      data: the file.
      path: for messages.
      budget: of memory.

    Raises:
      CheckpointError: the file is no table, damaged, or compressed.
    """
    if len(data) < FOOTER or data[-len(MAGIC) :].tobytes() != MAGIC:
        raise CheckpointError(path, "is no index of a TensorFlow checkpoint, or is truncated", MEND)
    result: dict[bytes, memoryview] = {}
    try:
        footer = data[-FOOTER:].data
        place = _handle(footer, _handle(footer, 0)[2])
        for _, handle in _entries(_block(data, place, path), budget):
            for key, value in _entries(_block(data, _handle(handle, 0), path), budget):
                result[key] = value
    except (WireError, IndexError) as error:
        raise CheckpointError(path, f"its index is damaged ({error})", MEND) from error
    return result


def _handle(data: memoryview, at: int) -> tuple[int, int, int]:
    """Where a block begins, its size, and where the bytes that say so end."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return offset, size, at


def _block(data: Bytes, place: tuple[int, int, int], path: Path) -> memoryview:
    start, stop = place[0], place[0] + place[1]
    if stop + TRAILER > len(data):
        raise WireError("a block ends beyond the file")
    if data[stop]:
        raise CheckpointError(path, "its index is compressed", "save it again with TensorFlow's defaults")
    if masked(crc32c(data[start : stop + 1])) != int.from_bytes(data[stop + 1 : stop + TRAILER].tobytes(), "little"):
        raise WireError("a checksum is wrong")
    return np.ascontiguousarray(data[start:stop]).data


def _entries(block: memoryview, budget: Budget) -> Iterator[tuple[bytes, memoryview]]:
    """Yields keys and values; a key gives how much it shares with the one before it."""
    if len(block) < 4:
        raise WireError("a block is too short")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")  # offsets of keys that are written out come last
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or shared + own > LONGEST_KEY or at + own + size > end:
            raise WireError("an entry ends beyond its block")
        key = key[:shared] + block[at : at + own].tobytes()
        budget.spend(1024 + len(key))
        yield key, block[at + own : at + own + size]
        at += own + size
