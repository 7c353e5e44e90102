"""Writes messages in the wire format of Protocol Buffers from plain values."""

import struct


def varint(value):
    """A whole number; a negative one is written as of 64 bits."""
    value, result = value % (1 << 64), bytearray()
    while True:
        result.append(value & 127 | (128 if value > 127 else 0))
        value >>= 7
        if not value:
            return bytes(result)


def message(*fields):
    """A message of (number, value): whole numbers, texts, bytes, floats as 32 bits, lists of whole numbers packed."""
    result = b""
    for number, value in fields:
        if isinstance(value, float):
            result += varint(number << 3 | 5) + struct.pack("<f", value)
        elif isinstance(value, int):
            result += varint(number << 3) + varint(value)
        else:
            if isinstance(value, list):
                value = b"".join(map(varint, value))
            value = value.encode() if isinstance(value, str) else value
            result += varint(number << 3 | 2) + varint(len(value)) + value
    return result


def fixed32(number, value):
    """A field of 32 bits."""
    return varint(number << 3 | 5) + struct.pack("<I", value)
