"""Gated short convolutions (Liquid AI, LFM2, 2025): what a convolution reads and returns is multiplied by gates."""

from itertools import pairwise

from wsrl.wiring.dims import Dim, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.order import numbered
from wsrl.wiring.trace import norm_type
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
    plain = len(rest) == 1 or (len(rest) == 2 and rest[0] == 1)  # GGUF leaves out the axis of length 1
    if first.transposed or last.transposed or conv.transposed:
        return None
    if (first.kind, last.kind) != ("linear", "linear") or not plain:
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


def run_conformer_convolution(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs the convolutions of a conformer (Gulati et al., 2020): a gated one, one along the sequence for each channel,
    and one back to the stream; None for any other module."""
    first, middle, last = (node.children.get(n) for n in ("pointwise_conv1", "depthwise_conv", "pointwise_conv2"))
    if first is None or middle is None or last is None or len(node.children) > 6:
        return None
    layers = (first, middle, last)
    norms = [child for child in node.children.values() if child not in layers]
    if any(child.kind not in ("conv", "linear") or child.transposed for child in layers) or any(
        c.kind != "norm" for c in norms
    ):
        return None
    channels, width = middle.weight[0], first.weight[1]
    if first.weight[0] != 2 * channels or last.weight[:2] != (width, channels) or middle.weight[1] != 1:
        return None
    entry = flow.pick(env, width, node)
    if entry is None:
        return False
    unit, out = Dim(channels), (Dim(width),)
    for layer, inputs, outputs in ((first, entry.value, (view(unit, outer=2),)), (last, (unit,), out)):
        flow.reads(layer.tensors["weight"][0], 1, inputs)
        flow.writes(layer.tensors["weight"][0], 0, outputs)
        flow.writes_vectors(layer, outputs)
    flow.passes(middle.tensors["weight"][0], 0, (unit,))
    flow.writes_vectors(middle, (unit,))
    for norm in norms:
        before = norm.name in ("layer_norm", "norm0", "ln")
        flow.passes_vectors(norm, entry.value if before else (unit,))
    for child in (*(n for n in norms if n.name == "layer_norm"), first, middle):
        flow.note(child, norm_type(child) if child.kind == "norm" else "conv").passes = child not in (first,)
    for child in (*(n for n in norms if n.name != "layer_norm"), last):
        flow.note(child, norm_type(child) if child.kind == "norm" else "conv").passes = child is not last
    tie_values(entry.value, out)
    env.add(out, spatial=True)
    return True
