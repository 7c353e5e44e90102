"""Where the norms of a block stand among its layers, and that attention comes first, where nothing tells the order.

Modules run as soon as what they read is there (`wsrl.wiring.flow`), and a norm returns what it reads, so that it may
run anywhere. What tells its place: a batch norm follows what writes its units; the other norms precede the layers of a
block whose residual connection passes them by, in networks with a norm after the last block (pre-norm), and follow
its sum in those without (post-norm; Xiong et al., 2020).
"""

import re
from collections.abc import Callable, Sequence, Set

from wsrl.wiring.order import CROSS, GATE, numbered
from wsrl.wiring.trace import Scope, Step
from wsrl.wiring.tree import natural

FIRST = re.compile(r"embed|patch|pre|stem|input|first|start|before", re.I)
LAST = re.compile(r"post|after|out|final", re.I)

Groups = Callable[[Step], tuple[list[int], list[int]]]


def place_norms(root: Scope, groups_of: Groups) -> None:
    """Puts the norms of all scopes into their places."""
    _Places(root, groups_of).arrange(root)


class _Places:
    def __init__(self, root: Scope, groups_of: Groups):
        self._taken: dict[int, set[int]] = {}  # of scopes and steps
        self._made: dict[int, set[int]] = {}
        self._normed: dict[int, set[int]] = {}  # groups that norms in a scope act on
        self._look(root, groups_of)
        self.pre_norm = self._has_final_norm(root)

    def _look(self, item: Scope | Step, groups_of: Groups) -> None:
        if isinstance(item, Step):
            taken, made = groups_of(item)
            hands_on = item.passes and item.type != "conv"
            taken, made, normed = set(taken), set() if hands_on else set(made), set()
        else:
            for inner in item.items:
                self._look(inner, groups_of)
            taken, made, normed = (
                {group for inner in item.items for group in of[id(inner)]}
                for of in (self._taken, self._made, self._normed)
            )
            if item.norm is not None:
                normed, taken = set(groups_of(item.norm)[1]), set()
        self._taken[id(item)], self._made[id(item)], self._normed[id(item)] = taken, made, normed

    def _has_final_norm(self, scope: Scope) -> bool:
        """Whether there is a norm after all blocks, which follows no single layer."""
        inner = [i for i in scope.items if isinstance(i, Scope) and not numbered(i.node)]
        leaves = [i for i in inner if i.node.kind in ("conv", "linear")]
        for item in inner:
            groups = self._normed[id(item)]
            plain = item.norm is not None and item.norm.type == "norm" and not FIRST.search(item.node.dotted)
            if plain and (self._stack_before(item, scope) or not any(self._made[id(leaf)] & groups for leaf in leaves)):
                return True
        return any(self._has_final_norm(item) for item in inner)

    def _stack_before(self, norm: Scope, scope: Scope) -> "Scope | Step | None":
        """The blocks beside a norm, with norms of the same units, that come before it."""
        stacks = [
            item
            for item in scope.items
            if isinstance(item, Scope)
            and item.norm is None
            and any(numbered(inner.node) for inner in _within(item))
            and self._normed[id(norm)] & self._normed[id(item)]
        ]
        return stacks[-1] if stacks and not FIRST.search(norm.node.name) else None

    def arrange(self, scope: Scope) -> None:
        """Puts the norms of a scope and of those in it into their places."""
        for item in scope.items:
            if isinstance(item, Scope):
                self.arrange(item)
        if scope.ordered:
            return
        self._attention_first(scope)
        norms = [i for i in scope.items if isinstance(i, Scope) and i.norm is not None and not i.certain]
        scales = [i for i in scope.items if isinstance(i, Scope) and all(s.type == "parameter" for s in i.steps())]
        scope.items = [item for item in scope.items if item not in norms and item not in scales]
        by_group: dict[frozenset[int], list[Scope]] = {}
        for norm in norms:
            stack = self._stack_before(norm, scope)
            groups = self._normed[id(norm)]
            single = any(_is_single(i) and self._made[id(i)] & groups for i in scope.items)
            if stack is not None and norm.norm is not None and not (norm.norm.type == "batch norm" and single):
                scope.items.insert(scope.items.index(stack) + 1, norm)
            else:
                by_group.setdefault(frozenset(self._normed[id(norm)]), []).append(norm)
        for groups, own in by_group.items():
            self._place(scope, sorted(own, key=_rank), groups)
        self._gates_last(scope)
        self._place_parameters(scope, scales)

    def _place(self, scope: Scope, norms: list[Scope], groups: frozenset[int]) -> None:
        """Places norms of the same groups: before layers that read them, or after layers that write them."""
        others = [i for i in scope.items if not (isinstance(i, Scope) and i.norm is not None)]
        layers = [i for i in others if _attends(i) or not GATE.search(i.node.name)]
        readers = [i for i in layers if self._taken[id(i)] & groups]
        writers = [i for i in layers if self._made[id(i)] & groups]
        single = [i for i in writers if _is_single(i)]
        either = bool(readers and writers)
        if either and len(norms) == 2 * len(writers):  # one before and one after each
            self._before(scope, [n for n in norms if not LAST.search(n.node.name)], readers)
            self._after(scope, [n for n in norms if LAST.search(n.node.name)], writers)
        elif single and all(n.norm is not None and n.norm.type == "batch norm" for n in norms):
            self._after(scope, norms, single)
            numbered_alike = all(_number(n) for n in norms)
            either = len(norms) > len(single) or (len(norms) < len(single) and not numbered_alike)
        elif not writers:
            self._before(scope, norms, readers)
        elif len(norms) == 1 and writers and not any(self._taken[id(i)] & groups for i in writers):
            self._after(scope, norms, writers[-1:])  # of a sum
        elif len(norms) == 1 and writers and _is_depthwise(writers[0]):
            self._after(scope, norms, writers[:1])
            norms[0].joins = False
        elif writers and not (readers and self.pre_norm):
            self._after(scope, norms, writers)
        else:
            self._before(scope, norms, readers)
        for norm in norms:
            if norm.norm is not None and either:
                norm.norm.source = "assumed"

    def _before(self, scope: Scope, norms: Sequence[Scope], readers: Sequence["Scope | Step"]) -> None:
        for norm, reader in _paired(norms, readers):
            place = scope.items.index(reader) if reader is not None else len(scope.items)
            norm.passed_by = reader is not None
            scope.items.insert(place, norm)

    def _after(self, scope: Scope, norms: Sequence[Scope], writers: Sequence["Scope | Step"]) -> None:
        for norm, writer in _paired(norms, writers):
            own = norm.norm
            if writer is None or own is None:
                scope.items.append(norm)
                continue
            scope.items.insert(scope.items.index(writer) + 1, norm)
            if own.type == "batch norm":
                own.after = self._last_writing(writer, self._normed[id(norm)])
            else:
                norm.joins = True

    def _attention_first(self, scope: Scope) -> None:
        """Attention that reads and writes a stream comes before other layers that read it, self-attention first."""
        inner = [i for i in scope.items if isinstance(i, Scope) and not any(numbered(s.node) for s in _within(i))]
        attention = [i for i in inner if self._taken[id(i)] & self._made[id(i)] and _attends(i)]
        attention.sort(key=lambda i: bool(CROSS.search(i.node.name)))
        stream = {group for i in attention for group in self._taken[id(i)] & self._made[id(i)]}
        rest = [i for i in scope.items if i not in attention]
        first = next((n for n, i in enumerate(rest) if self._taken[id(i)] & stream), len(rest))
        scope.items = [*rest[:first], *attention, *rest[first:]]

    def _gates_last(self, scope: Scope) -> None:
        """Squeeze-and-excitation scales what has been computed, so it comes just before what reads on."""
        for gate in [i for i in scope.items if isinstance(i, Scope) and GATE.search(i.node.name) and not _attends(i)]:
            groups = self._taken[id(gate)] & self._made[id(gate)]
            scope.items.remove(gate)
            after = max((n + 1 for n, i in enumerate(scope.items) if self._made[id(i)] & groups), default=None)
            reads_on = (n for n, i in enumerate(scope.items) if self._taken[id(i)] & groups - self._made[id(i)])
            place = next((n for n in reads_on if after is None or n >= after), None)
            scope.items.insert(len(scope.items) if place is None else place, gate)

    def _place_parameters(self, scope: Scope, parameters: Sequence[Scope]) -> None:
        """Bare parameters beside a stack of blocks are added before it, those of a block scale what layers write."""
        stack = next(
            (i for i in scope.items if isinstance(i, Scope) and any(numbered(s.node) for s in _within(i))), None
        )
        by_group: dict[frozenset[int], list[Scope]] = {}
        for item in parameters:
            by_group.setdefault(frozenset(self._taken[id(item)]), []).append(item)
        for groups, own in by_group.items():
            writers = [i for i in scope.items if self._made[id(i)] & groups]
            if stack is not None and groups & self._taken[id(stack)]:
                first = next((n + 1 for n, i in enumerate(scope.items) if i is stack or i in writers), 0)
                place = min(first, scope.items.index(stack))
                scope.items[place:place] = own
                continue
            for item, writer in _paired(own, writers[-len(own) :]):
                place = len(scope.items) if writer is None else scope.items.index(writer) + 1
                scope.items.insert(place, item)
                for step in item.steps():
                    step.source = "assumed"
                    step.after = self._last_writing(writer, groups)

    def _last_writing(self, item: "Scope | Step | None", groups: Set[int]) -> tuple[Step, ...] | None:
        """The last operation in a module that writes some groups."""
        steps = list(item.steps()) if isinstance(item, Scope) else [item] if item is not None else []
        return tuple(s for s in steps if self._made[id(s)] & groups)[-1:] or None


