"""Reads the messages of TensorFlow's graphs as nodes and functions.

The messages: https://github.com/tensorflow/tensorflow, `tensorflow/core/framework` (graph.proto, node_def.proto,
attr_value.proto, function.proto, op_def.proto) and `tensorflow/core/protobuf/meta_graph.proto`.
"""

from collections.abc import Mapping

from wsrl.readers.budget import Budget
from wsrl.readers.protobuf import Kind, WireError, read
from wsrl.readers.tensorflow_functions import Function
from wsrl.readers.tensorflow_operators import Step

GRAPH = {1: ("nodes", Kind.MESSAGE), 2: ("library", Kind.MESSAGE), 4: ("versions", Kind.MESSAGE)}
LIBRARY = {1: ("functions", Kind.MESSAGE)}
FUNCTION = {1: ("signature", Kind.MESSAGE), 3: ("nodes", Kind.MESSAGE), 4: ("results", Kind.MESSAGE)}
SIGNATURE = {1: ("name", Kind.TEXT), 2: ("given", Kind.MESSAGE), 3: ("returned", Kind.MESSAGE)}
ARGUMENT, PAIR = {1: ("name", Kind.TEXT)}, {1: ("key", Kind.TEXT), 2: ("value", Kind.TEXT)}
NODE = {1: ("name", Kind.TEXT), 2: ("op", Kind.TEXT), 3: ("inputs", Kind.TEXT), 5: ("attributes", Kind.MESSAGE)}
ATTRIBUTE = {1: ("key", Kind.TEXT), 2: ("value", Kind.MESSAGE)}
SETTING = {
    **{1: ("list", Kind.MESSAGE), 2: ("text", Kind.MESSAGE), 3: ("integers", Kind.INTEGERS)},
    **{4: ("floats", Kind.FLOATS), 5: ("flags", Kind.INTEGERS), 7: ("shape", Kind.MESSAGE)},
    **{8: ("tensor", Kind.MESSAGE), 10: ("function", Kind.MESSAGE)},
}
MEMBERS = {2: ("texts", Kind.MESSAGE), 3: ("integers", Kind.INTEGERS)}
SHAPE, LENGTH = {2: ("lengths", Kind.MESSAGE)}, {1: ("length", Kind.INTEGERS)}
ENTRY, ENDS, END = (
    {1: ("key", Kind.TEXT), 2: ("value", Kind.MESSAGE)},
    {2: ("outputs", Kind.MESSAGE)},
    {1: ("name", Kind.TEXT)},
)


def read_graph(message: memoryview, budget: Budget) -> tuple[list[Step], dict[str, Function]]:
    """Returns the nodes of a GraphDef and its functions by name.

    The attribute `value` of a constant is its TensorProto, as bytes; an attribute that is a function is its name.

    Raises:
      WireError, UnicodeDecodeError: it is truncated or not well-formed.
      CheckpointError: it has more nodes than the budget allows.
    """
    graph = read(message, GRAPH, budget)
    if not graph["versions"]:  # they come last: a file that is cut off between two nodes looks whole otherwise
        raise WireError("it ends before its versions")
    functions: dict[str, Function] = {}
    for library in graph["library"]:
        for told in budget.each(read(library, LIBRARY, budget)["functions"]):
            name, function = _function(told, budget)
            functions.setdefault(name, function)
    return _steps(graph["nodes"], budget), functions


def read_signature(meta_graph: memoryview, field: int, budget: Budget) -> tuple[str, ...]:
    """Returns the names of what a MetaGraphDef returns when it is served; `field` is that of its signatures.

    Raises:
      WireError, UnicodeDecodeError: it is not well-formed.
    """
    found = [
        read(m, ENTRY, budget) for m in read(meta_graph, {field: ("signatures", Kind.MESSAGE)}, budget)["signatures"]
    ]
    signatures = {"".join(told["key"][-1:]): told["value"][-1] for told in found if told["value"]}
    served = [name for name in ("serving_default", *signatures) if name in signatures and not name.startswith("__")]
    if not served:
        return ()
    entries = [read(m, ENTRY, budget) for m in read(signatures[served[0]], ENDS, budget)["outputs"]]
    return tuple("".join(read(m, END, budget)["name"][-1:]) for entry in entries for m in entry["value"][-1:])


def _function(message: memoryview, budget: Budget) -> tuple[str, Function]:
    told = read(message, FUNCTION, budget)
    signature = read(told["signature"][-1] if told["signature"] else memoryview(b""), SIGNATURE, budget)
    given, returned = (
        ["".join(read(m, ARGUMENT, budget)["name"][-1:]) for m in signature[key]] for key in ("given", "returned")
    )
    pairs = [read(m, PAIR, budget) for m in told["results"]]
    results = {"".join(pair["key"][-1:]): "".join(pair["value"][-1:]) for pair in pairs}
    steps = tuple(_steps(told["nodes"], budget))
    return "".join(signature["name"][-1:]), Function(tuple(given), steps, tuple(results.get(n, "") for n in returned))


def _steps(messages: list[memoryview], budget: Budget) -> list[Step]:
    """Nodes; inputs that only order them are left out."""
    found = []
    for node in (read(m, NODE, budget) for m in budget.each(messages)):
        settings: dict[str, object] = {}
        for attribute in (read(m, ATTRIBUTE, budget) for m in node["attributes"]):
            for message in attribute["value"][-1:]:
                settings["".join(attribute["key"][-1:])] = _setting(read(message, SETTING, budget), budget)
        sources = tuple(source for source in node["inputs"] if not source.startswith("^"))
        found.append(Step("".join(node["name"][-1:]), "".join(node["op"][-1:]), sources, settings))
    return found


def _setting(told: Mapping[str, list], budget: Budget) -> object:
    """An attribute as a plain value; None for one of another kind."""
    if told["tensor"]:
        return told["tensor"][-1]
    if told["function"]:
        return "".join(read(told["function"][-1], END, budget)["name"][-1:])
    if told["shape"]:
        lengths = [read(m, LENGTH, budget)["length"] for m in read(told["shape"][-1], SHAPE, budget)["lengths"]]
        return [n[-1] if n and n[-1] >= 0 else None for n in lengths]
    if told["list"]:
        members = read(told["list"][-1], MEMBERS, budget)
        return members["integers"] or [str(text, "utf-8", "replace") for text in members["texts"]]
    if told["text"]:
        return str(told["text"][-1], "utf-8", "replace")
    return next((told[key][-1] for key in ("integers", "floats", "flags") if told[key]), None)
