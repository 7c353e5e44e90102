"""Transformers on patches or rows of images: embedding, positions, pre-norm blocks, final norm, mean over tokens, head.

Names: Flax's MultiHeadDotProductAttention (`query/kernel` [units, heads, dim], `out/kernel` [heads, dim, units]) and
timm's fused form (`attn.qkv.weight` [3 heads dim, units], `attn.proj.weight`).
"""

from collections.abc import Sequence
from math import isqrt

from wsrl.wiring.chain import convolved, linear
from wsrl.wiring.hints import Hints, guess_input_shape
from wsrl.wiring.layers import Layer, Link, View
from wsrl.wiring.names import Module

DEFAULT_HEAD_DIM = 64


def matches(modules: list[Module]) -> bool:
    """Transformers have fused or separate query projections."""
    return any(m.path[-1] in ("qkv", "query") for m in modules)


def block_paths(modules: Sequence[Module]) -> list[tuple[str, ...]]:
    """Paths of the blocks, in order: the parents of the attention modules."""
    return list(dict.fromkeys(m.path[:-2] for m in modules if m.path[-1] in ("qkv", "query")))


def norm_layer(norm: Module, source: int, net: list[Layer], pool: bool = False) -> Layer:
    """Layer norm over the units of a layer."""
    of = net[source]
    return Layer(norm.name, "norm", of.units, of.grid, (Link(source),), norm=norm.norm(), pool=pool)


def projections(
    attention: list[Module], units: int, heads: int | None
) -> tuple[list[tuple[View, tuple[View, ...]]], int]:
    """Views (weight, biases) of the query, key and value projections, and the number of heads."""
    by_name = {m.path[-1]: m for m in attention}
    if "qkv" in by_name:
        fused = by_name["qkv"]
        heads = heads or max(1, units // DEFAULT_HEAD_DIM)
        sizes = {"part": 3, "heads": heads, "dim": fused.shape[0] // (3 * heads), "in": units}
        out = ("part", "heads", "dim")
        weight, bias = fused.fields["weight"][0], fused.fields.get("bias")
        return [
            (View(weight, (out, ("in",)), sizes, part), (View(bias[0], (out,), sizes, part),) if bias else ())
            for part in range(3)
        ], heads
    views = []
    for name in ("query", "key", "value"):
        module = by_name[name]
        sizes: dict[str, int] = dict(zip(("in", "heads", "dim"), module.shape, strict=True))
        bias = module.fields.get("bias")
        weight = View(module.fields["weight"][0], (("in",), ("heads",), ("dim",)), sizes)
        views.append((weight, (View(bias[0], (("heads",), ("dim",)), sizes),) if bias else ()))
    return views, by_name["query"].shape[1]


def output_view(module: Module, heads: int, dim: int) -> View:
    """View of the projection back to the stream."""
    tensor, shape = module.fields["weight"]
    units = shape[-1] if module.flax else shape[0]
    sizes = {"heads_in": heads, "dim_in": dim, "out": units}
    if module.flax:
        return View(tensor, (("heads_in",), ("dim_in",), ("out",)), sizes)
    return View(tensor, (("out",), ("heads_in", "dim_in")), sizes)


def layers(modules: list[Module], hints: Hints) -> list[Layer]:
    """Builds the layers of a vision transformer that averages its tokens; a class token is not understood."""
    paths = block_paths(modules)
    inside = [m for m in modules if any(m.path[: len(p)] == p for p in paths)]
    outside = [m for m in modules if m not in inside]
    patches = next(m for m in outside if m.kind == "conv")
    positions = next((m.fields["position"] for m in outside if "position" in m.fields), None)
    norms = [m for m in outside if m.kind == "layer_norm"]
    heads = [m for m in outside if m.kind == "dense"]
    units, (stride, width) = patches.units, patches.kernel
    shape = hints.input_shape
    if shape is None:
        tokens = positions[1][-2] if positions else 0
        if width != stride:  # whole rows
            shape = (tokens * stride, width, patches.fan_in)
        else:
            side = isqrt(tokens) * stride if positions else guess_input_shape(patches)[0]
            shape = (side, side, patches.fan_in)
    net = [Layer("input", "input", shape[2], shape[:2])]
    grid = convolved(shape[:2], patches.kernel, stride, 0)
    links = [Link(0, patches.weight(), patches.kernel, stride)]
    if positions:
        tensor, size = positions
        view = View(tensor, (("one",), ("in",), ("out",)), {"one": 1, "in": grid[0] * grid[1], "out": size[-1]})
        net.append(Layer("position", "position", grid[0] * grid[1], grid))
        links.append(Link(1, view))
    net.append(linear(patches, grid, tuple(links), None, "identity"))
    for path in paths:
        _block([m for m in inside if m.path[: len(path)] == path], path, net, units, hints)
    if norms:
        net.append(norm_layer(norms[-1], len(net) - 1, net, pool=True))
    for head in heads:
        activation = "identity" if head is heads[-1] else hints.activation
        net.append(linear(head, (1, 1), (Link(len(net) - 1, head.weight()),), None, activation))
    return net


def _block(block: list[Module], path: tuple[str, ...], net: list[Layer], units: int, hints: Hints) -> None:
    """Appends the layers of one pre-norm block to `net`."""
    stream, grid = len(net) - 1, net[-1].grid
    norms = [m for m in block if m.kind == "layer_norm"]
    attention = [m for m in block if m.path[-1] in ("qkv", "query", "key", "value")]
    parent = attention[0].path[:-1]
    out = next(m for m in block if m.path[:-1] == parent and m.path[-1] in ("out", "proj", "out_proj"))
    hidden, back = (m for m in block if m.kind == "dense" and m.path[: len(parent)] != parent)
    if hidden.fan_in != units:  # Flax numbers modules as they are made, which need not be as they are applied
        hidden, back = back, hidden
    name = ".".join(path)

    net.append(norm_layer(norms[0], stream, net))
    normed = len(net) - 1
    views, heads = projections(attention, units, hints.heads)
    dim = views[0][0].sizes["dim"]
    for part, (weight, biases) in zip(("query", "key", "value"), views, strict=True):
        net.append(Layer(f"{name}.{part}", "linear", heads * dim, grid, (Link(normed, weight),), biases, heads=heads))
    qkv = tuple(Link(len(net) - 3 + i) for i in range(3))
    net.append(Layer(f"{name}.attention", "attention", heads * dim, grid, qkv, heads=heads))
    link = Link(len(net) - 1, output_view(out, heads, dim))
    net.append(Layer(f"{name}.{out.path[-1]}", "linear", units, grid, (link, Link(stream)), out.biases()))
    stream = len(net) - 1
    net.append(norm_layer(norms[1], stream, net))
    net.append(linear(hidden, grid, (Link(len(net) - 1, hidden.weight()),), None, hints.activation))
    net.append(linear(back, grid, (Link(len(net) - 1, back.weight()), Link(stream)), None, "identity"))
