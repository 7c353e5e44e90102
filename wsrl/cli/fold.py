"""Folds repeated blocks, so that a model of hundreds of layers fits on a screen.

Blocks that follow one another, are numbered alike (`blocks.0`, `blocks.1`, ...) and have the same modules, shapes and
kinds of groups become one: `blocks.{0..11}`. Groups fold with them: those that lie at the same place of such blocks.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from wsrl.cli.flow import Flow, module_flow
from wsrl.cli.text import brace
from wsrl.wiring.claim import Claim, Module

DEEPEST = 100  # parts of a module's path; beyond that it is no path


@dataclass(frozen=True)
class Row:
    """Modules at the same place of repeated blocks; one module where nothing repeats.

    Attributes:
      name: their common name, e.g. `blocks.{0..11}.attn.qkv`.
      modules, flows: in natural order, one of each a module.
      blocks: folded blocks around them, outermost first: (name, how many).
      shape: of the tensor that stands for each of them, the one of most axes, then of most entries.
      parameters: of all of them together.
    """

    name: str
    modules: tuple[Module, ...]
    flows: tuple[Flow, ...]
    blocks: tuple[tuple[str, int], ...]
    shape: tuple[int, ...]
    parameters: int

    @property
    def kind(self) -> str:
        """What the modules are."""
        return self.modules[0].kind


@dataclass(frozen=True)
class GroupRow:
    """Groups at the same place of repeated blocks: their ids, and the common names of the tensors that hold them.

    Tensors with more axes come first.
    """

    ids: tuple[str, ...]
    tensors: tuple[str, ...]


@dataclass
class _Node:
    """A part of the module paths: its own module, if any, the parts below it, and what makes it equal to another."""

    path: str
    module: Module | None = None
    children: "dict[str, _Node]" = field(default_factory=dict)  # path -> node
    structure: Hashable = None


def fold_modules(claim: Claim, unfold: bool = False) -> list[Row]:
    """Returns the modules, repeated blocks folded unless `unfold`; tensors of no module come last, as `other`."""
    modules = [*claim.modules, *_stray_modules(claim)]
    if unfold or any(len(re.findall("[./]", module.name)) > DEEPEST for module in modules):
        return [_row([module], (), claim) for module in modules]
    root = _Node("")
    for module in modules:
        node = root
        for end in re.finditer(r"[./]|$", module.name):
            path = module.name[: end.start()]
            node = node.children.setdefault(path, _Node(path))
        if node.module is not None:  # a name that stands twice is nothing to fold
            return fold_modules(claim, unfold=True)
        node.module = module
    _find_structure(root, claim)
    return list(_rows([root], (), claim))


def fold_groups(claim: Claim, rows: Iterable[Row]) -> list[GroupRow]:
    """Returns the groups, those folded that are alike and lie on the same axes of the same rows."""
    places: dict[str, dict[tuple, int]] = {group: {} for group in claim.groups}  # -> axes of the tensor
    for row in rows:
        for tensors in zip(*(module.tensors for module in row.modules), strict=True):
            name = brace(tensors)
            for tensor in tensors:
                for i, axis in enumerate(claim.axes[tensor]):
                    for segment in axis or ():
                        if segment.group is not None:
                            places[segment.group][(name, i, segment.outer, segment.inner)] = len(claim.axes[tensor])
    folded: dict[Hashable, list[str]] = defaultdict(list)
    for group, neurons in claim.groups.items():
        folded[(neurons, frozenset(places[group]) or group)].append(group)

    def names(group: str) -> tuple[str, ...]:
        matrices_first = sorted(places[group], key=lambda place: -places[group][place])
        return tuple(dict.fromkeys(name for name, *_ in matrices_first))

    return [GroupRow(tuple(ids), names(ids[0])) for ids in folded.values()]


def _stray_modules(claim: Claim) -> list[Module]:
    """One module for each tensor that belongs to none."""
    held = {tensor for module in claim.modules for tensor in module.tensors}
    kinds = dict.fromkeys(claim.ignored, "ignored")
    return [Module(name, kinds.get(name, "other"), (name,)) for name in claim.shapes if name not in held]


def _find_structure(node: _Node, claim: Claim) -> None:
    """Fills `structure` of the node and of those below it."""
    own: Hashable = None
    if node.module is not None:
        flow = module_flow(node.module, claim)
        sides = [
            tuple((s.length, None if s.group is None else claim.groups[s.group]) for s in side)
            for side in (flow.inputs, flow.outputs)
        ]
        tensors = tuple((re.split("[./]", name)[-1], claim.shapes[name]) for name in node.module.tensors)
        own = (node.module.kind, tensors, *sides)
    for child in node.children.values():
        _find_structure(child, claim)
    below = tuple((path[len(node.path) :], child.structure) for path, child in node.children.items())
    node.structure = (own, below)


def _rows(nodes: Sequence[_Node], blocks: tuple[tuple[str, int], ...], claim: Claim) -> Iterator[Row]:
    """Rows of nodes of one structure."""
    modules = [node.module for node in nodes if node.module is not None]
    if modules:
        yield _row(modules, blocks, claim)
    for start, stop in _runs(list(nodes[0].children.values())):
        below = [child for node in nodes for child in list(node.children.values())[start:stop]]
        inner = (brace([child.path for child in below]), stop - start)
        yield from _rows(below, (*blocks, inner) if stop - start > 1 else blocks, claim)


def _runs(nodes: Sequence[_Node]) -> Iterator[tuple[int, int]]:
    """(start, stop) of runs of equal numbered nodes; a node that repeats nothing is a run of one."""
    start = 0
    for i in range(1, len(nodes) + 1):
        if i == len(nodes) or _numbered(nodes[i]) != _numbered(nodes[start]):
            yield start, i
            start = i


def _numbered(node: _Node) -> Hashable:
    """What neighbours must share to be repeats of one block: the name without its number, and the structure.

    Layers themselves are folded only where their whole name is a number: `conv1` and `conv2` differ in more than that.
    """
    name = re.split("[./]", node.path)[-1]
    stem = re.fullmatch(r"(.*?)\d+" if node.children else r"()\d+", name)
    return (stem.group(1), node.structure) if stem else id(node)


def _row(modules: Sequence[Module], blocks: tuple[tuple[str, int], ...], claim: Claim) -> Row:
    first = modules[0]
    shape = max((claim.shapes[name] for name in first.tensors), key=lambda shape: (len(shape), prod(shape)))
    parameters = sum(prod(claim.shapes[name]) for module in modules for name in module.tensors)
    flows = tuple(module_flow(module, claim) for module in modules)
    return Row(brace([m.name for m in modules]), tuple(modules), flows, blocks, shape, parameters)
