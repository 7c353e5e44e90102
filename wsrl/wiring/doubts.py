"""What is fixed once everything has run, for something that is not understood may meet it.

A module that is not understood stands somewhere among others. What it returns may be multiplied with, added to or read
beside whatever is as long, however deep within the block around it that lies.
"""

from wsrl.wiring.dims import fix, size_of
from wsrl.wiring.flow import Flow
from wsrl.wiring.order import LATE
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Entry, Env


def fix_doubtful(flow: Flow, env: Env) -> None:
    """Fixes values that modules may meet which are not understood.

    Args:
      flow: what has run.
      env: the environment of the network.
    """
    for node in flow.not_understood:
        _fix_around(env, node)
        read = max((leaf.fan_in for leaf in node.leaves() if leaf.kind == "linear"), default=0)
        for states in flow.states:
            if size_of(states.layers[-1]) < read:  # a decoder may attend to them and read more beside them
                fix(states.layers[-1])
    _fix_beside_dead_ends(flow, env)


def _fix_around(env: Env, lost: Node) -> None:
    """Fixes what lies in the block around a module and is as long as what one of its layers reads or returns, whole, as
    one of two halves or as one of several states."""
    block = lost.parent
    if block is None:
        return
    lengths = {n for leaf in lost.leaves() if leaf.kind in ("linear", "conv") for n in (leaf.fan_in, leaf.units)}
    for entry in env.made:
        if entry.heads or not _lies_in(entry, block):
            continue
        if entry.size in lengths or (not entry.looked_up and 2 * entry.size in lengths):
            fix(entry.value)
        for states in entry.states:
            if any(n % entry.size == 0 for n in lengths):
                fix(states)


def _lies_in(entry: Entry, block: Node) -> bool:
    node = entry.env.node if entry.env is not None else None
    return not block.path or (node is not None and node.path[: len(block.path)] == block.path)


def _fix_beside_dead_ends(flow: Flow, env: Env) -> None:
    """Fixes maps beside a map that nothing reads although it is not the only end, unless names call it a head.

    Where a dense layer ends the network, it may hold the weights of a sum (Li et al., Involution, 2021), offsets or
    gates. Else what reads other maps as wide may read it (Badrinarayanan et al., SegNet, 2017).
    """
    unread = [entry for entry in env.entries if not entry.read]
    dense = any(entry.dense for entry in unread)
    writers = {id(values[0]): tensor for tensor, values in flow.axes.items() if len(values) > 2}
    for entry in unread if len(unread) > 1 else ():
        end = entry
        while end.source is not None:
            end = end.source
        dead = entry.spatial and not LATE.search(writers.get(id(end.value), "head"))
        for other in (*end.env.entries, *end.env.inputs) if dead and end.env is not None else ():
            if other.spatial and other is not end and (dense or other.size == end.size):
                fix(other.value)
