"""The operators of TensorFlow's graphs as those of TFLite and ONNX that do the same to the units of what they read.

https://www.tensorflow.org/api_docs/python/tf/raw_ops. Maps have their channels last; kernels are [height, width, in,
out], and [height, width, channels, multiplier] of a depthwise convolution.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

LAYOUT = "tensorflow"  # of a graph's kernels
PASSED = ("Identity", "ReadVariableOp", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot", "EnsureShape")
NAMES = {
    **{"Add": "ADD", "AddV2": "ADD", "BiasAdd": "ADD", "Sub": "SUB", "Mul": "MUL", "RealDiv": "DIV", "Div": "DIV"},
    **{"DivNoNan": "DIV", "Pow": "POW", "Prelu": "PRELU", "StridedSlice": "STRIDED_SLICE", "Split": "SPLIT"},
    **{"Less": "Less", "Greater": "Greater", "Equal": "Equal", "SelectV2": "Where"},
    **{"Conv2DBackpropInput": "ConvTranspose", "BatchMatMul": "MatMul", "BatchMatMulV2": "MatMul"},
    **{"AddN": "ADD_N", "Maximum": "MAXIMUM", "Minimum": "MINIMUM", "SquaredDifference": "SQUARED_DIFFERENCE"},
    **{"Relu": "RELU", "Relu6": "RELU6", "LeakyRelu": "LEAKY_RELU", "Elu": "ELU", "Selu": "Selu", "Tanh": "TANH"},
    **{
        "Sigmoid": "LOGISTIC",
        "Softmax": "SOFTMAX",
        "LogSoftmax": "LOG_SOFTMAX",
        "Softplus": "Softplus",
        "Erf": "Erf",
        "Erfc": "Erf",
    },
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
CONVOLUTIONS, TRANSPOSED = ("Conv2D", "DepthwiseConv2dNative"), ("Conv2DBackpropInput",)
CHANNELED = (*CONVOLUTIONS, *TRANSPOSED, "BiasAdd", "MaxPool", "AvgPool")  # operators that know where channels lie
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, "MatMul", *FUSED)
ALIGNED = ("Add", "AddV2", "Sub", "Mul", "RealDiv", "DivNoNan", "Maximum", "Minimum", "SquaredDifference", "BiasAdd")
LEADING = (
    "Unsqueeze",
    "RESHAPE",
    "SQUEEZE",
)  # what puts axes of length 1 before those of a tensor may be left without readers
MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


@dataclass(frozen=True)
class Step:
    """A node: what it reads (`NAME`, `NAME:OUTPUT`), and its attributes as plain values."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, object]


class Origins:
    """Follows names to what they stand for; what was followed once is known from then on."""

    def __init__(self, after: Callable[[str], str | None]):
        """Takes what a name stands for next, None at the end."""
        self._after = after
        self._known: dict[str, str] = {}

    def __call__(self, source: str) -> str:
        """Returns the end of a name; of a broken graph, which may run in circles, any name of the circle."""
        path: dict[str, None] = {}
        while source not in self._known and source not in path and (following := self._after(source)) is not None:
            path[source] = None
            source = following
        end = self._known.get(source, source)
        self._known |= dict.fromkeys(path, end)
        return end


def translated(
    steps: Sequence[Step],
    tensors: Mapping[str, str],
    shapes: Mapping[str, Sequence[int]],
    constants: Mapping[str, list[int]],
    fixed: Mapping[str, Sequence[int]] | None = None,
    grouped: bool = True,
) -> dict[str, object] | None:
    """Translates a graph into `nodes`, `inputs`, `outputs` and `constants` (see `wsrl.wiring.graph_flow`).

    Args:
      steps: nodes in any order. What a node returns or hands on, or a NoOp reads, that no other reads, is an output.
      tensors: node of a constant or a variable -> the name of its tensor.
      shapes: of tensors, by these names.
      constants: values of small integer tensors, by these names.
      fixed: shapes of constants that are no weights, by these names.
      grouped: whether a convolution may be one in groups, which nothing but the number of channels that it reads tells.

    Returns:
      None if no node is a layer.
    """
    by_name = {step.name: step for step in steps}
    if not any(step.op in LAYERS for step in steps):
        return None

    def after(source: str) -> str | None:
        name = source.partition(":")[0]
        step = by_name.get(name)
        if name in tensors or step is None or step.op not in PASSED or not step.inputs:
            return None
        return step.inputs[0]

    origin = Origins(after)

    def value(source: str) -> str:
        """The tensor or the value that an input stands for."""
        name, _, place = origin(source).partition(":")
        return tensors.get(name, f"{name}:{place or 0}")

    def whole(source: str) -> str:
        """The same, through what puts axes of length 1 before those of a tensor, or takes them away again."""
        step = by_name.get(origin(source).partition(":")[0])
        if step is None or not step.inputs or step.name in tensors:
            return value(source)
        if step.op == "Squeeze":
            inner = whole(step.inputs[0])
            return inner if len(shapes.get(inner, ())) == 1 else value(source)
        if step.op not in ("ExpandDims", "Reshape") or len(step.inputs) < 2:
            return value(source)
        inner, told = value(step.inputs[0]), constants.get(value(step.inputs[1]))
        lengths = [*shapes.get(inner, ())]
        leads = told == [0] if step.op == "ExpandDims" else told and told == [1] * (len(told) - len(lengths)) + lengths
        return inner if lengths and leads else value(source)

    nodes: list[dict] = []
    inputs = [{"name": f"{s.name}:0", "shape": s.attributes.get("shape")} for s in steps if s.op == "Placeholder"]
    for step in _in_order(steps, by_name):
        if step.op not in (*PASSED, "Placeholder", "NoOp", "Const"):
            aligned = step.op in (*CONVOLUTIONS, *TRANSPOSED, *ALIGNED)
            reads = [(whole if aligned else value)(source) for source in step.inputs]
            nodes += _nodes(step, reads, shapes, constants, None if grouped else 1)
    seen = {source.partition(":")[0] for step in steps for source in step.inputs}
    last = [value(n) for s in steps if s.name not in seen and s.op in (*PASSED, "NoOp") for n in s.inputs]
    nodes = _with_readers(nodes)
    read = {name for node in nodes for name in node["inputs"]}
    made = [name for node in nodes for name in node["outputs"]]
    ends = dict.fromkeys([*(name for name in made if name not in read), *(n for n in last if n not in shapes)])
    outputs = [{"name": name, "shape": None} for name in ends]
    told = {"constants": dict(constants), "fixed": dict(fixed or {}), "layout": LAYOUT}
    return {"nodes": nodes, "inputs": inputs, "outputs": outputs, **told}


