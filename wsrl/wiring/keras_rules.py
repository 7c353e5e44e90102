"""What the nodes of `keras_graph` do to the dims of what they read: maps and weights have their channels last.

https://keras.io/api/layers.
"""

from collections.abc import Mapping

from wsrl.wiring.dims import Dim, fix, size_of, view
from wsrl.wiring.graph_flow import Axes, GraphFlow, Rule
from wsrl.wiring.graph_rules import RULES, tie_groups


def _conv(flow: GraphFlow, node: Mapping) -> Axes:
    """Kernels [positions, in / groups, out]."""
    x, kernel, groups = flow.of(node, 0), flow.of(node, 1), node["attributes"]["group"]
    for axis in (*x[:-1], *kernel[:-2]):
        fix(axis or ())
    flow.reads(node, 1, -2)
    flow.writes(node, 1, -1)
    if groups == 1:
        flow.tie(x[-1], kernel[-2])
    else:
        tie_groups(x[-1], kernel[-1], groups)
        fix(kernel[-2] or ())
    _add_bias(flow, node, kernel[-1])
    return [*[None] * (len(x) - 1), kernel[-1]]


def _tensorflow_conv(flow: GraphFlow, node: Mapping) -> Axes:
    """Nothing but the number of channels tells how many groups a convolution has, where it may have some."""
    x, (*_, width, units) = flow.of(node, 0)[-1], flow.shapes[node["inputs"][1]]
    channels = size_of(x) if x else 1 if -1 in flow.single.get(node["inputs"][0], ()) else 0
    told, known = node["attributes"]["group"], channels > 0 and channels % width == 0
    groups = told or (channels // width if known else 1)
    flow.tell("groups", groups)
    made = _conv(flow, {**node, "attributes": {"group": groups}})
    if not told and not known:
        fix(made[-1] or ())
    flow.single |= dict.fromkeys(node["outputs"], frozenset({-1} if units == 1 else ()))
    return made


def _depthwise(flow: GraphFlow, node: Mapping) -> Axes:
    """Kernels [positions, channels, multiplier]; the channels that are made of one lie side by side."""
    x, kernel = flow.of(node, 0), flow.of(node, 1)
    times = flow.shapes[node["inputs"][1]][-1]
    for axis in (*x[:-1], *kernel[:-2], kernel[-1]):
        fix(axis or ())
    flow.passes(node, 1, -2)
    units = flow.tie(x[-1], kernel[-2])
    if times > 1 and units is not None and len(units) == 1:
        units = (view(units[0], inner=times),)
    elif times > 1:
        fix(units or ())
        units = None
    _add_bias(flow, node, units)
    return [*[None] * (len(x) - 1), units]


def _transposed(flow: GraphFlow, node: Mapping) -> Axes:
    """Kernels [positions, out, in]."""
    x, kernel = flow.of(node, 0), flow.of(node, 1)
    for axis in (*x[:-1], *kernel[:-2]):
        fix(axis or ())
    flow.reads(node, 1, -1)
    flow.writes(node, 1, -2)
    flow.tie(x[-1], kernel[-1])
    _add_bias(flow, node, kernel[-2])
    return [*[None] * (len(x) - 1), kernel[-2]]


def _dense(flow: GraphFlow, node: Mapping) -> Axes:
    """Kernels [in, out] over the last axis."""
    x, kernel = flow.of(node, 0), flow.of(node, 1)
    flow.reads(node, 1, 0)
    flow.writes(node, 1, 1)
    flow.tie(x[-1], kernel[0])
    _add_bias(flow, node, kernel[1])
    return [*x[:-1], kernel[1]]


def _add_bias(flow: GraphFlow, node: Mapping, units: tuple[Dim, ...] | None) -> None:
    if node["inputs"][2]:
        flow.writes(node, 2, 0)
        flow.tie(units, flow.of(node, 2)[0])


def _norm(flow: GraphFlow, node: Mapping) -> Axes:
    """Norms along the last axis, or over it."""
    x = flow.of(node, 0)
    for place, name in enumerate(node["inputs"]):
        if place and name:
            flow.passes(node, place, 0)
            flow.tie(x[-1], flow.of(node, place)[0])
    return x


def _embedding(flow: GraphFlow, node: Mapping) -> Axes:
    """Tables [words, units]."""
    words, units = flow.of(node, 0)
    fix(words or ())
    flow.writes(node, 0, 1)
    return [*[None] * len(flow.of(node, 1)), units]


def _recurrent(flow: GraphFlow, node: Mapping) -> Axes:
    """Kernels [in, gates x hidden] and [hidden, gates x hidden]; biases [gates x hidden], of some cells two of them."""
    x, kernel, states = (flow.of(node, i) for i in range(3))
    width, rows = flow.shapes[node["inputs"][2]]
    for axis in x[:-1]:
        fix(axis or ())
    hidden = (Dim(width),)
    gates = (view(hidden[0], outer=rows // width),)
    for place in (1, 2):
        flow.reads(node, place, 0)
        flow.writes(node, place, 1)
    flow.tie(x[-1], kernel[0])
    flow.tie(kernel[1], gates)
    flow.tie(states[1], gates)
    flow.tie(states[0], hidden)
    if node["inputs"][3]:
        flow.writes(node, 3, -1)
        bias = flow.of(node, 3)
        flow.tie(bias[-1], gates)
        for axis in bias[:-1]:
            fix(axis or ())
    return [None, None, hidden] if node["attributes"]["sequences"] else [None, hidden]


def _both_ways(flow: GraphFlow, node: Mapping) -> Axes:
    """Two cells that read a value forward and backward."""
    value, *weights = node["inputs"]
    *rest, first = _recurrent(flow, {**node, "inputs": [value, *weights[:3]]})
    last = _recurrent(flow, {**node, "inputs": [value, *weights[3:]]})[-1]
    if node["attributes"]["merge"] != "concat":
        return [*rest, flow.tie(first, last)]
    return [*rest, first + last if first and last else None]


def _attention(flow: GraphFlow, node: Mapping) -> Axes:
    """Kernels [in, heads, units] of queries, keys and values, and [heads, units, out]."""
    asking, given = flow.of(node, 0), flow.of(node, 1)
    query, key, value, out = (flow.of(node, place) for place in (2, 4, 6, 8))
    for axis in (*asking[:-1], *given[:-1]):
        fix(axis or ())
    for read, kernel in ((asking, query), (given, key), (given, value)):
        flow.tie(read[-1], kernel[0])
        flow.tie(kernel[1], out[0])
    flow.tie(query[2], key[2])
    flow.tie(value[2], out[1])
    for place, kernel in ((3, query), (5, key), (7, value), (9, out)):
        flow.reads(node, place - 1, 0)
        flow.writes(node, place - 1, -1)
        if node["inputs"][place]:
            flow.writes(node, place, -1)
            for own, bias in zip(kernel[::-1], flow.of(node, place)[::-1], strict=False):
                flow.tie(own, bias)
    return [None, None, out[2]]


def _reshape(flow: GraphFlow, node: Mapping) -> Axes | None:
    """Positions become one axis with the units, or other positions beside the units as they are."""
    x, positions, shape = flow.of(node, 0), node["attributes"]["positions"], node["attributes"]["shape"]
    for axis in x[:-1]:  # units that lie along the positions keep their order
        fix(axis or ())
    if shape is not None:
        single = frozenset(i - len(shape) for i, n in enumerate(shape) if n == 1)
        flow.single |= dict.fromkeys(node["outputs"], single)
        return [*[None] * (len(shape) - 1), x[-1]]
    if x[-1] is None or positions == 1:
        return [None, x[-1]]
    if positions is None:
        return None
    if all(dim.find()[0].role == "input" for dim in x[-1]):
        return [None, (Dim(size_of(x[-1]) * positions, role="input"),)]
    return [None, (view(x[-1][0], outer=positions),)] if len(x[-1]) == 1 else None


KERAS_RULES: dict[str, Rule] = {
    **RULES,
    **{"CONV_2D": _conv, "DEPTHWISE_CONV_2D": _depthwise, "ConvTranspose": _transposed, "FULLY_CONNECTED": _dense},
    **{"BatchNormalization": _norm, "LayerNormalization": _norm, "GATHER": _embedding, "LSTM": _recurrent},
    **{"BIDIRECTIONAL": _both_ways, "MultiHeadAttention": _attention},
    **{"RESHAPE": _reshape, "POOL": RULES["MAX_POOL_2D"], "CROP": RULES["PAD"], "AVERAGE": RULES["ADD"]},
    **dict.fromkeys(("LIMITED_RELU", "RESCALE"), RULES["RELU"]),
}
# TensorFlow's own graphs have the same layouts, and flatten by shapes that they hold.
TENSORFLOW_RULES: dict[str, Rule] = {
    **KERAS_RULES,
    **{"CONV_2D": _tensorflow_conv, "RESHAPE": RULES["RESHAPE"]},
}
