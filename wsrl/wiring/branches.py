"""Blocks whose branches read the same map and whose results are joined (Szegedy et al., Inception, 2014 to 2017)."""

import re
from collections.abc import Iterator

from wsrl.wiring.course import Course, Misfit, join, kind
from wsrl.wiring.dims import Value, in_blocks, size_of
from wsrl.wiring.joining import all_of
from wsrl.wiring.tree import Node, natural

STEP = re.compile(r"(branch\d)(?:_(\d+)([ab]?))?")


def _joined(run: Course, node: Node, value: Value) -> Value:
    """Steps of branches are numbered; two of one number, `a` and `b`, are joined."""
    lines: dict[str, dict[int, list[Node]]] = {}
    for name in sorted(node.children, key=natural):
        match = STEP.fullmatch(name)
        if match is None and name != "conv2d":
            raise Misfit
        if match is not None:
            lines.setdefault(match[1], {}).setdefault(int(match[2] or 0), []).append(node.children[name])
    found = []
    for line in sorted(lines, key=natural):
        through = value
        for step in sorted(lines[line]):
            through = join([run.stack(member, through) for member in lines[line][step]])
        found.append(through)
    joined = join(found)
    if "conv2d" in node.children:  # what it returns is added to the map
        return run.add(value, run.stack(node.children["conv2d"], joined))
    if "branch3" in lines:
        return joined
    pooled = join((joined, value))  # a map that was pooled alone comes last
    return pooled if _is_read(node, pooled, joined) else joined


def _beside_pooled(run: Course, node: Node, value: Value) -> Value:
    """A convolution of a map beside what is pooled of it; nothing tells which of them comes first."""
    found = run.stack(node.children["conv"], value)
    both = join((found, value))
    if len(node.children) > 1 or not _is_read(node, both, found):
        raise Misfit
    return all_of(in_blocks([both], []), size_of(both))


def _is_read(node: Node, value: Value, other: Value) -> bool:
    """Whether some block or layer of the network reads a value of this size and none reads one of the other."""
    root = node
    while root.parent is not None:
        root = root.parent
    read: set[int] = set()
    for child in _outside_branches(root):
        read.add(max((leaf.fan_in for leaf in child.leaves() if leaf.kind in ("conv", "linear")), default=0))
    if (size_of(value) in read) == (size_of(other) in read):
        raise Misfit
    return size_of(value) in read


def _outside_branches(node: Node) -> Iterator[Node]:
    """Layers that lie in no branch, and blocks of branches, which read nothing longer than what they are given."""
    if not node.children or any(name.startswith("branch") for name in node.children):
        yield node
    else:
        for child in node.children.values():
            yield from _outside_branches(child)


KINDS = (
    kind("branch0 branch1", "branch0.conv branch0.0.conv", _joined),
    kind("branch0 branch3", "branch0.conv branch0.0.conv", _joined),
    kind("branch1 branch2 branch3 branch4", "branch1.conv branch1.0.conv", _joined),
    kind("conv", "conv.conv", _beside_pooled),
)
