"""Reads Zarr arrays, versions 2 and 3, of any key-value store.

The formats: https://zarr-specs.readthedocs.io. Only what Orbax writes is known: chunks of a regular grid in C order, as
they are or compressed by Zstandard, in version 3 also gathered in shards. They are unpacked here rather than by
TensorStore because a chunk of a few bytes can unpack to any size there.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
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


def open_zarr(store: Store, metadata: bytes, version: int, size: int, path: Path, name: str) -> LazyTensor | None:
    """Opens an array; None if it does not hold numbers.

    Args:
      store: keys of the array's own values -> values.
      metadata: of the array, JSON.
      version: 2 or 3.
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
    chunks = _Chunks(store, layout, path, name)
    grid = ChunkGrid(layout.shape, layout.dtype, layout.chunk, chunks.read)
    return LazyTensor(layout.shape, layout.dtype.name, grid.rows, str(path), name)


def _version2(fields: dict[str, Any], path: Path, name: str) -> _Layout | None:
    match fields:
        case {"shape": shape, "chunks": chunk, "dtype": kind, "compressor": packing, "order": "C", "filters": None}:
            codecs = ["zstd"] if _named(packing, "id") == "zstd" else [] if packing is None else [packing]
        case _:
            raise _unknown("the form of the array", path, name)
    separator = str(fields.get("dimension_separator", "."))
    return _layout(shape, chunk, kind, codecs, None, lambda place: separator.join(map(str, place)) or "0", path, name)


def _version3(fields: dict[str, Any], path: Path, name: str) -> _Layout | None:
    match fields:
        case {
            "shape": shape,
            "data_type": kind,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": stored}},
            "chunk_key_encoding": {"name": "default", **encoding},
            "codecs": list(codecs),
        }:
            separator = str((encoding.get("configuration") or {}).get("separator", "/"))
        case _:
            raise _unknown("the form of the array", path, name)
    match codecs:
        case [
            {"name": "sharding_indexed", "configuration": {"chunk_shape": chunk, "codecs": list(codecs), **index}}
        ] if index.get("index_location", "end") == "end" and _names(index.get("index_codecs")) == ["bytes", "crc32c"]:
            shard = stored
        case _:
            chunk, shard = stored, None
    names = _names(codecs)
    if names[:1] == ["bytes"] and (codecs[0].get("configuration") or {}).get("endian", "little") == "little":
        names = names[1:]
    return _layout(shape, chunk, kind, names, shard, lambda place: separator.join(map(str, ("c", *place))), path, name)


def _layout(
    shape: object,
    chunk: object,
    kind: object,
    codecs: list,
    shard: object,
    key: Callable[[tuple[int, ...]], str],
    path: Path,
    name: str,
) -> _Layout | None:
    if codecs not in ([], ["zstd"]):
        raise _unknown(f"the compression {codecs!r:.60}", path, name)
    lengths, chunk_lengths = checked_shape(shape, path, name), checked_shape(chunk, path, name)
    shard_lengths = checked_shape(chunk if shard is None else shard, path, name)
    pairs = list(zip(shard_lengths, chunk_lengths, strict=False))
    if not len(lengths) == len(chunk_lengths) == len(shard_lengths) or any(n < 1 or m % n or not m for m, n in pairs):
        raise _unknown("the shape of its chunks", path, name)
    if not isinstance(kind, str) or kind not in DTYPES:
        return None
    per_shard = None if shard is None else tuple(m // n for m, n in pairs)
    return _Layout(lengths, DTYPES[kind], chunk_lengths, per_shard, bool(codecs), key)


def _unknown(what: str, path: Path, name: str) -> CheckpointError:
    return CheckpointError(path, f"{what} {name!r} is not one that Orbax writes", MEND)


def _named(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _names(codecs: object) -> list:
    return [_named(codec, "name") for codec in codecs] if isinstance(codecs, list) else []


class _Chunks:
    """Finds, unpacks and checks chunks."""

    def __init__(self, store: Store, layout: _Layout, path: Path, name: str):
        self.layout, self.path, self.name = layout, path, name
        self._value = lru_cache(maxsize=1)(store)  # a shard is read for one chunk after the other
        self._size = prod(layout.chunk) * layout.dtype.itemsize

    def read(self, place: tuple[int, ...]) -> np.ndarray:
        """Returns a chunk by its place in the grid; zeros, which Orbax may leave out, where none is stored.

        Raises:
          CheckpointError: it is damaged.
        """
        per_shard = self.layout.shard
        outer = place if per_shard is None else tuple(at // n for at, n in zip(place, per_shard, strict=True))
        value = self._value(self.layout.key(outer))
        if value is not None and per_shard is not None:
            value = self._of_shard(value, tuple(at % n for at, n in zip(place, per_shard, strict=True)), per_shard)
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
