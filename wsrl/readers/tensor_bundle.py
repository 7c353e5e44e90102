"""Reads TensorFlow's checkpoints of version 2: `NAME.index`, a table of entries, and `NAME.data-00000-of-00001`.

The messages: https://github.com/tensorflow/tensorflow, `tensorflow/core/protobuf/tensor_bundle.proto`. A variable that
is split over several machines has an entry for the whole and one for each slice, whose key is made as in
`tensorflow/core/util/saved_tensor_slice_util.cc` and `tensorflow/core/lib/strings/ordered_code.cc`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers.budget import Budget
from wsrl.readers.crc32c import crc32c, masked
from wsrl.readers.links import file_beside
from wsrl.readers.mapped import Bytes, checked_name, checked_shape, map_file
from wsrl.readers.protobuf import Kind, WireError, fields, read, varint
from wsrl.readers.sstable import read_table

MEND = "save or download it again"
HEADER = {1: ("shards", Kind.INTEGERS), 2: ("big_endian", Kind.INTEGERS)}
ENTRY = {
    **{1: ("dtype", Kind.INTEGERS), 2: ("shape", Kind.MESSAGE), 3: ("shard", Kind.INTEGERS)},
    **{4: ("offset", Kind.INTEGERS), 5: ("size", Kind.INTEGERS), 7: ("slices", Kind.MESSAGE)},
}
CHECKSUM = 6  # of an entry, fixed32
SHAPE, LENGTH = {2: ("lengths", Kind.MESSAGE)}, {1: ("length", Kind.INTEGERS)}
SLICE, EXTENT = {1: ("extents", Kind.MESSAGE)}, {1: ("start", Kind.INTEGERS), 2: ("length", Kind.INTEGERS)}
STRING = 7
DTYPES = {
    **{1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8, 8: np.complex64, 9: np.int64},
    **{10: np.bool_, 11: np.int8, 12: np.uint8, 13: np.int32, 14: ml_dtypes.bfloat16, 15: np.int16, 16: np.uint16},
    **{17: np.uint16, 18: np.complex128, 19: np.float16, 22: np.uint32, 23: np.uint64},
    **{24: ml_dtypes.float8_e5m2, 25: ml_dtypes.float8_e4m3fn},
}  # of tensorflow/core/framework/types.proto
MOST_SHARDS = 10_000


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies; `slices` are (start, length) of each axis for each part, the length -1 for all of it."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    slices: tuple[tuple[tuple[int, int], ...], ...]


class Bundle:
    """The entries of a checkpoint.

    Attributes:
      tensors: key -> tensor, checked against its checksum when it is first read.
      texts: key -> bytes of the one text in a tensor of texts.
      left_out: keys of what is neither.
      checksums: key -> checksum and number of bytes of a tensor that is not in slices; equal ones hold the same.
    """

    def __init__(self, index: Path):
        """Reads the index of a checkpoint.

        Args:
          index: `NAME.index`; the files of data lie beside it.

        Raises:
          CheckpointError: it is damaged, a file of data is missing or too short.
          OSError: a file cannot be read.
        """
        self.index, data = index, map_file(index)
        self.budget = Budget(index, len(data))
        table = read_table(data, index, self.budget)
        try:
            header = read(table.pop(b"", memoryview(b"")), HEADER, self.budget)
            self._shards = (header["shards"] or [1])[-1]
            self._big_endian = bool((header["big_endian"] or [0])[-1])
            entries = {key: self._entry(value) for key, value in table.items()}
        except (WireError, UnicodeDecodeError) as error:
            raise CheckpointError(index, f"its index is damaged ({error})", MEND) from error
        if not 0 < self._shards <= MOST_SHARDS:
            raise CheckpointError(index, f"claims to be in {self._shards} parts", MEND)
        self._files = lru_cache(maxsize=None)(self._open)
        self.tensors: dict[str, LazyTensor] = {}
        self.texts: dict[str, bytes] = {}
        self.left_out: list[str] = []
        self.checksums: dict[str, tuple[int, int]] = {}
        for key, entry in entries.items():
            if key[:1] == b"\0":  # a slice
                continue
            name = checked_name(str(key, "utf-8", "replace"), index)
            if entry.dtype == STRING and not entry.shape:
                self.texts[name] = self._text(entry, name)
            elif entry.dtype not in DTYPES:
                self.left_out.append(name)
            elif entry.slices:
                self.tensors[name] = self._sliced(key, entry, entries, name)
            else:
                self.tensors[name] = self._tensor(entry, name)
                self.checksums[name] = (entry.checksum, entry.size)

    def _entry(self, message: memoryview) -> _Entry:
        told = read(message, ENTRY, self.budget)
        checksum = [value for number, _, value in fields(message) if number == CHECKSUM]
        dtype, shard, offset, size = ((told[key] or [0])[-1] for key in ("dtype", "shard", "offset", "size"))
        lengths = [m for shape in told["shape"][-1:] for m in read(shape, SHAPE, self.budget)["lengths"]]
        shape = [(read(m, LENGTH, self.budget)["length"] or [0])[-1] for m in lengths]
        slices = []
        for message in told["slices"]:
            extents = [read(m, EXTENT, self.budget) for m in read(message, SLICE, self.budget)["extents"]]
            slices.append(tuple(((e["start"] or [0])[-1], (e["length"] or [-1])[-1]) for e in extents))
        if checksum and not isinstance(checksum[-1], memoryview):
            raise WireError("a checksum is no number of 32 bits")
        guard = int.from_bytes(checksum[-1], "little") if checksum and isinstance(checksum[-1], memoryview) else 0
        return _Entry(dtype, checked_shape(shape, self.index, "?"), shard, offset, size, guard, tuple(slices))

    def _open(self, shard: int) -> Bytes:
        if not 0 <= shard < self._shards:
            raise CheckpointError(self.index, f"names part {shard} of {self._shards}", MEND)
        name = f"{self.index.stem}.data-{shard:05}-of-{self._shards:05}"
        return map_file(file_beside(name, self.index))

    def _stored(self, entry: _Entry, name: str) -> Bytes:
        data = self._files(entry.shard)
        if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > len(data):
            raise CheckpointError(
                self.index, f"tensor {name!r} ends beyond its file", "download all of its files again"
            )
        return data[entry.offset : entry.offset + entry.size]

    def _tensor(self, entry: _Entry, name: str) -> LazyTensor:
        dtype = np.dtype(DTYPES[entry.dtype])
        data = self._stored(entry, name)
        if len(data) != prod(entry.shape) * dtype.itemsize:
            raise CheckpointError(self.index, f"tensor {name!r} has {len(data)} bytes for {list(entry.shape)}", MEND)
        dtype = dtype.newbyteorder(">") if self._big_endian and dtype.itemsize > 1 else dtype
        array = data.view(dtype).reshape(entry.shape or (1,))

        @lru_cache(maxsize=1)
        def check() -> None:
            if masked(crc32c(data)) != entry.checksum:
                raise CheckpointError(self.index, f"the checksum of tensor {name!r} is wrong", MEND)

        def rows(start: int, stop: int) -> np.ndarray:
            check()
            return array[start:stop]

        return LazyTensor(entry.shape, DTYPE_NAMES[entry.dtype], rows, str(self.index), name)

    def _text(self, entry: _Entry, name: str) -> bytes:
        """The text in a tensor of texts without axes: its length, a checksum of that, and its bytes."""
        data = self._stored(entry, name)
        try:
            length, start = varint(data.data, 0)
        except WireError as error:
            raise CheckpointError(self.index, f"tensor {name!r} is damaged ({error})", MEND) from error
        if start + 4 + length != len(data):
            raise CheckpointError(self.index, f"tensor {name!r} is damaged", MEND)
        return data[start + 4 :].tobytes()

    def _sliced(self, key: bytes, entry: _Entry, entries: dict[bytes, _Entry], name: str) -> LazyTensor:
        """A variable in slices along its axes."""
        shape, parts, entries_there = entry.shape, [], 0
        for extents in entry.slices:
            part = entries.get(_slice_key(key, extents))
            whole = [(s, n if m < 0 else m) for (s, m), n in zip(extents, shape, strict=False)]
            fits = len(extents) == len(shape) and all(
                0 <= s <= s + m <= n for (s, m), n in zip(whole, shape, strict=False)
            )
            if part is None or not fits or part.dtype != entry.dtype or part.shape != tuple(m for _, m in whole):
                raise CheckpointError(self.index, f"lacks a slice of tensor {name!r}", MEND)
            parts.append((tuple(s for s, _ in whole), self._tensor(part, name)))
            entries_there += prod(part.shape)
        if entries_there != prod(shape) or not shape:
            raise CheckpointError(self.index, f"the slices of tensor {name!r} are not the whole of it", MEND)

        def rows(start: int, stop: int) -> np.ndarray:
            start, stop, _ = slice(start, stop).indices(shape[0])
            result = np.zeros((max(stop - start, 0), *shape[1:]), DTYPES[entry.dtype])
            for offset, part in parts:
                first, last = max(start - offset[0], 0), min(stop - offset[0], part.shape[0])
                if first < last:
                    place = [slice(o, o + n) for o, n in zip(offset[1:], part.shape[1:], strict=True)]
                    begin = offset[0] + first - start
                    result[(slice(begin, begin + last - first), *place)] = part.read_rows(first, last)
            return result

        return LazyTensor(shape, DTYPE_NAMES[entry.dtype], rows, str(self.index), name)


DTYPE_NAMES = {number: np.dtype(kind).name for number, kind in DTYPES.items()}


def _slice_key(name: bytes, extents: Sequence[tuple[int, int]]) -> bytes:
    """The key of a slice, in an encoding whose order is that of the numbers."""
    text = (
        name.replace(b"\0", b"\0\xff")
        if b"\xff" not in name
        else b"\0\xff".join(part.replace(b"\xff", b"\xff\0") for part in name.split(b"\0"))
    )
    rank = len(extents).to_bytes(-(-len(extents).bit_length() // 8), "big")
    numbers = b"".join(_signed(n) for extent in extents for n in extent)
    return b"\0" + text + b"\0\1" + bytes([len(rank)]) + rank + numbers


def _signed(value: int) -> bytes:
    """A whole number: as many leading ones as it has bytes, then its bits; a negative one is the other way round."""
    size = (value if value >= 0 else ~value).bit_length() // 7 + 1
    header = (0xFF << 8 * size - size) & (1 << 8 * size) - 1 if size <= 8 else 0
    return ((value & (1 << 8 * size) - 1) ^ header).to_bytes(size, "big")
