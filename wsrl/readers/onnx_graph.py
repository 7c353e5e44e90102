"""Reads the graph of an ONNX file into plain values; the messages of its tensors stay where they are.

The messages: https://github.com/onnx/onnx, `onnx/onnx.proto`.
"""

from dataclasses import dataclass, field

from wsrl.checkpoint import CheckpointError
from wsrl.readers.budget import OBJECT, Budget
from wsrl.readers.onnx_tensors import MEND
from wsrl.readers.protobuf import Kind, WireError, read

DEPTH = 8  # of graphs in attributes of nodes of graphs

MODEL = {7: ("graph", Kind.MESSAGE), 8: ("opset", Kind.MESSAGE)}
OPSET = {1: ("domain", Kind.TEXT), 2: ("version", Kind.INTEGERS)}
GRAPH = {
    **{1: ("nodes", Kind.MESSAGE), 5: ("tensors", Kind.MESSAGE), 15: ("sparse", Kind.MESSAGE)},
    **{11: ("inputs", Kind.MESSAGE), 12: ("outputs", Kind.MESSAGE), 13: ("values", Kind.MESSAGE)},
}
NODE = {
    **{1: ("inputs", Kind.TEXT), 2: ("outputs", Kind.TEXT), 3: ("name", Kind.TEXT), 4: ("op", Kind.TEXT)},
    **{5: ("attributes", Kind.MESSAGE), 7: ("domain", Kind.TEXT)},
}
ATTRIBUTE = {
    **{1: ("name", Kind.TEXT), 2: ("float", Kind.FLOATS), 3: ("int", Kind.INTEGERS), 4: ("string", Kind.MESSAGE)},
    **{5: ("tensor", Kind.MESSAGE), 6: ("graph", Kind.MESSAGE), 20: ("type", Kind.INTEGERS)},
    **{7: ("floats", Kind.FLOATS), 8: ("ints", Kind.INTEGERS), 9: ("strings", Kind.MESSAGE)},
    **{10: ("tensors", Kind.MESSAGE), 11: ("graphs", Kind.MESSAGE)},
}
SEVERAL = ("floats", "ints", "strings")
SINGLE = {"float": 0.0, "int": 0, "string": ""}  # and what stands for them where a zero was not written
TYPES = {1: "float", 2: "int", 3: "string", 6: "floats", 7: "ints", 8: "strings"}
VALUE = {1: ("name", Kind.TEXT), 2: ("type", Kind.MESSAGE)}
TYPE = {1: ("tensor", Kind.MESSAGE)}
TENSOR_TYPE = {2: ("shape", Kind.MESSAGE)}
SHAPE = {1: ("lengths", Kind.MESSAGE)}
LENGTH = {1: ("known", Kind.INTEGERS)}


@dataclass
class Graph:
    """A graph's nodes and values as plain dictionaries, and the messages of its tensors.

    Attributes:
      tensors: the name that the graph gives a tensor (None: the one in its message), and its TensorProto.
      constants: name -> numbers or texts, of Constant nodes without a tensor.
      left_out: names of sparse tensors, and of tensors in the bodies of loops and branches.
    """

    nodes: list[dict] = field(default_factory=list)
    inputs: list[dict] = field(default_factory=list)
    outputs: list[dict] = field(default_factory=list)
    values: list[dict] = field(default_factory=list)
    tensors: list[tuple[str | None, memoryview]] = field(default_factory=list)
    constants: dict[str, object] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def read_model(message: memoryview, budget: Budget) -> tuple[Graph, dict[str, int]]:
    """Returns the graph of a ModelProto and the version of each set of operators (`opset_import`).

    Raises:
      WireError, UnicodeDecodeError: the message is not well-formed.
      CheckpointError: it holds no graph, or more than the budget allows.
    """
    model = read(message, MODEL, budget)
    if not model["graph"]:
        raise CheckpointError(budget.path, "holds no graph", MEND)
    sets = [read(entry, OPSET, budget) for entry in model["opset"]]
    opset = {"".join(s["domain"]): s["version"][-1] for s in sets if s["version"]}
    return _graph(model["graph"][-1], budget, 0), opset


def _graph(message: memoryview, budget: Budget, depth: int) -> Graph:
    if depth > DEPTH:
        raise WireError("graphs within graphs within graphs")
    parts = read(message, GRAPH, budget)
    inputs, outputs, values = ([_value(v, budget) for v in parts[key]] for key in ("inputs", "outputs", "values"))
    graph = Graph([], inputs, outputs, values, [(None, tensor) for tensor in parts["tensors"]])
    graph.left_out = [f"sparse tensor {i}" for i in range(len(parts["sparse"]))]
    for node in parts["nodes"]:
        _add_node(node, graph, budget, depth)
    return graph


def _add_node(message: memoryview, graph: Graph, budget: Budget, depth: int) -> None:
    node = read(message, NODE, budget)
    budget.spend(OBJECT // 2)
    name, op, domain = ("".join(node[key]) for key in ("name", "op", "domain"))
    attributes = {}
    for attribute in (read(part, ATTRIBUTE, budget) for part in node["attributes"]):
        key = "".join(attribute["name"])
        attributes[key] = _plain(attribute, budget)
        for body in attribute["graph"] + attribute["graphs"]:
            inner = _graph(body, budget, depth + 1)
            graph.left_out += inner.left_out + [f"{name}.{key}"] * bool(inner.tensors)
        if op == "Constant" and node["outputs"] and attribute["tensor"]:
            graph.tensors.append((node["outputs"][0], attribute["tensor"][-1]))
            return
    if op == "Constant" and node["outputs"] and len(attributes) == 1:
        graph.constants[node["outputs"][0]] = next(iter(attributes.values()))
        return
    told = {"op": op, "domain": domain, "name": name, "inputs": node["inputs"], "outputs": node["outputs"]}
    graph.nodes.append({**told, "attributes": attributes})


def _plain(attribute: dict[str, list], budget: Budget) -> object:
    """A number, a text or a list of them; None for tensors and graphs."""
    present = next((key for key in (*SEVERAL, *SINGLE) if attribute[key]), None)
    key = TYPES.get(attribute["type"][-1]) if attribute["type"] else present
    if key is None:
        return None
    values = attribute[key]
    if key in ("string", "strings"):
        values = [str(value, "utf-8", "replace") for value in values]
    return values if key in SEVERAL else values[-1] if values else SINGLE[key]


def _value(message: memoryview, budget: Budget) -> dict:
    """A ValueInfoProto as name and shape."""
    value = read(message, VALUE, budget)
    tensors = [tensor for type_ in value["type"] for tensor in read(type_, TYPE, budget)["tensor"]]
    shapes = [shape for tensor in tensors for shape in read(tensor, TENSOR_TYPE, budget)["shape"]]
    lengths = (
        [read(length, LENGTH, budget)["known"] for length in read(shapes[-1], SHAPE, budget)["lengths"]]
        if shapes
        else []
    )
    budget.spend(OBJECT // 2)
    shape = [length[-1] if length else None for length in lengths] if shapes else None
    return {"name": "".join(value["name"]), "shape": shape}
