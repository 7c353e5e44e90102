"""Walks over MessagePack without copying what lies in it.

The format: https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

import struct
from dataclasses import dataclass

from wsrl.readers.budget import VIEW, Budget

DEPTH = 64

CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
NUMBERS = {0xCA: "f", 0xCB: "d", **dict(zip(range(0xCC, 0xD4), "BHIQbhiq", strict=True))}
# First byte -> layout of the length, kind.
LENGTHS = {
    **{0xC4: ("B", "bytes"), 0xC5: ("H", "bytes"), 0xC6: ("I", "bytes")},
    **{0xC7: ("B", "extension"), 0xC8: ("H", "extension"), 0xC9: ("I", "extension")},
    **{0xD9: ("B", "text"), 0xDA: ("H", "text"), 0xDB: ("I", "text")},
    **{0xDC: ("H", "list"), 0xDD: ("I", "list"), 0xDE: ("H", "map"), 0xDF: ("I", "map")},
}
# First byte -> its upper bits, kind; the lower bits are the length.
SHORT = ((0x80, 0x8F, "map"), (0x90, 0x9F, "list"), (0xA0, 0xBF, "text"))


class PackError(ValueError):
    """Bytes that are no MessagePack, or not as the reader expects them."""


@dataclass(frozen=True)
class Extension:
    """A value of an application's own type."""

    type: int
    content: memoryview


class Walker:
    """Reads values one after the other; `position` is where the next begins.

    Every method raises PackError where the bytes end early or are not well-formed.
    """

    def __init__(self, data: memoryview, budget: Budget):
        self.data, self.position, self._budget = data, 0, budget

    def value(self, depth: int = 0) -> object:
        """Returns the next value: dict, list, str, memoryview (bytes), Extension, int, float, bool or None."""
        self._budget.spend(VIEW)
        if depth > DEPTH:
            raise PackError("lists in lists without end")
        (first,) = self._numbers("B")
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 0x100
        if first in CONSTANTS:
            return CONSTANTS[first]
        if first in NUMBERS:
            return self._numbers(NUMBERS[first])[0]
        length, kind = self._length(first)
        match kind:
            case "bytes":
                return self._take(length)
            case "text":
                return self._text(length)
            case "extension":
                (number,) = self._numbers("b")
                return Extension(number, self._take(length))
            case "list":
                return [self.value(depth + 1) for _ in range(length)]
            case _:
                return self._map(length, depth)

    def first_key(self) -> str | None:
        """Returns the first key of the map that begins here; None if there is no map of texts, or an empty one."""
        (first,) = self._numbers("B")
        length, kind = self._length(first) if first not in CONSTANTS and first not in NUMBERS else (0, "")
        if kind != "map" or not length:
            return None
        (first,) = self._numbers("B")
        length, kind = self._length(first) if 0xA0 <= first < 0xC0 or first in LENGTHS else (0, "")
        return self._text(length) if kind == "text" else None

    def _map(self, length: int, depth: int) -> dict[str, object]:
        result = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if not isinstance(key, str | int) or key in result:
                raise PackError("a key is no text, or occurs twice")
            result[key] = self.value(depth + 1)
        return {str(key): value for key, value in result.items()}

    def _length(self, first: int) -> tuple[int, str]:
        for low, high, kind in SHORT:
            if low <= first <= high:
                return first - low, kind
        if 0xD4 <= first <= 0xD8:
            return 1 << first - 0xD4, "extension"
        if first not in LENGTHS:
            raise PackError(f"no value begins with byte {first:#x}")
        layout, kind = LENGTHS[first]
        return self._numbers(layout)[0], kind

    def _numbers(self, letter: str) -> tuple:
        layout = ">" + letter
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _text(self, length: int) -> str:
        try:
            return str(self._take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise PackError("a text is not UTF-8") from error

    def _take(self, length: int) -> memoryview:
        if length > len(self.data) - self.position:
            raise PackError("it ends early")
        self.position += length
        return self.data[self.position - length : self.position]
