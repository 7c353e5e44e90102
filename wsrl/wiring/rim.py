"""Blocks of which only the rim is understood: plain layers that read the stream, and the one that writes it.

Whatever a block of attention or of a state space does within, exchanging units of the stream leaves it alone if they
meet dense layers alone on the way in and out. So only what lies within is left in order.
"""

import re
from itertools import pairwise

from wsrl.wiring.attention_heads import Q_NORM
from wsrl.wiring.attention_roles import is_cross, role_of
from wsrl.wiring.dims import Dim, tie_values
from wsrl.wiring.flow import Flow
from wsrl.wiring.tree import Node
from wsrl.wiring.unknown import run_unknown
from wsrl.wiring.values import Env

READERS = re.compile(
    r"in_proj\w*|(out(put)?_)?gate(_proj)?|(q|k|v|g|z|f|b|a|beta)(_a)?_proj|(query|key|value)_global|[qkv]_proj_global|"
    r"w[qkvgo]_a|gate_up_proj|relative_pos_embeddings|w2e_query|e2w_query|e2e_query",
    re.I,
)
BY_TABLE = re.compile(r"pos_(q_|key_|query_)?proj")  # layers that read a table of distances as wide as the stream
CODES = re.compile(r"(linear|relative|rel|pos)_?(pos|k)(_proj)?", re.I)  # layers that read codes of distances
WRITERS = re.compile(r"out_proj|o_proj|dense|output_linear|wo", re.I)
TABLES = re.compile(r"rel\w*_embeddings?\b", re.I)


def run_rim(flow: Flow, node: Node, env: Env) -> bool:
    """Wires the rim of a block where it is plain; else fixes whatever the block may read, see `run_unknown`."""
    leaves = list(node.leaves())
    readers = [leaf for leaf in leaves if leaf.kind == "linear" and _reads_stream(node, leaf)]
    widths = {leaf.fan_in for leaf in readers}
    writers = [leaf for leaf in leaves if leaf.kind == "linear" and leaf not in readers and _writes_stream(node, leaf)]
    width = next(iter(widths), 0)
    if len(widths) != 1 or len(writers) > 1 or is_cross(node) or (writers and writers[0].units != width):
        return run_unknown(flow, node, env)
    if any(BY_TABLE.fullmatch(leaf.name) for leaf in readers) and not any(map(TABLES.search, flow.shapes)):
        return run_unknown(flow, node, env)
    inside = [leaf for leaf in leaves if leaf not in (*readers, *writers)]
    returned = {leaf.units for leaf in readers}
    if not all(
        _lies_within(flow, leaf, width, returned | {i.units for i in inside if i.kind == "linear"}) for leaf in inside
    ):
        return run_unknown(flow, node, env)
    if env.is_unknown():
        return run_unknown(flow, node, env)
    entry = flow.pick(env, width, node)
    if entry is None:
        return False
    flow.streams.append(entry.value)
    for leaf in readers:
        flow.reads(leaf.tensors["weight"][0], 0 if leaf.transposed else 1, entry.value)
        flow.note(leaf, "attention")
    for leaf in inside:
        flow.note(leaf, leaf.kind if leaf.kind in ("linear", "conv", "norm") else "parameter")
    flow.warnings.append(f"{node.dotted} is not understood: what lies within is left in order")
    if not writers:
        roles = {role_of(leaf.name): leaf.units for leaf in readers}
        values = [n for n in (roles.get("v"), roles.get("qkv", 0) // 3) if n]
        env.add((Dim(values[0] if values else max(returned), fixed=True),), heads=True)
        return True
    out = (Dim(width),)
    flow.writes(writers[0].tensors["weight"][0], 1 if writers[0].transposed else 0, out)
    flow.writes_vectors(writers[0], out)
    flow.note(writers[0], "attention")
    tie_values(entry.value, out)
    env.add(out)
    return True


def _reads_stream(node: Node, leaf: Node) -> bool:
    role = role_of(".".join(leaf.path[len(node.path) :]))
    return role not in (None, "o") or bool(READERS.fullmatch(leaf.name) or BY_TABLE.fullmatch(leaf.name))


def _writes_stream(node: Node, leaf: Node) -> bool:
    return role_of(".".join(leaf.path[len(node.path) :])) == "o" or bool(WRITERS.fullmatch(leaf.name))


def _lies_within(flow: Flow, leaf: Node, width: int, made: set[int]) -> bool:
    """Whether a module cannot meet the stream, whole or cut into heads: others of its block make what it reads."""
    if leaf.kind == "linear":
        if CODES.fullmatch(leaf.name):
            return not any(TABLES.search(name) for name in flow.shapes)
        return leaf.fan_in != width and leaf.units != width and leaf.fan_in in made
    for tensor, shape in leaf.tensors.values():
        long = [n for n in shape if n > 1]
        if width in long and not (Q_NORM.search(leaf.dotted) or re.match(r"[qkv]_?(conv|bias)", leaf.name)):
            return False
        cut = any(a * b == width for a, b in pairwise(long))
        if cut and "bias" not in tensor:
            return False
    return leaf.kind in ("norm", "parameter", "conv")
