"""Reads TFLite files: constant tensors, dequantized where they are quantized, and the graph that uses them.

The schema: https://github.com/tensorflow/tensorflow, `tensorflow/compiler/mlir/lite/schema/schema.fbs`, a FlatBuffer.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.readers.affine import affine, along
from wsrl.readers.budget import NUMBER, Budget
from wsrl.readers.derived import reshaped, transposed, unpacked
from wsrl.readers.flatbuffer import FlatBufferError, Table
from wsrl.readers.mapped import MOST_AXES, Bytes, checked_shape, map_file, memory_limit
from wsrl.readers.sparse import scattered
from wsrl.readers.tflite_operators import CUSTOM, operator_name, read_options
from wsrl.readers.tflite_sparse import sparse_places
from wsrl.readers.written_norms import with_layer_norms

DTYPES = {
    **{0: np.float32, 1: np.float16, 10: np.float64, 18: ml_dtypes.bfloat16, 6: np.bool_},
    **{2: np.int32, 3: np.uint8, 4: np.int64, 7: np.int16, 9: np.int8, 12: np.uint64, 15: np.uint32, 16: np.uint16},
}
FLOAT32 = 0
INT4 = 17
HYBRID = (
    "FULLY_CONNECTED",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
)  # beside real numbers their unsigned weights are signed ones
FEW = 64  # entries of an integer tensor that may steer the graph: a shape, axes, a permutation
MEND = "convert or download it again"


def matches(head: bytes, path: Path) -> bool:
    """Whether the FlatBuffer's identifier is TFL3."""
    return head[4:8] == b"TFL3"


def open_file(path: Path) -> Checkpoint:
    """Opens a TFLite file.

    The metadata's `graph` is that of the first subgraph: `nodes` (a list of `op`, `name`, `inputs`, `outputs`,
    `attributes`; an optional input that is not given is ""), `inputs`, `outputs` and `values` (lists of `name` and
    `shape`) and `constants` (name -> nested list, of small integer tensors). Nodes that only dequantize a constant or
    make it dense, or change the layout of one that nothing else reads, are not among them. A tensor without a name, or
    with one that occurred before, has its place as a suffix.

    Raises:
      CheckpointError: the file is truncated, not well-formed, or claims what it does not hold.
    """
    file = _File(path, map_file(path))
    try:
        model = Table.root(file.data)
        file.buffers = list(file.budget.each(model.tables(4)))
        file.operators = [_operator(code) for code in file.budget.each(model.tables(1))]
        graphs = [file.read_subgraph(graph, i) for i, graph in enumerate(file.budget.each(model.tables(2)))]
    except FlatBufferError as error:
        raise CheckpointError(path, f"is truncated or not well-formed ({error})", MEND) from error
    if not graphs:
        raise CheckpointError(path, "holds no graph", MEND)
    return Checkpoint(str(path), file.tensors, {"graph": graphs[0], "left_out": tuple(file.left_out)})


def _changed(
    node: dict, tensor: LazyTensor, constants: Mapping[str, LazyTensor], shapes: Mapping[str, list[int | None]]
) -> LazyTensor | None:
    """What a node makes of a constant that it alone reads, if it changes only the layout or the type."""
    shape = shapes.get(node["outputs"][0], [])
    try:
        if node["op"] in ("RESHAPE", "EXPAND_DIMS", "SQUEEZE") and None not in shape:
            return reshaped(tensor, [n or 0 for n in shape])
        order = constants.get(node["inputs"][1]) if node["op"] == "TRANSPOSE" and len(node["inputs"]) > 1 else None
        if order is not None:
            return transposed(tensor, np.asarray(order.read_rows(0, order.num_rows)).reshape(-1).tolist())
    except ValueError:  # it does not fit the tensor
        return None
    return tensor if node["op"] == "CAST" and "float" in tensor.dtype else None


