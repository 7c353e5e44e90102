"""Reads chunked data sets of HDF5: blocks of a grid, each stored apart, often compressed."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from wsrl.checkpoint import CheckpointError
from wsrl.readers.mapped import MARGIN, Bytes

DEFLATE, SHUFFLE, CHECKSUM = 1, 2, 3
MEND = "write or download it again"


@dataclass(frozen=True)
class Chunks:
    """The chunks of a data set.

    Attributes:
      dtype: of the data set.
      chunk: shape of a chunk.
      stored: first entry of a chunk -> its bytes in the file and the filters that were skipped for it, a bit each.
      filters: numbers of the filters, in the order in which they were applied.
      path, name: for messages.
    """

    dtype: np.dtype
    chunk: tuple[int, ...]
    stored: Mapping[tuple[int, ...], tuple[Bytes, int]]
    filters: tuple[int, ...]
    path: Path
    name: str

    @classmethod
    def of(cls, dataset: Any, dtype: np.dtype, shape: tuple[int, ...], data: Bytes, path: Path, name: str) -> "Chunks":
        """Looks up where the chunks of a pyfive.Dataset lie.

        Raises:
          CheckpointError: a chunk is missing, too large or not in the file, or has an unknown filter.
        """
        chunk = tuple(int(n) for n in dataset.chunks)
        filters = tuple(int(entry["filter_id"]) for entry in dataset.id.filter_pipeline or ())
        if unknown := set(filters) - {DEFLATE, SHUFFLE, CHECKSUM}:
            reason = f"{name!r} is compressed by filter {min(unknown)}"
            raise CheckpointError(path, reason, "write it with gzip or without compression")
        if len(chunk) != len(shape) or min(chunk, default=0) < 1 or prod(chunk) * dtype.itemsize > MARGIN // 2:
            raise CheckpointError(path, f"{name!r} has chunks of the absurd shape {chunk}", MEND)
        index = dataset.id.index
        if len(index) < prod(-(-n // c) for n, c in zip(shape, chunk, strict=True)):
            raise CheckpointError(path, f"{name!r} lacks chunks", MEND)
        stored = {}
        for info in index.values():
            start, size = int(info.byte_offset), int(info.size)
            if start < 0 or size < 1 or start + size > len(data):
                raise CheckpointError(path, f"a chunk of {name!r} is not in the file", MEND)
            stored[tuple(map(int, info.chunk_offset))] = data[start : start + size], int(info.filter_mask)
        return cls(dtype, chunk, stored, filters, path, name)

    def read(self, place: tuple[int, ...]) -> np.ndarray:
        """Returns a chunk by its place in the grid.

        Raises:
          CheckpointError: it is missing or damaged.
        """
        corner = tuple(at * length for at, length in zip(place, self.chunk, strict=True))
        if corner not in self.stored:
            raise CheckpointError(self.path, f"{self.name!r} lacks a chunk", MEND)
        stored, skipped = self.stored[corner]
        size = prod(self.chunk) * self.dtype.itemsize
        content = stored
        for number, filter_ in reversed(list(enumerate(self.filters))):
            if skipped >> number & 1:
                continue
            if filter_ == CHECKSUM:
                content = content[:-4]
            elif filter_ == DEFLATE:
                content = self._inflate(content, size + 4 * len(self.filters))
            elif len(content) % self.dtype.itemsize == 0:
                content = content.reshape(self.dtype.itemsize, -1).T.reshape(-1)
        if len(content) != size:
            raise CheckpointError(self.path, f"a chunk of {self.name!r} has {len(content)} bytes, not {size}", MEND)
        return content.view(self.dtype).reshape(self.chunk)

    def _inflate(self, packed: Bytes, most: int) -> UInt8[np.ndarray, " unpacked"]:
        try:
            return np.frombuffer(zlib.decompressobj().decompress(packed.data, most), np.uint8)
        except zlib.error as error:
            raise CheckpointError(self.path, f"a chunk of {self.name!r} cannot be unpacked", MEND) from error
