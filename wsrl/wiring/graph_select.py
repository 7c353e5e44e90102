"""What operators that take parts of a value do to its dims: ONNX's Slice, Split and Gather, and those of TFLite.

An axis of which a part is taken loses its units: they are fixed, unless the part is all of it.
"""

from collections.abc import Mapping

from wsrl.wiring.dims import fix, mark, size_of
from wsrl.wiring.graph_flow import Axes, GraphFlow, Rule

FAR = 1 << 31  # ends beyond it stand for the end of the axis


def _slice(flow: GraphFlow, node: Mapping) -> Axes:
    """ONNX: starts, ends, axes and steps are inputs, of old files attributes."""
    x = flow.of(node, 0)
    starts, ends, axes, steps = (
        flow.constant(node, i, key) for i, key in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    if axes is None and starts is not None:
        axes = list(range(len(starts)))
    if axes is None:
        raise ValueError("unknown axes")
    result = list(x)
    for i, place in enumerate(axes):
        axis = x[place % len(x)]
        known = starts is not None and ends is not None and (steps is None or steps[i] == 1)
        if axis is None:
            continue
        if not (known and starts and ends and starts[i] == 0 and ends[i] >= min(size_of(axis), FAR)):
            fix(axis)
            result[place % len(x)] = None
    return result


def _strided_slice(flow: GraphFlow, node: Mapping) -> Axes:
    """TFLite: begin, end and strides of all axes, and bits that leave one open or drop it."""
    x, masks = flow.of(node, 0), node["attributes"]
    begin, end, strides = (flow.constant(node, i, "") for i in (1, 2, 3))
    odd = any(masks.get(f"{name}_mask") for name in ("ellipsis", "new_axis"))
    if begin is None or end is None or strides is None or odd or len(begin) > len(x):
        raise ValueError("a part that is not known")
    result: Axes = []
    for i, axis in enumerate(x):
        if i >= len(begin):
            result.append(axis)
            continue
        dropped = masks.get("shrink_axis_mask", 0) >> i & 1
        first = bool(masks.get("begin_mask", 0) >> i & 1) or begin[i] == 0
        last = bool(masks.get("end_mask", 0) >> i & 1) or (axis is not None and end[i] >= size_of(axis))
        if dropped or not (first and last and strides[i] == 1):
            fix(axis or ())
            axis = None
        result += [] if dropped else [axis]
    return result


def _split(flow: GraphFlow, node: Mapping) -> Axes:
    """Parts along one axis, whose other axes stay."""
    x = flow.of(node, 0)
    axis = node["attributes"].get("axis", 0)
    if node["op"] == "SPLIT":
        place = flow.constants.get(node["inputs"][0])
        x, axis = flow.of(node, 1), place if isinstance(place, int) else (place or [None])[0]
    if not isinstance(axis, int):
        raise ValueError("unknown axis")
    fix(x[axis % len(x)] or ())
    result = [None if i == axis % len(x) else entry for i, entry in enumerate(x)]
    for name in node["outputs"][1:]:
        flow.values[name] = list(result)
    return result


def _gather(flow: GraphFlow, node: Mapping) -> Axes:
    """A table of embeddings [entries, units] is read by index; of another value entries of an axis are taken."""
    table, places = flow.of(node, 0), flow.values.get(node["inputs"][1])
    axis = node["attributes"].get("axis", 0) % max(len(table), 1)
    known = flow.constants.get(node["inputs"][1])
    rank = len(places) if places is not None else 0 if isinstance(known, int) else 1
    if axis == 0 and node["inputs"][0] in flow.shapes and known is None:
        flow.reads(node, 0, 0)
        flow.writes(node, 0, 1)
        mark(table[0] or (), "input")
        return [*[None] * (len(places) if places is not None else 1), *table[1:]]
    if known is None and places is None:
        raise ValueError("unknown places")
    fix(table[axis] or ())
    return [*table[:axis], *[None] * rank, *table[axis + 1 :]]


RULES: dict[str, Rule] = {
    **{"Slice": _slice, "STRIDED_SLICE": _strided_slice, "Split": _split, "SPLIT": _split},
    **{"Gather": _gather, "GATHER": _gather},
}
