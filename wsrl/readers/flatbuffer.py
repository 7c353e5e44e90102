"""Reads FlatBuffers: tables whose fields are found through a table of offsets, all checked against the bytes there are.

The encoding: https://flatbuffers.dev/internals. The library's own reader for Python trusts every offset and length.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from wsrl.readers.mapped import Bytes


class FlatBufferError(ValueError):
    """An offset or a length that leads out of the buffer."""


class Table:
    """A table of a FlatBuffer; a field is known by its place in the schema, counted from 0.

    Every method raises FlatBufferError where an offset or a length leads out of the buffer.
    """

    def __init__(self, data: Bytes, position: int):
        self.data, self.position = data, position
        self._fields = position - self._number("<i", position)
        self._length = self._number("<H", self._fields)

    @classmethod
    def root(cls, data: Bytes) -> "Table":
        """Returns the table that the buffer begins with.

        Raises:
          FlatBufferError: there is none.
        """
        return cls(data, _number(data, "<I", 0))

    def integer(self, field: int, layout: str) -> int:
        """Returns an integer of the `struct` layout, e.g. `<i`; 0 where it is not stored."""
        return int(self.number(field, layout, 0))

    def number(self, field: int, layout: str, default: int | float) -> int | float:
        """Returns a number of the `struct` layout, e.g. `<f`; the default where it is not stored."""
        position = self._place(field)
        return default if position is None else self._number(layout, position)

    def table(self, field: int) -> "Table | None":
        """Returns the table that the field points to."""
        position = self._place(field)
        return None if position is None else Table(self.data, position + self._number("<I", position))

    def tables(self, field: int) -> Iterator["Table"]:
        """Yields the tables of a vector."""
        start, length = self._vector(field, 4)
        for place in range(start, start + 4 * length, 4):
            yield Table(self.data, place + self._number("<I", place))

    def array(self, field: int, dtype: str) -> np.ndarray:
        """Returns a vector of numbers, not copied; empty where it is not stored."""
        size = np.dtype(dtype).itemsize
        start, length = self._vector(field, size)
        return self.data[start : start + length * size].view(dtype)

    def text(self, field: int) -> str:
        """Returns a string; empty where it is not stored."""
        return str(self.array(field, "u1").tobytes(), "utf-8", "replace")

    def _vector(self, field: int, size: int) -> tuple[int, int]:
        position = self._place(field)
        if position is None:
            return 0, 0
        start = position + self._number("<I", position)
        length = self._number("<I", start)
        if length * size > len(self.data) - start - 4:
            raise FlatBufferError("a vector ends beyond the buffer")
        return start + 4, length

    def _place(self, field: int) -> int | None:
        if 4 + 2 * field + 2 > self._length:
            return None
        offset = self._number("<H", self._fields + 4 + 2 * field)
        return self.position + offset if offset else None

    def _number(self, layout: str, position: int) -> Any:
        return _number(self.data, layout, position)


def _number(data: Bytes, layout: str, position: int) -> Any:
    if not 0 <= position <= len(data) - struct.calcsize(layout):
        raise FlatBufferError("an offset leads out of the buffer")
    return struct.unpack_from(layout, data.data, position)[0]
