"""Reads OpenVINO models: `NAME.xml`, the graph, and `NAME.bin`, the constants.

The format: https://docs.openvino.ai, "Operation Sets" and "OpenVINO IR format", versions 10 and 11. Constants of
integers are dequantized by the operators behind them, which are folded as those of ONNX are.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from xml.etree import ElementTree

import ml_dtypes
import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor, one_line
from wsrl.readers.budget import OBJECT, Budget
from wsrl.readers.codebooks import NF4
from wsrl.readers.derived import unpacked
from wsrl.readers.links import file_beside
from wsrl.readers.mapped import Bytes, checked_name, checked_shape, map_file
from wsrl.readers.onnx_fold import fold
from wsrl.readers.openvino_operators import Layer, translated
from wsrl.readers.written_norms import with_layer_norms

DTYPES = {
    **{"f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "boolean": np.bool_},
    **{f"i{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"u{n}": f"uint{n}" for n in (8, 16, 32, 64)},
    **{"f8e4m3": ml_dtypes.float8_e4m3fn, "f8e5m2": ml_dtypes.float8_e5m2, "f8e8m0": ml_dtypes.float8_e8m0fnu},
}
PACKED = {"i4": "int4", "u4": "uint4", "nf4": "qfloat4", "f4e2m1": "float4_e2m1fn"}  # two a byte, the first in low bits
LEFT_OUT = ("string", "u1", "u2", "u3", "u6")
VERSIONS = ("10", "11")
LIMIT = 128 << 20  # bytes of XML
FEW = 64  # entries of an integer tensor that may steer the graph: a shape, axes, a permutation
DEPTH = 8  # of bodies in bodies
MEND = "convert or download it again"


def matches(head: bytes, path: Path) -> bool:
    """Whether the file is XML of a net, or lies beside one of the same name."""
    if b"<net " in head:
        return head.lstrip()[:5] in (b"<?xml", b"<net ")
    if not head or path.suffix != ".bin" or not (beside := path.with_suffix(".xml")).is_file():
        return False
    with open(beside, "rb") as file:
        return b"<net " in file.read(len(head))


def open_file(path: Path) -> Checkpoint:
    """Opens a model.

    The metadata has `graph`, in the operators of ONNX where those do the same, and `warnings`; see onnx.open_file.

    Raises:
      CheckpointError: the XML is not well-formed or of another version; the constants are missing or reach beyond their
        file.
    """
    path = path.with_suffix(".xml") if path.suffix == ".bin" else path
    net = _parsed(path)
    if net.get("version") not in VERSIONS:
        raise CheckpointError(
            path, f"is of version {net.get('version')!a:.20} of OpenVINO's format", "convert it again"
        )
    layers = list(_layers(net, "", 0, path))
    stored = [layer for layer in layers if layer.type == "Const" and layer.data.get("size") != "0"]
    data = map_file(file_beside(f"{path.stem}.bin", path)) if stored else np.empty(0, np.uint8)
    tensors, left_out = {}, []
    for layer in stored:
        tensor = _constant(layer, data, path)
        if tensor is None:
            left_out.append(layer.name)
        else:
            tensors[layer.name] = tensor
    few = {n: t for n, t in tensors.items() if t.dtype in ("int32", "int64") and t.size <= FEW}
    constants = {name: np.asarray(t.read_rows(0, t.num_rows)).reshape(t.shape).tolist() for name, t in few.items()}
    top = [layer for layer in layers if not layer.body]
    graph = translated(top, {name: t.shape for name, t in tensors.items()}, constants)
    folded = fold(graph.nodes, [value["name"] for value in graph.outputs], tensors, constants | graph.constants, path)
    ends = [folded.outputs.get(value["name"], value["name"]) for value in graph.outputs]
    plain = {
        "nodes": with_layer_norms(folded.nodes, ends, folded.tensors, constants | graph.constants, {}),
        "inputs": graph.inputs,
        "outputs": [{**v, "name": folded.outputs.get(v["name"], v["name"])} for v in graph.outputs],
        "values": [],
        "constants": constants | graph.constants | folded.constants,
    }
    told = {"graph": plain, "warnings": folded.warnings, "left_out": (*left_out, *folded.factors)}
    return Checkpoint(str(path), folded.tensors, told)


def _parsed(path: Path) -> ElementTree.Element:
    text = map_file(path)[: LIMIT + 1].tobytes()
    if len(text) > LIMIT:
        raise CheckpointError(path, f"has more than {LIMIT} bytes of XML", MEND)
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities could make a short text endless
        raise CheckpointError(path, "defines entities, which no model needs", "get it from a source that you trust")
    budget = Budget(path, len(text))
    budget.spend(OBJECT // 4 * text.count(b"<") + OBJECT // 8 * text.count(b"="))
    try:
        return ElementTree.fromstring(text, ElementTree.XMLParser(encoding="utf-8"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise CheckpointError(path, f"is not well-formed XML ({one_line(error)})", MEND) from error


def _layers(net: ElementTree.Element, body: str, depth: int, path: Path) -> Iterator[Layer]:
    """Yields all layers, those in the bodies of loops and branches behind the layer that runs them."""
    if depth > DEPTH:
        raise CheckpointError(path, "has bodies of loops in bodies without end", MEND)
    edges: dict[str, dict[int, tuple[str, int]]] = {}
    names: dict[str, str] = {}
    taken: set[str] = set()
    elements = net.findall("layers/layer")
    for element in elements:
        key, name = element.get("id", ""), checked_name(body + element.get("name", ""), path)
        names[key] = name if name not in taken else f"{name}:{key}"
        taken.add(names[key])
    for edge in net.findall("edges/edge"):
        source, target = edge.get("from-layer", ""), edge.get("to-layer", "")
        if source not in names or target not in names:
            raise CheckpointError(path, "an edge of its graph leads nowhere", MEND)
        ports = _whole(edge.get("from-port"), path), _whole(edge.get("to-port"), path)
        edges.setdefault(target, {})[ports[1]] = (names[source], ports[0])
    if len(names) < len(elements) or len(taken) < len(elements):
        raise CheckpointError(path, "two layers are called alike", MEND)
    for element in elements:
        key = element.get("id", "")
        ports = {side: element.findall(f"{side}/port") for side in ("input", "output")}
        shapes = {
            _whole(port.get("id"), path): [_length(dim.text) for dim in port.findall("dim")]
            for port in (*ports["input"], *ports["output"])
        }
        data = element.find("data")
        inputs = {_whole(port.get("id"), path) for port in ports["input"]} | edges.get(key, {}).keys()
        yield Layer(
            name=names[key],
            type=element.get("type", ""),
            data={} if data is None else dict(data.attrib),
            inputs=tuple(edges.get(key, {}).get(port) for port in sorted(inputs)),
            input_shapes=tuple(shapes.get(port) for port in sorted(inputs)),
            outputs=tuple(_whole(port.get("id"), path) for port in ports["output"]),
            output_shapes=tuple(shapes[_whole(port.get("id"), path)] for port in ports["output"]),
            body=bool(body),
        )
        for name in ("body", "then_body", "else_body"):
            for inner in element.findall(name):
                yield from _layers(inner, f"{names[key]}/{name}/", depth + 1, path)


def _whole(text: str | None, path: Path) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 18:
        raise CheckpointError(path, f"{text!a:.40} in its graph is not a whole number", MEND)
    return int(text)


def _length(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 18 else None


def _constant(layer: Layer, data: Bytes, path: Path) -> LazyTensor | None:
    """A constant; None if it is not of numbers of four bits or whole bytes."""
    kind, name = layer.data.get("element_type", ""), layer.name
    told = [part.strip() for part in layer.data.get("shape", "").split(",")]
    shape = checked_shape([_whole(part, path) for part in told if part], path, name)
    offset, size = (_whole(layer.data.get(key), path) for key in ("offset", "size"))
    if kind in LEFT_OUT:
        return None
    if kind not in DTYPES and kind not in PACKED:
        raise CheckpointError(path, f"tensor {name!r} is of the unknown type {kind!a:.40}", MEND)
    wanted = -(-prod(shape) // 2) if kind in PACKED else prod(shape) * np.dtype(DTYPES[kind]).itemsize
    if size != wanted or offset + size > len(data):
        reason = f"tensor {name!r} of shape {list(shape)} cannot be {size} of {len(data)} bytes"
        raise CheckpointError(path, reason, MEND)
    stored = data[offset : offset + size]
    if kind in DTYPES:
        return LazyTensor.of(stored.view(DTYPES[kind]).reshape(shape), path, name)
    return LazyTensor(shape, PACKED[kind], unpacked(stored, 4, shape, DECODE[kind]), str(path), name)


DECODE = {
    "u4": lambda codes: codes,
    "i4": lambda codes: (codes ^ 8).astype(np.int8) - np.int8(8),
    "nf4": lambda codes: NF4[codes],
    "f4e2m1": lambda codes: codes.view(ml_dtypes.float4_e2m1fn),
}
