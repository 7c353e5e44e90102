"""Reads ONNX files: weights as tensors, and the graph that uses them.

The messages: https://github.com/onnx/onnx, `onnx/onnx.proto`. They are read where they lie in the mapped file, not by
the onnx package, which copies every weight into memory.
"""

from pathlib import Path

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor, one_line
from wsrl.readers.budget import Budget
from wsrl.readers.mapped import map_file
from wsrl.readers.onnx_fold import fold
from wsrl.readers.onnx_graph import read_model
from wsrl.readers.onnx_tensors import MEND, ExternalFiles, read_sparse, read_tensor
from wsrl.readers.protobuf import VARINT, WireError, fields
from wsrl.readers.written_norms import with_layer_norms

MODEL_FIELDS = (1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25)  # of a ModelProto; 1 and 5 are integers
FEW = 64  # entries of an integer tensor that may steer the graph: a shape, axes, a permutation


def matches(head: bytes, path: Path) -> bool:
    """Whether the file begins with fields of a ModelProto, the version of the format among them, up to its graph."""
    version = False
    try:
        for number, wire, value in fields(memoryview(head)):
            if number not in MODEL_FIELDS or (wire == VARINT) != (number in (1, 5)):
                return False
            version |= number == 1 and isinstance(value, int) and 0 < value < 100
    except WireError:  # a field reaches beyond the head, most often the graph
        return version
    return version


def open_file(path: Path) -> Checkpoint:
    """Opens an ONNX file; external data is read from its folder only.

    The metadata's `graph` holds plain values:
      nodes: a list of `op`, `domain`, `name`, `inputs`, `outputs`, `attributes`. Tensors in attributes are None, but
        for the number that ConstantOfShape fills with; the
        body of a loop or branch is a graph with `nodes`, `inputs` and `outputs`. The graph is that of the network on
        real numbers: see onnx_fold.
      inputs, outputs, values: lists of `name` and `shape`; the shape, or a length in it, is None if it is not known.
      constants: name -> number or nested list, of small integer tensors such as the shape of a Reshape.
    `opset` maps domains to versions. A tensor is what an operator reads, dequantized, transposed and so on; it keeps
    the name of the file's tensor that it is made of. `warnings` has a sentence for each whose scale is not known.

    Raises:
      CheckpointError: the file is truncated, not well-formed, claims what it does not hold, or names external data
        that is missing or not in its folder.
    """
    data = map_file(path)
    tensors: dict[str, LazyTensor | None] = {}
    try:
        budget = Budget(path, len(data))
        graph, opset = read_model(data.data, budget)
        files = ExternalFiles(path, len(data))
        for given, message in graph.tensors:
            name, tensor = read_tensor(message, given, files, budget)
            if name in tensors:
                raise CheckpointError(path, f"tensor {name!r} occurs twice", MEND)
            tensors[name] = tensor
        for message in graph.sparse:
            tensor = read_sparse(message, files, budget)
            if tensor.name in tensors:
                raise CheckpointError(path, f"tensor {tensor.name!r} occurs twice", MEND)
            tensors[tensor.name] = tensor
        few = {n: t for n, t in tensors.items() if t and t.dtype in ("int32", "int64") and t.size <= FEW}
        constants = graph.constants | {name: _stored(tensor).tolist() for name, tensor in few.items()}
    except (WireError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"is truncated or not well-formed ({one_line(error)})", MEND) from error
    left_out = tuple(name for name, tensor in tensors.items() if tensor is None)
    lazy = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    folded = fold(graph.nodes, [value["name"] for value in graph.outputs], lazy, constants, path)
    values = [*graph.inputs, *graph.outputs, *graph.values]
    ranks = {value["name"]: len(value["shape"]) for value in values if value["shape"] is not None}
    ends = [folded.outputs.get(value["name"], value["name"]) for value in graph.outputs]
    plain = {
        "nodes": with_layer_norms(folded.nodes, ends, folded.tensors, constants | folded.constants, ranks),
        "inputs": [value for value in graph.inputs if value["name"] not in tensors],  # old files list weights there
        "outputs": [{**v, "name": folded.outputs.get(v["name"], v["name"])} for v in graph.outputs],
        "values": graph.values,
        "constants": constants | folded.constants,
    }
    metadata = {"graph": plain, "opset": opset, "warnings": folded.warnings}
    return Checkpoint(str(path), folded.tensors, {**metadata, "left_out": (*left_out, *folded.factors)})


def _stored(tensor: LazyTensor) -> np.ndarray:
    return tensor.read_rows(0, tensor.num_rows).reshape(tensor.shape)