def _operator(code: Table) -> str:
    number = max(code.integer(0, "<b"), code.integer(3, "<i"))  # old files have only the first, of eight bits
    return code.text(1) if number == CUSTOM else operator_name(number)


@dataclass
class _Value:
    """An edge of the graph: a name, a shape whose unknown lengths are None, and a tensor where it is constant.

    Attributes:
      real: whether it is of float32.
      signed: what an unsigned tensor without zero points is as a weight beside real numbers, see `HYBRID`.
    """

    name: str
    shape: list[int | None]
    tensor: LazyTensor | None = None
    real: bool = False
    signed: LazyTensor | None = None


def _signed_weights(nodes: Sequence[dict], values: Mapping[str, _Value]) -> Iterator[tuple[str, LazyTensor]]:
    """Weights that nodes of real numbers read as signed."""
    for node in nodes:
        fed, weight = (values.get(name) for name in (*node["inputs"], "", "")[:2])
        if node["op"] in HYBRID and fed is not None and fed.real and weight is not None and weight.signed is not None:
            yield weight.name, weight.signed


class _File:
    """A file under way: what was found in it so far."""

    def __init__(self, path: Path, data: Bytes):
        self.path, self.data = path, data
        self.budget = Budget(path, len(data))
        self.buffers: list[Table] = []
        self.operators: list[str] = []
        self.names: set[str] = set()
        self.tensors: dict[str, LazyTensor] = {}
        self.left_out: list[str] = []

    def read_subgraph(self, subgraph: Table, number: int) -> dict[str, object]:
        """Adds a subgraph's constant tensors to those of the file and returns the graph."""
        values = [self._value(t, number, place) for place, t in enumerate(self.budget.each(subgraph.tables(0)))]
        constants = {v.name: v.tensor for v in values if v.tensor is not None}
        few = {n: t for n, t in constants.items() if t.dtype in ("int32", "int64") and t.size <= FEW}
        nodes = []
        same = {name: name for name in constants}  # value -> the constant that it is
        raw = [self._node(table, values) for table in self.budget.each(subgraph.tables(3))]
        constants |= dict(_signed_weights(raw, {v.name: v for v in values}))
        times = Counter(name for node in raw for name in node["inputs"])
        shapes = {v.name: v.shape for v in values}
        for node in raw:
            known = [name for name in node["inputs"][:1] if name in same and len(node["outputs"]) == 1]
            base = same[known[0]] if known else ""
            if known and node["op"] in ("DEQUANTIZE", "DENSIFY"):
                same[node["outputs"][0]] = base
            elif known and times[known[0]] == 1 and (changed := _changed(node, constants[base], constants, shapes)):
                constants[base], same[node["outputs"][0]] = changed, base
            else:
                nodes.append(node)
        for node in nodes:
            node["inputs"] = [same.get(name, name) for name in node["inputs"]]
        self.tensors |= constants
        told = [{"name": v.name, "shape": v.shape} for v in values]
        ends = [value["name"] for value in self._chosen(subgraph, 2, told) if value]
        numbers = {n: t.read_rows(0, t.size).reshape(t.shape).tolist() for n, t in few.items()}
        ranks = {v.name: len(v.shape) for v in values}
        return {
            "nodes": with_layer_norms(nodes, ends, constants, numbers, ranks),
            "inputs": self._chosen(subgraph, 1, told),
            "outputs": self._chosen(subgraph, 2, told),
            "values": [value for value in told if value["name"] not in constants],
            "constants": numbers,
        }

    def _chosen(self, table: Table, field: int, values: list) -> list:
        """Returns the values whose places a vector of the table names; None for -1."""
        places = table.array(field, "<i4")
        self.budget.spend(NUMBER * len(places))
        if len(places) and not -1 <= places.min() <= places.max() < len(values):
            raise FlatBufferError("a node or a graph names a value that does not exist")
        return [values[place] if place >= 0 else None for place in places]

    def _node(self, table: Table, values: list[_Value]) -> dict:
        code = table.integer(0, "<I")
        if code >= len(self.operators):
            raise FlatBufferError("a node names an operator that does not exist")
        inputs, outputs = ([v.name if v else "" for v in self._chosen(table, field, values)] for field in (1, 2))
        options = read_options(table.integer(3, "<B"), table.table(4))
        return {"op": self.operators[code], "name": "", "inputs": inputs, "outputs": outputs, "attributes": options}

    def _value(self, table: Table, graph: int, place: int) -> _Value:
        name = "/".join([f"subgraph{graph}"] * bool(graph) + [table.text(3)])
        if not name or name in self.names:
            name = f"{name}:{place}"
        if name in self.names:
            raise CheckpointError(self.path, f"tensor {name!r} occurs twice", MEND)
        self.names.add(name)
        told = table.array(7, "<i4") if len(table.array(7, "<i4")) else table.array(0, "<i4")
        value = _Value(name, [n if n >= 0 else None for n in told[: MOST_AXES + 1].tolist()])
        kind = table.integer(1, "<b")
        value.real = kind == FLOAT32
        data = self._data(table.integer(2, "<I"))
        if not len(data):
            return value
        dtype = np.dtype(DTYPES[kind]) if kind in DTYPES else None
        if dtype is None and kind != INT4:  # strings, complex numbers
            self.left_out.append(name)
            return value
        shape = checked_shape(table.array(0, "<i4")[: MOST_AXES + 1].tolist(), self.path, name)
        sparsity = table.table(6)
        if sparsity is not None:
            places = sparse_places(sparsity, shape, memory_limit(len(self.data)) // 8, self.budget)
            values = self._stored(data, dtype, (len(places),), name)
            tensor = scattered(values, places, shape, len(self.data), self.path)
        else:
            tensor = self._stored(data, dtype, shape, name)
        quantization = table.table(4)
        value.tensor = self._scaled(quantization, tensor)
        zeros = quantization.array(3, "<i8") if quantization else np.empty(0, np.int64)
        if dtype == np.uint8 and sparsity is None and len(zeros) and not zeros.any():
            value.signed = self._scaled(quantization, self._stored(data, np.dtype(np.int8), shape, name))
        return value

    def _stored(self, data: Bytes, dtype: np.dtype | None, shape: tuple[int, ...], name: str) -> LazyTensor:
        """A dense tensor; without a dtype of integers of four bits."""
        size = -(-prod(shape) // 2) if dtype is None else prod(shape) * dtype.itemsize
        if len(data) != size:
            raise CheckpointError(self.path, f"tensor {name!r} has {len(data)} bytes, not {size}", MEND)
        if dtype is not None:
            return LazyTensor.of(data.view(dtype).reshape(shape), self.path, name)
        rows = unpacked(data, 4, shape, lambda codes: (codes ^ 8).astype(np.int8) - np.int8(8))
        return LazyTensor(shape, "int4", rows, str(self.path), name)

    def _data(self, number: int) -> Bytes:
        if number >= len(self.buffers):
            raise FlatBufferError("a tensor names a buffer that does not exist")
        buffer = self.buffers[number]
        offset, size = buffer.integer(1, "<Q"), buffer.integer(2, "<Q")
        if offset <= 1:  # the data lies within the FlatBuffer
            return buffer.array(0, "u1")
        if offset + size > len(self.data):
            raise FlatBufferError("a buffer ends beyond the file")
        return self.data[offset : offset + size]

    def _scaled(self, quantization: Table | None, stored: LazyTensor) -> LazyTensor:
        scale = quantization.array(2, "<f4") if quantization else np.empty(0, np.float32)
        if quantization is None or not len(scale) or "int" not in stored.dtype:
            return stored
        zero = quantization.array(3, "<i8")
        axis, ndim = quantization.integer(6, "<i"), stored.ndim
        return affine(stored, along(scale, axis, ndim), along(zero, axis, ndim) if len(zero) else None, self.path)
