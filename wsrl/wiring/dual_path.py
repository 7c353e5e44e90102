"""Networks of two paths, of which one is added to and the other grows (Chen et al., Dual Path Networks, 2017)."""

import re

from wsrl.wiring.course import Course, Misfit, join, kind
from wsrl.wiring.dims import Value, size_of
from wsrl.wiring.tree import Node

BLOCK = re.compile(r"conv(\d+)_(\d+)")


def _network(run: Course, node: Node, value: Value) -> Value:
    """All blocks one after the other, from the stem to the last norm."""
    parts = node.children
    value = run.stack(parts["conv1_1"], value)
    blocks = {name: match for name in parts if (match := BLOCK.fullmatch(name)) and name != "conv1_1"}
    for name in sorted(blocks, key=lambda name: (int(blocks[name][1]), int(blocks[name][2]))):
        value = _block(run, parts[name], value, parts[f"conv{blocks[name][1]}_1"])
    for leaf in parts["conv5_bn_ac"].leaves():
        value = run.norm(leaf, value)
    return value


def _block(run: Course, node: Node, value: Value, first: Node) -> Value:
    parts = node.children
    width, grown = _widths(node, first)
    shortcut = _shortcut(node)
    found = value
    for name in ("c1x1_a", "c3x3_b"):
        found = _normed_first(run, parts[name], found)
    if "c1x1_c1" in parts:
        for leaf in parts["c1x1_c"].leaves():
            found = run.norm(leaf, found)
        added, new = run.layer(parts["c1x1_c1"], found), run.layer(parts["c1x1_c2"], found)
    else:
        added, new = run.cut(_normed_first(run, parts["c1x1_c"], found, (width, grown)), (width, grown))
    if shortcut is not None:
        sizes = (width, 2 * grown)
        value = _normed_first(run, shortcut, value, sizes)
    kept, dense = run.cut(value, (width, size_of(value) - width))
    return join((run.add(kept, added), dense, new))


def _widths(node: Node, first: Node) -> tuple[int, int]:
    """Units that a block adds, and those by which it grows; a fused layer leaves that to the first of its stage."""
    if "c1x1_c1" in node.children:
        return node.children["c1x1_c1"].units, node.children["c1x1_c2"].units
    shortcut, last = _shortcut(first), node.children["c1x1_c"].children["conv"].units
    if shortcut is None:
        raise Misfit
    grown = shortcut.children["conv"].units - last
    return last - grown, grown


def _shortcut(node: Node) -> Node | None:
    return next((node.children[name] for name in ("c1x1_w_s1", "c1x1_w_s2") if name in node.children), None)


def _normed_first(run: Course, node: Node, value: Value, parts: tuple[int, ...] = ()) -> Value:
    """Norms, then a convolution."""
    for leaf in node.leaves():
        if leaf.kind == "norm":
            run.norm(leaf, value)
    return run.layer(node.children["conv"], value, parts)


KINDS = (kind("conv1_1 conv2_1 conv5_bn_ac", "conv1_1.conv", _network),)
