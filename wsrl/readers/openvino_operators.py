"""The operators of OpenVINO as those of ONNX that do the same: https://docs.openvino.ai, "Available Operation Sets"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

REAL = ("f16", "f32", "f64", "bf16")
NAMES = {  # those that differ in the name alone
    **{"Subtract": "Sub", "Multiply": "Mul", "Divide": "Div", "Power": "Pow", "Maximum": "Max", "Minimum": "Min"},
    **{"ReLU": "Relu", "PReLU": "PRelu", "Clamp": "Clip", "SoftPlus": "Softplus", "SoftMax": "Softmax"},
    **{"HSwish": "HardSwish", "Negative": "Neg", "Ceiling": "Ceil", "AvgPool": "AveragePool", "Softmax": "Softmax"},
    **{"Interpolate": "Resize", "BatchNormInference": "BatchNormalization", "LogSoftmax": "LogSoftmax"},
    **{"FakeQuantize": "Identity", "Broadcast": "Expand"},
}
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")
CONVOLUTIONS = {"Convolution": "Conv", "ConvolutionBackpropData": "ConvTranspose", "GroupConvolution": "Conv"}
AUTO = {"same_upper": "SAME_UPPER", "same_lower": "SAME_LOWER", "valid": "VALID"}


@dataclass(frozen=True)
class Layer:
    """A node of the graph.

    Attributes:
      name, type: of it; names are unique.
      data: its attributes as texts.
      inputs: for each port in order, the name of the layer and the port that feed it, or None.
      input_shapes, output_shapes: an unknown length is None; of an input without a description, None.
      outputs: numbers of its ports.
      body: whether it lies in the body of a loop or a branch.
    """

    name: str
    type: str
    data: Mapping[str, str]
    inputs: tuple[tuple[str, int] | None, ...]
    input_shapes: tuple[list[int | None] | None, ...]
    outputs: tuple[int, ...]
    output_shapes: tuple[list[int | None], ...]
    body: bool


@dataclass
class Graph:
    """The graph in ONNX's terms; `constants` are lists of numbers that new nodes read."""

    nodes: list[dict] = field(default_factory=list)
    inputs: list[dict] = field(default_factory=list)
    outputs: list[dict] = field(default_factory=list)
    constants: dict[str, list[int]] = field(default_factory=dict)


def translated(
    layers: Sequence[Layer], shapes: Mapping[str, tuple[int, ...]], constants: Mapping[str, object]
) -> Graph:
    """Translates a graph; operators that ONNX lacks keep their names.

    Args:
      layers: of the graph itself, in an order in which they can be run.
      shapes: of the constants.
      constants: values of small integer constants.
    """
    graph = Graph()
    ports = {layer.name: layer.outputs for layer in layers}

    def value(source: tuple[str, int] | None) -> str:
        if source is None:
            return ""
        name, port = source
        known = ports.get(name, ())
        return name if not known or port == known[0] else f"{name}:{port}"

    for layer in layers:
        inputs = [value(source) for source in layer.inputs]
        if layer.type == "Parameter":
            graph.inputs.append({"name": layer.name, "shape": layer.output_shapes[0] if layer.output_shapes else None})
        elif layer.type == "Result":
            graph.outputs += [{"name": name, "shape": None} for name in inputs[:1]]
        elif layer.type != "Const":
            outputs = [value((layer.name, port)) for port in layer.outputs]
            graph.nodes += _nodes(layer, inputs, outputs, shapes, constants, graph.constants)
    return graph


