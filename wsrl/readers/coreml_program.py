"""Reads Core ML's ML programs: constants within the program or in a file of blobs, and what decompresses them.

The messages: https://github.com/apple/coremltools, `mlmodel/format/MIL.proto`; blobs: its
`mlmodel/src/MILBlob/Blob/StorageFormat.hpp`; the operators `constexpr_*`: its documentation of MIL, sets of operators
of iOS 16 and 18.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers.affine import affine, along
from wsrl.readers.budget import OBJECT, Budget
from wsrl.readers.coreml_operators import Operation, translated
from wsrl.readers.derived import unpacked
from wsrl.readers.links import file_beside
from wsrl.readers.mapped import Bytes, checked_name, checked_shape, map_file
from wsrl.readers.onnx_fold import fold
from wsrl.readers.protobuf import Kind, WireError, read, unpack
from wsrl.readers.sparse import scattered

MEND = "save or download it again"
SENTINEL = 0xDEADBEEF.to_bytes(4, "little")  # before each blob
MODEL_PATH = "@model_path/"
DEPTH = 8  # of blocks in operations
FEW = 64  # entries of an integer tensor that may steer the graph
MAP = {1: ("key", Kind.TEXT), 2: ("value", Kind.MESSAGE)}
PROGRAM, FUNCTION = {2: ("functions", Kind.MESSAGE)}, {1: ("inputs", Kind.MESSAGE), 3: ("blocks", Kind.MESSAGE)}
BLOCK = {2: ("outputs", Kind.TEXT), 3: ("operations", Kind.MESSAGE)}
OPERATION = {
    **{1: ("type", Kind.TEXT), 2: ("inputs", Kind.MESSAGE), 3: ("outputs", Kind.MESSAGE)},
    **{4: ("blocks", Kind.MESSAGE), 5: ("attributes", Kind.MESSAGE)},
}
NAMED = {1: ("name", Kind.TEXT), 2: ("type", Kind.MESSAGE)}
ARGUMENT, BINDING = {1: ("bindings", Kind.MESSAGE)}, {1: ("name", Kind.TEXT), 2: ("value", Kind.MESSAGE)}
VALUE = {2: ("type", Kind.MESSAGE), 3: ("immediate", Kind.MESSAGE), 5: ("blob", Kind.MESSAGE)}
IMMEDIATE = {1: ("tensor", Kind.MESSAGE)}
TENSOR = {n: (str(n), Kind.MESSAGE) for n in range(1, 8)}  # floats, ints, bools, strings, longs, doubles, bytes
PLAIN, STRINGS = {1: ("values", Kind.MESSAGE)}, {1: ("values", Kind.TEXT)}
BLOB = {1: ("file", Kind.TEXT), 2: ("offset", Kind.INTEGERS)}
TYPE = {1: ("tensor", Kind.MESSAGE)}
TENSOR_TYPE = {1: ("kind", Kind.INTEGERS), 3: ("dimensions", Kind.MESSAGE)}
DIMENSION, CONSTANT = {1: ("constant", Kind.MESSAGE)}, {1: ("size", Kind.INTEGERS)}
DTYPES = {
    **{1: np.bool_, 10: np.float16, 11: np.float32, 12: np.float64, 13: ml_dtypes.bfloat16},
    **{
        21: np.int8,
        22: np.int16,
        23: np.int32,
        24: np.int64,
        31: np.uint8,
        32: np.uint16,
        33: np.uint32,
        34: np.uint64,
    },
    **{40: ml_dtypes.float8_e4m3fn, 41: ml_dtypes.float8_e5m2},
}
PACKED = {25: ("int4", 4), 35: ("uint4", 4), 36: ("uint2", 2), 37: ("uint1", 1), 38: ("uint6", 6), 39: ("uint3", 3)}
TEXT = 2


def read_program(message: memoryview, path: Path, budget: Budget) -> tuple[dict[str, LazyTensor], dict[str, object]]:
    """Returns the constants of a program, decompressed, and the metadata with its graph.

    Raises:
      WireError, UnicodeDecodeError: the message is not well-formed.
      CheckpointError: constants are missing or do not fit what is said of them.
    """
    program = _Program(path, budget)
    functions = [read(entry, MAP, budget) for entry in read(message, PROGRAM, budget)["functions"]]
    inputs, outputs = [], []
    for number, function in enumerate(functions):
        told = read((function["value"] or [memoryview(b"")])[-1], FUNCTION, budget)
        blocks = [value for entry in told["blocks"] for value in read(entry, MAP, budget)["value"][-1:]]
        if not blocks:
            continue
        program.prefix = "" if not number else f"{''.join(function['key'][-1:])}/"
        ends = program.block(blocks[-1], number, 0)
        if not number:
            inputs, outputs = [program.named(m) for m in told["inputs"]], ends
    tensors, constants = program.decompressed()
    few = {n: t for n, t in tensors.items() if (t.dtype in ("int32", "int64") and t.size <= FEW) or not t.ndim}
    values = {n: np.asarray(t.read_rows(0, t.num_rows)).reshape(t.shape).tolist() for n, t in few.items()}
    numbers = {n: value for n, value in values.items() if few[n].dtype in ("int32", "int64")}
    nodes = translated(program.operations, {n: t.ndim for n, t in tensors.items()}, values | program.settings)
    folded = fold(nodes, outputs, tensors, numbers, path)
    plain = {
        "nodes": folded.nodes,
        "inputs": inputs,
        "outputs": [{"name": folded.outputs.get(name, name), "shape": None} for name in outputs],
        "values": [],
        "constants": numbers | folded.constants,
    }
    told = {"graph": plain, "warnings": folded.warnings, "left_out": (*program.left_out, *constants, *folded.factors)}
    return folded.tensors, told


class _Program:
    """A program under way: what was found in it so far."""

    def __init__(self, path: Path, budget: Budget):
        self.path, self.budget, self.prefix = path, budget, ""
        self.files: dict[str, Bytes] = {}
        self.tensors: dict[str, LazyTensor] = {}
        self.settings: dict[str, object] = {}  # texts and numbers that steer operations
        self.operations: list[Operation] = []
        self.compressed: list[tuple[str, dict[str, str], str]] = []  # type, inputs, output
        self.left_out: list[str] = []

    def named(self, message: memoryview) -> dict[str, object]:
        """A NamedValueType as name and shape."""
        told = read(message, NAMED, self.budget)
        shape = self._type(told["type"][-1])[1] if told["type"] else []
        return {"name": self.prefix + "".join(told["name"][-1:]), "shape": shape}

    def block(self, message: memoryview, function: int, depth: int) -> list[str]:
        """Reads a block and those in it; returns the names of its outputs."""
        if depth > DEPTH:
            raise WireError("blocks in blocks without end")
        told = read(message, BLOCK, self.budget)
        for operation in self.budget.each(told["operations"]):
            self._operation(read(operation, OPERATION, self.budget), function, depth)
        return [self.prefix + name for name in told["outputs"]]

    def _operation(self, told: dict[str, list], function: int, depth: int) -> None:
        kind = "".join(told["type"][-1:])
        named = [self.named(m) for m in told["outputs"]]
        outputs = [checked_name(value["name"], self.path) for value in named]
        attributes = {"".join(e["key"]): e["value"][-1] for e in self._entries(told["attributes"]) if e["value"]}
        for inner in told["blocks"]:
            self.block(inner, function, depth + 1)
        if kind == "const":
            if outputs and "val" in attributes:
                self._constant(attributes["val"], outputs[0])
            return
        inputs: dict[str, list[str]] = {}
        for entry in self._entries(told["inputs"]):
            key = "".join(entry["key"])
            for binding in (b for a in entry["value"] for b in read(a, ARGUMENT, self.budget)["bindings"]):
                given = read(binding, BINDING, self.budget)
                name = self.prefix + given["name"][-1] if given["name"] else f"{(outputs or ['?'])[0]}.{key}"
                if given["value"]:
                    self._constant(given["value"][-1], checked_name(name, self.path))
                inputs.setdefault(key, []).append(name)
        if kind.startswith("constexpr_") and outputs:
            for key, value in attributes.items():  # as the operators of iOS 16 have it
                if key != "name":
                    self._constant(value, checked_name(f"{outputs[0]}.{key}", self.path))
                    inputs[key] = [f"{outputs[0]}.{key}"]
            self.compressed.append((kind, {key: names[0] for key, names in inputs.items()}, outputs[0]))
        elif not depth and not function:
            shapes: list = [value["shape"] for value in named]
            self.operations.append(Operation(kind, inputs, outputs, shapes))

    def _entries(self, messages: list[memoryview]) -> list[dict[str, list]]:
        return [read(message, MAP, self.budget) for message in messages]

    def _type(self, message: memoryview) -> tuple[int, list[int | None]]:
        """The number of the type and the shape; an unknown length is None."""
        tensor = read(message, TYPE, self.budget)["tensor"]
        if not tensor:
            return 0, []
        told = read(tensor[-1], TENSOR_TYPE, self.budget)
        shape: list[int | None] = []
        for dimension in told["dimensions"]:
            constant = read(dimension, DIMENSION, self.budget)["constant"]
            shape.append((read(constant[-1], CONSTANT, self.budget)["size"] or [0])[-1] if constant else None)
        return (told["kind"] or [0])[-1], shape

    def _constant(self, message: memoryview, name: str) -> None:
        self.budget.spend(OBJECT)
        told = read(message, VALUE, self.budget)
        kind, lengths = self._type(told["type"][-1]) if told["type"] else (0, [])
        if kind == TEXT:
            tensors = [t for i in told["immediate"] for t in read(i, IMMEDIATE, self.budget)["tensor"]]
            texts = [s for t in tensors for s in read(t, TENSOR, self.budget)["4"]]
            values = [v for text in texts for v in read(text, STRINGS, self.budget)["values"]]
            self.settings[name] = values[0] if values else ""
            return
        if kind not in DTYPES and kind not in PACKED:
            self.left_out.append(name)
            return
        if name in self.tensors:
            raise CheckpointError(self.path, f"tensor {name!r} occurs twice", MEND)
        shape = checked_shape(lengths, self.path, name)
        label, bits = PACKED.get(kind, ("", 0))
        size = -(-prod(shape) * bits // 8) if bits else prod(shape) * np.dtype(DTYPES[kind]).itemsize
        if told["blob"]:
            stored = self._blob(told["blob"][-1], size, name)
        else:
            stored = self._immediate(told["immediate"][-1:], kind, size, name)
        if not bits:
            self.tensors[name] = LazyTensor.of(stored.view(DTYPES[kind]).reshape(shape), self.path, name)
            return
        decode: Callable = (lambda c: (c ^ 8).astype(np.int8) - np.int8(8)) if label == "int4" else (lambda c: c)
        self.tensors[name] = LazyTensor(shape, label, unpacked(stored, bits, shape, decode), str(self.path), name)

    def _blob(self, message: memoryview, size: int, name: str) -> Bytes:
        told = read(message, BLOB, self.budget)
        file, offset = "".join(told["file"][-1:]), (told["offset"] or [0])[-1]
        if file not in self.files:
            self.files[file] = map_file(file_beside(file.removeprefix(MODEL_PATH), self.path))
        data = self.files[file]
        head = data[offset : offset + 24].tobytes() if 0 <= offset < len(data) else b""
        length, start = int.from_bytes(head[8:16], "little"), int.from_bytes(head[16:24], "little")
        if head[:4] != SENTINEL or length != size or start + length > len(data):
            raise CheckpointError(self.path, f"tensor {name!r} of {size} bytes is not where it is said to be", MEND)
        return data[start : start + length]

    def _immediate(self, messages: list[memoryview], kind: int, size: int, name: str) -> Bytes:
        """The bytes of numbers within the program."""
        tensors = [t for m in messages for t in read(m, IMMEDIATE, self.budget)["tensor"]]
        told = read(tensors[-1], TENSOR, self.budget) if tensors else {}
        for field, dtype in (("1", "f4"), ("6", "f8"), ("2", "i4"), ("5", "i8"), ("3", "u1"), ("7", "u1")):
            for message in told.get(field, [])[-1:]:
                values = read(message, PLAIN, self.budget)["values"]
                stored = np.concatenate([np.empty(0, np.uint8), *(np.frombuffer(v, np.uint8) for v in values)])
                if field in ("2", "5", "3"):  # varints
                    self.budget.spend(8 * len(stored))
                    stored = unpack(stored, np.dtype(dtype)).view(np.uint8)
                target = np.dtype(DTYPES.get(kind, np.uint8))
                if field in ("2", "5") and target.kind in "iu":
                    stored = stored.view(dtype).astype(target).view(np.uint8)
                if len(stored) == size:
                    return stored
        if not size:
            return np.empty(0, np.uint8)
        raise CheckpointError(self.path, f"tensor {name!r} has not the {size} bytes that its type asks for", MEND)

    def decompressed(self) -> tuple[dict[str, LazyTensor], list[str]]:
        """All constants, those that were compressed as what they stand for; and the names of their parts."""
        tensors, used = dict(self.tensors), {}
        for kind, names, output in self.compressed:
            if output in tensors:
                raise CheckpointError(self.path, f"tensor {output!r} occurs twice", MEND)
            parts = {key: tensors[name] for key, name in names.items() if name in tensors}
            build = BUILDERS.get(kind)
            try:
                made = build(parts, self.path, self.budget) if build else None
            except (KeyError, ValueError, IndexError) as error:
                if isinstance(error, CheckpointError):
                    raise
                raise CheckpointError(self.path, f"tensor {output!r} is not as {kind} has it", MEND) from error
            if made is not None:
                tensors[output] = replace(made, name=output, path=str(self.path))
                used |= dict.fromkeys(names.values())
        return {name: tensor for name, tensor in tensors.items() if name not in used}, [n for n in used if n in tensors]


Parts = Mapping[str, LazyTensor]


def _affine_dequantize(parts: Parts, path: Path, budget: Budget) -> LazyTensor:
    stored, axis = parts["quantized_data"], parts.get("axis")
    place = int(np.asarray(axis).reshape(-1)[0]) if axis is not None and axis.size else 0
    factors = [along(np.asarray(parts[key]), place, stored.ndim) for key in ("scale", "zero_point")]
    return affine(stored, factors[0], factors[1], path)


def _shift_scale(parts: Parts, path: Path, budget: Budget) -> LazyTensor:
    stored, scale, offset = parts["data"], parts["scale"], parts.get("offset")
    blocks = [n // m for n, m in zip(stored.shape, scale.shape, strict=True)]
    return affine(stored, scale, offset, path, [max(block, 1) for block in blocks])


def _lookup(parts: Parts, path: Path, budget: Budget) -> LazyTensor:
    """Codes of a table; in iOS 18 each block of the tensor may have a table of its own."""
    codes, table = parts["indices"], np.asarray(parts["lut"])
    if table.ndim == 1:
        shape = checked_shape(np.asarray(parts["shape"]).astype(int).reshape(-1).tolist(), path, "?")
        bits = max(int(table.size - 1).bit_length(), 1)
        packed = np.asarray(codes.read_rows(0, codes.num_rows)).view(np.uint8).reshape(-1)
        if packed.size != -(-prod(shape) * bits // 8):
            raise ValueError("the codes do not fit the shape")
        rows = unpacked(packed, bits, shape, lambda c: table[c])
        return LazyTensor(shape, f"quint{bits}", rows, str(path), "?")
    if table.ndim != codes.ndim + 2 or table.shape[-1] != 1:
        raise ValueError("tables of vectors")
    blocks = [n // m for n, m in zip(codes.shape, table.shape, strict=False)]
    if any(block < 1 or block * m != n for block, m, n in zip(blocks, table.shape, codes.shape, strict=False)):
        raise ValueError("tables that do not fit")

    def values(start: int, stop: int) -> np.ndarray:
        read_codes = np.asarray(codes.read_rows(start, stop))
        places = [np.arange(n) // block for n, block in zip(read_codes.shape, blocks, strict=True)]
        places[0] = np.arange(start, start + len(read_codes)) // blocks[0]
        return table[(*np.ix_(*places), read_codes, 0)]

    return replace(codes, dtype=f"q{codes.dtype}", read_rows=values)


def _sparse(parts: Parts, path: Path, budget: Budget) -> LazyTensor:
    stored, mask = parts["nonzero_data"], parts["mask"]
    shape = mask.shape
    if "shape" in parts:
        shape = checked_shape(np.asarray(parts["shape"]).astype(int).reshape(-1).tolist(), path, "?")
    bits = np.asarray(mask.read_rows(0, mask.num_rows)).view(np.uint8).reshape(-1)
    if "shape" in parts:
        bits = np.unpackbits(bits, bitorder="little")[: prod(shape)]
    budget.spend(8 * bits.size)
    return scattered(replace(stored, shape=(stored.size,)), np.flatnonzero(bits), shape, bits.size, path)


def _cast(parts: Parts, path: Path, budget: Budget) -> LazyTensor:
    return parts["source_val"]


BUILDERS: Mapping[str, Callable[[Parts, Path, Budget], LazyTensor]] = {
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": _shift_scale,
    "constexpr_lut_to_dense": _lookup,
    "constexpr_sparse_to_dense": _sparse,
    "constexpr_cast": _cast,
}
