"""Reads Zarr arrays, versions 2 and 3, of any key-value store.

The formats: https://zarr-specs.readthedocs.io. Only what Orbax writes is known: chunks of a regular grid in C order, as
they are or compressed by Zstandard, in version 3 also gathered in shards. They are unpacked here rather than by
TensorStore because a chunk of a few bytes can unpack to any size there.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from wsrl.checkpoint import CheckpointError, LazyTensor, one_line
from wsrl.readers.chunk_grid import ChunkGrid
from wsrl.readers.json_files import parse_json_object
from wsrl.readers.mapped import checked_shape, memory_limit

METADATA = {".zarray": 2, "zarr.json": 3}  # key of the metadata -> version
MEND = "write it again with Orbax's defaults"
MOST_CHUNKS = 100_000  # of an array
WINDOW = 32 << 20  # bytes that unpacking may keep at hand
KINDS = {
    **{"<f2": np.float16, "<f4": np.float32, "<f8": np.float64, "|b1": np.bool_, "|i1": np.int8, "|u1": np.uint8},
    **{f"<{letter}{n}": np.dtype(f"{letter}{n}") for letter in "iu" for n in (2, 4, 8)},
    **{name: name for name in ("float16", "float32", "float64", "bool")},
    **{f"{sign}int{n}": f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)},
    **{name: getattr(ml_dtypes, name) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")},
}
DTYPES = {name: np.dtype(kind) for name, kind in KINDS.items()}  # in the words of either version
ABSENT = (1 << 64) - 1  # offset of a chunk that a shard does not hold

Store = Callable[[str], bytes | None]  # key -> value; None if there is none


@dataclass(frozen=True)
class _Layout:
    """What the metadata of an array says.

    Attributes:
      chunk: shape of the chunks that are compressed apart.
      shard: how many of them a stored value holds on each axis; None where each is a value.
      key: place in the grid of values -> key.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    shard: tuple[int, ...] | None
    compressed: bool
    key: Callable[[tuple[int, ...]], str]


