"""Shards: many checkpoints in one ArrayRecord file, each the bytes of a safetensors file.

A record is a chunk of its own with a hash, so that one is read without its neighbors, and damage is found before its
bytes are used. The format: https://github.com/google/array_record.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType

from wsrl.checkpoint import CheckpointError, one_line
from wsrl.extras import require

WRITER = "group_size:1,uncompressed"  # weights hardly compress
READER = "readahead_buffer_size:0,max_parallelism:0"  # for random access; one by one is as fast as reading the file
MEND = "build the zoo again, or copy the file again"


def write_shard(path: Path, contents: Iterable[bytes]) -> None:
    """Writes a shard under another name in the same folder, flushes to disk and renames; makes missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with closing(_library().ArrayRecordWriter(str(partial), WRITER)) as writer:
        for content in contents:
            writer.write(content)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_record(path: Path, position: int) -> bytes:
    """Reads one record of a shard.

    Raises:
      CheckpointError: the shard is missing, no shard, truncated or damaged there, or has no such position.
    """
    found = next(stream_records(path, [position]))
    if isinstance(found, CheckpointError):
        raise found
    return found


def stream_records(path: Path, positions: Sequence[int]) -> Iterator[bytes | CheckpointError]:
    """Yields records of a shard, one in memory at a time, or why one cannot be read; damage spares the others."""
    try:
        with open(path, "rb"):  # the library does not say why a file cannot be opened
            reader = _library().ArrayRecordReader(str(path), READER)
        if not reader.ok():
            reader.close()  # raises, and says what is wrong
        number = reader.num_records()
    except (OSError, RuntimeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        yield from [CheckpointError(path, f"cannot be read ({reason})", MEND)] * len(positions)
        return
    for position in positions:  # the reader closes when it is freed; asked to close, it raises for a damaged shard
        if not 0 <= position < number:
            yield CheckpointError(path, f"has no record {position}, only {number}", MEND)
            continue
        try:
            yield reader.read([position])[0]
        except RuntimeError as error:
            yield CheckpointError(path, f"record {position} cannot be read ({one_line(error)})", MEND)


def _library() -> ModuleType:
    return require("array_record.python.array_record_module", "train")
