"""Reads TensorFlow's GraphDef: frozen graphs (`.pb`), and the graph of a SavedModel whose weights are constants.

The messages: https://github.com/tensorflow/tensorflow, `tensorflow/core/framework/tensor.proto` and
`tensorflow/core/protobuf/saved_model.proto`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.readers.budget import Budget
from wsrl.readers.mapped import checked_name, checked_shape, map_file, memory_limit
from wsrl.readers.protobuf import BYTES, VARINT, Kind, WireError, fields, read, unpack
from wsrl.readers.tensor_bundle import DTYPE_NAMES, DTYPES
from wsrl.readers.tensorflow_functions import inlined
from wsrl.readers.tensorflow_messages import LENGTH, SHAPE, read_graph
from wsrl.readers.tensorflow_operators import Step, translated

MEND = "export or download it again"
FEW = 64  # entries of integers that a graph may need: shapes, axes, orders
SAVED, META = {2: ("graphs", Kind.MESSAGE)}, {2: ("graph", Kind.MESSAGE)}
TENSOR = {1: ("dtype", Kind.INTEGERS), 2: ("shape", Kind.MESSAGE), 4: ("content", Kind.MESSAGE)}
PLAIN = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}  # dtype -> field of its numbers as they are
VARINTS = {"int64": 10, "bool": 11, "uint32": 16, "uint64": 17, "float16": 13, "bfloat16": 13}  # and of packed integers
INTEGERS = 7  # of all shorter ones
# Reading a constant through these leaves its name.
SUFFIX = re.compile(r"(/ReadVariableOp)?(/resource|/read)?$|/ReadVariableOp_\d+$")


def matches(head: bytes, path: Path) -> bool:
    """Whether the file begins with a node: a message of a name and an operator, both texts."""
    try:
        for number, wire, value in fields(memoryview(head)):
            if (number, wire) != (1, BYTES) or not isinstance(value, memoryview):
                return False
            return _is_node(value)
    except WireError:  # the first node reaches beyond the head
        return _is_node(memoryview(head)[_after_length(head) :])
    return False


def _after_length(head: bytes) -> int:
    return next((i + 1 for i, byte in enumerate(head[1:11], 1) if byte < 128), len(head))


def _is_node(message: memoryview) -> bool:
    """Whether a message has the texts name and operator in front."""
    found = []
    try:
        for number, wire, value in fields(message):
            found.append((number, wire))
            if number > 7 or wire == VARINT or not isinstance(value, memoryview):
                return False
            if number == 2:
                return found[0] == (1, BYTES) and bool(re.fullmatch(rb"[A-Z_>][\w>]{1,80}", value.tobytes()))
    except WireError:
        pass
    return False


def open_file(path: Path) -> Checkpoint:
    """Opens a frozen graph; its constants are the tensors.

    Raises:
      CheckpointError: the file is not well-formed, or a constant claims what it does not hold.
    """
    data = map_file(path)
    return open_graph(data.data, path, Budget(path, len(data)), len(data))


def open_saved_model(path: Path) -> Checkpoint:
    """Opens the constants in the graph of a SavedModel; raises CheckpointError as open_file does."""
    data = map_file(path)
    budget = Budget(path, len(data))
    try:
        graphs = [g for meta in read(data.data, SAVED, budget)["graphs"] for g in read(meta, META, budget)["graph"]]
    except (WireError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"is truncated or not well-formed ({error})", MEND) from error
    return open_graph(graphs[0] if graphs else memoryview(b""), path, budget, len(data))


def open_graph(message: memoryview, path: Path, budget: Budget, size: int) -> Checkpoint:
    """Opens a GraphDef within a file of `size` bytes; raises CheckpointError as open_file does."""
    tensors: dict[str, LazyTensor] = {}
    left_out: list[str] = []

    def stored(steps: Iterable[Step]) -> list[Step]:
        """Puts the tensors of constants aside; their attribute `value` is the name of theirs."""
        found = []
        for step in steps:
            value = step.attributes.get("value")
            if step.op == "Const" and isinstance(value, memoryview):
                given = checked_name(step.name, path)
                name = SUFFIX.sub("", given) or given
                name = name if name not in tensors else given
                name = name if name not in tensors else f"{given}:{len(tensors)}"
                made = read_tensor(value, path, name, budget, size)
                if made is None:
                    left_out.append(name)
                else:
                    tensors[name] = made
                step = replace(step, attributes={"value": name if made is not None else None})
            found.append(step)
        return found

    try:
        steps, functions = read_graph(message, budget)
        steps = stored(steps)
        functions = {name: replace(f, steps=tuple(stored(f.steps))) for name, f in functions.items()}
    except (WireError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"is truncated or not well-formed ({error})", MEND) from error
    told: dict[str, object] = {"left_out": tuple(left_out), "framework": "tensorflow"}
    steps = inlined(steps, functions, budget)
    names = {s.name: str(s.attributes["value"]) for s in steps if s.op == "Const" and s.attributes.get("value")}
    shown = translated(steps, names, {n: t.shape for n, t in tensors.items()}, few_integers(tensors))
    return Checkpoint(str(path), tensors, told | ({"graph": shown} if shown is not None else {}))


def few_integers(tensors: Mapping[str, LazyTensor]) -> dict[str, list[int]]:
    """Values of small tensors of integers, which a graph may need."""
    few = {n: t for n, t in tensors.items() if t.dtype in ("int32", "int64") and t.size <= FEW}
    return {name: [int(n) for n in np.asarray(tensor).ravel()] for name, tensor in few.items()}


def read_tensor(message: memoryview, path: Path, name: str, budget: Budget, size: int) -> LazyTensor | None:
    """Returns a TensorProto; None if it holds texts or anything else but numbers.

    Raises:
      WireError, UnicodeDecodeError: it is not well-formed.
      CheckpointError: it has fewer entries than its shape, or repeats one too often.
    """
    told = read(message, TENSOR, budget)
    kind = (told["dtype"] or [0])[-1]
    if kind not in DTYPES:
        return None
    dtype = np.dtype(DTYPES[kind])
    lengths = [m for shape in told["shape"][-1:] for m in read(shape, SHAPE, budget)["lengths"]]
    shape = checked_shape([(read(m, LENGTH, budget)["length"] or [0])[-1] for m in lengths], path, name)
    count = prod(shape)
    content = told["content"][-1:] if told["content"] and len(told["content"][-1]) else []
    if content:
        stored = np.frombuffer(content[0], np.uint8)
    else:
        stored = _numbers(message, dtype, budget)
        stored = stored if len(stored) else np.zeros(min(count, 1) * dtype.itemsize, np.uint8)  # zeros are left out
        if 0 < len(stored) < count * dtype.itemsize:  # the last number stands for all that follow
            if count * max(dtype.itemsize, 4) > memory_limit(size) // 8:
                raise CheckpointError(path, f"tensor {name!r} repeats a number too often", MEND)
            last = np.tile(stored[-dtype.itemsize :], count - len(stored) // dtype.itemsize)
            stored = np.concatenate([stored, last])
    if len(stored) != count * dtype.itemsize:
        raise CheckpointError(path, f"tensor {name!r} has {len(stored)} bytes for the shape {list(shape)}", MEND)
    array = stored.view(dtype).reshape(shape or (1,))
    return LazyTensor(shape, DTYPE_NAMES[kind], lambda start, stop: array[start:stop], str(path), name)


def read_texts(message: memoryview, budget: Budget) -> list[str]:
    """Returns the texts of a TensorProto; raises WireError if it is not well-formed."""
    return [str(text, "utf-8", "replace") for text in read(message, {8: ("texts", Kind.MESSAGE)}, budget)["texts"]]


def _numbers(message: memoryview, dtype: np.dtype, budget: Budget) -> np.ndarray:
    """The bytes of numbers that are a field of their own, packed or not."""
    field = PLAIN.get(dtype.name)
    parts: list[np.ndarray] = []
    for number, wire, value in fields(message):
        if field is not None and number == field and isinstance(value, memoryview):
            parts.append(np.frombuffer(value, np.uint8))
        elif field is None and number == VARINTS.get(dtype.name, INTEGERS):
            if wire == VARINT and isinstance(value, int):
                budget.spend(64)
                parts.append(np.array([value & (1 << 64) - 1], np.uint64).astype(f"u{dtype.itemsize}").view(np.uint8))
            elif isinstance(value, memoryview):
                packed = np.frombuffer(value, np.uint8)
                budget.spend(8 * len(packed))
                parts.append(unpack(packed, np.dtype(f"u{dtype.itemsize}")).view(np.uint8))
    return np.concatenate(parts) if parts else np.empty(0, np.uint8)
