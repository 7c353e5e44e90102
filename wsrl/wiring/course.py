"""Blocks whose course is known: which layers run on what, and where values are cut, joined and added.

A course is written as the code of the block is: a function of its module and of the value that flows in, which calls a
`Course` for each layer and returns what flows out. It runs twice. The first time nothing is recorded, so that it may
find that the block is another one: `Misfit`. Only where sizes and names fit throughout does it run on the network's
values.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from wsrl.wiring.dims import Dim, Value, fix, in_blocks, size_of, tie, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.joining import all_of
from wsrl.wiring.order import numbered
from wsrl.wiring.trace import norm_type
from wsrl.wiring.tree import Node, sorted_children
from wsrl.wiring.values import Env
from wsrl.wiring.wiring import Fact

WIDENS = re.compile(r"expand|excite|(^|[._])up", re.I)  # of the layers of a gate, the second
WIDE = 8  # units in a group of a convolution from which on they, rather than the groups, are taken to be exchanged


Run = Callable[["Course", Node, Value], Value | list[Value]]


class Misfit(Exception):
    """A block is not of the kind that a course is for."""


class Kind(NamedTuple):
    """A kind of block.

    Attributes:
      children: names of modules that it has, beside others.
      first: the layer or norm that reads all of what comes in, by its names from the block down.
      course: see the module; returns one value or a list of several. Raises `Misfit`, or `KeyError` where a module is
        missing.
    """

    children: frozenset[str]
    first: tuple[tuple[str, ...], ...]
    course: "Run"


def kind(children: str, first: str, course: "Run") -> Kind:
    """A kind of block, with names in one word each: `conv1 convs`, and dotted paths of which one is there."""
    return Kind(frozenset(children.split()), tuple(tuple(path.split(".")) for path in first.split()), course)


def run_known(kinds: Sequence[Kind], flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs a block of one of some kinds; None for any other module."""
    if node.kind != "container" or env.is_unknown():
        return None
    last = env.last()
    given = [last.size] if last is not None else []
    for known in kinds:
        # Of a convolution in groups its weight does not tell what comes in; in a list it is certain.
        sizes = given if given and env.only_last else [_read(known, node), *given]
        sizes = sorted(sizes, key=lambda n: not env.visible(n))
        size = next((n for n in sizes if fits(known, node, n)), None)
        if size is None:
            continue
        reader = _readers(known, node)[0]
        entry = flow.pick(env, size, reader)
        if entry is None:
            return False
        found = known.course(Course(flow), node, entry.value)
        for value in found if isinstance(found, list) else [found]:
            env.add(value, spatial=True, returned=isinstance(found, list))
        return True
    return None


def fits(known: Kind, node: Node, size: int = 0) -> bool:
    """Whether a block is of a kind.

    Args:
      size: of what comes in; 0 for what its first layer reads.
    """
    if not known.children <= node.children.keys() or not _readers(known, node):
        return False
    trial = Course(None)
    try:
        known.course(trial, node, (Dim(size or _read(known, node)),))
    except (Misfit, KeyError):
        return False
    return all(leaf in trial.seen for leaf in node.leaves())


def _readers(known: Kind, node: Node) -> list[Node]:
    """The layers, or the norm, that read all of what comes in, side by side."""
    for path in known.first:
        found: Node | None = node
        for name in path:
            found = found.children.get(name) if found is not None else None
        if found is None:
            continue
        layers = sorted_children(found) if numbered(found) else [found]
        if all(leaf.kind in ("conv", "linear") and not leaf.transposed for leaf in layers) or found.kind == "norm":
            return layers
    return []


def _read(known: Kind, node: Node) -> int:
    """How many units they read; 0 where there are none."""
    sizes = [
        max(leaf.own_shape, default=0) if leaf.kind == "norm" else leaf.units if leaf.fan_in == 1 else leaf.fan_in
        for leaf in _readers(known, node)
    ]
    return sum(sizes)


