"""What the operators of ONNX and TFLite do to the dims of what they read.

ONNX: https://onnx.ai/onnx/operators; TFLite: the schema's built-in operators, whose maps have their channels last.
"""

from collections.abc import Mapping, Sequence
from math import prod

from wsrl.wiring import graph_select
from wsrl.wiring.dims import Dim, fix, size_of, tie, view
from wsrl.wiring.graph_flow import Axes, Axis, GraphFlow, Rule
from wsrl.wiring.graph_recurrent import recurrent

POINTWISE = (
    *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign", "Gelu"),
    *("HardSwish", "Mish", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Sin", "Cos", "Floor", "Ceil"),
    *(
        "Round",
        "Identity",
        "Dropout",
        "Cast",
        "Clip",
        "Softmax",
        "LogSoftmax",
        "Sign",
        "ThresholdedRelu",
        "Not",
        "CastLike",
        "Swish",
    ),
    *("RELU", "RELU6", "RELU_N1_TO_1", "TANH", "LOGISTIC", "GELU", "HARD_SWISH", "ELU", "LEAKY_RELU", "SOFTMAX"),
    *("LOG_SOFTMAX", "QUANTIZE", "DEQUANTIZE", "CAST", "EXP", "LOG", "SQRT", "RSQRT", "ABS", "NEG", "SQUARE"),
)
BROADCAST = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "PRelu", "Equal", "Less", "Greater", "Where"),
    *("ADD", "SUB", "MUL", "DIV", "POW", "MAXIMUM", "MINIMUM", "PRELU", "SQUARED_DIFFERENCE", "ADD_N"),
)
POOLS = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "Resize", "Upsample", "Pad"),
    *("AVERAGE_POOL_2D", "MAX_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "PAD", "PADV2", "MIRROR_PAD"),
)
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")


def _same(flow: GraphFlow, node: Mapping) -> Axes:
    for name in node["outputs"]:
        flow.single[name] = flow.single.get(node["inputs"][0], frozenset())
    return flow.of(node, 0)


def _broadcast(flow: GraphFlow, node: Mapping) -> Axes:
    """NumPy's rule: axes are aligned from the last; one of length 1 takes the other's place."""
    places = [i for i, name in enumerate(node["inputs"]) if name and flow.values.get(name) is not None]
    numbers = [name for name in node["inputs"] if name and flow.values.get(name) is None]
    names, operands = [node["inputs"][i] for i in places], [flow.of(node, i) for i in places]
    if not all(map(flow.is_one_number, numbers)):  # they may tell places apart
        _fix_all([axis for axes in operands for axis in axes])
    shapes = [flow.shapes.get(name) for name in names]
    rank = max(len(axes) for axes in operands)
    result: Axes = []
    single = set()
    for i in range(1, rank + 1):
        axis, started = None, False
        for name, axes, shape in zip(names, operands, shapes, strict=True):
            one = shape[-i] == 1 if shape is not None and len(axes) >= i else -i in flow.single.get(name, ())
            if len(axes) < i or one:
                continue  # broadcast along this axis
            axis, started = (flow.tie(axis, axes[-i]), True) if started else (axes[-i], True)
        single |= set() if started else {-i}
        result.append(axis)
    flow.single |= dict.fromkeys(node["outputs"], frozenset(single))
    for place, name in enumerate(node["inputs"]):
        for i, n in enumerate(flow.shapes.get(name, ())):
            if n > 1:
                flow.passes(node, place, i)
    return result[::-1]


def _conv(flow: GraphFlow, node: Mapping) -> Axes:
    """Weights [out, in / groups, taps] read channels on axis 1."""
    x, weight, shape = flow.of(node, 0), flow.of(node, 1), flow.shapes[node["inputs"][1]]
    groups = node["attributes"].get("group", 1)
    _fix_all([*x[:1], *x[2:], *weight[2:]])
    out = weight[0]
    flow.writes(node, 1, 0)
    flow.writes(node, 2, 0)
    if groups == 1:
        flow.reads(node, 1, 1)
        flow.tie(x[1], weight[1])
    elif shape[1] == 1 and shape[0] == groups:
        flow.reads(node, 1, 0)
        out = flow.tie(x[1], weight[0])
    else:
        tie_groups(x[1], weight[0], groups)
        fix(weight[1] or ())
    if len(node["inputs"]) > 2:
        flow.tie(out, flow.of(node, 2)[0])
    return [None, out, *[None] * (len(shape) - 2)]


