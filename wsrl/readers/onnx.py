"""Reads ONNX files: weights as tensors, and the graph that uses them.

The messages: https://github.com/onnx/onnx, `onnx/onnx.proto`. They are read where they lie in the mapped file, not by
the onnx package, which copies every weight into memory.
"""

from pathlib import Path

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor, one_line
from wsrl.readers.affine import affine
from wsrl.readers.budget import Budget
from wsrl.readers.mapped import checked_name, map_file
from wsrl.readers.onnx_graph import read_model
from wsrl.readers.onnx_tensors import MEND, ExternalFiles, read_tensor
from wsrl.readers.protobuf import VARINT, WireError, fields

MODEL_FIELDS = (1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25)  # of a ModelProto; 1 and 5 are integers
QUANTIZED = ("int8", "uint8", "int16", "uint16", "int32")
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
      nodes: a list of `op`, `domain`, `name`, `inputs`, `outputs`, `attributes`; tensors and graphs in attributes are
        None, and nodes that only make or dequantise a constant are not among them.
      inputs, outputs, values: lists of `name` and `shape`; the shape, or a length in it, is None if it is not known.
      constants: name -> number or nested list, of small integer tensors such as the shape of a Reshape.
    Its `opset` maps domains to versions. Weights that a DequantizeLinear node reads are dequantised and keep
    their names.

    Raises:
      CheckpointError: the file is truncated, not well-formed, claims what it does not hold, or names external data
        that is missing or not in its folder.
    """
    data = map_file(path)
    tensors: dict[str, LazyTensor | None] = {}
    try:
        budget = Budget(path, len(data))
        graph, opset = read_model(data.data, budget)
        files = ExternalFiles(path)
        for given, message in graph.tensors:
            name, tensor = read_tensor(message, given, files, budget)
            if name in tensors:
                raise CheckpointError(path, f"tensor {name!r} occurs twice", MEND)
            tensors[name] = tensor
        few = {n: t for n, t in tensors.items() if t and t.dtype in ("int32", "int64") and t.size <= FEW}
        constants = graph.constants | {name: _stored(tensor).tolist() for name, tensor in few.items()}
    except (WireError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"is truncated or not well-formed ({one_line(error)})", MEND) from error
    left_out = graph.left_out + [name for name, tensor in tensors.items() if tensor is None]
    lazy = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    nodes, lazy, used = _without_quantization(graph.nodes, lazy, path)
    told = {
        "nodes": nodes,
        "inputs": [value for value in graph.inputs if value["name"] not in tensors],  # old files list weights there
        "outputs": graph.outputs,
        "values": graph.values,
        "constants": constants,
    }
    return Checkpoint(str(path), lazy, {"graph": told, "opset": opset, "left_out": (*left_out, *used)})


def _stored(tensor: LazyTensor) -> np.ndarray:
    return tensor.read_rows(0, tensor.shape[0] if tensor.shape else 1).reshape(tensor.shape)


def _without_quantization(
    nodes: list[dict], tensors: dict[str, LazyTensor], path: Path
) -> tuple[list[dict], dict[str, LazyTensor], list[str]]:
    """Dequantises constants that a DequantizeLinear node reads, as long as scales belong to one axis at most.

    Returns:
      The other nodes, which now read the constants themselves; the tensors; and the names of scales and zero points,
      which are not among them.
    """
    left, scaled, same, factors = [], {}, {}, {}
    for node in nodes:
        op, inputs, outputs = node["op"], node["inputs"], node["outputs"]
        if op not in ("QuantizeLinear", "DequantizeLinear") or len(inputs) not in (2, 3) or len(outputs) != 1:
            left.append(node)
            continue
        factors |= dict.fromkeys(name for name in inputs[1:] if name in tensors)
        stored, beside = tensors.get(inputs[0]), [tensors.get(name) for name in inputs[1:] if name]
        blocks = node["attributes"].get("block_size")  # neighbours on the axis that share a scale
        if op == "QuantizeLinear" or stored is None or stored.dtype not in QUANTIZED or blocks:
            left.append(node)
            continue
        fitting = [_stored(t).reshape(-1) for t in beside if t is not None and t.size <= stored.size]
        if not fitting or len(fitting) < len(beside):
            left.append(node)
            continue
        scale, *zero = fitting
        axis = node["attributes"].get("axis", 1)
        values = affine(stored, scale, zero[0] if zero else np.zeros(1), axis if isinstance(axis, int) else 1, path)
        name = inputs[0] if inputs[0] not in scaled else checked_name(outputs[0], path)
        scaled[name], same[outputs[0]] = values, name
    left = [{**node, "inputs": [same.get(name, name) for name in node["inputs"]]} for node in left]
    kept = {name: tensor for name, tensor in (tensors | scaled).items() if name not in factors}
    return left, kept, list(factors)
