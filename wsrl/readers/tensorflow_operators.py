"""The operators of TensorFlow's graphs as those of TFLite and ONNX that do the same to the units of what they read.

https://www.tensorflow.org/api_docs/python/tf/raw_ops. Maps have their channels last; kernels are [height, width, in,
out], and [height, width, channels, multiplier] of a depthwise convolution.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

LAYOUT = "tensorflow"  # of a graph's kernels
PASSED = ("Identity", "ReadVariableOp", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot", "EnsureShape")
NAMES = {
    **{"Add": "ADD", "AddV2": "ADD", "BiasAdd": "ADD", "Sub": "SUB", "Mul": "MUL", "RealDiv": "DIV", "Div": "DIV"},
    **{"AddN": "ADD_N", "Maximum": "MAXIMUM", "Minimum": "MINIMUM", "SquaredDifference": "SQUARED_DIFFERENCE"},
    **{"Relu": "RELU", "Relu6": "RELU6", "LeakyRelu": "LEAKY_RELU", "Elu": "ELU", "Selu": "Selu", "Tanh": "TANH"},
    **{"Sigmoid": "LOGISTIC", "Softmax": "SOFTMAX", "LogSoftmax": "LOG_SOFTMAX", "Softplus": "Softplus", "Erf": "Erf"},
    **{"Rsqrt": "RSQRT", "Sqrt": "SQRT", "Square": "SQUARE", "Exp": "EXP", "Log": "LOG", "Neg": "NEG", "Abs": "ABS"},
    **{"Cast": "CAST", "Mean": "MEAN", "Sum": "SUM", "Max": "REDUCE_MAX", "Min": "REDUCE_MIN"},
    **{
        "MaxPool": "MAX_POOL_2D",
        "AvgPool": "AVERAGE_POOL_2D",
        "Pad": "PAD",
        "PadV2": "PADV2",
        "MirrorPad": "MIRROR_PAD",
    },
    **{"ResizeBilinear": "RESIZE_BILINEAR", "ResizeNearestNeighbor": "RESIZE_NEAREST_NEIGHBOR", "Shape": "SHAPE"},
    **{"Reshape": "RESHAPE", "Squeeze": "SQUEEZE", "ExpandDims": "Unsqueeze", "Transpose": "TRANSPOSE"},
    **{"Conv2D": "CONV_2D", "DepthwiseConv2dNative": "DEPTHWISE_CONV_2D", "MatMul": "MatMul"},
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), "BatchNormalization"),
}
FUSED = {  # with what follows them, as TensorFlow.js writes them
    "_FusedConv2D": "Conv2D", "FusedConv2D": "Conv2D", "_FusedMatMul": "MatMul",
    "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative", "_FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
}  # fmt: skip
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
CHANNELED = (*CONVOLUTIONS, "BiasAdd", "MaxPool", "AvgPool")  # operators that know where channels lie
LAYERS = (*CONVOLUTIONS, "MatMul", *FUSED)


@dataclass(frozen=True)
class Step:
    """A node: what it reads (`NAME`, `NAME:OUTPUT`), and its attributes as plain values."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, object]


def translated(
    steps: Sequence[Step],
    tensors: Mapping[str, str],
    shapes: Mapping[str, Sequence[int]],
    constants: Mapping[str, list[int]],
) -> dict[str, object] | None:
    """Translates a graph into `nodes`, `inputs`, `outputs` and `constants` (see `wsrl.wiring.graph_flow`).

    Args:
      steps: nodes that are no constants, in any order.
      tensors: constant node -> the name of its tensor.
      shapes: of tensors, by these names.
      constants: values of small integer tensors, by these names.

    Returns:
      None if no node is a layer.
    """
    by_name = {step.name: step for step in steps}
    if not any(step.op in LAYERS for step in steps):
        return None

    def value(source: str) -> str:
        """The tensor or the value that an input stands for."""
        for _ in range(len(steps) + 1):  # a broken graph may run in circles
            name, _, place = source.partition(":")
            if name in tensors:
                return tensors[name]
            step = by_name.get(name)
            if step is None or step.op not in PASSED or not step.inputs:
                return f"{name}:{place or 0}"
            source = step.inputs[0]
        return source

    nodes: list[dict] = []
    inputs = [{"name": f"{s.name}:0", "shape": s.attributes.get("shape")} for s in steps if s.op == "Placeholder"]
    for step in _in_order(steps, by_name):
        if step.op not in (*PASSED, "Placeholder", "NoOp", "Const"):
            reads = [value(source) for source in step.inputs]
            nodes += _nodes(step, reads, shapes, constants)
    read = {name for node in nodes for name in node["inputs"]}
    made = [name for node in nodes for name in node["outputs"]]
    outputs = [{"name": name, "shape": None} for name in made if name not in read]
    return {"nodes": nodes, "inputs": inputs, "outputs": outputs, "constants": dict(constants), "layout": LAYOUT}