def _conv_transpose(flow: GraphFlow, node: Mapping) -> Axes:
    """Weights [in, out / groups, taps]."""
    x, weight = flow.of(node, 0), flow.of(node, 1)
    _fix_all([*x[:1], *x[2:], *weight[2:]])
    if node["attributes"].get("group", 1) != 1:
        raise ValueError("grouped")
    flow.reads(node, 1, 0)
    flow.writes(node, 1, 1)
    flow.writes(node, 2, 0)
    flow.tie(x[1], weight[0])
    if len(node["inputs"]) > 2:
        flow.tie(weight[1], flow.of(node, 2)[0])
    return [None, weight[1], *[None] * (len(weight) - 2)]


def tie_groups(read: Axis, made: Axis, groups: int) -> None:
    """Channels of a grouped convolution can only be exchanged by whole groups."""
    blocks = Dim(groups)
    for axis in (read, made):
        if axis is None or len(axis) != 1 or size_of(axis) % groups:
            blocks.fixed = True
            fix(axis or ())
    for axis in (read, made):
        if axis is not None and len(axis) == 1 and size_of(axis) % groups == 0:
            tie(axis[0], view(blocks, inner=size_of(axis) // groups))


def _gemm(flow: GraphFlow, node: Mapping) -> Axes:
    name, weight = node["inputs"][0], flow.of(node, 1)
    transposed = node["attributes"].get("transB", 0)
    fan_in, units = (weight[1], weight[0]) if transposed else (weight[0], weight[1])
    size = flow.shapes.get(node["inputs"][1], (0, 0))[1 if transposed else 0]
    if node["attributes"].get("transA", 0):
        raise ValueError("transposed input")
    flow.reads(node, 1, 1 if transposed else 0)
    flow.writes(node, 1, 0 if transposed else 1)
    flow.writes(node, 2, -1)
    x = [flow.unflatten(name, size)] if name in flow.flat else flow.of(node, 0)
    _fix_all(x[:-1])
    flow.tie(x[-1], fan_in)
    if len(node["inputs"]) > 2:
        flow.tie(units, flow.of(node, 2)[-1])
    return [None, units]


def _matmul(flow: GraphFlow, node: Mapping) -> Axes:
    name, other = node["inputs"][:2]
    b = flow.of(node, 1)
    flow.reads(node, 1, -2)
    flow.writes(node, 1, -1)
    flow.reads(node, 0, -1)
    flow.writes(node, 0, -2)
    if name in flow.flat:
        flow.tie(flow.unflatten(name, flow.shapes[other][0]), b[0])
        return [None, b[-1]]
    a = flow.of(node, 0)
    flow.tie(a[-1], b[-2] if len(b) > 1 else b[0])
    _fix_all([*a[:-2], *b[:-2]])
    rows = a[-2] if len(a) > 1 else None
    return [*[None] * (max(len(a), len(b)) - 2), rows, *([b[-1]] if len(b) > 1 else [])]


def _batch_norm(flow: GraphFlow, node: Mapping) -> Axes:
    x = flow.of(node, 0)
    for place in range(1, min(5, len(node["inputs"]))):
        flow.passes(node, place, 0)
        flow.tie(x[1], flow.of(node, place)[0])
    return x


def _layer_norm(flow: GraphFlow, node: Mapping) -> Axes:
    x = flow.of(node, 0)
    if node["attributes"].get("axis", -1) not in (-1, len(x) - 1):
        raise ValueError("over several axes")
    for place in range(1, len(node["inputs"])):
        flow.passes(node, place, -1)
        flow.tie(x[-1], flow.of(node, place)[-1])
    return x


def _pool(flow: GraphFlow, node: Mapping) -> Axes:
    x = flow.of(node, 0)
    channels = len(x) - 1 if node["op"].isupper() else 1
    _fix_all([axis for i, axis in enumerate(x) if i != channels])
    return [axis if i == channels else None for i, axis in enumerate(x)]


def _reduce(flow: GraphFlow, node: Mapping) -> Axes:
    x, dims = flow.of(node, 0), flow.constant(node, 1, "axes")
    keep = node["attributes"].get("keepdims", node["attributes"].get("keep_dims", not node["op"].isupper()))
    if dims is None:
        raise ValueError("unknown axes")
    gone = {n % len(x) for n in dims}
    if keep:
        flow.single |= dict.fromkeys(node["outputs"], frozenset(i - len(x) for i in gone))
    return [None if i in gone else axis for i, axis in enumerate(x) if keep or i not in gone]


def _flatten(flow: GraphFlow, node: Mapping) -> Axes | None:
    """[batch, channels, positions] or [batch, positions, channels] as [batch, units]."""
    x = flow.of(node, 0)
    named = [i for i, axis in enumerate(x) if axis is not None]
    if all(dim.find()[0].role == "input" for i in named for dim in x[i] or ()):
        size = prod(size_of(axis) for axis in x if axis)
        return [None, (Dim(size, role="input"),) if size > 1 else None]
    if len(named) != 1 or named[0] == 0:
        return None
    value = x[named[0]]
    assert value is not None
    if len(x) == 2:
        return x
    if named[0] not in (1, len(x) - 1):
        return None
    for name in node["outputs"]:
        flow.flat[name] = (value, named[0] == 1)
    return [None, None]


def _reshape(flow: GraphFlow, node: Mapping) -> Axes | None:
    shape = flow.constant(node, 1, "new_shape")
    x = flow.of(node, 0)
    if not any(x) and shape:
        nothing: Axes = [None] * len(shape)
        return nothing
    rank, last = (len(shape), shape[-1]) if shape else flow.counted.get(node["inputs"][-1], (0, None))
    if rank > 1 and x[-1] is not None and last == size_of(x[-1]):  # the last axis stays
        _fix_all(x[:-1])
        single = frozenset(i - rank for i, n in enumerate(shape or ()) if n == 1)
        flow.single |= dict.fromkeys(node["outputs"], single)
        return [*[None] * (rank - 1), x[-1]]
    if shape is None and rank == 2 and x[-1] is not None:  # what reads it tells how many places were joined
        _fix_all(x[:-1])
        flow.flat |= dict.fromkeys(node["outputs"], (x[-1], False))
        return [None, None]
    if shape and shape[:-1] == [0] * (len(shape) - 1) and len(shape) == len(x) - 1 and x[-1] is not None and not x[-2]:
        times = flow.lengths.get(node["inputs"][0], {}).get(len(x) - 2)  # directions of a recurrent layer
        if times is not None and len(x[-1]) == 1:
            return [*x[:-2], (view(x[-1][0], outer=times),)]
    return _flatten(flow, node) if shape is not None and len(shape) == 2 else None


def _transpose(flow: GraphFlow, node: Mapping) -> Axes:
    x = flow.of(node, 0)
    order = flow.constant(node, 1, "perm")
    if order is None and len(node["inputs"]) > 1:
        raise ValueError("an order that is computed")
    order = order or list(range(len(x)))[::-1]
    lengths = flow.lengths.get(node["inputs"][0], {})
    flow.lengths[node["outputs"][0]] = {new: lengths[old] for new, old in enumerate(order) if old in lengths}
    return [x[i] for i in order]


def _squeeze(flow: GraphFlow, node: Mapping) -> Axes:
    x = flow.of(node, 0)
    dims = flow.constant(node, 1, "axes") or flow.constant(node, 1, "squeeze_dims")
    if dims is None:
        raise ValueError("unknown axes")
    gone = {n % len(x) for n in dims}
    return [axis for i, axis in enumerate(x) if i not in gone]


def _unsqueeze(flow: GraphFlow, node: Mapping) -> Axes:
    x, dims = flow.of(node, 0), flow.constant(node, 1, "axes")
    if dims is None:
        raise ValueError("unknown axes")
    rank = len(x) + len(dims)
    new, rest = {n % rank for n in dims}, iter(x)
    return [None if i in new else next(rest) for i in range(rank)]


def _concat(flow: GraphFlow, node: Mapping) -> Axes:
    operands = [flow.of(node, i) for i in range(len(node["inputs"]))]
    axis = node["attributes"]["axis"] % len(operands[0])
    result: Axes = []
    for i, entries in enumerate(zip(*operands, strict=True)):
        joined = entries[0]
        for entry in entries[1:]:
            joined = flow.tie(joined, entry) if i != axis else (joined + entry if joined and entry else None)
        if i == axis and joined is None:
            _fix_all(entries)
        result.append(joined)
    return result


def _lite_conv(flow: GraphFlow, node: Mapping) -> Axes:
    """TFLite's [out, height, width, in] reads channels on the last axis."""
    x, weight, width = flow.of(node, 0), flow.of(node, 1), flow.shapes.get(node["inputs"][1], (0,))[-1]
    _fix_all([*x[:-1], *weight[1:-1]])
    flow.reads(node, 1, -1)
    flow.writes(node, 1, 0)
    flow.writes(node, 2, 0)
    if width and x[-1] is not None and size_of(x[-1]) > width:  # nothing else tells that it is one in groups
        flow.tell("groups", size_of(x[-1]) // width)
        tie_groups(x[-1], weight[0], size_of(x[-1]) // width)
        fix(weight[-1] or ())
    else:
        flow.tie(x[-1], weight[-1])
    if len(node["inputs"]) > 2 and node["inputs"][2]:
        flow.tie(weight[0], flow.of(node, 2)[0])
    return [None, None, None, weight[0]]


def _lite_depthwise(flow: GraphFlow, node: Mapping) -> Axes:
    """TFLite's [1, height, width, channels x multiplier]."""
    x, weight = flow.of(node, 0), flow.of(node, 1)
    _fix_all([*x[:-1], *weight[1:-1]])
    flow.passes(node, 1, -1)
    flow.writes(node, 2, 0)
    units, times = weight[-1], node["attributes"].get("depth_multiplier", 1)
    if units is not None and times > 1 and x[-1] is not None and len(x[-1]) == 1:
        units = flow.tie(units, (view(x[-1][0], inner=times),))
    else:
        units = flow.tie(x[-1], units)
    if len(node["inputs"]) > 2 and node["inputs"][2]:
        flow.tie(units, flow.of(node, 2)[0])
    return [None, None, None, units]


def _lite_dense(flow: GraphFlow, node: Mapping) -> Axes:
    """TFLite's [out, in]."""
    name, weight = node["inputs"][0], flow.of(node, 1)
    size = flow.shapes.get(node["inputs"][1], (0, 0))[1]
    flow.reads(node, 1, 1)
    flow.writes(node, 1, 0)
    flow.writes(node, 2, 0)
    x = [None, flow.unflatten(name, size)] if name in flow.flat else flow.of(node, 0)
    flow.tie(x[-1], weight[1])
    if len(node["inputs"]) > 2 and node["inputs"][2]:
        flow.tie(weight[0], flow.of(node, 2)[0])
    return [*x[:-1], weight[0]]


def _fix_all(axes: Sequence[Axis]) -> None:
    for axis in axes:
        fix(axis or ())


RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, _same),
    **dict.fromkeys(BROADCAST, _broadcast),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **graph_select.RULES,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), recurrent),
    **{"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul},
    **{"BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "Flatten": _flatten},
    **{"Reshape": _reshape, "RESHAPE": _reshape, "Transpose": _transpose, "TRANSPOSE": _transpose},
    **{"Squeeze": _squeeze, "SQUEEZE": _squeeze, "Unsqueeze": _unsqueeze, "Concat": _concat, "CONCATENATION": _concat},
    **{"CONV_2D": _lite_conv, "DEPTHWISE_CONV_2D": _lite_depthwise, "FULLY_CONNECTED": _lite_dense},
}
