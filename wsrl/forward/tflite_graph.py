"""The graph of a TFLite file as a `ForwardGraph`: its operators, whose maps have their channels last, become ONNX's.

A convolution becomes a transposition to channels first, the convolution, and one back. Transpositions are views of
arrays that have their channels last in memory, so that nothing is copied.
Operators: https://ai.google.dev/edge/litert, `tensorflow/compiler/mlir/lite/schema/schema.fbs`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.forward.graph import ForwardGraph, Step
from wsrl.forward.plain_graph import answer_of, constants_of, input_of
from wsrl.forward.steps import FIRST, Steps

SAME = {  # operators that do to their inputs what one of ONNX does
    **{"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "POW": "Pow", "MAXIMUM": "Max", "MINIMUM": "Min"},
    **{"EQUAL": "Equal", "LESS": "Less", "LESS_EQUAL": "LessOrEqual", "GREATER": "Greater", "ADD_N": "Sum"},
    **{"GREATER_EQUAL": "GreaterOrEqual", "LOGICAL_AND": "And", "LOGICAL_OR": "Or", "LOGICAL_NOT": "Not"},
    **{"SELECT": "Where", "SELECT_V2": "Where", "RELU": "Relu", "LOGISTIC": "Sigmoid", "TANH": "Tanh", "EXP": "Exp"},
    **{"LOG": "Log", "SQRT": "Sqrt", "ABS": "Abs", "NEG": "Neg", "SIN": "Sin", "COS": "Cos", "FLOOR": "Floor"},
    **{"CEIL": "Ceil", "ROUND": "Round", "SIGN": "Sign", "HARD_SWISH": "HardSwish", "ELU": "Elu", "PRELU": "PRelu"},
    **{"QUANTIZE": "Identity", "DEQUANTIZE": "Identity", "LOG_SOFTMAX": "LogSoftmax", "SHAPE": "Shape"},
    **{"BROADCAST_TO": "Expand", "TILE": "Tile", "GATHER_ND": "GatherND", "RANGE": "Range"},
}
REDUCTIONS = {
    **{"MEAN": "ReduceMean", "SUM": "ReduceSum", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin"},
    "REDUCE_PROD": "ReduceProd",
}
LIMITS = {"RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}


def from_tflite(checkpoint: Checkpoint, output: str | None = None) -> ForwardGraph:
    """Returns the graph of a TFLite file.

    Args:
      checkpoint: of the file.
      output: name of the value that holds the answers; None for the only one that the graph returns.

    Raises:
      CheckpointError: it has no graph, reads several values, or returns several.
    """
    graph: Mapping = checkpoint.metadata["graph"]  # pyright: ignore[reportAssignmentType]
    name, batch, shape = input_of(checkpoint, graph)
    translation = _Translation(checkpoint, graph)
    for node in graph["nodes"]:
        translation.add_node(node)
    constants = constants_of(graph, checkpoint) | translation.constants
    answer = output or answer_of(checkpoint, graph)
    return ForwardGraph(tuple(translation.steps), name, shape, answer, constants, channels_last=True, batch=batch)


class _Translation(Steps):
    """Steps so far, and what is known of the file's values."""

    def __init__(self, checkpoint: Checkpoint, graph: Mapping):
        super().__init__()
        self.checkpoint = checkpoint
        self.numbers: Mapping = graph["constants"]
        self.shapes: dict[str, list[int | None]] = {value["name"]: value["shape"] for value in graph["values"]}
        self.shapes |= {name: [*tensor.shape] for name, tensor in checkpoint.tensors.items()}

    def add_node(self, node: Mapping) -> None:
        """Adds what a node does, its activation included."""
        rule = RULES.get(node["op"])
        told = node["attributes"].get("activation", "NONE")
        if rule is None or told not in ("NONE", "RELU", "TANH", *LIMITS):
            missing = node["op"] if rule is None else f"{node['op']} with {told}"
            self.steps.append(Step(missing, tuple(node["inputs"]), tuple(node["outputs"])))
            return
        try:
            found = rule(self, node)
        except (IndexError, KeyError, ValueError, TypeError) as error:
            reason = f"operator {node['op']} is not as TFLite has it ({error})"
            raise CheckpointError(self.checkpoint.path, reason, "search by weights") from error
        if found:  # else the rule names the outputs itself
            if told != "NONE":
                found = self.activated(told, found)
            self.steps.append(Step("Identity", (found,), tuple(node["outputs"][:1])))

    def activated(self, activation: str, value: str) -> str:
        """Adds an activation."""
        if activation in LIMITS:
            low, high = LIMITS[activation]
            return self.add("Clip", value, min=low, max=high)
        return self.add(activation.capitalize(), value)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor of the file."""
        return tuple(self.checkpoint.tensors[name].shape)

    def known(self, name: str) -> list[int]:
        """Numbers of a constant, flattened."""
        return np.asarray(self.numbers[name]).reshape(-1).tolist()


def _same(t: _Translation, node: Mapping) -> str:
    return t.add(SAME[node["op"]], *node["inputs"])


def _window(node: Mapping) -> dict[str, object]:
    told = node["attributes"]
    padding = {"SAME": "SAME_UPPER", "VALID": "VALID"}[told["padding"]]
    found: dict[str, object] = {"auto_pad": padding, "strides": (told["stride_h"], told["stride_w"])}
    if "dilation_h" in told:
        found["dilations"] = (told["dilation_h"] or 1, told["dilation_w"] or 1)
    if "filter_height" in told:
        found["kernel_shape"] = (told["filter_height"], told["filter_width"])
    return found


def _conv(t: _Translation, node: Mapping) -> str:
    x, weight, *bias = node["inputs"]
    depthwise = node["op"] == "DEPTHWISE_CONV_2D"
    kernel = t.add("Transpose", weight, perm=(3, 0, 1, 2) if depthwise else FIRST)
    group = t.shape(weight)[3] // (node["attributes"]["depth_multiplier"] or 1) if depthwise else 1
    if not depthwise and (channels := t.shapes.get(x, [None])[-1]):
        group = channels // t.shape(weight)[3]
    return t.add_on_channels_first("Conv", x, kernel, *bias, group=group, **_window(node))


def _conv_transpose(t: _Translation, node: Mapping) -> str:
    shape, weight, x, *bias = node["inputs"]
    size = tuple(t.known(shape)[1:3])
    kernel = t.add("Transpose", weight, perm=(3, 0, 1, 2))
    return t.add_on_channels_first("ConvTranspose", x, kernel, *bias, output_shape=size, **_window(node))


def _pool(t: _Translation, node: Mapping) -> str:
    op = {"AVERAGE_POOL_2D": "AveragePool", "MAX_POOL_2D": "MaxPool"}[node["op"]]
    return t.add_on_channels_first(op, node["inputs"][0], **_window(node))


def _dense(t: _Translation, node: Mapping) -> str:
    x, weight, *bias = node["inputs"]
    kernel = t.add("Transpose", weight, perm=(1, 0))
    if not node["attributes"].get("keep_num_dims"):
        x = t.add("Reshape", x, t.constant([-1, t.shape(weight)[1]]))
    found = t.add("MatMul", x, kernel)
    return t.add("Add", found, *bias) if bias and bias[0] else found


def _batch_mat_mul(t: _Translation, node: Mapping) -> str:
    operands = list(node["inputs"])
    for i, key in enumerate(("adj_x", "adj_y")):
        if node["attributes"].get(key):
            rank = len(t.shapes[operands[i]])
            operands[i] = t.add("Transpose", operands[i], perm=(*range(rank - 2), rank - 1, rank - 2))
    return t.add("MatMul", *operands)


def _reshape(t: _Translation, node: Mapping) -> str:
    x, *shape = node["inputs"]
    wanted = shape[0] if shape and shape[0] else t.constant(node["attributes"]["new_shape"])
    return t.add("Reshape", x, wanted, allowzero=1)


def _softmax(t: _Translation, node: Mapping) -> str:
    x, beta = node["inputs"][0], node["attributes"].get("beta", 1.0)
    return t.add("Softmax", x if beta in (0, 1) else t.add("Mul", x, t.constant(np.float32(beta))), axis=-1)


def _reduce(t: _Translation, node: Mapping) -> str:
    keep = int(bool(node["attributes"].get("keep_dims")))
    return t.add(REDUCTIONS[node["op"]], *node["inputs"][:2], keepdims=keep)


def _pad(t: _Translation, node: Mapping) -> str:
    x, width, *value = node["inputs"]
    pairs = np.asarray(t.known(width)).reshape(-1, 2)
    mode = {"MIRROR_PAD": {"REFLECT": "reflect"}.get(str(node["attributes"].get("mode")))}.get(node["op"], "constant")
    if mode is None:
        raise ValueError("padding by symmetry")
    return t.add("Pad", x, t.constant(pairs.T.reshape(-1)), *value, mode=mode)


def _resize(t: _Translation, node: Mapping) -> str:
    told = node["attributes"]
    way = "half_pixel" if told.get("half_pixel_centers") else "asymmetric"
    way = "align_corners" if told.get("align_corners") else way
    linear = node["op"] == "RESIZE_BILINEAR"
    rounding = "floor" if way == "asymmetric" else "round_prefer_ceil"
    settings = {"mode": "linear" if linear else "nearest", "nearest_mode": rounding}
    x, size = node["inputs"]
    return t.add("Resize", x, "", "", size, axes=(1, 2), coordinate_transformation_mode=way, **settings)


def _strided_slice(t: _Translation, node: Mapping) -> str:
    x, *bounds = node["inputs"]
    starts, ends, steps = (t.known(name) for name in bounds)
    told = node["attributes"]
    if told.get("ellipsis_mask") or told.get("new_axis_mask"):
        raise ValueError("new axes")
    gone = [i for i in range(len(starts)) if told.get("shrink_axis_mask", 0) >> i & 1]
    for i, step in enumerate(steps):
        if i in gone:
            ends[i] = starts[i] + 1 if starts[i] != -1 else 2**31
            continue
        if told.get("begin_mask", 0) >> i & 1:
            starts[i] = 0 if step > 0 else 2**31
        if told.get("end_mask", 0) >> i & 1:
            ends[i] = 2**31 if step > 0 else -(2**31)
    axes = t.constant(list(range(len(starts))))
    found = t.add("Slice", x, t.constant(starts), t.constant(ends), axes, t.constant(steps))
    return t.add("Squeeze", found, t.constant(gone)) if gone else found


def _slice(t: _Translation, node: Mapping) -> str:
    x, begin, size = node["inputs"]
    starts = t.known(begin)
    ends = [2**31 if n < 0 else a + n for a, n in zip(starts, t.known(size), strict=True)]
    return t.add("Slice", x, t.constant(starts), t.constant(ends))


def _split(t: _Translation, node: Mapping) -> str:
    if node["op"] == "SPLIT":
        (axis, x), sizes = node["inputs"], ()
    else:
        x, sizes, axis = node["inputs"]
        sizes = (sizes,)
    t.steps.append(Step("Split", (x, *sizes), tuple(node["outputs"]), {"axis": t.known(axis)[0]}))
    return ""


def _unpack(t: _Translation, node: Mapping) -> str:
    axis = node["attributes"]["axis"]
    parts = tuple(f"{name}:kept" for name in node["outputs"])
    t.steps.append(Step("Split", (node["inputs"][0],), parts, {"axis": axis}))
    for part, name in zip(parts, node["outputs"], strict=True):
        t.steps.append(Step("Squeeze", (part, t.constant([axis])), (name,)))
    return ""


def _pack(t: _Translation, node: Mapping) -> str:
    axis = node["attributes"]["axis"]
    parts = [t.add("Unsqueeze", name, t.constant([axis])) for name in node["inputs"]]
    return t.add("Concat", *parts, axis=axis)


def _blocks(t: _Translation, node: Mapping) -> str:
    op = {"DEPTH_TO_SPACE": "DepthToSpace", "SPACE_TO_DEPTH": "SpaceToDepth"}[node["op"]]
    return t.add_on_channels_first(op, node["inputs"][0], blocksize=node["attributes"]["block_size"])


def _layer_norm(t: _Translation, node: Mapping) -> str:
    told = node["attributes"]
    return t.add("LayerNormalization", *node["inputs"], axis=told["axis"], epsilon=told["epsilon"])


RULES: dict[str, Callable[[_Translation, Mapping], str]] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(LIMITS, lambda t, node: t.activated(node["op"], node["inputs"][0])),
    **{"CONV_2D": _conv, "DEPTHWISE_CONV_2D": _conv, "TRANSPOSE_CONV": _conv_transpose},
    **{"AVERAGE_POOL_2D": _pool, "MAX_POOL_2D": _pool, "FULLY_CONNECTED": _dense, "BATCH_MATMUL": _batch_mat_mul},
    **{"RESHAPE": _reshape, "SOFTMAX": _softmax, "PAD": _pad, "PADV2": _pad, "MIRROR_PAD": _pad},
    **{"RESIZE_BILINEAR": _resize, "RESIZE_NEAREST_NEIGHBOR": _resize, "STRIDED_SLICE": _strided_slice},
    **{"SLICE": _slice, "SPLIT": _split, "SPLIT_V": _split, "PACK": _pack, "UNPACK": _unpack},
    **{"DEPTH_TO_SPACE": _blocks, "SPACE_TO_DEPTH": _blocks, "LayerNormalization": _layer_norm},
    "CONCATENATION": lambda t, node: t.add("Concat", *node["inputs"], axis=node["attributes"]["axis"]),
    "TRANSPOSE": lambda t, node: t.add("Transpose", node["inputs"][0], perm=tuple(t.known(node["inputs"][1]))),
    "SQUEEZE": lambda t, node: t.add("Squeeze", node["inputs"][0], t.constant(node["attributes"]["squeeze_dims"])),
    "EXPAND_DIMS": lambda t, node: t.add("Unsqueeze", *node["inputs"]),
    "GATHER": lambda t, node: t.add("Gather", *node["inputs"], axis=node["attributes"].get("axis", 0)),
    "CAST": lambda t, node: t.add("Cast", node["inputs"][0], to=1),
    "RSQRT": lambda t, node: t.add("Reciprocal", t.add("Sqrt", node["inputs"][0])),
    "SQUARE": lambda t, node: t.add("Mul", node["inputs"][0], node["inputs"][0]),
    "SQUARED_DIFFERENCE": lambda t, node: t.add("Pow", t.add("Sub", *node["inputs"]), t.constant(2)),
    "LEAKY_RELU": lambda t, node: t.add("LeakyRelu", node["inputs"][0], alpha=node["attributes"]["alpha"]),
    "L2_NORMALIZATION": lambda t, node: t.add("LpNormalization", node["inputs"][0], axis=-1),
    "ARG_MAX": lambda t, node: t.add("ArgMax", node["inputs"][0], axis=t.known(node["inputs"][1])[0], keepdims=0),
    "GELU": lambda t, node: t.add(
        "Gelu", node["inputs"][0], approximate="tanh" if node["attributes"].get("approximate") else "none"
    ),
}
