"""Follows values through the tree of modules, from the inputs to the outputs.

Names do not say in which order modules run, only roughly. So a module runs as soon as something of the size that it
reads is there: in a list the value before it, among named modules every value of that size, tied together where there
are several. A block that returns the size that it read may be residual, so its output is tied to its input. Where
nothing fits, what flows in and out is fixed and the modules below are looked at on their own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from wsrl.checkpoint import Tensor
from wsrl.wiring.attention_roles import role_of
from wsrl.wiring.dims import Dim, Value, fix, tie_values
from wsrl.wiring.handed_states import States
from wsrl.wiring.joining import join_skips, may_be_joined
from wsrl.wiring.order import (
    CROSS,
    EARLY,
    FAR,
    GATE,
    LATE,
    SECOND,
    SEVERAL,
    Plan,
    codes_sound,
    first_read,
    has_halves,
    is_hourglass,
    maps_to_maps,
    may_be_grouped,
    may_join_own,
    may_pad,
    norm_first_by_names,
    numbered,
    plan_of,
    signature,
    sizes_made,
    sizes_made_early,
    waits,
)
from wsrl.wiring.record import Record
from wsrl.wiring.sources import feed, feed_encoders
from wsrl.wiring.tree import Node, sorted_children
from wsrl.wiring.values import Entry, Env, merge, only_scales

Rule = Callable[["Flow", Node, Env], bool | None]


class Flow(Record):
    """Runs the tree; collects what the axes of the tensors hold.

    Attributes:
      tensors: the tensors themselves, for what names and shapes leave open.
      warnings: sentences.
      embedded: values that token embeddings return, with their tensors.
    """

    def __init__(
        self, root: Node, special: Sequence[Rule], special_leaves: Sequence[Rule], run_leaf: Callable, rescue: Rule
    ):
        """`special` and `special_leaves` are tried before others; `rescue` where a module's order is not understood."""
        super().__init__(root)
        self.tensors: Mapping[str, Tensor] = {}
        self.rescue = rescue
        self.special = special
        self.special_leaves = special_leaves
        self._plans: dict[Node, Plan] = {}
        self.run_leaf = run_leaf
        self.warnings: list[str] = []
        self._marked: list[tuple[Entry, bool]] = []  # entries that were read, and whether they had been before
        self.wanted: list[tuple[int, Node]] = []
        self.embedded: list[Value] = []
        self.tables: list[Value] = []  # that embeddings of relative positions return
        self.streams: list[Value] = []  # that blocks read of which only the rim is understood
        self.parts = False  # whether parts of values, or several, may be read
        self.ordered = False  # whether the order of the modules is known so far
        self.far = False  # whether what blocks returned further back is in reach
        self.in_order: list[Env] = []  # blocks whose values keep their order
        self.unknown_sizes: set[int] = set()  # that modules read which are not understood
        self.unmet: set[int] = set()  # of norms that have met no value: a value of that size flows where nothing tells
        self.not_understood: list[Node] = []  # modules
        self.states: list[States] = []  # of recurrent modules
        self.made = sizes_made(root)  # sizes that some module returns
        self.made_early = sizes_made_early(root)  # sizes that modules return which do not run late
        self.group_norms = False  # whether norms have been taken for group norms
        self.transposes = False  # whether there are transposed convolutions
        self.cyclic = False  # whether the first module was guessed
        self.halves = has_halves(root)  # whether blocks may shuffle halves of their channels into each other
        self.norm_first = norm_first_by_names(root)

    def pick(self, env: Env, size: int, node: Node, newest: bool = False) -> Entry | None:
        """Returns the value of a size that a module reads; None if there is none yet.

        Where several are in reach they are tied, for any of them may be meant.
        """
        found = env.visible(size)
        own = [e for e in found if e in env.entries]
        fresh = [e for e in found if e.heads and not e.read]
        if found and found[-1].heads and node.kind in ("linear", "conv"):
            found = found[-1:]
        elif len(fresh) == 1 and node.kind == "linear" and role_of(node.name) == "o":
            found = fresh
        elif CROSS.search(node.dotted):
            found = env.everywhere(size)
        elif newest and own and own[-1] is env.entries[-1]:
            found = [e for e in own if not e.read or e is own[-1]]
        elif own and not env.only_last:
            found = found + [e for e in env.inputs if e.size == size]
        found = [e for e in found if not e.heads or (node.kind == "norm" and not e.read)] or found
        if env.is_unknown() and not (newest and own):
            for entry in found:
                fix(entry.value)
                self._mark_read(entry)
            self.unknown_sizes.add(size)
            guess = Entry((Dim(size, fixed=True),), read=True)
            scope: Env | None = env
            while scope is not None and not scope.unknown:  # what is added to it is not understood either
                scope.inputs.append(guess)
                scope = scope.parent
            return guess
        if not found and self.far and FAR.search(node.dotted):
            found = [e for e in env.made if e.returned and e.size == size]
        if not found:
            self.wanted.append((size, node))
            return None
        if node.kind in ("linear", "conv") and may_be_joined(env, found):
            fix([dim for entry in (env.entries[-1], *found) for dim in entry.value])
        self.read(env, found)
        return found[-1]

    def read(self, env: Env, found: list[Entry]) -> None:
        """Ties entries that a module may read, and remembers that they were read."""
        for other in found[1:]:
            tie_values(found[0].value, other.value)
        for entry in found:
            self._mark_read(entry)
            scope: Env | None = env
            while scope is not None and entry not in scope.entries:
                if entry not in scope.inputs:
                    scope.inputs.append(entry)
                if scope.is_unknown():
                    fix(entry.value)
                scope = scope.parent
            if scope is not None and scope.unknown:
                fix(entry.value)

    def _mark_read(self, entry: Entry) -> None:
        self._marked.append((entry, entry.read))
        entry.read = True

    @contextmanager
    def reading_on(self) -> Iterator[None]:
        """What is read within it does not count as read: a norm hands it on."""
        before, self._marked = self._marked, []
        yield
        for entry, was_read in reversed(self._marked):
            entry.read = was_read
        self._marked = before

    # running modules

    def run(self, node: Node, env: Env, newest: bool = False) -> bool:
        """Runs a module; False if what it reads is not there yet. What it returns is put in reach in `env`."""
        self.trace.open(node, certain=newest)
        ran = self._run(node, env, newest)
        self.trace.close(ran)
        return ran

    def _run(self, node: Node, env: Env, newest: bool) -> bool:
        for rule in self.special if node.kind == "container" else self.special_leaves:
            ran = rule(self, node, env)
            if ran is not None:
                return ran
        if node.kind != "container":
            return self.run_leaf(self, node, env, newest)
        return self.run_list(node, env) if numbered(node) else self.run_block(node, env)

    def run_list(self, node: Node, env: Env) -> bool:
        """Runs the members of a list one after the other; one that does not fit may be a branch."""
        inner = Env(env, only_last=True, node=node)
        self.trace.scope.ordered = True
        members = sorted_children(node)
        bare = len(members) > 1 and all(m.kind in ("linear", "conv") for m in members)
        branches = len({first_read(m) for m in members} - {None}) == 1
        residual = bare and [m.name for m in members] == [str(i) for i in range(len(members))]
        for i, member in enumerate(members):
            before, count = inner.last(), len(self.trace.scope.items)
            if not self.run_next(member, inner, i > 0):
                if i == 0:
                    return False
                if self.rescue(self, member, inner):
                    continue
                if not branches or may_be_grouped(member, before) or not self.run_branch(member, inner, env):
                    self.lost(inner, member)
                    self.run_lost([member], inner)
            elif residual and before and inner.entries and before.size == inner.entries[-1].size:
                tie_values(before.value, inner.entries[-1].value)  # bare layers may be run with residual connections
            if node.name == "experts":
                self.trace.run_beside(count)
        if residual and is_hourglass(members):  # what is widened may be added to what was narrowed
            merge(inner.entries)
        self.export(inner, env, node)
        return True

    def run_next(self, node: Node, env: Env, parts: bool) -> bool:
        """Runs the next of several modules in a known order."""
        before = self.parts, self.ordered
        self.parts, self.ordered = self.parts or parts, self.ordered or parts
        try:
            return self.run(node, env, newest=True)
        finally:
            self.parts, self.ordered = before

    def run_branch(self, member: Node, inner: Env, env: Env) -> bool:
        """Runs a member of a list on what the list was given."""
        own = Env(env)
        if not self.run(member, own):
            return False
        for entry, read in [(e, r) for e in own.entries for r in own.inputs if e.size == 2 * r.size]:
            if any(dim.find()[0].role == "input" for dim in read.value):  # it may be half of what the member changes
                fix(entry.value)
        inner.entries += own.entries
        inner.inputs += [e for e in own.inputs if e not in inner.inputs]
        return True

    def run_block(self, node: Node, env: Env) -> bool:
        """Runs named modules, then bare parameters; False if what they read is not there yet."""
        plan = self._plan(node)
        chain = plan.chain
        inner = Env(env, node=node)
        gate = GATE.search(node.name)
        read_before = {id(e): e.read for e in env.made} if gate else {}
        pending = list(plan.layers)
        ran_any = not pending
        for child in plan.shortcuts:
            count = len(self.trace.scope.items)
            if child in pending and self.run(child, inner):
                self.trace.run_beside(count)
                pending.remove(child)
        feed_encoders(self, node, inner)
        if chain:
            ran = self.run_chain(chain, inner)
            if not ran:
                return False
            self.trace.scope.ordered = True
            pending = [c for c in pending if c not in ran]
            ran_any = True
        elif env.parent is not None:
            given = [
                c for c in pending if c.kind == "linear" and not LATE.search(c.name) and self.run_first(c, inner, env)
            ]
            pending = [c for c in pending if c not in given]
            ran_any = ran_any or bool(given)
        if not self.run_pending(pending, inner, ran_any):
            return False
        for child in plan.bare:
            self.run(child, inner)
        if not chain or (inner.outermost and maps_to_maps(self.root) and is_hourglass(chain)):
            merge(inner.entries)
        join_skips(node, inner)
        if "cheap_operation" in node.children and inner.entries:  # a ghost module may return both parts together
            env.add(inner.entries[-1].value * 2, spatial=True).read = True
        if not (gate and only_scales(inner, read_before)):
            self.export(inner, env, node)
        return True

    def _plan(self, node: Node) -> Plan:
        """What names tell of a block's modules; asked for each time that the block tries to run."""
        if node not in self._plans:
            self._plans[node] = plan_of(node, self.norm_first.get(signature(node)))
        return self._plans[node]

    def run_chain(self, chain: list[Node], inner: Env) -> list[Node]:
        """Runs modules whose order is known, apart from what is there already; returns those that ran."""
        beside, inner.entries = inner.entries, []
        ran: list[Node] = []
        for child in chain:
            if not self.run_next(child, inner, bool(ran)) and not (
                not ran and inner.outermost and feed(self, inner) and self.run_next(child, inner, False)
            ):
                if ran:
                    self.lost(inner, child)
                break
            ran.append(child)
        inner.entries += beside
        return ran

    def run_pending(self, pending: list[Node], inner: Env, ran_any: bool) -> bool:
        """Runs modules as what they read gets there; False if none did and the block may wait."""
        root, pending = inner.outermost, list(pending)
        while pending:
            late = [c for c in pending if LATE.search(c.name)] if root else []
            first = [c for c in pending if c not in late] or pending
            second = [c for c in first if SECOND.search(c.name)] if root and inner.entries else []
            ready = (
                self.next_ready([c for c in first if c not in second], inner, ran_any)
                if 0 < len(second) < len(first)
                else None
            )
            ready = ready or self.next_ready(first, inner, ran_any)
            if ready is None and late and len(first) < len(pending):
                if feed(self, inner):
                    continue
                ready = self.next_ready(pending, inner, ran_any)
            if ready is not None:
                ran_any = ran_any or any(leaf.kind not in ("norm", "embedding", "parameter") for leaf in ready.leaves())
                pending.remove(ready)
            elif not (root and feed(self, inner)):
                saved = next((c for c in pending if not waits(c, pending) and self.rescue(self, c, inner)), None)
                if saved is not None:
                    ran_any = True
                    pending.remove(saved)
                    continue
                if not ran_any and not inner.is_unknown() and not root:
                    return False
                if not root and inner.node is not None and self.rescue(self, inner.node, inner):
                    break
                self.lost(inner, pending[0])
                self.run_lost(pending, inner)
                break
        return True

    def next_ready(self, pending: list[Node], inner: Env, ran_any: bool) -> Node | None:
        """Runs the first module whose input is there as a whole; else one that reads a part or several of the values in
        reach; else one that reads what blocks returned further back."""
        late = [c for c in pending if not EARLY.search(c.name)]
        early = [c for c in pending if c not in late and any(leaf.kind in ("conv", "linear") for leaf in c.leaves())]
        stages = [(pending, False, False)]
        if early and not ran_any and not inner.is_unknown():
            stages = [([c for c in pending if c not in late], False, False)]
        if ran_any or self.parts or inner.parent is None:
            stages.append((stages[0][0], True, False))
        if inner.outermost or self.far:
            stages.append((pending, True, True))
        stages = [(sorted(c, key=lambda child: child.kind == "norm"), p, f) for c, p, f in stages]
        for candidates, parts, far in stages:
            before = self.parts, self.far
            self.parts, self.far = parts or (self.parts and inner.parent is None), far or self.far
            try:
                for child in candidates:
                    if not waits(child, pending) and self.run(child, inner):
                        return child
            finally:
                self.parts, self.far = before
        return None

    def run_first(self, node: Node, inner: Env, env: Env) -> bool:
        """Runs a dense layer on what its block is given, if it fits: the others of its block follow."""
        own, inner.entries, waiting = inner.entries, [], len(self.wanted)
        ran = any(not may_join_own(node, e) for e in env.visible(node.fan_in)[-1:]) and self.run(node, inner)
        del self.wanted[waiting:]
        inner.entries = own + inner.entries
        return ran

    def lost(self, env: Env, node: Node) -> None:
        """Fixes what flows in and out of modules that are not understood."""
        self.warnings.append(f"what {node.dotted or 'the network'} reads is not understood")
        wanted = first_read(node)
        if wanted is not None:
            self.unknown_sizes.add(wanted)
        elif node.kind == "norm":
            self.unmet |= {n for _, shape in node.tensors.values() for n in shape if n > 1}
        outer = env.parent
        beyond = outer.entries[-1:] if outer and outer.only_last else outer.entries if outer else []
        several = [e for e in env.made if e.returned] if SEVERAL.search(node.dotted) else []
        for entry in [*env.entries, *env.inputs, *beyond, *several]:
            fix(entry.value)
        env.unknown = True

    def run_lost(self, nodes: list[Node], env: Env) -> None:
        """Looks at modules on their own; what they return may be added to any value of the same size."""
        self.not_understood += nodes
        for node in nodes:
            own = Env(env, unknown=True)
            self.run(node, own)
            self.unknown_sizes |= {e.size for e in own.entries}
            for entry in [*env.entries, *env.inputs]:
                if entry.size in self.unknown_sizes:
                    fix(entry.value)

    def export(self, inner: Env, env: Env, node: Node) -> None:
        """Puts what a block returns in reach outside: what nothing has read, else the newest value."""
        returned = [e for e in inner.entries if not e.read] or inner.entries[-1:]
        for entry in returned:
            entry.read = True  # from here on the entry outside counts
        first: dict[int, Entry] = {}
        for entry in returned:
            size = entry.size
            if size in first and not entry.heads:
                tie_values(first[size].value, entry.value)
                continue
            first[size] = entry
            for source in inner.inputs:
                if source.size == size and not entry.heads and not source.heads:
                    tie_values(source.value, entry.value)
        stage = node.name.isdigit() or env.parent is None
        if env.outermost and codes_sound(node):
            fix([dim for entry in first.values() for dim in entry.value])
        if inner.unknown or may_pad(node):
            fix([dim for entry in (*first.values(), *inner.inputs) for dim in entry.value])
        for entry in first.values():
            kinds = {"spatial": entry.spatial, "dense": entry.dense, "heads": entry.heads, "widened": entry.widened}
            made = env.add(entry.value, returned=stage, source=entry, loose=entry.loose, **kinds)
            made.read = made.loose is not None
        if inner.unknown:
            env.unknown = True
