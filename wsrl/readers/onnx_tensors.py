"""Reads TensorProto messages of ONNX: tensors within the file, or in files beside it.

The messages: https://github.com/onnx/onnx, `onnx/onnx.proto`; external data: its `docs/ExternalData.md`.
"""

from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath

import ml_dtypes
import numpy as np

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers.budget import OBJECT, Budget
from wsrl.readers.derived import unpacked
from wsrl.readers.mapped import Bytes, checked_name, checked_shape, map_file
from wsrl.readers.protobuf import Kind, WireError, count_packed, read, unpack
from wsrl.readers.sparse import scattered

MEND = "export or download it again"
DTYPES = {
    **{1: np.float32, 10: np.float16, 11: np.float64, 16: ml_dtypes.bfloat16},
    **{17: ml_dtypes.float8_e4m3fn, 18: ml_dtypes.float8_e4m3fnuz, 19: ml_dtypes.float8_e5m2},
    **{20: ml_dtypes.float8_e5m2fnuz, 24: ml_dtypes.float8_e8m0fnu},
    **{2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_},
    **{12: np.uint32, 13: np.uint64},
}
PACKED = {21: ("uint4", 4), 22: ("int4", 4), 23: ("float4_e2m1fn", 4), 25: ("uint2", 2), 26: ("int2", 2)}  # and bits
MOST_TYPES = 26  # numbers of types that exist; strings and complex numbers among them are left out
TENSOR = {
    **{1: ("shape", Kind.INTEGERS), 2: ("type", Kind.INTEGERS), 8: ("name", Kind.TEXT), 9: ("raw", Kind.MESSAGE)},
    **{4: ("float32", Kind.MESSAGE), 10: ("float64", Kind.MESSAGE)},
    **{5: ("int32", Kind.MESSAGE), 7: ("int64", Kind.MESSAGE), 11: ("uint64", Kind.MESSAGE)},
    **{13: ("external", Kind.MESSAGE), 14: ("location", Kind.INTEGERS)},
}
SPARSE = {1: ("values", Kind.MESSAGE), 2: ("indices", Kind.MESSAGE), 3: ("shape", Kind.INTEGERS)}
ENTRY = {1: ("key", Kind.TEXT), 2: ("value", Kind.TEXT)}
EXTERNAL = 1


class ExternalFiles:
    """The files beside an ONNX file that hold its tensors; each is mapped once."""

    def __init__(self, model: Path, size: int):
        """Notes the model's file and its size in bytes."""
        self.model, self.size = model, size
        self.mapped: dict[str, Bytes] = {}

    def read(self, entries: Mapping[str, str], size: int, name: str) -> Bytes:
        """Returns the bytes of a tensor.

        Args:
          entries: `location`, and possibly `offset` and `length`.
          size: bytes that the tensor has.
          name: of the tensor.

        Raises:
          CheckpointError: the file is not in the model's folder, cannot be read or is too short.
        """
        location = entries.get("location", "")
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        except ValueError:
            offset = length = -1
        if location not in self.mapped:
            self.mapped[location] = map_file(self._resolve(location))
        data = self.mapped[location]
        if length != size or not 0 <= offset <= len(data) - size:
            reason = f"tensor {name!r} of {size} bytes cannot be bytes {offset} to {offset + length} of {len(data)}"
            raise CheckpointError(self.model, reason, MEND)
        return data[offset : offset + size]

    def _resolve(self, location: str) -> Path:
        parts = PurePosixPath(location).parts
        if not parts or ".." in parts or parts[0] == "/" or "\\" in location or "\0" in location or ":" in parts[0]:
            reason = f"its external data {location!a:.80} is not in its folder"
            raise CheckpointError(self.model, reason, "get it from a source that you trust")
        path = self.model.parent.joinpath(*parts)
        # The hub's cache links every file of a model to one folder: beside the file that the model's own link leads to.
        homes = [self.model.parent.resolve(), self.model.resolve().parent]
        try:
            if not any(path.resolve(strict=True).is_relative_to(home) for home in homes):
                reason = f"its external data {location!r} is a link out of its folder"
                raise CheckpointError(self.model, reason, "get it from a source that you trust")
            if not path.is_file():
                raise CheckpointError(self.model, f"its external data {location!r} is no file", MEND)
        except OSError as error:
            reason = f"its external data {location!r} cannot be read ({error.strerror})"
            raise CheckpointError(self.model, reason, "put that file beside it") from error
        return path


