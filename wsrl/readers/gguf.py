"""Reads GGUF files: counts, key-value metadata, descriptions of tensors, then their aligned bytes.

The format: https://github.com/ggml-org/ggml, `docs/gguf.md`, versions 2 and 3. Headers are parsed here, because every
count and offset of a file is checked before it is used; `gguf_quantized.py` says how quantized tensors are decoded.
"""

import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.readers.gguf_quantized import BlockFormat, block_format, quantized_tensor
from wsrl.readers.mapped import Bytes, checked_name, checked_shape, map_file

PLAIN = {
    **{0: np.float32, 1: np.float16, 28: np.float64, 30: ml_dtypes.bfloat16},
    **{24: np.int8, 25: np.int16, 26: np.int32, 27: np.int64},
}
# Formats that the metadata's numbers have; 8 is a string and 9 an array.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST_TENSORS, MOST_KEYS = 1 << 15, 1 << 16
LONGEST = 1024  # entries; longer arrays are vocabularies, of no use here
MEND = "write or download it again"


def matches(head: bytes, path: Path) -> bool:
    """Whether the file begins with the letters GGUF."""
    return head[:4] == b"GGUF"


def open_file(path: Path) -> Checkpoint:
    """Opens a GGUF file, and the other parts of it where it is split.

    Tensors have the names of the file and shapes in NumPy's order, which is the reverse of the file's. The metadata's
    `gguf` holds the file's key-value pairs, without long arrays.

    Raises:
      CheckpointError: the file is truncated, claims what it does not hold, or its tensors overlap.
    """
    first = _open_part(path)
    count, number = (first.metadata.get(f"split.{key}", 0) for key in ("count", "no"))
    parts = [first]
    if isinstance(count, int) and count > 1:
        parts = [first if i == number else _open_part(part) for i, part in enumerate(_part_paths(path, count))]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    left_out = tuple(name for part in parts for name in part.left_out)
    return Checkpoint(str(path), tensors, {"gguf": parts[0].metadata, "left_out": left_out})


@dataclass(frozen=True)
class _Part:
    """A file, which may be one of several."""

    metadata: dict[str, object]
    tensors: dict[str, LazyTensor]
    left_out: tuple[str, ...]


def _part_paths(path: Path, count: int) -> list[Path]:
    match = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name)
    if not match or int(match[2]) != count:
        reason = f"is one of {count} parts, but not named NAME-00001-of-{count:05}.gguf"
        raise CheckpointError(path, reason, "give the parts their names back")
    return [path.with_name(f"{match[1]}-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]


def _open_part(path: Path) -> _Part:
    data = map_file(path)
    try:
        version, tensor_count, key_count = struct.unpack_from("<IQQ", data.data, 4)
        if data[:4].tobytes() != b"GGUF" or version not in (2, 3):
            reason = f"is GGUF of version {version:#x}, not 2 or 3 in little-endian order"
            raise CheckpointError(path, reason, "convert it with a current gguf package")
        if tensor_count > MOST_TENSORS or key_count > MOST_KEYS:
            reason = f"claims {tensor_count} tensors and {key_count} keys of metadata"
            raise CheckpointError(path, reason, MEND)
        cursor = _Cursor(data, 24)
        keys = [(cursor.string(), cursor.value(*cursor.numbers("I"))) for _ in range(key_count)]
        entries = [_Entry(cursor.string(), *_shape_type_offset(cursor)) for _ in range(tensor_count)]
    except (struct.error, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(path, "its header is truncated or not well-formed", MEND) from error
    metadata = {key: value for key, value in keys if value is not None}
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise CheckpointError(path, f"its alignment is {alignment!r:.40}", MEND)
    return _arranged(entries, metadata, data[-(-cursor.position // alignment) * alignment :], path)


def _shape_type_offset(cursor: "_Cursor") -> tuple[list[int], int, int]:
    (axes,) = cursor.numbers("I")
    if axes > 4:  # the most that the format allows
        raise ValueError("too many axes")
    shape = list(reversed(cursor.numbers("Q" * axes)))
    return shape, *cursor.numbers("IQ")


@dataclass(frozen=True)
class _Entry:
    name: str
    shape: list[int]
    type: int
    offset: int


class _Cursor:
    """Reads values one after the other; struct.error and ValueError where the bytes end."""

    def __init__(self, data: Bytes, position: int):
        self.data, self.position = data.data, position

    def numbers(self, letters: str) -> tuple:
        layout = "<" + letters
        values = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return values

    def string(self) -> str:
        (length,) = self.numbers("Q")
        self.skip(length)
        return str(self.data[self.position - length : self.position], "utf-8", "replace")

    def skip(self, length: int) -> None:
        if length > len(self.data) - self.position:
            raise ValueError("beyond the end of the file")
        self.position += length

    def value(self, kind: int, depth: int = 0) -> object:
        """Returns a number, a string or a short array; None in place of a long array."""
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.numbers(NUMBERS.get(kind, "unknown"))[0]
        inner, length = self.numbers("IQ")
        if depth > 4:
            raise ValueError("arrays in arrays in arrays")
        if length <= LONGEST:
            return [self.value(inner, depth + 1) for _ in range(length)]
        if inner in NUMBERS:
            self.skip(length * struct.calcsize("<" + NUMBERS[inner]))
        else:
            for _ in range(length):  # each takes eight bytes at least, so that the end of the file ends this
                self.skip(self.numbers("Q")[0]) if inner == STRING else self.value(inner, depth + 1)
        return None


def _arranged(entries: list[_Entry], metadata: dict, data: Bytes, path: Path) -> _Part:
    tensors, left_out, end = {}, [], 0
    for entry in sorted(entries, key=lambda e: e.offset):
        name = checked_name(entry.name, path)
        shape = checked_shape(entry.shape, path, name)
        if name in tensors:
            raise CheckpointError(path, f"tensor {name!r} occurs twice", MEND)
        if entry.offset < end:
            raise CheckpointError(path, f"tensor {name!r} overlaps the tensor before it", MEND)
        plain = PLAIN.get(entry.type)
        stored = np.dtype(plain) if plain else block_format(entry.type, path)
        if stored is None:
            left_out.append(name)
            continue
        in_block, size = (stored.entries, stored.bytes) if isinstance(stored, BlockFormat) else (1, stored.itemsize)
        if (shape[-1] if shape else 1) % in_block:
            raise CheckpointError(path, f"the rows of tensor {name!r} are not whole blocks of {in_block}", MEND)
        end = entry.offset + prod(shape) // in_block * size
        if end > len(data):
            reason = f"tensor {name!r} ends at byte {end} of {len(data)} bytes of data"
            raise CheckpointError(path, reason, MEND)
        part = data[entry.offset : end]
        if isinstance(stored, BlockFormat):
            tensors[name] = quantized_tensor(part, stored, shape, path, name)
        else:
            tensors[name] = LazyTensor.of(part.view(stored).reshape(shape), path, name)
    return _Part(metadata, tensors, tuple(left_out))
