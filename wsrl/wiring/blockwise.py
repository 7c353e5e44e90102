"""Modules of convolutions that join, split and shift channels in an order that nothing tells.

Whichever channels are read together, cut off or passed by: if all channels of what comes in, lies within and goes out
are permuted alike in blocks of a common length, the module computes the same (see `wsrl.wiring.joining`). That holds
where parts start at multiples of the length. It does not hold where channels are shuffled or traded for places, so
sizes that such a module would have are left alone.
"""

import re
from collections.abc import Iterable, Sequence
from math import gcd

from wsrl.wiring.convolutions import is_named_transposed
from wsrl.wiring.dims import Value, in_blocks, tie, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.joining import adds_up, all_of
from wsrl.wiring.order import GATE, first_read, numbered
from wsrl.wiring.tree import Node, sorted_children
from wsrl.wiring.values import Entry, Env, Loose

OTHERS = re.compile(r"(^|[._])(to_)?(q|k|v|qk|kv|qkv|query|key|value|attn_?\w*|cheap\w*)(_|\d|\.|$)", re.I)
SKIPS = re.compile(r"(^|[._])(up|dec|skip|fus|neck|fpn|head|lateral|merge)", re.I)
PLACES = (4, 9, 16)  # channels that a shuffle of pixels trades for places
REPEATED = 4  # times that one value may be read beside itself


def rescue(flow: Flow, node: Node, env: Env) -> bool:
    """Wires a module that could not run in the usual way, if it is one of these; `env` is its own if it has begun."""
    if node.kind != "container" or numbered(node):
        return False
    if env.node is node:
        return run_blockwise(flow, node, env)
    first = first_read(node)
    if not env.only_last and env.node is not None and first is not None and env.visible(first):
        return False  # it waits for another
    flow.trace.open(node, certain=False)
    ran = run_blockwise(flow, node, env)
    flow.trace.close(ran)
    return ran


def run_blockwise(flow: Flow, node: Node, env: Env) -> bool:
    """Wires a module of convolutions in blocks; False where it may be anything else."""
    gates = [child for child in _modules(node) if GATE.search(child.name) and _is_gate(child)]
    gated = {leaf for gate in gates for leaf in gate.leaves()}
    leaves = [leaf for leaf in node.leaves() if leaf not in gated]
    given = _given(env, node)
    layers = [leaf for leaf in leaves if leaf.kind == "conv"]
    if not layers or not given or env.is_unknown() or flow.unknown_sizes or not all(map(_is_plain, leaves)):
        return False
    if OTHERS.search(".".join(name for leaf in layers for name in leaf.path[len(node.path) :])):
        return False
    made = [leaf.units for leaf in layers if leaf.fan_in > 1]
    within = env.node is node  # some of its modules have run
    if not within and not env.only_last:  # what stands beside it tells what the block is given
        beside = _lengths(leaf for leaf in (env.node or node).leaves() if leaf not in node.leaves())
        given = [e for e in given if e.size in beside]
    sizes = [e.size for e in given]
    if not sizes:
        return False
    joins = within or env.only_last or node.parent is None
    if not joins and any(leaf.fan_in > max(*sizes, *made, 1) for leaf in layers):
        return False  # what has run beside it may be read together
    if not _are_explained(layers, sizes):
        return False
    ends = _ends(node)
    if _may_shuffle(layers, ends, sizes):
        return False
    lengths = {n for leaf in leaves for _, shape in leaf.tensors.values() for n in shape[:1]}
    lengths |= {leaf.fan_in for leaf in layers if leaf.fan_in > 1} | {
        n for leaf in layers for n in _in_groups(leaf, [*sizes, *made])
    }
    lengths |= {gate.leaves()[0].fan_in for gate in gates}
    if gcd(*lengths, *sizes) < 2:
        return False
    for entry in given:
        flow.read(env, [entry])
    base = in_blocks([e.value for e in given], lengths)

    def along(size: int) -> Value:
        return all_of(base, size)

    if within:
        flow.trace.scope.items.clear()
    for leaf in leaves:
        step = flow.note(leaf, leaf.kind if leaf.kind != "norm" else "batch norm" if "mean" in leaf.tensors else "norm")
        if leaf.kind != "conv":
            for tensor, shape in leaf.tensors.values():
                axis = next((i for i, n in enumerate(shape) if n > 1), None)
                if axis is not None:
                    _put(flow, tensor, axis, along(shape[axis]))
            continue
        tensor, shape = leaf.tensors["weight"]
        _put(flow, tensor, 0, along(shape[0]))
        if "bias" in leaf.tensors:
            _put(flow, leaf.tensors["bias"][0], 0, along(shape[0]))
        if shape[1] > 1:
            _put(flow, tensor, 1, along(shape[1]))
        else:
            step.passes = True
    for gate in gates:
        flow.run(gate, _alone(env, along(gate.leaves()[0].fan_in)))
    flow.warnings.append(
        f"how {node.dotted} joins or cuts channels is not understood: they are permuted alike in blocks of {base.size}"
    )
    size = sizes[-1] if sizes[-1] in ends or not ends else ends[-1]
    if within:
        env.entries.clear()
    env.add(along(size), spatial=True, loose=Loose(base, (*ends, *sizes)))
    env.entries[-1].read = True
    return True