def read_tensor(
    message: memoryview, name: str | None, files: ExternalFiles, budget: Budget
) -> tuple[str, LazyTensor | None]:
    """Returns a tensor's name and the tensor, None if it is of a type that holds no single numbers.

    Args:
      message: a TensorProto.
      name: its name, if it is not the one in the message.
      files: where external data lies.
      budget: for what the message describes.

    Raises:
      WireError: the message is not well-formed.
      CheckpointError: the data does not fit the type and the shape.
    """
    budget.spend(OBJECT)
    fields = read(message, TENSOR, budget)
    name = checked_name(name if name is not None else "".join(fields["name"][-1:]), files.model)
    number = fields["type"][-1] if fields["type"] else 0
    if not 0 < number <= MOST_TYPES:
        raise CheckpointError(files.model, f"tensor {name!r} is of the unknown type {number}", MEND)
    shape = checked_shape(fields["shape"], files.model, name)
    if number not in DTYPES and number not in PACKED:
        return name, None
    kind, bits = PACKED.get(number, ("", 0))
    dtype = np.dtype(DTYPES.get(number, np.uint8))
    size = -(-prod(shape) * bits // 8) if bits else prod(shape) * dtype.itemsize
    if fields["location"][-1:] == [EXTERNAL]:
        pairs = [read(entry, ENTRY, budget) for entry in fields["external"]]
        entries = {"".join(pair["key"]): "".join(pair["value"]) for pair in pairs}
        data = files.read(entries, size, name)
    elif fields["raw"]:
        data = np.frombuffer(fields["raw"][-1], np.uint8)
    else:
        stored = _of_numbers(fields, dtype, (size,) if bits else shape, files.model, name)
        if not bits:
            return name, stored
        data = stored.read_rows(0, size)
    if len(data) != size:
        raise CheckpointError(files.model, f"tensor {name!r} has {len(data)} bytes, not {size}", MEND)
    if bits:
        rows = unpacked(data, bits, shape, partial(_decoded, kind, bits))
        return name, LazyTensor(shape, kind, rows, str(files.model), name)
    return name, LazyTensor.of(data.view(dtype).reshape(shape), files.model, name)


def read_sparse(message: memoryview, files: ExternalFiles, budget: Budget) -> LazyTensor:
    """Returns a sparse tensor as a dense one; it is named as its values are.

    Raises:
      WireError: the message is not well-formed.
      CheckpointError: entries lie outside of the tensor, or it takes too much memory.
    """
    fields = read(message, SPARSE, budget)
    if not fields["values"] or not fields["indices"]:
        raise WireError("a sparse tensor lacks its values or indices")
    (name, values), (_, indices) = (read_tensor(fields[key][-1], None, files, budget) for key in ("values", "indices"))
    shape = checked_shape(fields["shape"], files.model, name)
    if values is None or indices is None or values.ndim != 1 or indices.dtype != "int64":
        raise CheckpointError(files.model, f"the sparse tensor {name!r} is not as ONNX has it", MEND)
    places = indices.read_rows(0, indices.num_rows).reshape(indices.shape)
    if places.shape == (values.size, len(shape)) and places.size:
        inside = (places >= 0).all() and (places < np.array(shape)).all()
        places = np.ravel_multi_index(tuple(places.T), shape) if inside else np.array([-1])
    return scattered(values, places.reshape(-1), shape, files.size, files.model)


def _decoded(kind: str, bits: int, codes: Bytes) -> np.ndarray:
    """The numbers that codes of a packed type stand for."""
    if kind.startswith("float"):
        return codes.view(ml_dtypes.float4_e2m1fn)
    half = 1 << bits - 1  # of two's complement
    return codes if kind.startswith("u") else (codes ^ half).astype(np.int8) - np.int8(half)


def _of_numbers(fields: dict, dtype: np.dtype, shape: tuple[int, ...], path: Path, name: str) -> LazyTensor:
    """A tensor whose entries lie in a field of packed numbers; short types, floating-point ones too, lie in int32."""
    plain = dtype.name in ("float32", "float64")
    field = {"uint32": "uint64"}.get(dtype.name, dtype.name if dtype.name in fields else "int32")
    stretches = [np.frombuffer(stretch, np.uint8) for stretch in fields[field]]
    data = stretches[0] if len(stretches) == 1 else np.concatenate([np.empty(0, np.uint8), *stretches])
    count = len(data) / dtype.itemsize if plain else count_packed(data)
    if count != prod(shape):
        raise CheckpointError(path, f"tensor {name!r} has {count} entries, not {prod(shape)}", MEND)
    if plain:
        return LazyTensor.of(data.view(dtype).reshape(shape), path, name)

    def rows(start: int, stop: int) -> np.ndarray:
        bits = unpack(data, np.dtype(f"u{dtype.itemsize}"))
        return bits.view(dtype).reshape(shape or (1,))[start:stop]

    return LazyTensor(shape, dtype.name, rows, str(path), name)
