"""Which value a layer reads: a whole one, half of a gated one, a flattened one or several one after the other."""

import re

from wsrl.wiring.dims import Dim, Value, fix, in_blocks, size_of, tie, tie_values, view
from wsrl.wiring.flatten_order import channels_first, flattened_by_name, flattened_in_list
from wsrl.wiring.flow import Flow
from wsrl.wiring.joining import all_of, joined_maps
from wsrl.wiring.order import may_join_own
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Entry, Env

NARROWING = re.compile(
    r"(fc|w|lin|linear|dense|conv|pwconv|layer|proj|l|mlp|ff)_?2|w3|down|down_?proj|w_?o|w_out|c_proj|proj|"
    r"(out|output)(_proj|_dense|_linear)?|proj(ect)?_out|fc_out|dense_4h_to_h|\d|pointwise_conv2|linear_out|conv_?dw|dwconv|norm",
    re.I,
)
MERGED = re.compile(r"reduction|down_?sample|merg|readout|head|classif|\bfc\b|norm|score|proj", re.I)

PYRAMIDS = (5, 14, 21, 30, 50, 85)  # places of several maps together: 1 and 4, 1 and 4 and 9, 1 and 4 and 16, ...


def read_value(flow: Flow, node: Node, env: Env, size: int, newest: bool = False) -> Value | None:
    """Returns the value that a layer reads: a whole one, half of a gated one, a flattened or a joined one."""
    heads = [e for e in env.reachable() if e.heads and not e.read]
    if len(heads) > 1 and sum(e.size for e in heads) == size:  # heads of attention in modules of their own
        for entry in heads:
            flow.read(env, [entry])
        return tuple(dim for e in heads for dim in e.value)
    own = [e for e in env.entries if not e.read]
    if len(own) > 1 and size not in {e.size for e in env.entries} and not env.only_last:
        joined = joined_values(flow, env, size)
        if joined is not None:
            return joined
    if env.visible(size) or env.is_unknown():
        entry = flow.pick(env, size, node, newest)
        if entry is not None and node.kind == "linear" and entry not in env.entries and may_join_own(node, entry):
            own = [e.value for e in env.entries if 2 * e.size == size]
            return all_of(in_blocks([entry.value, *own], [size // 2]), size)
        return entry.value if entry else None
    last = env.last()
    if flow.parts and last is not None and not env.is_unknown():
        width = last.size
        own = last in env.entries
        if width == 2 * size and own and NARROWING.fullmatch(node.name) and len(last.value) == 1:
            mixed = _mixed_parts(node, size)
            alone = node.parent is None or not node.parent.path  # not in a block: which half gates is not known
            unsure = alone or _is_one_of_many(node)
            half = Dim(size, fixed=bool(mixed) or unsure)
            for entry in env.everywhere(size) if unsure else ():
                fix(entry.value)
            for part in mixed:
                fix([dim for entry in env.everywhere(part) for dim in entry.value])
            flow.read(env, [last])
            tie(last.value[0], view(half, outer=2))
            return (half,)
        if node.kind == "recurrent" and last.spatial and size % width == 0 and size > width > 1:
            flow.read(env, [last])
            fix(last.value)  # channels and rows of a map, in an order that nothing tells
            return (Dim(size, fixed=True),)
        if node.kind == "linear" and last.spatial and size % width == 0 and size > width > 1:
            unsure = _unsure_places(flow, env, last, size // width)
            for entry in unsure:
                flow.read(env, [entry])
                fix(entry.value)
            if unsure:
                return (Dim(size, fixed=True),)
            flow.read(env, [last])
            taps = size // width
            if len(last.value) == 1:
                first = _varies_slowest(flow, env, node, last)
                if first is None:
                    flow.warnings.append(f"nothing tells in which order the map was flattened that {node.dotted} reads")
                    fix(last.value)
                flat = (view(last.value[0], outer=taps) if first is False else view(last.value[0], inner=taps),)
                env.add(flat, dense=True).read = True  # other layers may read it as well
                return flat
        joined = joined_values(flow, env, size) or repeated(flow, node, env, last, size)
        if joined is None and node.kind == "conv":
            joined = read_joined_maps(flow, env, node, size)
        if joined is not None:
            return joined
    entry = flow.pick(env, size, node, newest)
    return entry.value if entry else None


def _varies_slowest(flow: Flow, env: Env, node: Node, last: Entry) -> bool | None:
    """Whether the channels of a map vary slowest where a dense layer reads it flattened; None where nothing tells."""
    if node.transposed:
        return False
    if flattened_in_list(env, last) or flattened_by_name(flow.root, node):
        return True
    weight = flow.tensors.get(node.tensors["weight"][0])
    return None if weight is None else channels_first(weight, last.size)


def _unsure_places(flow: Flow, env: Env, last: Entry, places: int) -> list[Entry]:
    """Maps that a dense layer may read side by side, rather than so many places of the newest ones."""
    if places in PYRAMIDS or places == last.size:  # the products of all pairs of channels
        return [last]
    maps = [e for e in env.entries if e.spatial]
    sums = {last.size}
    for entry in [e for e in maps if e is not last][:12]:
        sums |= {total + entry.size for total in sums}
    joined = len(maps) > 2 and last.size * places in sums
    return maps if not flow.ordered and (places < 4 or joined) else []


def _mixed_parts(node: Node, size: int) -> list[int]:
    """Sizes of depthwise convolutions beside a gated layer that treat only some of its units (MambaOut)."""
    beside = node.parent.children.values() if node.parent else ()
    depthwise = [c.weight[0] for c in beside if c.kind == "conv" and c.weight[1] == 1 and not c.transposed]
    return [n for n in depthwise if n not in (size, 2 * size)]


def _is_one_of_many(node: Node) -> bool:
    """Whether all layers of a list have one shape: they may be branches rather than a chain of gated layers."""
    members = node.parent.children.values() if node.parent and node.name.isdigit() else ()
    return len(members) > 1 and all(m.kind == node.kind and m.weight == node.weight for m in members)


def repeated(flow: Flow, node: Node, env: Env, last: Entry, size: int) -> Value | None:
    """Several views of the newest value side by side: four pixels that are merged, or the first token and the mean."""
    times = size // last.size
    if size % last.size or times not in (2, 3, 4) or not MERGED.search(node.dotted) or last.spatial:
        return None
    flow.read(env, [last])
    for states in last.states:  # the last states of all layers may be meant
        if size_of(states) == last.size:
            tie_values(states, last.value)
    return last.value * times


def read_joined_maps(flow: Flow, env: Env, node: Node, size: int, beyond: bool = False) -> Value | None:
    """Maps one after the other that are tied in blocks, for neither their order nor which of them are read is known.

    Args:
      beyond: see `joined_maps`.
    """
    found = [] if flow.halves or flow.unknown_sizes else joined_maps(env, size, node.dotted, beyond)
    if not found:
        return None
    for entry in found:
        flow.read(env, [entry])
    return all_of(in_blocks([e.value for e in found], [size]), size)


def joined_values(flow: Flow, env: Env, size: int) -> Value | None:
    """The unread values one after the other, if they add up; where their order matters they are tied in blocks."""
    unread = [e for e in env.entries if not e.read]
    scope = env.parent
    while len(unread) < 2 and scope is not None and not env.entries:
        unread, scope = [e for e in scope.entries if not e.read], scope.parent
    if len(unread) < 2 or sum(e.size for e in unread) != size:
        return None
    if len({e.size for e in unread}) == 1 and not any(e.looked_up for e in unread):
        flow.read(env, unread)  # they are tied, for their order is not known
        return tuple(dim for e in unread for dim in e.value)
    for entry in unread:
        flow.read(env, [entry])
        if entry.looked_up:
            fix(entry.value)
    return all_of(in_blocks([e.value for e in unread], [size]), size)
