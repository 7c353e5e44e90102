"""Attention, and what takes its place, whose parts meet in ways of their own."""

from wsrl.wiring.attention_heads import SMALLEST
from wsrl.wiring.course import Course, Misfit, join, kind
from wsrl.wiring.dims import Dim, Value, size_of, view
from wsrl.wiring.tree import Node, sorted_children


def _pooled(run: Course, node: Node, value: Value) -> Value:
    """Learned queries attend to all tokens (Lee et al., Set Transformer, 2019; Zhai et al., SigLIP, 2023)."""
    parts, width = node.children, size_of(value)
    norms = [parts[name] for name in ("q_norm", "k_norm") if name in parts]
    head = max(norms[0].own_shape) if norms else SMALLEST
    if width % head:
        raise Misfit
    if "pos_embed" in parts:
        run.table(parts["pos_embed"], value)
    latent = (Dim(max(parts["latent"].own_shape)),)
    run.table(parts["latent"], latent)
    keys, values = (view(Dim(head), outer=width // head) for _ in range(2))
    run.add(run.layer(parts["q"], latent), (keys,))
    for norm in norms:
        run.norm(norm, (keys.find()[0],), statistics=False)
    run.add(run.layer(parts["kv"], value, (width, width)), (keys, values))
    value = run.layer(parts["proj"], (values,))
    found = run.norm(parts["norm"], value, statistics=False)
    return run.add(value, run.run(parts["mlp"], found, size_of(value)))


def _modulated(run: Course, node: Node, value: Value) -> Value:
    """Queries times sums of ever wider convolutions (Yang et al., FocalNet, 2022)."""
    names = ("f", "h", "proj") if "f" in node.children else ("projection_in", "projection_context", "projection_out")
    first, context, last = (node.children[name] for name in names)
    norm = next((node.children[name] for name in ("norm", "layernorm") if name in node.children), None)
    layers, width = sorted_children(node.children["focal_layers"]), size_of(value)
    levels = len(layers) + 1
    rows = run.layer(first, value, (width, width, levels))
    queries, through, gates = run.cut(rows, (width, width, levels))
    run.keep(gates)
    for layer in layers:
        through = run.stack(layer, through)
    found = run.add(queries, run.layer(context, through))
    if norm is not None:
        run.norm(norm, found, statistics=False)
    return run.add(value, run.layer(last, found))


def _gated_tokens(run: Course, node: Node, value: Value) -> Value:
    """Half of the units, mixed over the places, gates the other half (Liu et al., gMLP, 2021)."""
    gate = node.children["gate"].children
    hidden, odd = divmod(node.children["fc1"].units, 2)
    if odd:
        raise Misfit
    first, second = run.cut(run.layer(node.children["fc1"], value, (hidden, hidden)), (hidden, hidden))
    run.norm(gate["norm"], second, statistics=False)
    places = (Dim(gate["proj"].fan_in, role="input"),)
    run.add(run.layer(gate["proj"], places), places)
    return run.add(value, run.layer(node.children["fc2"], run.add(first, second)))


def _transposed(run: Course, node: Node, value: Value) -> Value:
    """Parts of the channels are convolved one after the other, then attend to each other (Maaz et al., EdgeNeXt,
    2022)."""
    parts = node.children
    convs, width = sorted_children(parts["convs"]), sorted_children(parts["convs"])[0].units
    rest = size_of(value) - width * len(convs)
    pieces = run.cut(value, (*(width,) * len(convs), rest) if rest else (width,) * len(convs))
    found: list[Value] = []
    for conv, piece in zip(convs, pieces, strict=False):
        found.append(run.layer(conv, run.add(piece, found[-1]) if found else piece))
    joined = run.add(value, join((*found, *pieces[len(convs) :])))
    if "pos_embd" in parts:
        (codes,) = parts["pos_embd"].leaves()
        run.add(joined, run.layer(codes, (Dim(codes.fan_in, role="input"),)))
    run.norm(parts["norm_xca"], joined, statistics=False)
    run.add(joined, run.run(parts["xca"], joined, size_of(joined)))
    for gain in (child for child in parts.values() if child.kind == "parameter"):
        run.scale(gain, joined)
    run.norm(parts["norm"], joined, statistics=False)
    return run.add(value, run.run(parts["mlp"], joined, size_of(joined)))


def _depthwise_first(run: Course, node: Node, value: Value) -> Value:
    """A convolution of each channel, a norm over all channels, and two dense layers (Liu et al., ConvNeXt, 2022)."""
    parts = node.children
    stage = node.parent.parent if node.parent is not None else None
    waits = stage is not None and "downsample" in stage.children  # what it reads is made by another module
    widens = parts["conv_dw"].units != size_of(value)
    if parts["conv_dw"].fan_in != 1 or "shortcut" in parts or (widens and waits):
        raise Misfit
    value = run.layer(parts["conv_dw"], value)
    run.norm(parts["norm"], value, statistics=False)
    dense = parts["mlp"].children
    hidden = run.layer(dense["fc1"], value)
    if "grn" in dense:  # scaled by what it is among all units (Woo et al., ConvNeXt V2, 2023)
        run.norm(dense["grn"], hidden, statistics=False)
    found = run.layer(dense["fc2"], hidden)
    for name, child in parts.items():
        if child.kind == "parameter" or name.startswith("ls"):
            run.scale(child, found)
    return run.add(found, value)


KINDS = (
    kind("latent q kv proj norm mlp", "proj", _pooled),
    kind("f h proj focal_layers", "f", _modulated),
    kind("projection_in projection_context projection_out focal_layers", "projection_in", _modulated),
    kind("fc1 gate fc2", "fc1", _gated_tokens),
    kind("convs norm_xca xca mlp", "norm_xca", _transposed),
    kind("conv_dw norm mlp", "conv_dw", _depthwise_first),
)