def open_zarr(
    store: Store, metadata: bytes, version: int, sparse: bool, size: int, path: Path, name: str
) -> LazyTensor | None:
    """Opens an array; None if it does not hold numbers.

    Args:
      store: keys of the array's own values -> values.
      metadata: of the array, JSON.
      version: 2 or 3.
      sparse: whether chunks that are not stored are zeros; otherwise they are missing.
      size: bytes of the whole checkpoint.
      path, name: for messages.

    Raises:
      CheckpointError: the metadata is not well-formed, not as Orbax writes it, or asks for more memory than a
        checkpoint of its size can need.
    """
    fields = parse_json_object(metadata, path, f"the metadata of {name!r}")
    layout = (_version2 if version == 2 else _version3)(fields, path, name)
    if layout is None:
        return None
    for lengths in (layout.shape, layout.chunk):
        if prod(lengths) * layout.dtype.itemsize > memory_limit(size):
            reason = f"{name!r} of shape {lengths} would take too much memory for a checkpoint of {size} bytes"
            raise CheckpointError(path, reason, MEND)
    if prod(-(-n // c) for n, c in zip(layout.shape, layout.chunk, strict=True)) > MOST_CHUNKS:
        raise CheckpointError(path, f"{name!r} is cut into more than {MOST_CHUNKS} chunks", MEND)
    chunks = _Chunks(store, layout, sparse, path, name)
    grid = ChunkGrid(layout.shape, layout.dtype, layout.chunk, chunks.read)
    return LazyTensor(layout.shape, layout.dtype.name, grid.rows, str(path), name)


def _version2(fields: dict[str, Any], path: Path, name: str) -> _Layout | None:
    packing, separator = fields.get("compressor"), fields.get("dimension_separator", ".")
    compressed = _get(packing, "id") == "zstd"
    plain = fields.get("order") == "C" and fields.get("filters") is None and separator in (".", "/")
    if not plain or not (compressed or packing is None):
        raise _unknown("form", path, name)
    shapes = (fields.get("shape"), fields.get("chunks"), None)
    return _layout(shapes, fields.get("dtype"), compressed, lambda at: separator.join(map(str, at)) or "0", path, name)


def _version3(fields: dict[str, Any], path: Path, name: str) -> _Layout | None:
    grid, encoding, codecs = (fields.get(key) for key in ("chunk_grid", "chunk_key_encoding", "codecs"))
    separator = _get(encoding, "configuration", "separator") or "/"
    chunk, shard = _get(grid, "configuration", "chunk_shape"), None
    if _names(codecs) == ["sharding_indexed"]:
        sharding = _get(codecs, 0, "configuration")
        if _names(_get(sharding, "index_codecs")) != ["bytes", "crc32c"] or _get(sharding, "index_location") == "start":
            raise _unknown("shards", path, name)
        codecs, chunk, shard = _get(sharding, "codecs"), _get(sharding, "chunk_shape"), chunk
    little = _get(codecs, 0, "configuration", "endian") in ("little", None)
    known = _get(grid, "name") == "regular" and _get(encoding, "name") == "default" and separator in (".", "/")
    if not (known and little and _names(codecs) in (["bytes"], ["bytes", "zstd"])):
        raise _unknown("form", path, name)
    shapes = (fields.get("shape"), chunk, shard)
    compressed = len(_names(codecs)) == 2
    return _layout(
        shapes, fields.get("data_type"), compressed, lambda at: separator.join(("c", *map(str, at))), path, name
    )


def _layout(
    shapes: tuple[object, object, object],
    kind: object,
    compressed: bool,
    key: Callable[[tuple[int, ...]], str],
    path: Path,
    name: str,
) -> _Layout | None:
    """Checks shapes of the array, of a chunk, and of a shard or None; returns None if there are no numbers."""
    shape, chunk, shard = (checked_shape(lengths, path, name) for lengths in (*shapes[:2], shapes[2] or shapes[1]))
    if not len(shape) == len(chunk) == len(shard) or any(
        n < 1 or m < 1 or m % n for m, n in zip(shard, chunk, strict=True)
    ):
        raise _unknown("shape of chunks", path, name)
    if not isinstance(kind, str) or kind not in DTYPES:
        return None
    per_shard = tuple(m // n for m, n in zip(shard, chunk, strict=True)) if shapes[2] else None
    return _Layout(shape, DTYPES[kind], chunk, per_shard, compressed, key)


def _unknown(what: str, path: Path, name: str) -> CheckpointError:
    return CheckpointError(path, f"the {what} of the array {name!r} is not one that Orbax writes", MEND)


def _get(value: object, *keys: str | int) -> Any:
    """Looks up an entry of an entry; None where there is none."""
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        else:
            value = value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else None
    return value


def _names(codecs: object) -> list:
    return [_get(codec, "name") for codec in codecs] if isinstance(codecs, list) else []


class _Chunks:
    """Finds, unpacks and checks chunks."""

    def __init__(self, store: Store, layout: _Layout, sparse: bool, path: Path, name: str):
        self.store, self.layout, self.sparse = store, layout, sparse
        self.path, self.name = path, name
        self._size = prod(layout.chunk) * layout.dtype.itemsize

    def read(self, place: tuple[int, ...]) -> np.ndarray:
        """Returns a chunk by its place in the grid.

        Raises:
          CheckpointError: it is damaged or missing.
        """
        per_shard = self.layout.shard
        outer = place if per_shard is None else tuple(at // n for at, n in zip(place, per_shard, strict=True))
        value = self.store(self.layout.key(outer))
        if value is not None and per_shard is not None:
            value = self._of_shard(value, tuple(at % n for at, n in zip(place, per_shard, strict=True)), per_shard)
        if value is None and not self.sparse:
            self._damaged("is missing")
        if value is None:
            return np.zeros(self.layout.chunk, self.layout.dtype)
        content = _unpack(value, self._size, self.path, self.name) if self.layout.compressed else value
        if len(content) != self._size:
            self._damaged(f"has {len(content)} bytes, not {self._size}")
        return np.frombuffer(content, self.layout.dtype).reshape(self.layout.chunk)

    def _of_shard(self, value: bytes, place: tuple[int, ...], per_shard: tuple[int, ...]) -> bytes | None:
        """A shard ends with offset and length of each of its chunks, and a checksum of those."""
        count = prod(per_shard)
        index = len(value) - 4 - 16 * count
        if index < 0:
            self._damaged("lies in a shard that is too short")
        number = int(np.ravel_multi_index(place, per_shard)) if place else 0
        offset, length = struct.unpack_from("<QQ", value, index + 16 * number)
        if offset == length == ABSENT:
            return None
        if offset + length > index:
            self._damaged("ends beyond its shard")
        return value[offset : offset + length]

    def _damaged(self, what: str) -> NoReturn:
        raise CheckpointError(self.path, f"a chunk of {self.name!r} {what}", "write or download it again")


def _unpack(packed: bytes, size: int, path: Path, name: str) -> bytes:
    """Unpacks Zstandard; one byte more than expected at most."""
    try:
        import zstandard
    except ImportError as error:
        raise CheckpointError(path, "its chunks need the package zstandard", "pip install 'wsrl[orbax]'") from error
    try:
        with zstandard.ZstdDecompressor(max_window_size=WINDOW).stream_reader(packed) as reader:
            return reader.read(size + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        reason = f"a chunk of {name!r} cannot be unpacked ({one_line(error)})"
        raise CheckpointError(path, reason, "write or download it again") from error
