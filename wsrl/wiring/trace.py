"""Records which modules run, and turns the record into operations in the order in which data flows.

Every run of a module is a scope that holds the runs of its own modules. Where the modules of a scope run one after
the other (`Scope.ordered`), what one writes takes the place of what was there. Where their order is not known, what
one writes into a group that already has a value is added to it, for it may be: a residual connection, or the branches
of a sum. So `inputs` name all operations whose outputs may come in.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from wsrl.wiring.dims import Value
from wsrl.wiring.tree import Node
from wsrl.wiring.wiring import Fact, Operation, TensorAxis

Indices = tuple[int, ...]

NORM_ROLES = {"weight": "gain", "bias": "shift"}


@dataclass(eq=False)
class Step:
    """An operation that has run.

    Attributes:
      node: its module.
      type, facts: see Operation.
      taken, made: values that come in and go out; None where the axes of the tensors say so.
      after: operations whose outputs come in, where rules know them.
      passes: whether it hands on what it reads, each unit for itself, as a norm does.
      joins: whether it follows the sum of a residual connection around the module that it is a part of.
    """

    node: Node
    type: str
    facts: dict[str, Fact]
    taken: Value | None = None
    made: Value | None = None
    after: tuple["Step", ...] | None = None
    passes: bool = False
    joins: bool = False
    source: str = "names"


@dataclass(eq=False)
class Scope:
    """A module that runs or has run, and what ran within it, in order.

    Attributes:
      ordered: whether the order of `items` is known, each going on where the one before ended.
      beside: whether it runs beside the others of its scope, as a shortcut does.
      certain: of a norm, whether its place is known.
      joins: of a norm, whether it follows the sum of a residual connection.
      passed_by: of a norm, whether a residual connection passes it by.
    """

    node: Node
    items: list["Scope | Step"] = field(default_factory=list)
    ordered: bool = False
    beside: bool = False
    certain: bool = False
    joins: bool = False
    passed_by: bool = False

    def steps(self) -> Iterator[Step]:
        """Yields the operations in it."""
        for item in self.items:
            if isinstance(item, Step):
                yield item
            else:
                yield from item.steps()

    @property
    def norm(self) -> Step | None:
        """The norm that this is, if it is one."""
        own = self.items[0] if len(self.items) == 1 else None
        return own if isinstance(own, Step) and self.node.kind == "norm" else None


class Trace:
    """The record: the scope that is open, within those around it."""

    def __init__(self, root: Node):
        self.root = Scope(root)
        self._open = [self.root]

    @property
    def scope(self) -> Scope:
        """The innermost open scope."""
        return self._open[-1]

    def open(self, node: Node, certain: bool) -> None:
        """A module begins to run."""
        self._open.append(Scope(node, certain=certain))

    def close(self, ran: bool) -> None:
        """It has run, or could not run and leaves no trace."""
        scope = self._open.pop()
        if ran and scope.items:
            self.scope.items.append(scope)

    def run_beside(self, start: int) -> None:
        """What has run in the open scope, from item `start` on, runs beside the other items."""
        for item in self.scope.items[start:]:
            if isinstance(item, Scope):
                item.beside = True

    def add(self, step: Step) -> None:
        """Adds an operation to the open scope."""
        self.scope.items.append(step)

    def add_others(self, root: Node) -> list[Node]:
        """Adds the modules with tensors that have not run, each after the one before it in natural order.

        Nothing is known of what they read and return. Returns them.
        """
        places: dict[int, tuple[Scope, Scope | Step]] = {}

        def look(scope: Scope) -> None:
            for item in scope.items:
                if isinstance(item, Step):
                    places[id(item.node)] = (scope, item)
                else:
                    look(item)
                    if len(item.items) == 1:  # a module with a scope of its own
                        places.update((id(s.node), (scope, item)) for s in item.items if isinstance(s, Step))

        look(self.root)
        added, before = [], None
        for leaf in root.leaves():
            if id(leaf) not in places:
                type = {"container": "other", "norm": norm_type(leaf)}.get(leaf.kind, leaf.kind)
                step = Step(leaf, type, {}, taken=(), made=(), source="assumed")
                scope, item = places[id(before)] if before is not None else (self.root, None)
                scope.items.insert(0 if item is None else scope.items.index(item) + 1, step)
                places[id(leaf)] = (scope, step)
                added.append(leaf)
            before = leaf
        return added


@dataclass
class _State:
    """What groups hold in a scope: group -> operations whose outputs it is the sum of.

    Attributes:
      values: of groups that have been written here.
      normed: of groups that a norm has read which others pass by; until they are written.
      beside: of groups that modules beside the others have written.
      taken: groups that were read from outside.
      replaced: groups of which what was outside is already in the value.
      passed: groups that have only been normed or the like.
    """

    scope: Scope
    values: dict[int, Indices] = field(default_factory=dict)
    normed: dict[int, Indices] = field(default_factory=dict)
    beside: dict[int, Indices] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    replaced: set[int] = field(default_factory=set)
    passed: set[int] = field(default_factory=set)


class Connector:
    """Walks through scopes and finds the inputs of each operation.

    Args:
      axes: tensor -> values along its axes.
      reads, writes: axes that are read and written.
    """

    def __init__(self, axes: Mapping[str, list[Value | None]], reads: set[TensorAxis], writes: set[TensorAxis]):
        self.axes, self.reads, self.writes = axes, reads, writes
        self.operations: list[Operation] = []
        self._index: dict[int, int] = {}
        self._stack: list[_State] = []

    def run(self, scope: Scope) -> None:
        """Adds the operations of a scope."""
        self._stack.append(_State(scope))
        for item in scope.items:
            if isinstance(item, Step):
                self._step(item, scope)
            else:
                self.run(item)
        own = self._stack.pop()
        if self._stack:
            self._hand_on(own)

    def groups_of(self, step: Step) -> tuple[list[int], list[int]]:
        """Groups of what a step reads and of what it writes."""
        taken, made = (self._along(self._axes_of(step, directed)) for directed in (self.reads, self.writes))
        return groups(taken if step.taken is None else step.taken), groups(made if step.made is None else step.made)

    @staticmethod
    def _axes_of(step: Step, directed: set[TensorAxis]) -> tuple[TensorAxis, ...]:
        tensors = step.node.tensors.values()
        return tuple((name, i) for name, shape in tensors for i in range(len(shape)) if (name, i) in directed)

    def _along(self, axes: Iterable[TensorAxis]) -> Value:
        return tuple(dim for name, axis in axes for dim in self.axes[name][axis] or ())

    def _step(self, step: Step, scope: Scope) -> None:
        taken, made = self.groups_of(step)
        if step.after is not None:
            inputs = [self._index[id(s)] for s in step.after if id(s) in self._index]
        else:
            inputs = [i for group in taken for i in self._read(group, self._stack)]
        joins = scope.joins or step.joins
        if joins:
            around = self._stack[: -2 if scope.joins else -1]
            inputs += [i for group in taken for i in self._read(group, around)]
        own = self._index[id(step)] = len(self.operations)
        self.operations.append(
            Operation(
                step.node.dotted,
                step.type,
                roles_of(step.node, step.type),
                self._axes_of(step, self.reads),
                self._axes_of(step, self.writes),
                tuple(sorted({*inputs})),
                step.source,
                step.facts,
            )
        )
        state = self._stack[-1]
        for group in made:
            beside = step.type == "attention" and step.after is None  # queries, keys and values act together
            passed = step.passes and not joins and (group not in state.values or group in state.passed)
            (state.passed.add if passed else state.passed.discard)(group)
            state.values[group] = (*state.values.get(group, ()), own) if beside else (own,)
            if joins:
                state.replaced.add(group)

    @staticmethod
    def _read(group: int, stack: list["_State"]) -> Indices:
        """What a group holds, seen from the innermost of some scopes."""
        for depth in range(len(stack) - 1, -1, -1):
            state = stack[depth]
            if group in state.normed or group in state.values:
                for inner in stack[depth + 1 :]:
                    inner.taken.add(group)
                return state.normed.get(group) or state.values[group]
        return ()

    def _held(self, group: int) -> Indices:
        """What a group holds apart from norms that others pass by."""
        return next((state.values[group] for state in reversed(self._stack) if group in state.values), ())

    def _hand_on(self, own: _State) -> None:
        """Puts what a scope has written into the scope around it."""
        outer, scope = self._stack[-1], own.scope
        single = scope.items[0] if len(scope.items) == 1 else None
        leaf = single if isinstance(single, Step) else None
        returned = {**own.values, **own.beside}
        if returned.keys() - own.passed:  # what is normed for layers within the scope is not what it returns
            returned = {group: made for group, made in returned.items() if group not in own.passed & own.taken}
        for group in returned:
            made = (*own.values.get(group, ()), *own.beside.get(group, ()))
            if scope.passed_by:
                outer.normed[group] = made
                continue
            if scope.beside:
                outer.beside[group] = (*outer.beside.get(group, ()), *made)
                continue
            in_order = leaf is not None and (outer.scope.ordered or leaf.passes)
            if group in own.taken and not in_order and group not in own.replaced:
                made = (*made, *self._held(group))  # there may be a residual connection
            elif group not in own.taken and not in_order and group not in own.replaced:
                made = (*outer.values.get(group, ()), *made)  # branches of a sum
            if leaf is not None and leaf.passes and leaf.after is not None:  # it acts on one part of a sum
                normed = {self._index.get(id(step)) for step in leaf.after}
                made = (*(i for i in outer.values.get(group, ()) if i not in normed), *made)
            passed = group in own.passed and (group not in outer.values or group in outer.passed)
            (outer.passed.add if passed else outer.passed.discard)(group)
            outer.values[group] = tuple(dict.fromkeys(made))
            outer.normed.pop(group, None)
            (outer.replaced.add if group in own.replaced else outer.replaced.discard)(group)


def groups(value: Value) -> list[int]:
    """Ids of the groups that the dims of a value belong to, each once."""
    return list(dict.fromkeys(id(dim.find()[0]) for dim in value))


def norm_type(node: Node) -> str:
    """`batch norm` for a norm with statistics, else `norm`."""
    return "batch norm" if {"mean", "variance"} <= node.tensors.keys() else "norm"


def roles_of(node: Node, type: str) -> dict[str, str]:
    """Role -> tensor, of a module."""
    renamed = NORM_ROLES if type in ("norm", "batch norm") else {}
    return {renamed.get(role, role).removeprefix("."): tensor for role, (tensor, _) in node.tensors.items()}
