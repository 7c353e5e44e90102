"""What nothing has read: outputs of the network, or parts that something read in a way that is not understood."""

from collections.abc import Mapping
from math import prod

from wsrl.wiring.dims import fix, mark, size_of, tie_values
from wsrl.wiring.doubts import fix_doubtful
from wsrl.wiring.flow import Flow
from wsrl.wiring.handed_states import tie_handed_states
from wsrl.wiring.order import LATE
from wsrl.wiring.values import Entry, Env

SHUFFLED = (2, 3, 4, 6, 9, 16)


def patch_of(config: Mapping) -> int:
    """How many numbers a patch of the pixels holds that a network reads, 0 where its configuration does not tell."""
    told = (config.get("patch_size"), config.get("num_channels"), config.get("tubelet_size", 1))
    sides = [side for side in told if type(side) is int]
    return prod(sides) * sides[0] if len(sides) == len(told) else 0


def finish(flow: Flow, env: Env, tied: bool, patch: int) -> None:
    """Marks what nothing has read as outputs; a tied head reads what has the width of the token embedding.

    Args:
      patch: see `patch_of`; what has that length is pixels.
    """
    widths = {size_of(v): v for v in flow.embedded}
    vocabularies = {node.weight[0] for node in flow.root.leaves() if node.kind == "embedding"}
    for entry in env.entries:
        origin = entry
        while origin.source is not None:
            origin = origin.source
        if not entry.read and not origin.looked_up and entry.size in widths:
            tie_values(entry.value, widths[entry.size])  # where no head is known to share its weights, it still may
            entry.read = tied
    if flow.cyclic:
        flow.warnings.append("which module reads the input is not certain")
        for entry in env.made:
            fix(entry.value)
    for block in flow.in_order:
        for entry in (*block.entries, *block.inputs):
            fix(entry.value)
    _mark_codes(flow, env)
    tie_handed_states(flow.states, env)
    fix_doubtful(flow, env)
    for entry in env.made:
        listed = entry.returned or (entry.env is not None and (entry.env.only_last or entry.env.parent is env))
        if listed and entry.size in flow.unknown_sizes:
            fix(entry.value)
        if entry.size in flow.unmet:
            fix(entry.value)
        if entry.heads and not entry.read:  # something else reads what attention returns
            _fix_beside(entry)
        if not entry.read:
            if entry.size != patch:
                _fix_parts(entry, vocabularies)
            if entry in env.entries and not env.unknown:
                mark(entry.value, "output")
            else:
                fix(entry.value)


def _mark_codes(flow: Flow, env: Env) -> None:
    """Marks the code of an autoencoder as an output: it may be returned beside what is decoded from it.

    A code is what a module `encoder` returns, narrower than all that lies within it, where a `decoder` stands beside it
    and nothing looks words up.
    """
    encoder, decoder = (flow.root.children.get(name) for name in ("encoder", "decoder"))
    if encoder is None or decoder is None or flow.embedded:
        return
    for entry in env.made:
        origin = entry.source.env.node if entry.source is not None and entry.source.env is not None else None
        widths = [leaf.units for leaf in encoder.leaves() if leaf.kind in ("linear", "conv")]
        if origin is encoder and entry.size == min(widths) < max(widths):
            mark(entry.value, "output")


def _fix_beside(unread: Entry) -> None:
    """Fixes all values of the blocks that have handed on this one."""
    entry: Entry | None = unread
    while entry is not None and entry.env is not None:
        for other in (*entry.env.entries, *entry.env.inputs):
            fix(other.value)
        entry = entry.source


def _fix_parts(unread: Entry, vocabularies: set[int]) -> None:
    """What nothing is known to read may have been cut into maps, shuffled into pixels, used as scales and shifts of
    narrower values beside it or as a matrix that multiplies them, or joined with others: those are fixed."""
    size = unread.size
    entry: Entry | None = unread
    while entry is not None and entry.env is not None and not entry.env.unknown:
        tables = sum(e.looked_up for e in entry.env.entries)
        for other in entry.env.entries:
            times, rest = divmod(size, other.size)
            cut = (
                rest == 0 and size not in vocabularies and (times in SHUFFLED or 1 < times == other.size) and other.read
            )
            joined = entry.looked_up and tables > 2 and other.size > size
            if (cut or joined) and all(d.find()[0].role == "hidden" for d in other.value):
                fix(other.value)
        if entry.source is None and _deep(entry.env) and size not in {e.size for e in entry.env.inputs}:
            for other in (*entry.env.entries, *entry.env.inputs):
                fix(other.value)
        entry = entry.source


def _deep(env: Env) -> bool:
    """Whether values of an environment are no outputs of the network: that of a block within a list, not of a head, and
    not of a router."""
    node = env.node
    if node is None or env.only_last or not any(name.isdigit() for name in node.path):
        return False
    routes = node.parent is not None and ("experts" in node.children or "experts" in node.parent.children)
    return not routes and not any(LATE.search(name) for name in node.path)
