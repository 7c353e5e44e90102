"""Attention whose projections have an axis for heads and one for their entries: Flax, Keras, XLNet.

Queries, keys and values are [in, heads, dim], the output projection is [heads, dim, out] in Flax and Keras and
[out, heads, dim] in XLNet. So heads and their entries can both be exchanged, each along an axis of its own.
"""

import re

from wsrl.wiring.attention_heads import Q_NORM
from wsrl.wiring.attention_roles import is_cross, role_of
from wsrl.wiring.dims import Dim, Value, fix, size_of, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.tree import Node, Shape
from wsrl.wiring.values import Env
from wsrl.wiring.wiring import Fact

PLAIN = re.compile(r"MultiHeadDotProductAttention|multi_head_attention|rel_attn")  # of which no variant turns pairs
NAMES = {"attention_output": "o"}  # Keras
OFFSET = re.compile(r"r_[wrs]_bias|seg_embed")  # [heads, dim], added to queries or keys (Yang et al., XLNet, 2019)
CODES = "r"  # reads sines of distances (XLNet)


def run_head_axes(flow: Flow, node: Node, env: Env, turned: bool) -> tuple[bool, Value] | None:
    """Runs a container that is attention with axes for heads; None for any other module.

    Args:
      turned: whether a rotary embedding may turn queries and keys.

    Returns:
      Whether it ran, and what queries read.
    """
    leaves = [leaf for leaf in node.leaves() if leaf is not node]
    parts = {
        NAMES.get(leaf.name) or role_of(leaf.name) or leaf.name: leaf
        for leaf in leaves
        if len(leaf.path) == 1 + len(node.path)
    }
    found = {
        role: leaf for role, leaf in parts.items() if role in ("q", "k", "v", "o", CODES) and len(_kernel(leaf)[1]) == 3
    }
    if {"q", "k", "v", "o"} - found.keys() or len(parts) != len(leaves):
        return None
    (width, heads, dim), (source, shared, _) = _kernel(found["q"])[1], _kernel(found["k"])[1]
    values = _kernel(found["v"])[1][2]
    if _kernel(found["k"])[1][2] != dim or (CODES in found and _kernel(found[CODES])[1][1:] != (heads, dim)):
        return None
    last = _kernel(found["o"])[1]
    first = last[:2] == (heads, values)  # the heads of the output projection come first
    if heads % shared or not (first or last[1:] == (heads, values)) or _kernel(found["v"])[1][:2] != (source, shared):
        return None
    read = flow.pick(env, width, node)
    memory = read if source == width and not is_cross(node) else flow.pick(env, source, found["k"])
    if read is None or memory is None:
        return False, ()
    others = [leaf for role, leaf in parts.items() if role not in found]
    offset = [leaf for leaf in others if OFFSET.fullmatch(leaf.name) and _kernel(leaf)[1][-2:] == (heads, dim)]
    outside = [leaf for leaf in others if leaf.kind == "norm" and leaf.weight == (width,) and width != dim]
    within = [leaf for leaf in others if Q_NORM.search(leaf.name) and leaf.kind == "norm" and leaf.weight == (dim,)]
    strange = [leaf for leaf in others if leaf not in (*offset, *outside, *within)]
    head = Dim(shared, fixed=bool(strange))
    entry = Dim(dim, fixed=bool(strange) or (turned and not PLAIN.search(node.dotted)))
    own = Dim(values, fixed=bool(strange))
    query = view(head, inner=heads // shared)
    if strange:
        flow.warnings.append(f"the heads of {node.dotted} are not understood")
        sizes = {n for leaf in strange for _, shape in leaf.tensors.values() for n in shape}
        fix([d for value in (read.value, memory.value) if sum(x.size for x in value) in sizes for d in value])
    out: Value = (Dim(last[2] if first else last[0]),)
    facts = {"heads": Fact(heads, "shapes"), "key_value_heads": Fact(shared, "shapes")}
    for role, along, inner, inputs in (
        ("q", query, entry, read.value),
        ("k", head, entry, memory.value),
        ("v", head, own, memory.value),
    ):
        _put(flow, found[role], (inputs, (along,), (inner,)), writes=(1, 2))
        flow.note(found[role], "attention", facts={"part": Fact(role, "names"), **facts})
    if CODES in found:
        _put(flow, found[CODES], (None, (query,), (entry,)), writes=(1, 2))
    for leaf in outside:
        flow.passes_vectors(leaf, read.value)
    for leaf in within:
        flow.passes_vectors(leaf, (entry,))
    for leaf in offset:
        tensor, shape = _kernel(leaf)
        flow.put(tensor, len(shape) - 2, (query,))
        flow.put(tensor, len(shape) - 1, (entry,))
    for leaf in (*(found[role] for role in found if role == CODES), *others):
        flow.note(leaf, "parameter" if leaf.kind != "norm" else "norm")
    heads_and_entries = ((query,), (own,))
    _put(flow, found["o"], (*heads_and_entries, out) if first else (out, *heads_and_entries), (2,) if first else (0,))
    flow.note(found["o"], "attention", facts={"part": Fact("o", "names"), **facts})
    if out[0].size == width:
        tie_values(read.value, out)
    env.add(out)
    return True, read.value


def _put(flow: Flow, leaf: Node, sides: tuple[Value | None, ...], writes: tuple[int, ...]) -> None:
    """Says what lies along the axes of a kernel, and along those of its bias, which are the ones that it writes."""
    tensor, _ = _kernel(leaf)
    for axis, value in enumerate(sides):
        if value is not None:
            (flow.writes if axis in writes else flow.reads)(tensor, axis, value)
    bias = leaf.tensors.get("bias")
    written = [sides[axis] or () for axis in writes]
    if bias is not None and bias[1] == tuple(map(size_of, written)):
        for axis, value in enumerate(written):
            flow.writes(bias[0], axis, value)
    elif bias is not None:
        fix([dim for value in written for dim in value])


def _kernel(leaf: Node) -> tuple[str, Shape]:
    return leaf.tensors.get("weight") or leaf.tensors.get("value") or ("", ())
