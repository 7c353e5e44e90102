"""Convolutions whose groups are weighted against each other, channel by channel."""

from wsrl.wiring.course import Course, Misfit, kind
from wsrl.wiring.dims import Value, size_of, view
from wsrl.wiring.tree import Node


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


KINDS = (kind("conv bn0 fc1 bn1 fc2", "conv", _split),)
