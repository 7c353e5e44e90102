"""Reads messages in the wire format of Protocol Buffers without copying what lies in them.

The encoding: https://protobuf.dev/programming-guides/encoding. A message is a row of fields, each a number, a wire type
and a value; a schema says which numbers are of interest and what their values mean.
"""

from collections.abc import Iterator, Mapping
from enum import Enum

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from wsrl.readers.budget import NUMBER, TEXT, VIEW, Budget

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Bytes = UInt8[np.ndarray, " bytes"]
AT_ONCE = 1 << 20  # bytes of packed integers; decoding takes some thirty times as much


class WireError(ValueError):
    """Bytes that are no message: truncated, or not of the wire type that the schema wants."""


class Kind(Enum):
    """What a field holds."""

    INTEGERS = "int64, packed or not"
    FLOATS = "float32, packed or not"
    TEXT = "UTF-8"
    MESSAGE = "bytes, left where they are"


Schema = Mapping[int, tuple[str, Kind]]  # field number -> name, kind


def read(message: memoryview, schema: Schema, budget: Budget) -> dict[str, list]:
    """Returns the fields of a message that the schema names, each as the list of its values.

    Raises:
      WireError: the message is truncated, or a field is not of its kind.
      CheckpointError: it has more fields than the budget allows.
    """
    result: dict[str, list] = {name: [] for name, _ in schema.values()}
    for number, wire, value in fields(message):
        if number not in schema:
            continue
        name, kind = schema[number]
        budget.spend(_cost(kind, value))
        match kind, wire, value:
            case Kind.INTEGERS, 0, int():
                result[name].append(value - (1 << 64) if value >> 63 else value)
            case Kind.INTEGERS, 2, memoryview():
                result[name] += unpack(np.frombuffer(value, np.uint8), np.dtype(np.int64)).tolist()
            case (Kind.FLOATS, 5, memoryview()) | (Kind.FLOATS, 2, memoryview()):
                if len(value) % 4:
                    raise WireError("floats are not whole")
                result[name] += np.frombuffer(value, "<f4").tolist()
            case Kind.TEXT, 2, memoryview():
                result[name].append(str(value, "utf-8"))
            case Kind.MESSAGE, 2, memoryview():
                result[name].append(value)
            case _:
                raise WireError(f"field {number} is not of its type")
    return result


def _cost(kind: Kind, value: int | memoryview) -> int:
    """Bytes of memory that a value takes once it is read."""
    match kind, value:
        case Kind.INTEGERS, memoryview():
            return NUMBER * count_packed(np.frombuffer(value, np.uint8))
        case Kind.FLOATS, memoryview():
            return NUMBER * (len(value) // 4)
        case Kind.TEXT, memoryview():
            return TEXT + len(value)
    return VIEW if kind == Kind.MESSAGE else NUMBER


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yields the fields of a message: number, wire type, value (an integer for VARINT, otherwise a view of bytes).

    Raises:
      WireError: the message is truncated or has a wire type that does not exist.
    """
    position, end = 0, len(message)
    while position < end:
        tag, position = varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, position = varint(message, position)
            yield number, wire, value
            continue
        if wire == BYTES:
            length, position = varint(message, position)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise WireError(f"there is no wire type {wire}")
        if length > end - position:
            raise WireError("a field ends beyond its message")
        yield number, wire, message[position : position + length]
        position += length


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """Reads an integer without a sign; returns it and the position behind it.

    Raises:
      WireError: it does not end.
    """
    value = shift = 0
    for place in range(position, min(position + 10, len(message))):
        byte = message[place]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value & (1 << 64) - 1, place + 1
    raise WireError("an integer does not end")


def count_packed(packed: Bytes) -> int:
    """Returns how many varints end within the bytes."""
    return sum(int(np.count_nonzero(packed[i : i + AT_ONCE] < 128)) for i in range(0, len(packed), AT_ONCE))


def unpack(packed: Bytes, dtype: np.dtype) -> Integer[np.ndarray, " count"]:
    """Decodes packed varints.

    Args:
      packed: varints one after the other.
      dtype: an integer type for the result; higher bits are dropped.

    Raises:
      WireError: the last one does not end, or one has more than ten bytes.
    """
    result = np.empty(count_packed(packed), dtype)
    start = filled = 0
    while start < len(packed):
        part = packed[start : start + AT_ONCE]
        ends = np.flatnonzero(part < 128)
        if not len(ends):
            raise WireError("an integer does not end")
        result[filled : filled + len(ends)] = _unpack_whole(part[: ends[-1] + 1], ends).astype(dtype)
        start, filled = start + int(ends[-1]) + 1, filled + len(ends)
    return result


def _unpack_whole(part: Bytes, ends: Int64[np.ndarray, " count"]) -> Int64[np.ndarray, " count"]:
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(part)) - np.repeat(starts, ends - starts + 1)  # of a byte within its integer
    if place.max() > 9:
        raise WireError("an integer does not end")
    return np.add.reduceat((part & 127).astype(np.int64) << 7 * place, starts)