def _in_order(steps: Sequence[Step], by_name: Mapping[str, Step]) -> Iterator[Step]:
    """Yields nodes after those that they read; those of circles are left out."""
    waits = {s.name: {n for i in s.inputs if (n := i.partition(":")[0]) in by_name} for s in steps}
    readers: dict[str, list[str]] = {}
    for name, sources in waits.items():
        for source in sources:
            readers.setdefault(source, []).append(name)
    ready = deque(name for name, sources in waits.items() if not sources)
    while ready:
        name = ready.popleft()
        yield by_name[name]
        for reader in readers.get(name, ()):
            waits[reader].discard(name)
            if not waits[reader]:
                ready.append(reader)


def _nodes(
    step: Step, reads: list[str], shapes: Mapping[str, Sequence[int]], constants: Mapping[str, list[int]]
) -> list[dict]:
    """A node of TensorFlow as one, or, with what is fused into it, as several."""
    op = FUSED.get(step.op, step.op)
    first = {"op": NAMES.get(op, op), "domain": "", "name": step.name, "inputs": reads, "outputs": [f"{step.name}:0"]}
    first["attributes"] = told = dict[str, object]()
    last = step.attributes.get("data_format", "NHWC") in ("NHWC", "")
    if not last and (op in CHANNELED or op.startswith("FusedBatchNorm")):
        return [{**first, "op": f"{step.op} of channels first"}]
    if op in CONVOLUTIONS:
        kernel = shapes.get(reads[1], ()) if len(reads) > 1 else ()
        first["inputs"] = [*reads[:2], ""]
        told |= {"group": 1, "facts": _facts(step, kernel, op == "DepthwiseConv2dNative")}
    elif op == "MatMul":
        first["inputs"] = reads[:2]
        if any(step.attributes.get(name) for name in ("transpose_a", "transpose_b")):
            return [{**first, "op": "MatMul of a transposed matrix"}]
    elif op.startswith("FusedBatchNorm"):
        told["facts"] = {"epsilon": step.attributes.get("epsilon", 1e-4)}
    elif op == "ConcatV2":
        axis = constants.get(reads[-1]) if reads else None
        first |= {"op": "CONCATENATION" if axis else op, "inputs": reads[:-1]}
        told["axis"] = axis[0] if axis else 0
    elif op in ("Mean", "Sum", "Max", "Min"):
        told["keep_dims"] = bool(step.attributes.get("keep_dims"))
    elif op == "Squeeze" and step.attributes.get("squeeze_dims"):
        told["squeeze_dims"] = step.attributes["squeeze_dims"]
    elif op == "LeakyRelu":
        told["alpha"] = step.attributes.get("alpha", 0.2)
    elif op in ("MaxPool", "AvgPool"):
        window, stride = _pair(step.attributes.get("ksize")), _pair(step.attributes.get("strides"))
        told |= dict(zip(("filter_height", "filter_width"), window, strict=True))
        told |= dict(zip(("stride_h", "stride_w"), stride, strict=True))
        told["padding"] = str(step.attributes.get("padding", "VALID"))
    return [first, *_followed(step, first, reads[2:])] if step.op in FUSED else [first]


def _followed(step: Step, first: dict, others: list[str]) -> Iterator[dict]:
    """What is fused into a layer, as nodes of their own; `first` returns what they read."""
    fused = step.attributes.get("fused_ops")
    names = [str(name) for name in fused] if isinstance(fused, list) else []
    made = [f"{step.name}:fused{i}" for i in range(len(names))]
    end, (first["outputs"], *_) = first["outputs"], [[made[0]] if made else first["outputs"]]
    for i, name in enumerate(names):
        reads = [made[i], *([others[0]] if name == "BiasAdd" and others else [])]
        outputs = [made[i + 1]] if i + 1 < len(names) else end
        known = NAMES.get(name, name) if name != "Prelu" else "Prelu that is fused"
        yield {"op": known, "domain": "", "name": "", "inputs": reads, "outputs": outputs, "attributes": {}}


def _facts(step: Step, kernel: Sequence[int], depthwise: bool) -> dict[str, object]:
    padding = str(step.attributes.get("padding", "VALID")).lower()
    found: dict[str, object] = {
        "kernel": tuple(kernel[:2]),
        "stride": _pair(step.attributes.get("strides")),
        "padding": padding,
    }
    found["groups"] = kernel[2] if depthwise and len(kernel) > 2 else 1
    dilation = _pair(step.attributes.get("dilations"))
    return found | ({"dilation": dilation} if dilation != (1, 1) else {})


def _pair(lengths: object) -> tuple[int, int]:
    """Height and width of four lengths, channels last."""
    whole = isinstance(lengths, list) and len(lengths) == 4 and all(type(n) is int for n in lengths)
    return (lengths[1], lengths[2]) if whole else (1, 1)  # type: ignore[index]
