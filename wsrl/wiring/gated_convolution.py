"""Gated short convolutions (Liquid AI, LFM2, 2025): what a convolution reads and returns is multiplied by gates."""

from itertools import pairwise

from wsrl.wiring.dims import Dim, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.order import numbered
from wsrl.wiring.tree import Node, sorted_children
from wsrl.wiring.values import Env

PARTS = ("in_proj", "conv", "out_proj")  # in order


def run_gated_convolution(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs a container that is a gated short convolution; None for any other module.

    `in_proj` returns two gates and the channels, one after the other.
    """
    if set(node.children) != set(PARTS) or any("weight" not in node.children[name].tensors for name in PARTS):
        return None
    first, conv, last = (node.children[name] for name in PARTS)
    channels, *rest = conv.weight
    if (first.kind, conv.kind, last.kind) != ("linear", "conv", "linear") or len(rest) != 2 or rest[0] != 1:
        return None
    if first.weight[0] != 3 * channels or last.weight[1] != channels or last.weight[0] != first.weight[1]:
        return None
    entry = flow.pick(env, first.weight[1], node)
    if entry is None:
        return False
    unit, out = Dim(channels), (Dim(last.weight[0]),)
    parts = (view(unit, outer=3),)
    flow.reads(first.tensors["weight"][0], 1, entry.value)
    flow.writes(first.tensors["weight"][0], 0, parts)
    flow.writes_vectors(first, parts)
    flow.passes(conv.tensors["weight"][0], 0, (unit,))
    flow.writes_vectors(conv, (unit,))
    flow.reads(last.tensors["weight"][0], 1, (unit,))
    flow.writes(last.tensors["weight"][0], 0, out)
    flow.writes_vectors(last, out)
    for name in PARTS:
        flow.note(node.children[name], node.children[name].kind).passes = name == "conv"
    tie_values(entry.value, out)
    env.add(out)
    return True


def run_halving_convolutions(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs a list of convolutions of which each is gated by half of what it returns (Synnaeve et al., 2020); None for
    any other module."""
    convs = sorted_children(node) if numbered(node) else []
    plain = len(convs) > 1 and all(c.kind == "conv" and not c.transposed and len(c.weight) == 3 for c in convs)
    if not plain or any(first.weight[0] != 2 * then.weight[1] for first, then in pairwise(convs)):
        return None
    if convs[-1].weight[0] % 2 or not node.name.startswith("conv"):
        return None
    entry = flow.pick(env, convs[0].weight[1], node)
    if entry is None:
        return False
    value = entry.value
    for conv in convs:
        flow.reads(conv.tensors["weight"][0], 1, value)
        half = Dim(conv.weight[0] // 2)
        flow.writes(conv.tensors["weight"][0], 0, (view(half, outer=2),))
        flow.writes_vectors(conv, (view(half, outer=2),))
        flow.note(conv, "conv")
        value = (half,)
    env.add(value, spatial=True)
    return True