def _is_single(item: Scope | Step) -> bool:
    """Whether a module is a single layer."""
    return isinstance(item, Scope) and [s.type in ("conv", "linear", "transposed conv") for s in item.steps()] == [True]


def _is_depthwise(item: Scope | Step) -> bool:
    return isinstance(item, Scope) and item.node.kind == "conv" and all(step.passes for step in item.steps())


def _attends(item: Scope | Step) -> bool:
    return isinstance(item, Scope) and any(step.type == "attention" for step in item.steps())


def _within(scope: Scope) -> list[Scope]:
    return [scope, *(found for item in scope.items if isinstance(item, Scope) for found in _within(item))]


def _rank(norm: Scope) -> tuple:
    name = norm.node.name
    return (0 if FIRST.search(name) else 2 if LAST.search(name) else 1, natural(name))


def _number(item: Scope | Step) -> str:
    """The number at the end of a module's name, which it may share with another (`conv1`, `bn1`)."""
    return re.findall(r"\d*$", item.node.name)[0]


def _paired(norms: Sequence[Scope], layers: Sequence[Scope | Step]) -> list[tuple[Scope, Scope | Step | None]]:
    """Each norm with the layer whose name or number it bears, else with the first that is left, else with the last.

    Layers of the norm's own module come before those of modules that run in turns with it.
    """
    pairs: dict[int, Scope | Step | None] = {}
    left = list(layers)
    for norm in norms:
        near = [i for i in left if i.node.parent is norm.node.parent] or left
        named = [i for i in near if i.node.name and norm.node.name.startswith(i.node.name)]
        same = [i for i in near if _number(i) and _number(i) == _number(norm) and i.node.kind in ("conv", "linear")]
        own = next(iter(named or same), None)
        if own is not None:
            pairs[id(norm)] = own
            left.remove(own)
    for norm in norms:
        if id(norm) not in pairs:
            near = next((i for i in left if i.node.parent is norm.node.parent), left[0] if left else None)
            pairs[id(norm)] = near or (layers[-1] if layers else None)
            left = [i for i in left if i is not near]
    return [(norm, pairs[id(norm)]) for norm in norms]
