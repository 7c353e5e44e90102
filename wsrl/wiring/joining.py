"""Values that lie one after the other in an order, or are cut at places, that nothing tells.

Concatenations, splits and sums of some channels all leave a network as it is if units are permuted alike in every block
of a common length: of the values that may be joined, and of what reads them. So they are tied in such blocks, whichever
of them are meant and whatever their order. This claims less than there is, but nothing that is wrong.
"""

import re
from collections.abc import Iterable, Sequence

from wsrl.wiring.dims import Dim, Value, in_blocks, view
from wsrl.wiring.order import GATE, first_read
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Entry, Env

SKIPS = re.compile(r"(^|[._])up|dec|cat|fus|skip|merge|outc|root|aggr", re.I)
MOST_SUMMED = 2**12  # sums that are looked at


def all_of(base: Dim, size: int) -> Value:
    """A value of a size that is made of blocks."""
    return (view(base, outer=size // base.size),)


def adds_up(size: int, parts: Sequence[int]) -> bool:
    """Whether some of the parts, two or more, have a sum; where there are too many sums to look at, they may."""
    sums = {(0, 0)}  # of so many parts: none, one, more
    for part in parts:
        sums |= {(total + part, min(count + 1, 2)) for total, count in sums if total + part <= size}
        if len(sums) > MOST_SUMMED:
            return True
    return (size, 2) in sums


def joined_maps(env: Env, size: int, path: str, beyond: bool) -> list[Entry]:
    """Maps that a convolution may read one after the other, some of which add up to a size; empty where none do.

    They are those of its block, at any depth, and what the block was given, else all that blocks have returned; inputs
    of the network are among them only where the others do not add up.

    Args:
      path: of the convolution.
      beyond: whether maps from further back are certainly among them.
    """
    block = env
    while not block.entries and block.parent is not None and not block.unknown:
        block = block.parent
    newest = block.last()
    alike = [e for e in block.entries if newest is not None and (not e.read or e.size == newest.size)]
    if not beyond and newest is not None and size == 2 * newest.size and len(alike) < 2 and not SKIPS.search(path):
        return []  # it may be one of two halves, and these may be shuffled into each other
    near = [e for e in env.made if e.spatial and _lies_in(e, block)] + [e for e in block.inputs if e.spatial]
    last = block.parent.last() if block.parent is not None else None
    near = [*dict.fromkeys(near + [e for e in (last,) if e is not None and e.spatial])]
    far = [*dict.fromkeys(near + [e for e in env.made if e.spatial and _is_returned(e)])]
    for found in (far,) if beyond else (near, far):
        hidden = [e for e in found if all(dim.find()[0].role != "input" for dim in e.value)]
        for entries in (hidden, found):
            if adds_up(size, [e.size for e in _distinct(entries)]):
                return entries
    return []


def may_be_joined(env: Env, found: Sequence[Entry]) -> bool:
    """Whether a layer may read the newest value, which nothing reads, beside an input of the network that was read here
    rather than an older value as long as both together (Park et al., DeepSDF, 2019)."""
    newest = env.entries[-1] if env.entries else None
    if newest is None or newest.read or newest in found or newest.size >= found[-1].size:
        return False
    rest = found[-1].size - newest.size
    near = [e for e in (*env.entries, *env.inputs) if e.size == rest]
    return any(dim.find()[0].role == "input" for e in near for dim in e.value)


def join_skips(node: Node, env: Env) -> None:
    """Ties all maps in reach in blocks where a module widens maps and reads more channels than it has widened.

    Ronneberger et al. (U-Net, 2015): what was widened and maps from further back are read together. In which order such
    modules run is not known, and widths recur.
    """
    widened = [e for e in env.entries if e.widened]
    sizes = {e.size for e in widened}
    first = [first_read(child) for child in node.children.values() if child.kind != "norm"]
    reads = {n for n in first if n is not None and n not in sizes}
    if not widened or not any(n > size for n in reads for size in sizes):
        return
    env.entries = widened + [e for e in env.entries if not e.widened]
    found = [e for e in env.made if e.spatial and (_lies_in(e, env) or _is_returned(e))]
    if env.outermost and env.entries[-1] in found and not env.entries[-1].read:
        found.remove(env.entries[-1])  # the output of the network
    hidden = [e for e in found if e.size > 1 and all(dim.find()[0].role != "input" for dim in e.value)]
    in_blocks([e.value for e in hidden], [])
    for entry in hidden:
        entry.read = entry.read or entry.widened or env.outermost


def _is_returned(entry: Entry) -> bool:
    """Whether a value leaves a block, is a member of a list, or lies in a module that is none of a list."""
    node = entry.env.node if entry.env is not None else None
    if entry.source is not None or node is None or entry.env is None or entry.env.only_last:
        return True
    return not any(name.isdigit() for name in node.path) and not GATE.search(node.name)


def _distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Entries without those that a block has returned from within."""
    found = list(entries)
    sources = {id(e.source) for e in found if e.source is not None}
    return [e for e in found if id(e) not in sources]


def _lies_in(entry: Entry, env: Env) -> bool:
    scope = entry.env
    while scope is not None and scope is not env:
        scope = scope.parent
    return scope is env
