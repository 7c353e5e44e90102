"""Convolutions whose branches are weighted against each other, channel by channel."""

from wsrl.wiring.course import Course, Misfit, join, kind
from wsrl.wiring.dims import Value, size_of, view
from wsrl.wiring.tree import Node, sorted_children


def _selected(run: Course, node: Node, value: Value) -> Value:
    """Kernels of several sizes, of all channels or of a part each (Li et al., SKNet, 2019)."""
    paths = sorted_children(node.children["paths"])
    width = size_of(value) // len(paths)
    parted = paths[0].children["conv"].fan_in == width
    parts = run.cut(value, (width,) * len(paths)) if parted else [value] * len(paths)
    found = run.add(*(run.stack(path, part) for path, part in zip(paths, parts, strict=True)))
    gate = node.children["attn"].children
    narrow = run.norm(gate["bn"], run.layer(gate["fc_reduce"], found))
    run.add(run.layer(gate["fc_select"], narrow), join([found] * len(paths)))
    return found


def _split(run: Course, node: Node, value: Value) -> Value:
    """Groups of groups of channels that attention sums up (Zhang et al., ResNeSt, 2020)."""
    parts, width = node.children, size_of(value)
    rows = run.norm(parts["bn0"], run.layer(parts["conv"], value))
    radix, rest = divmod(size_of(rows), width)
    groups, uneven = divmod(width, parts["fc1"].fan_in)
    per_group, odd = divmod(parts["conv"].fan_in * groups * radix, width)
    if rest or uneven or odd or per_group != 1 or len(rows) != 1:
        raise Misfit
    base = rows[0].find()[0]
    if base.size * groups * radix != size_of(rows):
        raise Misfit
    found = (view(base, outer=groups),)
    narrow = run.norm(parts["bn1"], run.layer(parts["fc1"], found))
    run.add(run.layer(parts["fc2"], narrow), rows)
    return found


KINDS = (
    kind("paths attn", "paths.0.conv", _selected),
    kind("conv bn0 fc1 bn1 fc2", "conv", _split),
)
