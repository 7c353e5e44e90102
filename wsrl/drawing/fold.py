"""Folds repeated blocks, so that a model of hundreds of layers fits on a screen.

Blocks that follow one another, are numbered alike (`blocks.0`, `blocks.1`, ...) and have the same operations, shapes
and kinds of groups become one: `blocks.{0..11}`. Groups fold with them: those at the same place of such blocks.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from wsrl.text import brace
from wsrl.wiring.wiring import Operation, Segment, TensorAxis, Wiring

DEEPEST = 100  # parts of a path; beyond that it is no path


@dataclass(frozen=True)
class Sides:
    """What an operation reads and writes, each group once; `group` is None for units that are in no group."""

    reads: tuple[Segment, ...]
    writes: tuple[Segment, ...]


@dataclass(frozen=True)
class Row:
    """Operations at the same place of repeated blocks; one operation where nothing repeats.

    Attributes:
      name: their common name, e.g. `blocks.{0..11}.attn.qkv`.
      operations, sides: in the order in which data flows.
      blocks: folded blocks around them, outermost first: (name, how many).
      shape: of the tensor that stands for each of them, the one of most axes, then of most entries.
      parameters: of all of them together.
    """

    name: str
    operations: tuple[Operation, ...]
    sides: tuple[Sides, ...]
    blocks: tuple[tuple[str, int], ...]
    shape: tuple[int, ...]
    parameters: int

    @property
    def type(self) -> str:
        """What the operations are."""
        return self.operations[0].type


@dataclass(frozen=True)
class GroupRow:
    """Groups at the same place of repeated blocks: their ids, and the common names of the tensors that hold them.

    Tensors with more axes come first.
    """

    ids: tuple[str, ...]
    tensors: tuple[str, ...]


@dataclass
class _Node:
    """A part of the paths: its own operation, if any, the parts below it, and what makes it equal to another."""

    path: str
    operation: Operation | None = None
    children: "dict[str, _Node]" = field(default_factory=dict)  # path -> node
    structure: Hashable = None


def fold_operations(wiring: Wiring, unfold: bool = False) -> list[Row]:
    """Returns the operations, repeated blocks folded unless `unfold`; tensors of none come last, as `other`."""
    operations = [*(o for o in wiring.operations if o.tensors), *_stray_tensors(wiring)]
    if unfold or any(len(re.findall("[./]", operation.name)) > DEEPEST for operation in operations):
        return [_row([operation], (), wiring) for operation in operations]
    root = _Node("")
    for operation in operations:
        node = root
        for end in re.finditer(r"[./]|$", operation.name):
            path = operation.name[: end.start()]
            node = node.children.setdefault(path, _Node(path))
        if node.operation is not None:  # a name that stands twice is nothing to fold
            return fold_operations(wiring, unfold=True)
        node.operation = operation
    _find_structure(root, wiring)
    return list(_rows([root], (), wiring))


def fold_groups(wiring: Wiring, rows: Iterable[Row]) -> list[GroupRow]:
    """Returns the groups, those folded that are alike and lie on the same axes of the same rows."""
    places: dict[str, dict[tuple, int]] = {group: {} for group in wiring.groups}  # -> axes of the tensor
    for row in rows:
        for tensors in zip(*(operation.tensors.values() for operation in row.operations), strict=True):
            name = brace(tensors)
            for tensor in tensors:
                for i, axis in enumerate(wiring.axes[tensor]):
                    for segment in axis or ():
                        if segment.group is not None:
                            places[segment.group][(name, i, segment.outer, segment.inner)] = len(wiring.axes[tensor])
    folded: dict[Hashable, list[str]] = defaultdict(list)
    for group, neurons in wiring.groups.items():
        folded[(neurons, frozenset(places[group]) or group)].append(group)

    def names(group: str) -> tuple[str, ...]:
        matrices_first = sorted(places[group], key=lambda place: -places[group][place])
        return tuple(dict.fromkeys(name for name, *_ in matrices_first))

    return [GroupRow(tuple(ids), names(ids[0])) for ids in folded.values()]


def _stray_tensors(wiring: Wiring) -> list[Operation]:
    """One operation for each tensor that belongs to none."""
    held = {tensor for operation in wiring.operations for tensor in operation.tensors.values()}
    types = dict.fromkeys(wiring.ignored, "ignored")
    return [Operation(n, types.get(n, "other"), {"value": n}) for n in wiring.shapes if n not in held]


def _find_structure(node: _Node, wiring: Wiring) -> None:
    """Fills `structure` of the node and of those below it."""
    own: Hashable = None
    if node.operation is not None:
        own_sides = _sides(node.operation, wiring)
        sides = [
            tuple((s.length, None if s.group is None else wiring.groups[s.group]) for s in side)
            for side in (own_sides.reads, own_sides.writes)
        ]
        tensors = tuple((role, wiring.shapes[name]) for role, name in node.operation.tensors.items())
        own = (node.operation.type, tensors, *sides)
    for child in node.children.values():
        _find_structure(child, wiring)
    below = tuple((path[len(node.path) :], child.structure) for path, child in node.children.items())
    node.structure = (own, below)


def _rows(nodes: Sequence[_Node], blocks: tuple[tuple[str, int], ...], wiring: Wiring) -> Iterator[Row]:
    """Rows of nodes of one structure."""
    operations = [node.operation for node in nodes if node.operation is not None]
    if operations:
        yield _row(operations, blocks, wiring)
    for start, stop in _runs(list(nodes[0].children.values())):
        below = [child for node in nodes for child in list(node.children.values())[start:stop]]
        inner = (brace([child.path for child in below]), stop - start)
        yield from _rows(below, (*blocks, inner) if stop - start > 1 else blocks, wiring)


def _runs(nodes: Sequence[_Node]) -> Iterator[tuple[int, int]]:
    """(start, stop) of runs of equal numbered nodes; a node that repeats nothing is a run of one."""
    start = 0
    for i in range(1, len(nodes) + 1):
        if i == len(nodes) or _numbered(nodes[i]) != _numbered(nodes[start]):
            yield start, i
            start = i


def _numbered(node: _Node) -> Hashable:
    """What neighbors must share to be repeats of one block: the name without its number, and the structure.

    Layers themselves are folded only where their whole name is a number: `conv1` and `conv2` differ in more than that.
    """
    name = re.split("[./]", node.path)[-1]
    stem = re.fullmatch(r"(.*?)\d+" if node.children else r"()\d+", name)
    return (stem.group(1), node.structure) if stem else id(node)


def _row(operations: Sequence[Operation], blocks: tuple[tuple[str, int], ...], wiring: Wiring) -> Row:
    tensors = operations[0].tensors.values()
    shape = max((wiring.shapes[name] for name in tensors), key=lambda shape: (len(shape), prod(shape)))
    parameters = sum(prod(wiring.shapes[name]) for operation in operations for name in operation.tensors.values())
    sides = tuple(_sides(operation, wiring) for operation in operations)
    return Row(brace([o.name for o in operations]), tuple(operations), sides, blocks, shape, parameters)


def _sides(operation: Operation, wiring: Wiring) -> Sides:
    def merged(axes: Iterable[TensorAxis]) -> tuple[Segment, ...]:
        """The groups of all axes, each once, then the lengths without a group."""
        segments = [
            s for name, axis in axes for s in wiring.axes[name][axis] or (Segment(None, wiring.shapes[name][axis]),)
        ]
        groups = {s.group: Segment(s.group, s.size) for s in segments if s.group is not None}
        fixed = {s.length: Segment(None, s.length) for s in segments if s.group is None}
        return (*groups.values(), *fixed.values())

    return Sides(merged(operation.reads), merged(operation.writes))