def _nodes(
    layer: Layer,
    inputs: list[str],
    outputs: list[str],
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, object],
    made: dict[str, list[int]],
) -> list[dict]:
    """One node of OpenVINO as one or two of ONNX."""
    kind, data = layer.type, layer.data
    node = {"op": NAMES.get(kind, kind), "domain": "", "name": layer.name, "inputs": inputs, "outputs": outputs}
    node["attributes"] = {}
    before: list[dict] = []

    def change(place: int, op: str, setting: list[int]) -> None:
        """Puts a node before an input that changes its layout."""
        target = f"{layer.name}:{op}"
        reads = [inputs[place]]
        if op == "Reshape":
            made[f"{target}:shape"] = setting
            reads.append(f"{target}:shape")
        attributes = {"perm": setting} if op == "Transpose" else {}
        before.append({"op": op, "domain": "", "name": target, "inputs": reads, "outputs": [target]})
        before[-1]["attributes"] = attributes
        inputs[place] = target

    match kind:
        case "Convert":
            real = data.get("destination_type") in REAL
            node |= {"op": "Cast", "attributes": {"to": 1 if real else 7}}
        case "Convolution" | "ConvolutionBackpropData" | "GroupConvolution":
            node |= {"op": CONVOLUTIONS[kind], "attributes": _windows(data), "inputs": inputs[:2]}
            shape = layer.input_shapes[1] if len(layer.input_shapes) > 1 else None
            if kind == "GroupConvolution" and shape and None not in shape[:2]:
                whole = [n or -1 for n in shape]
                node["attributes"]["group"] = whole[0]
                change(1, "Reshape", [whole[0] * whole[1], *whole[2:]])
                node["inputs"] = inputs[:2]
        case "MatMul":
            for place, key in enumerate(("transpose_a", "transpose_b")):
                shape = layer.input_shapes[place] if place < len(layer.input_shapes) else None
                rank = len(shape) if shape is not None else 0
                if data.get(key) in ("true", "1") and rank > 1:
                    change(place, "Transpose", [*range(rank - 2), rank - 1, rank - 2])
        case "Transpose":
            order = _integers(constants.get(inputs[1])) if len(inputs) > 1 else None
            node |= {"attributes": {"perm": order} if order else {}, "inputs": inputs[: 1 if order else 2]}
        case "Gather":
            axis = _integers(constants.get(inputs[2])) if len(inputs) > 2 else None
            node |= {"attributes": {"axis": axis[0] if axis else 0}, "inputs": inputs[:2]}
        case "Concat":
            node["attributes"] = {"axis": _integer(data.get("axis"))}
        case "FakeQuantize" | "Broadcast" | "Interpolate" | "Pad" | "Clamp":
            node["inputs"] = inputs[:1]
        case "MaxPool" | "AvgPool":
            node["attributes"] = _windows(data)
        case _ if kind in REDUCTIONS:
            node["attributes"] = {"keepdims": int(data.get("keep_dims") in ("true", "1"))}
        case "BatchNormInference":
            node["attributes"] = {"epsilon": _real(data.get("epsilon"))}
        case "SoftMax" | "Softmax" | "LogSoftmax":
            node["attributes"] = {"axis": _integer(data.get("axis"))}
        case "LSTMSequence" | "GRUSequence" | "RNNSequence" | "LSTMCell" | "GRUCell" | "RNNCell":
            node["op"] = kind  # their weights are not in ONNX's layout
    return [*before, node]


def _windows(data: Mapping[str, str]) -> dict[str, object]:
    lists = {key: [_integer(n) for n in data.get(name, "").split(",") if n.strip()] for key, name in WINDOWS.items()}
    found: dict[str, object] = {key: numbers for key, numbers in lists.items() if numbers and key not in ("to", "from")}
    if lists["from"] and lists["to"]:
        found["pads"] = lists["from"] + lists["to"]
    if data.get("auto_pad") in AUTO:
        found["auto_pad"] = AUTO[data["auto_pad"]]
    return found


WINDOWS = {"strides": "strides", "dilations": "dilations", "from": "pads_begin", "to": "pads_end", "kernel": "kernel"}


def _integer(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0


def _real(text: str | None) -> float:
    try:
        return float(text or 1e-5)
    except ValueError:
        return 1e-5


def _integers(value: object) -> list[int] | None:
    if isinstance(value, int):
        return [value]
    return [int(n) for n in value] if isinstance(value, list) and all(type(n) is int for n in value) else None
