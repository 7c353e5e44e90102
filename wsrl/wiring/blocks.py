"""Blocks that the order of modules does not tell: layers that join all maps before them, mixing of tokens."""

import re

from wsrl.wiring.dims import Dim, mark, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.order import SERIES, first_read
from wsrl.wiring.tree import Node, sorted_children
from wsrl.wiring.values import Env

TOKENS = re.compile(r"(mlp|linear|fc)_tokens?|tokens?_mlp|token_mixing", re.I)


def run_dense_block(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs a block of DenseNet (Huang et al., 2017), whose layers read all maps before them, the oldest first."""
    if not node.children or not all(re.fullmatch(r"denselayer\d+", name) for name in node.children):
        return None
    layers = sorted_children(node)
    width = first_read_by_norm(layers[0])
    entry = flow.pick(env, width, node) if width else None
    if entry is None:
        return False
    value = entry.value
    for layer in layers:
        own = Env(only_last=True, node=node)
        own.made = env.made
        given = own.add(value, spatial=True)
        if not flow.run(layer, own) or own.entries[-1] is given:
            flow.lost(env, layer)
            return True
        value += own.entries[-1].value
        for made in own.entries:
            made.read = True
    env.add(value, spatial=True)
    return True


def run_dense_stages(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs the blocks of DenseNet and the transitions between them one after the other."""
    if not {"denseblock1", "transition1"} <= node.children.keys():
        return None

    def place(child: Node) -> tuple[int, str]:
        match = SERIES.fullmatch(child.name)
        last = child.name == "norm5"
        return (int(match[2]), match[1]) if match else (99 if last else 0, "")

    inner = Env(env, only_last=True, node=node)
    for i, child in enumerate(sorted(sorted_children(node), key=place)):
        if not flow.run_next(child, inner, i > 0):
            if i == 0:
                return False
            flow.lost(inner, child)
            flow.run_lost([child], inner)
    flow.export(inner, env, node)
    return True


def first_read_by_norm(layer: Node) -> int | None:
    """What a layer reads that starts with a norm."""
    norms = [leaf for leaf in layer.leaves() if leaf.kind == "norm"]
    return norms[0].weight[0] if norms and norms[0].shape("weight") else None


def run_token_mixing(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs layers along the tokens (Tolstikhin et al., MLP-Mixer, 2021): places are ordered, hidden units are not."""
    if not TOKENS.fullmatch(node.name) or any(leaf.kind not in ("linear", "norm") for leaf in node.leaves()):
        return None
    if env.last() is None and not env.is_unknown():
        return False
    tokens = first_read(node)
    if tokens is None or env.visible(tokens) or env.is_unknown():
        return None
    own = Env(node=node.parent)
    own.add((Dim(tokens, role="input"),))
    ran = flow.run_leaf(flow, node, own, False) if node.kind == "linear" else flow.run_block(node, own)
    for entry in own.made:
        if entry.size == tokens:
            mark(entry.value, "input")
    return ran


def run_position_features(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs a layer that turns fixed features of positions into an embedding (El-Nouby et al., XCiT, 2021)."""
    leaves = list(node.leaves())
    if node.name != "pos_embed" or len(leaves) != 1 or leaves[0].kind not in ("conv", "linear"):
        return None
    own = Env(node=node)
    own.made = env.made
    features = own.add((Dim(leaves[0].weight[1], role="input"),), spatial=True)
    features.read = True
    if not flow.run_leaf(flow, leaves[0], own, True):
        return None
    own.entries[-1].read = True
    env.add(own.entries[-1].value, spatial=True)
    return True


def run_position_convolution(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs grouped convolutions over the sequence whose result is added to it as a code of positions (Baevski et al.,
    wav2vec 2.0, 2020); None for any other module."""
    leaves = list(node.leaves())
    convs = [leaf for leaf in leaves if leaf.kind == "conv"]
    if not re.match(r"pos_conv", node.name) or len(convs) != len(leaves) or not convs:
        return None
    width, within = convs[0].weight[:2]
    if any(conv.weight[:2] != (width, within) or conv.transposed for conv in convs) or width % within:
        return None
    entry = flow.pick(env, width, node)
    if entry is None:
        return False
    unit = Dim(within)
    value = (view(unit, outer=width // within),)
    tie_values(value, entry.value)
    for conv in convs:
        flow.reads(conv.tensors["weight"][0], 1, (unit,))
        flow.writes(conv.tensors["weight"][0], 0, value)
        for tensor, shape in conv.tensors.values():
            if width in shape and tensor != conv.tensors["weight"][0]:
                flow.writes(tensor, shape.index(width), value)
        flow.note(conv, "conv")
    env.add(value)
    return True
