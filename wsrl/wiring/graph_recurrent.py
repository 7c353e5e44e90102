"""What recurrent operators of ONNX do to the dims of what they read: https://onnx.ai/onnx/operators."""

from collections.abc import Mapping

from wsrl.wiring.dims import Dim, Value, fix, view
from wsrl.wiring.graph_flow import Axes, GraphFlow

LENGTHS, STATES, PEEPHOLES = 4, (5, 6), 7  # places of inputs


def recurrent(flow: GraphFlow, node: Mapping) -> Axes:
    """W [directions, gates x hidden, in], R [directions, gates x hidden, hidden], B [directions, 2 x both].

    Returns [length, directions, batch, hidden]. The units of both directions are permuted alike: the tensors hold them
    along one axis. States from outside, [directions, batch, hidden], have the same units.
    """
    x, w, r = (flow.of(node, i) for i in range(3))
    _, rows, width = flow.shapes[node["inputs"][2]]
    given = [*node["inputs"], *[""] * PEEPHOLES][: PEEPHOLES + 1]
    if node["attributes"].get("layout", 0):
        raise ValueError("the batch first")
    for axes in (w, r, *([flow.of(node, 3)] if given[3] else [])):
        fix(axes[0] or ())  # directions
    for axis in x[:-1]:
        fix(axis or ())
    hidden = Dim(width)
    gates: Value = (view(hidden, outer=rows // width),)
    for place in (1, 2):
        flow.reads(node, place, 2)
        flow.writes(node, place, 1)
    flow.writes(node, 3, 1)
    flow.tie(x[-1], w[2])
    flow.tie(w[1], gates)
    flow.tie(r[1], gates)
    flow.tie(r[2], (hidden,))
    if given[3]:
        flow.tie(flow.of(node, 3)[1], (view(hidden, outer=2 * rows // width),))
    for place in STATES:
        if given[place] and given[place] not in flow.uniform:
            state = flow.values.get(given[place])
            flow.tie(state[-1] if state else None, (hidden,))
    if given[PEEPHOLES]:
        flow.tie(flow.of(node, PEEPHOLES)[1], (view(hidden, outer=3),))
    flow.lengths[node["outputs"][0]] = {1: flow.shapes[node["inputs"][2]][0]}
    for name in node["outputs"][1:]:
        flow.values[name] = [None, None, (hidden,)]
    return [None, None, None, (hidden,)]
