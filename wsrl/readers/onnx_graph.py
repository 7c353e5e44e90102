"""Reads the graph of an ONNX file into plain values; the messages of its tensors stay where they are.

The messages: https://github.com/onnx/onnx, `onnx/onnx.proto`.
"""

from dataclasses import dataclass, field

from wsrl.checkpoint import CheckpointError
from wsrl.readers.budget import OBJECT, Budget
from wsrl.readers.onnx_tensors import MEND, ExternalFiles, read_tensor
from wsrl.readers.protobuf import Kind, WireError, read

DEPTH = 8  # of graphs in attributes of nodes of graphs

MODEL = {7: ("graph", Kind.MESSAGE), 8: ("opset", Kind.MESSAGE), 25: ("functions", Kind.MESSAGE)}
FUNCTION = {1: ("name", Kind.TEXT), 7: ("nodes", Kind.MESSAGE)}
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
TENSOR_NAME = {8: ("name", Kind.TEXT)}
LENGTH = {1: ("known", Kind.INTEGERS)}


@dataclass
class Graph:
    """A graph's nodes and values as plain dictionaries, and the messages of its tensors.

    Attributes:
      nodes: the bodies of loops and branches are graphs of the same form among the attributes of their nodes, with
        `nodes`, `inputs` and `outputs`. A value in one that is called like another elsewhere has the name of its body
        before its own.
      tensors: names and their TensorProtos; those in bodies and in the functions of the model are among them.
      sparse: messages of sparse tensors.
      constants: name -> numbers or texts, of Constant nodes without a tensor.
    """

    nodes: list[dict] = field(default_factory=list)
    inputs: list[dict] = field(default_factory=list)
    outputs: list[dict] = field(default_factory=list)
    values: list[dict] = field(default_factory=list)
    tensors: list[tuple[str, memoryview]] = field(default_factory=list)
    sparse: list[memoryview] = field(default_factory=list)
    constants: dict[str, object] = field(default_factory=dict)


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
    graph = Graph()
    taken: set[str] = set()
    graph.nodes, graph.inputs, graph.outputs, graph.values = _Body(graph, budget, taken, "", 0).read(model["graph"][-1])
    for function in (read(entry, FUNCTION, budget) for entry in model["functions"]):
        _Body(graph, budget, taken, "".join(function["name"]), 1).read_nodes(function["nodes"])
    return graph, opset


class _Body:
    """Reads a graph, or the body of a loop or branch in it, into the lists of the whole."""

    def __init__(self, graph: Graph, budget: Budget, taken: set[str], prefix: str, depth: int):
        """See Graph.

        Args:
          graph: where tensors and constants are added.
          taken: names of tensors in all bodies so far.
          prefix: for the names of this body's tensors that are taken.
          depth: of bodies in bodies.
        """
        if depth > DEPTH:
            raise WireError("graphs within graphs within graphs")
        self.graph, self.budget, self.taken, self.prefix, self.depth = graph, budget, taken, prefix, depth
        self.renamed: dict[str, str] = {}

    def read(self, message: memoryview) -> tuple[list[dict], list[dict], list[dict], list[dict]]:
        """Returns nodes, inputs, outputs and values."""
        parts = read(message, GRAPH, self.budget)
        inputs, outputs, values = ([_value(v, self.budget) for v in parts[k]] for k in ("inputs", "outputs", "values"))
        self.graph.sparse += parts["sparse"]
        for tensor in parts["tensors"]:
            name = "".join(read(tensor, TENSOR_NAME, self.budget)["name"][-1:])
            self.graph.tensors.append((self._own_name(name), tensor))
        nodes = self.read_nodes(parts["nodes"])
        outputs = [{**value, "name": self.renamed.get(value["name"], value["name"])} for value in outputs]
        return nodes, inputs, outputs, values

    def read_nodes(self, messages: list[memoryview]) -> list[dict]:
        """Returns the nodes that are no constants."""
        nodes = [node for message in messages if (node := self._node(message))]
        for node in nodes:
            self._rename(node)
        return nodes

    def _own_name(self, name: str) -> str:
        """The name of a value that this body makes, so that no other body has one of the same name."""
        own = name
        if self.depth and name in self.taken:
            own = f"{self.prefix}/{name}"
            own = self.renamed[name] = f"{own}:{len(self.taken)}" if own in self.taken else own
        self.taken.add(own)
        return own

    def _node(self, message: memoryview) -> dict | None:
        node = read(message, NODE, self.budget)
        self.budget.spend(OBJECT // 2)
        name, op, domain = ("".join(node[key]) for key in ("name", "op", "domain"))
        attributes: dict[str, object] = {}
        for attribute in (read(part, ATTRIBUTE, self.budget) for part in node["attributes"]):
            key = "".join(attribute["name"])
            attributes[key] = _plain(attribute, self.budget)
            for body in attribute["graph"] + attribute["graphs"]:
                prefix = f"{name or ''.join(node['outputs'][:1])}.{key}"
                inner = _Body(self.graph, self.budget, self.taken, prefix, self.depth + 1)
                parts = zip(("nodes", "inputs", "outputs"), inner.read(body), strict=False)
                attributes[key] = dict(parts)
            if op == "ConstantOfShape" and attribute["tensor"]:
                _, filler = read_tensor(attribute["tensor"][-1], key, ExternalFiles(self.budget.path, 0), self.budget)
                attributes[key] = filler.read_rows(0, 1).reshape(-1)[0].item() if filler and filler.size else None
            if op == "Constant" and node["outputs"] and attribute["tensor"]:
                self.graph.tensors.append((self._own_name(node["outputs"][0]), attribute["tensor"][-1]))
                return None
        if op == "Constant" and node["outputs"] and len(attributes) == 1:
            self.graph.constants[self._own_name(node["outputs"][0])] = next(iter(attributes.values()))
            return None
        outputs = [name and self._own_name(name) for name in node["outputs"]]
        named = {"op": op, "domain": domain, "name": name, "inputs": node["inputs"], "outputs": outputs}
        return {**named, "attributes": attributes}

    def _rename(self, node: dict) -> None:
        """Gives a node, and those in its bodies, the names of this body's tensors."""
        if not self.renamed:
            return
        node["inputs"] = [self.renamed.get(name, name) for name in node["inputs"]]
        for body in bodies(node):
            for inner in body["nodes"]:
                self._rename(inner)


def bodies(node: dict) -> list[dict]:
    """Returns the graphs among a node's attributes."""
    return [value for value in node["attributes"].values() if isinstance(value, dict)]


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