class Course:
    """Runs layers on values, or, without a flow, only looks whether they fit.

    Attributes:
      seen: layers, norms and parameters that have run.
    """

    def __init__(self, flow: Flow | None):
        self.flow = flow
        self.seen: set[Node] = set()

    def layer(self, node: Node, value: Value, parts: Sequence[int] = ()) -> Value:
        """Runs a dense layer or a convolution, of which the length of the value tells the groups.

        Args:
          parts: lengths of the parts into which what it returns is cut later on, in order.
        """
        if node.kind not in ("conv", "linear") or node.transposed or not node.tensors.keys() <= {"weight", "bias"}:
            raise Misfit
        units, fan_in = node.weight[:2]
        groups, rest = divmod(size_of(value), fan_in)
        parts = tuple(parts) or (units,)
        if groups > 1 and node.kind == "linear":
            raise Misfit
        if rest or not groups or units % groups or sum(parts) != units or node.shape("bias") not in (None, (units,)):
            raise Misfit
        self.seen.add(node)
        weight = node.tensors["weight"][0]
        if groups > 1:
            out, read = _in_groups(value, groups, fan_in, units)
        else:
            out, read = tuple(Dim(n) for n in parts), value
        if self.flow is not None:
            step = self.flow.note(node, node.kind, facts={"kernel": Fact(node.weight[2:], "shapes")})
            if groups > 1:
                step.taken, step.facts["groups"] = value, Fact(groups, "shapes")
                step.passes = units == size_of(value) and fan_in == 1
            if read is not None:
                self.flow.reads(weight, 1, read)
            self.flow.writes(weight, 0, out)
            self.flow.writes_vectors(node, out)
        return out

    def widen(self, node: Node, value: Value) -> Value:
        """Runs a transposed convolution, whose weight is [in, out, ...]."""
        read, units = node.weight[:2]
        if node.kind != "conv" or read != size_of(value) or node.shape("bias") not in (None, (units,)):
            raise Misfit
        self.seen.add(node)
        out = (Dim(units),)
        if self.flow is not None:
            self.flow.note(node, "transposed conv", facts={"kernel": Fact(node.weight[2:], "shapes")})
            self.flow.reads(node.tensors["weight"][0], 0, value)
            self.flow.writes(node.tensors["weight"][0], 1, out)
            self.flow.writes_vectors(node, out)
        return out

    def norm(self, node: Node, value: Value, statistics: bool = True) -> Value:
        """Runs a norm over each unit, or, without `statistics`, one over all units."""
        if node.kind != "norm" or statistics != ("mean" in node.tensors):
            raise Misfit
        self._vectors(node, value, norm_type(node))
        return value

    def scale(self, node: Node, value: Value) -> Value:
        """Runs what holds one number for each unit."""
        for leaf in node.leaves():
            self._vectors(leaf, value, "parameter")
        return value

    def _vectors(self, node: Node, value: Value, type: str) -> None:
        for _, shape in node.tensors.values():
            if [n for n in shape if n > 1] not in ([], [size_of(value)]):
                raise Misfit
        self.seen.add(node)
        if self.flow is not None:
            self.flow.note(node, type)
            self.flow.passes_vectors(node, value)

    def apart(self, node: Node) -> None:
        """Passes by parameters of which no axis holds units, or none that may be exchanged."""
        self.seen.update(node.leaves())
        if self.flow is not None:
            for leaf in node.leaves():
                self.flow.note(leaf, "parameter")

    def table(self, node: Node, value: Value) -> None:
        """Runs a parameter whose last axis holds the units of a value: tokens, or codes of positions."""
        self.over(node, value, len(node.own_shape) - 1)

    def over(self, node: Node, value: Value, axis: int) -> None:
        """Runs a parameter of which some axis holds the units of a value."""
        name, shape = node.tensors.get("value") or node.tensors.get("weight") or ("", ())
        if axis not in range(len(shape)) or shape[axis] != size_of(value):
            raise Misfit
        self.seen.add(node)
        if self.flow is not None:
            self.flow.note(node, "parameter")
            self.flow.passes(name, axis, value)

    def along(self, node: Node, value: Value) -> None:
        """Says that what a layer returns are units that are already there."""
        if node.units != size_of(value):
            raise Misfit
        if self.flow is not None:
            self.flow.writes(node.tensors["weight"][0], 0, value)
            self.flow.writes_vectors(node, value)

    @staticmethod
    def keep(value: Value) -> None:
        """Leaves units in order."""
        fix(value)

    def stack(self, node: Node, value: Value, parts: Sequence[int] = ()) -> Value:
        """Runs layers and norms of channels one after the other: a list of such, or a layer with its norm.

        Args:
          parts: see `layer`; of the last layer.
        """
        if node.kind == "norm":
            return self.norm(node, value)
        if node.kind != "container":
            return self.layer(node, value, parts)
        children = sorted_children(node)
        if not numbered(node) and len(children) > 1:
            children.sort(key=lambda child: child.kind == "norm")
            if [child.kind == "norm" for child in children] != [False, True]:
                raise Misfit
        *_, last = [child for child in children if child.kind != "norm"] or children
        for child in children:
            value = self.stack(child, value, parts if child is last else ())
        return value

    def gate(self, node: Node, value: Value) -> Value:
        """Runs layers whose result multiplies what they read, unit by unit (Hu et al., 2018; Lee and Park, 2020)."""
        layers = [leaf for leaf in node.leaves() if leaf.kind in ("conv", "linear")]
        layers.sort(key=lambda leaf: (leaf.fan_in != size_of(value), bool(WIDENS.search(leaf.dotted))))
        norms = [leaf for leaf in node.leaves() if leaf not in layers]
        across = [leaf for leaf in layers if max(leaf.weight) == max(leaf.weight[2:], default=0)]
        if across:  # along the channels (Wang et al., 2020), whose order counts
            if layers != across or norms:
                raise Misfit
            fix(value)
            self.seen.update(layers)
            return value
        found = value
        for i, leaf in enumerate(layers):
            if leaf.fan_in != size_of(found):
                raise Misfit
            found = self.layer(leaf, found)
            for norm in norms:
                if i + 1 < len(layers) and norm not in self.seen:
                    self.norm(norm, found, "mean" in norm.tensors)
        return self.add(value, found)

    def run(self, node: Node, value: Value, size: int) -> Value:
        """Runs a module by the usual rules; what it returns has a length of `size`."""
        self.seen.update(node.leaves())
        if self.flow is None:
            return (Dim(size),)
        own = Env(node=node)
        given = own.add(value, spatial=True)
        self.flow.run(node, own)
        found = own.entries[-1].value
        if size_of(found) != size or (own.entries[-1] is given and any(leaf.kind != "norm" for leaf in node.leaves())):
            fix(value)
            return (Dim(size, fixed=True),)
        return found

    @staticmethod
    def add(*values: Value) -> Value:
        """Adds values of one length, unit by unit."""
        first, *others = values
        for other in others:
            if size_of(other) != size_of(first):
                raise Misfit
            tie_values(first, other)
        return first

    @staticmethod
    def cut(value: Value, sizes: Sequence[int]) -> list[Value]:
        """Cuts a value into parts of some lengths, all of it; where it has no seams there it is tied in blocks."""
        if sum(sizes) != size_of(value) or min(sizes) < 1:
            raise Misfit
        found, dims = [], list(value)
        for size in sizes:
            part: Value = ()
            while dims and size_of((*part, dims[0])) <= size:
                part = (*part, dims.pop(0))
            if size_of(part) != size:
                base = in_blocks([value], sizes)
                return [all_of(base, n) for n in sizes]
            found.append(part)
        return found


def join(values: Iterable[Value]) -> Value:
    """Values one after the other."""
    return tuple(dim for value in values for dim in value)


def _in_groups(value: Value, groups: int, fan_in: int, units: int) -> tuple[Value, Value | None]:
    """What a convolution in groups returns, and what lies along the axis of its weight that it reads."""
    per_group = units // groups
    if fan_in == 1:
        return (value if per_group == 1 else tuple(view(dim, inner=per_group) for dim in value)), None
    if len(value) > 1 or (fan_in >= WIDE and per_group >= WIDE):
        within = in_blocks([value], [fan_in])
        return (view(Dim(per_group), outer=groups),), all_of(within, fan_in)
    blocks = Dim(groups)
    for dim in value:  # there is one
        tie(dim, view(blocks, inner=fan_in))
    return (view(blocks, inner=per_group),), None