def _with_readers(nodes: Sequence[dict]) -> list[dict]:
    """Leaves out what puts axes of length 1 before those of a tensor where nothing reads it any more."""
    readers = Counter(name for node in nodes for name in node["inputs"])
    found = []
    for node in reversed(nodes):
        if node["op"] in LEADING and not any(readers[name] for name in node["outputs"]):
            readers.subtract(node["inputs"])
        else:
            found.append(node)
    return found[::-1]


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
    step: Step,
    reads: list[str],
    shapes: Mapping[str, Sequence[int]],
    constants: Mapping[str, list[int]],
    groups: int | None,
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
        told |= {"group": groups, "rank": 4, "facts": _facts(step, kernel, op == "DepthwiseConv2dNative")}
    elif op in TRANSPOSED:  # reads the shape that it returns, then the kernel
        first["inputs"] = [*reads[2:3], *reads[1:2], ""]
        told |= {
            "group": groups,
            "rank": 4,
            "facts": _facts(step, shapes.get(reads[1], ()) if len(reads) > 1 else (), False),
        }
    elif op in ("MatMul", "BatchMatMul", "BatchMatMulV2"):
        first["inputs"] = reads[:2]
        if any(step.attributes.get(name) for name in ("transpose_a", "transpose_b", "adj_x", "adj_y")):
            return [{**first, "op": f"{op} of a transposed matrix"}]
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
    elif op in ("GatherV2", "ResourceGather") and _reads_table(reads, shapes, constants):
        first |= {"op": "GATHER", "inputs": reads[:2]}
    elif op == "StridedSlice":
        told |= {name: step.attributes.get(name) or 0 for name in MASKS}
    elif op == "Split":
        parts = step.attributes.get("num_split")
        first["outputs"] = [f"{step.name}:{i}" for i in range(parts if isinstance(parts, int) else 1)]
    elif op == "LeakyRelu":
        told["alpha"] = step.attributes.get("alpha", 0.2)
    elif op in ("MaxPool", "AvgPool"):
        window, stride = _pair(step.attributes.get("ksize")), _pair(step.attributes.get("strides"))
        told |= dict(zip(("filter_height", "filter_width"), window, strict=True))
        told |= dict(zip(("stride_h", "stride_w"), stride, strict=True))
        told["padding"] = str(step.attributes.get("padding", "VALID"))
    return [first, *_followed(step, first, reads[2:])] if step.op in FUSED else [first]


def _reads_table(reads: list[str], shapes: Mapping[str, Sequence[int]], constants: Mapping[str, list[int]]) -> bool:
    """Whether entries of a table [entries, units] are taken, which may be told by an axis."""
    axis = constants.get(reads[2]) if len(reads) > 2 else [0]
    return len(reads) > 1 and len(shapes.get(reads[0], ())) == 2 and axis == [0]


def _followed(step: Step, first: dict, others: list[str]) -> Iterator[dict]:
    """What is fused into a layer, as nodes of their own; `first` returns what they read."""
    fused = step.attributes.get("fused_ops")
    names = [str(name) for name in fused] if isinstance(fused, list) else []
    made = [f"{step.name}:fused{i}" for i in range(len(names))]
    end, (first["outputs"], *_) = first["outputs"], [[made[0]] if made else first["outputs"]]
    for i, name in enumerate(names):
        reads = [made[i], *(others[:1] if name == "BiasAdd" else others[-1:] if name == "Prelu" else [])]
        outputs = [made[i + 1]] if i + 1 < len(names) else end
        yield {
            "op": NAMES.get(name, name),
            "domain": "",
            "name": "",
            "inputs": reads,
            "outputs": outputs,
            "attributes": {},
        }


def _facts(step: Step, kernel: Sequence[int], depthwise: bool) -> dict[str, object]:
    """What a convolution's attributes say; one along a single axis has a kernel of three axes."""
    kept = slice(2 - len(kernel[:-2]), 2) if len(kernel) > 2 else slice(0, 2)
    found: dict[str, object] = {
        "kernel": tuple(kernel[:-2]),
        "stride": _pair(step.attributes.get("strides"))[kept],
        "padding": str(step.attributes.get("padding", "VALID")).lower(),
    }
    found["groups"] = kernel[-2] if depthwise and len(kernel) > 2 else 1
    dilation = _pair(step.attributes.get("dilations"))[kept]
    return found | ({"dilation": dilation} if set(dilation) != {1} else {})


def _pair(lengths: object) -> tuple[int, int]:
    """Height and width of four lengths, channels last."""
    whole = isinstance(lengths, list) and len(lengths) == 4 and all(type(n) is int for n in lengths)
    return (lengths[1], lengths[2]) if whole else (1, 1)  # type: ignore[index]
