"""Transformers on patches or rows of images: embedding, positions, pre-norm blocks, final norm, mean over tokens, head.

Names: Flax's MultiHeadDotProductAttention (`query/kernel` [units, heads, dim], `out/kernel` [heads, dim, units]) and
timm's fused form (`attn.qkv.weight` [3 heads dim, units], `attn.proj.weight`).
"""

from collections.abc import Iterator, Sequence
from math import isqrt

from wsrl.program.chain import convolved, linear
from wsrl.program.hints import Choice, Hints, input_shapes
from wsrl.program.layers import Layer, Link, View
from wsrl.program.names import Module

DEFAULT_ACTIVATION = "gelu"
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


def _outside(modules: list[Module]) -> list[Module]:
    """Modules outside of the blocks."""
    paths = block_paths(modules)
    return [m for m in modules if not any(m.path[: len(p)] == p for p in paths)]


def _positions(outside: list[Module]) -> tuple[str, tuple[int, ...]] | None:
    """Name and shape of a learned position embedding."""
    return next((m.fields["position"] for m in outside if "position" in m.fields), None)


def choices(modules: list[Module], hints: Hints) -> Iterator[Choice]:
    """Yields geometries, the most usual first: a position embedding tells the image; fused projections hide the heads.

    Heads have most often 64 units, in small models a power of two of them.
    """
    outside = _outside(modules)
    patches = next((m for m in outside if m.kind == "conv"), None)
    if patches is None:
        raise ValueError("no convolution cuts an image into patches")
    positions, (stride, width) = _positions(outside), patches.kernel
    shapes = input_shapes(patches, hints)
    if hints.input_shape is None and (positions or width != stride):
        tokens = positions[1][-2] if positions else 0
        whole_rows = (tokens * stride, width, patches.fan_in)
        side = isqrt(tokens) * stride
        shapes = [whole_rows if width != stride else (side, side, patches.fan_in)]
    fused = any(m.path[-1] == "qkv" for m in modules)
    usual = dict.fromkeys((max(1, patches.units // DEFAULT_HEAD_DIM), 4, 2, 8, 1))
    fitting = [heads for heads in usual if patches.units % heads == 0]
    for heads in ([hints.heads] if hints.heads else fitting) if fused else [None]:
        for shape in shapes:
            yield Choice(DEFAULT_ACTIVATION, shape, heads=heads)


def layers(modules: list[Module], choice: Choice) -> list[Layer]:
    """Builds the layers of a vision transformer that averages its tokens; a class token is not understood."""
    paths = block_paths(modules)
    outside = _outside(modules)
    patches = next(m for m in outside if m.kind == "conv")
    positions = _positions(outside)
    norms = [m for m in outside if m.kind == "layer_norm"]
    heads = [m for m in outside if m.kind == "dense"]
    shape, stride = choice.input_shape, patches.kernel[0]
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
        _block([m for m in modules if m.path[: len(path)] == path], path, net, patches.units, choice)
    if norms:
        net.append(norm_layer(norms[-1], len(net) - 1, net, pool=True))
    for head in heads:
        activation = "identity" if head is heads[-1] else choice.activation
        net.append(linear(head, (1, 1), (Link(len(net) - 1, head.weight()),), None, activation))
    return net


def _block(block: list[Module], path: tuple[str, ...], net: list[Layer], units: int, choice: Choice) -> None:
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
    views, heads = projections(attention, units, choice.heads)
    dim = views[0][0].sizes["dim"]
    for part, (weight, biases) in zip(("query", "key", "value"), views, strict=True):
        net.append(Layer(f"{name}.{part}", "linear", heads * dim, grid, (Link(normed, weight),), biases, heads=heads))
    qkv = tuple(Link(len(net) - 3 + i) for i in range(3))
    net.append(Layer(f"{name}.attention", "attention", heads * dim, grid, qkv, heads=heads))
    link = Link(len(net) - 1, output_view(out, heads, dim))
    net.append(Layer(f"{name}.{out.path[-1]}", "linear", units, grid, (link, Link(stream)), out.biases()))
    stream = len(net) - 1
    net.append(norm_layer(norms[1], stream, net))
    net.append(linear(hidden, grid, (Link(len(net) - 1, hidden.weight()),), None, choice.activation))
    net.append(linear(back, grid, (Link(len(net) - 1, back.weight()), Link(stream)), None, "identity"))