def _lengths(leaves: Iterable[Node]) -> set[int]:
    """Channels that layers and norms read or return."""
    shapes = [leaf.weight for leaf in leaves if leaf.kind in ("conv", "linear", "norm") and "weight" in leaf.tensors]
    return {n for shape in shapes for n in shape[:2]}


def _may_shuffle(layers: Sequence[Node], ends: Sequence[int], given: Sequence[int]) -> bool:
    """Whether a depthwise convolution makes half of what is returned: the halves may be shuffled into each other."""
    depthwise = {leaf.units for leaf in layers if leaf.fan_in == 1}
    made, reads = {leaf.units for leaf in layers if leaf.fan_in > 1}, {leaf.fan_in for leaf in layers}
    return any(n in depthwise & made and n not in reads and n not in given for n in ends)


def _ends(node: Node) -> list[int]:
    """Channels that the last layers of a module's own modules return."""
    ends = [[leaf.units for leaf in child.leaves() if leaf.kind == "conv"] for child in sorted_children(node)]
    return [units[-1] for units in ends if units]


def _given(env: Env, node: Node) -> list[Entry]:
    """Maps that a module may read: the newest of a list, else all of the block around it."""
    first = first_read(node)
    told = env.visible(first) if first is not None and env.node is not node else []
    scope: Env | None = env
    while scope is not None and not scope.entries and not scope.inputs and not scope.unknown:
        scope = scope.parent
    if scope is None:
        return []
    found = told or (scope.entries[-1:] if scope.only_last else [*scope.entries, *scope.inputs])
    return [e for e in found if e.spatial and all(dim.find()[0].role != "input" for dim in e.value)]


def _modules(node: Node) -> list[Node]:
    return [node, *(inner for child in node.children.values() for inner in _modules(child))]


def _is_gate(node: Node) -> bool:
    """Whether a module narrows channels and widens them again."""
    layers = [leaf for leaf in node.leaves() if leaf.kind in ("linear", "conv")]
    return len(layers) == 2 and len(node.leaves()) == 2 and layers[0].fan_in == layers[1].units != layers[0].units


def _is_plain(leaf: Node) -> bool:
    """Whether a module is a convolution over a map, a norm with statistics or one number for each channel."""
    if leaf.kind == "conv":
        known = leaf.tensors.keys() <= {"weight", "bias"} and leaf.shape("bias") in (None, (leaf.units,))
        return known and len(leaf.weight) == 4 and leaf.units > 1 and not (leaf.transposed or is_named_transposed(leaf))
    long = [[n for n in shape if n > 1] for _, shape in leaf.tensors.values()]
    return leaf.kind in ("norm", "parameter") and all(len(axes) <= 1 for axes in long) and _is_batch_norm(leaf)


def _is_batch_norm(leaf: Node) -> bool:
    return leaf.kind != "norm" or "mean" in leaf.tensors


def _are_explained(layers: Sequence[Node], given: Sequence[int]) -> bool:
    """Whether every layer reads a value that is there, several side by side or a part of one, and no places."""
    waiting, made = list(layers), []
    while waiting:
        ready = [leaf for leaf in waiting if _is_explained(leaf, layers, given, made)]
        if not ready:
            return False
        made += [leaf.units for leaf in ready if leaf.fan_in > 1]
        waiting = [leaf for leaf in waiting if leaf not in ready]
    return True


def _is_explained(leaf: Node, layers: Sequence[Node], given: Sequence[int], made: Sequence[int]) -> bool:
    size, known = leaf.fan_in if leaf.fan_in > 1 else leaf.units, {*given, *made}
    if size in known:
        return True
    if any(size == n * other for n in PLACES for other in known if other >= max(given)):
        return False
    beside = [*made, *given, *(n for n in known if n < max(given) for _ in range(REPEATED - 1))]
    if size > min(known) and leaf.fan_in > 1 and not SKIPS.search(leaf.dotted) and adds_up(size, beside):
        return True
    if size >= max(known):
        return False
    alike = [other for other in layers if other.fan_in == leaf.fan_in]
    if any(size * n in known for n in PLACES) and leaf.units != size and len(alike) < 2:
        return False
    if max(leaf.weight[2:]) == 1 and leaf.fan_in > 1:  # else channels are shuffled in between, before they meet again
        return any(other.fan_in >= 2 * size for other in layers)
    return True


def _in_groups(leaf: Node, known: Sequence[int]) -> list[int]:
    """Units of each group that a convolution may have."""
    if leaf.fan_in in (1, leaf.units):  # depthwise, or of a part of the channels
        return []
    counts = {size // leaf.fan_in for size in known if size % leaf.fan_in == 0}
    return [leaf.units // n for n in counts if leaf.units % n == 0]


def _put(flow: Flow, tensor: str, axis: int, value: Value) -> None:
    """Says what an axis holds; what it is known to hold is tied to that block by block."""
    before = flow.axes[tensor][axis]
    (base, *_), *_ = ((dim.find()[0],) for dim in value)
    if before is not None and len(before) > 1:
        for dim in before:
            if dim.size % base.size == 0:
                tie(dim, view(base, outer=dim.size // base.size))
        return
    flow.passes(tensor, axis, value)


def _alone(env: Env, value: Value) -> Env:
    own = Env(node=env.node)
    own.add(value, spatial=True)
    return own
