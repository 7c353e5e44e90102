"""The graph of an ONNX file as a `ForwardGraph`: operators of older versions become those of the newest."""

from collections.abc import Iterator, Mapping

from wsrl.checkpoint import Checkpoint
from wsrl.forward.graph import ForwardGraph, Step
from wsrl.forward.plain_graph import answer_of, constants_of, input_of

DOMAINS = ("", "ai.onnx")
SOFTMAX = ("Softmax", "LogSoftmax")
AXES_SINCE = 13  # version since which a softmax runs along one axis
SAMPLES_SINCE = 11  # version since which Resize tells how it samples
FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}  # as it did before


def from_onnx(checkpoint: Checkpoint, output: str | None = None) -> ForwardGraph:
    """Returns the graph of an ONNX file.

    Args:
      checkpoint: of the file.
      output: name of the value that holds the answers; None for the only one that the graph returns.

    Raises:
      CheckpointError: it has no graph, reads several values, or returns several.
    """
    graph: Mapping = checkpoint.metadata["graph"]  # pyright: ignore[reportAssignmentType]
    opset: Mapping = checkpoint.metadata.get("opset") or {}  # pyright: ignore[reportAssignmentType]
    version = int(opset.get("", opset.get("ai.onnx", 1)))
    name, batch, shape = input_of(checkpoint, graph)
    steps = tuple(step for node in graph["nodes"] for step in _steps(node, version))
    constants = constants_of(graph, checkpoint)
    return ForwardGraph(steps, name, shape, output or answer_of(checkpoint, graph), constants, batch=batch)


def _steps(node: Mapping, version: int) -> Iterator[Step]:
    """What a node does, in the newest version of its operator."""
    inputs, outputs = tuple(node["inputs"]), tuple(node["outputs"])
    op = node["op"] if node["domain"] in DOMAINS else f"{node['domain']}.{node['op']}"
    told = {key: tuple(v) if isinstance(v, list) else v for key, v in node["attributes"].items() if v is not None}
    if op in SOFTMAX and version < AXES_SINCE and told.get("axis", 1) != -1:
        rows, shape, found = (f"{outputs[0]}:{what}" for what in ("rows", "shape", "found"))
        yield Step("Shape", inputs, (shape,))
        yield Step("Flatten", inputs, (rows,), {"axis": told.get("axis", 1)})
        yield Step(op, (rows,), (found,), {"axis": -1})
        yield Step("Reshape", (found, shape), outputs)
    elif op == "Upsample" or (op == "Resize" and version < SAMPLES_SINCE):
        sampled = {"mode": told.get("mode", "nearest"), **FLOOR}
        yield Step("Resize", (inputs[0], "", inputs[1]), outputs, sampled)
    else:
        yield Step(op, inputs, outputs, told)
