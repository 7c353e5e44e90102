"""Networks whose layers follow one another: multi-layer perceptrons and plain convolutional networks."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import prod

from wsrl.program.hints import MORE_SIDES, SIDES, Choice, Downsampling, Hints, downsamplings, input_shapes
from wsrl.program.layers import Layer, Link
from wsrl.program.names import Module, natural_key

DEFAULT_ACTIVATION = "relu"
WINDOW = 2  # pixels a side of pooled windows, and from one to the next


def matches(modules: list[Module]) -> bool:
    """A chain is what is left when no other family matches."""
    return True


def attach_norms(weighted: list[Module], norms: list[Module]) -> dict[tuple[str, ...], Module]:
    """Returns path of a convolution or dense layer -> the batch norm that follows it.

    In a numbered sequence (`features.0`, `features.1`) a norm belongs to the weights before it; otherwise
    (`Conv_0`, `BatchNorm_0`; `conv1`, `bn1`) the n-th norm belongs to the n-th weights.
    """
    pairs = {}
    for i, norm in enumerate(norms):
        numbered = norm.path[-1].isdigit()
        before = [
            m
            for m in weighted
            if numbered and m.path[:-1] == norm.path[:-1] and natural_key(m.path) < natural_key(norm.path)
        ]
        owner = before[-1] if before else weighted[i]
        if owner.units != norm.units or owner.path in pairs:
            raise ValueError(f"batch norm {norm.name} fits no layer")
        pairs[owner.path] = norm
    return pairs


def convolved(grid: tuple[int, int], kernel: tuple[int, int], stride: int, padding: int) -> tuple[int, int]:
    """Grid of a convolution's output."""
    height, width = ((n + 2 * padding - k) // stride + 1 for n, k in zip(grid, kernel, strict=True))
    return height, width


def linear(
    module: Module, grid: tuple[int, int], links: tuple[Link, ...], norm: Module | None, activation: str
) -> Layer:
    """A linear layer with the bias of its module and the batch norm that follows it."""
    folded = norm.norm() if norm else None
    return Layer(module.name, "linear", module.units, grid, links, module.biases(), folded, activation)


def in_order(denses: list[Module]) -> list[Module]:
    """Dense layers so that each reads what the one before returns; as they are where no such order shows.

    Names do not always sort as layers run: `head` comes before `hidden`.
    """
    if all(b.fan_in == a.units for a, b in pairwise(denses)):
        return denses
    made = {m.units for m in denses}
    rest = sorted(denses, key=lambda m: m.fan_in in made)  # one that reads what none returns is the first
    ordered = [rest.pop(0)]
    while fitting := [m for m in rest if m.fan_in == ordered[-1].units]:
        following = min(fitting, key=lambda m: not any(o.fan_in == m.units for o in rest if o is not m))
        rest.remove(following)
        ordered.append(following)
    return denses if rest else ordered


def room_for_pooling(convs: list[Module], norms: dict[tuple[str, ...], Module]) -> list[bool | None]:
    """Whether more than an activation lies between a convolution, with its norm, and the next; None where numbers do
    not show it.
    """
    room: list[bool | None] = []
    for conv, following in pairwise(convs):
        last = norms.get(conv.path, conv)
        numbered = last.path[-1].isdigit() and following.path[-1].isdigit() and last.path[:-1] == following.path[:-1]
        room.append(int(following.path[-1]) - int(last.path[-1]) > 2 if numbered else None)
    return [*room, None]


def agrees(pooled: tuple[bool, ...], room: list[bool | None]) -> bool:
    """Whether convolutions are pooled where there is room for it, and only there."""
    return all(known is None or known == taken for known, taken in zip(room, pooled, strict=True))


def map_after(convs: list[Module], grid: tuple[int, int], how: Downsampling) -> tuple[int, int]:
    """Grid of the map behind a chain of convolutions; not positive where an image is too small for them."""
    for conv, stride, pooled in zip(convs, how.strides, how.pooled, strict=True):
        grid = convolved(grid, conv.kernel, stride, conv.kernel[0] // 2 if how.padded else 0)
        grid = convolved(grid, (WINDOW, WINDOW), WINDOW, 0) if pooled else grid
    return grid


def choices(modules: list[Module], hints: Hints) -> Iterator[Choice]:
    """Yields geometries that the shapes allow, the most usual first.

    Convolutions before a flatten have a map of a known size at the end, to which images of few sizes shrink. Before
    global average pooling any size will do; then sides of `SIDES` are tried, and padding by half the kernel. Numbered
    modules, as in PyTorch's Sequential, leave out numbers for activations and pooling.
    """
    convs = [m for m in modules if m.kind == "conv"]
    denses = in_order([m for m in modules if m.kind == "dense"])
    if not denses:
        raise ValueError("no dense layer at the end")
    first = denses[0]
    if not convs:
        yield from (Choice(DEFAULT_ACTIVATION, shape) for shape in input_shapes(first, hints))
        return
    if hints.strides and len(hints.strides) != len(convs):
        raise ValueError(f"{len(hints.strides)} strides for {len(convs)} convolutions")
    positions = first.fan_in // convs[-1].units
    norms = attach_norms(convs + denses, [m for m in modules if m.kind == "batch_norm"])
    room = room_for_pooling(convs, norms)
    for sides in (SIDES, MORE_SIDES):
        fitting = [
            Choice(DEFAULT_ACTIVATION, shape, how)
            for shape in input_shapes(convs[0], hints, sides)
            for how in downsamplings(len(convs), hints)
            if min(grid := map_after(convs, shape[:2], how)) > 0
            and (how.padded and not how.pooled[-1] if positions == 1 else prod(grid) == positions)
        ]
        shown = [c for c in fitting if c.downsampling and agrees(c.downsampling.pooled, room)]
        yield from shown or fitting
        if fitting:
            return
    raise ValueError(
        f"no usual strides and pooling shrink an image to the {positions} positions that {first.name} reads"
    )


def layers(modules: list[Module], choice: Choice) -> list[Layer]:
    """Builds the layers of a chain: convolutions, each perhaps pooled, then global pooling or flatten, dense layers."""
    convs = [m for m in modules if m.kind == "conv"]
    denses = in_order([m for m in modules if m.kind == "dense"])
    norms = attach_norms(convs + denses, [m for m in modules if m.kind == "batch_norm"])
    height, width, channels = choice.input_shape
    chain = [Layer("input", "input", channels, (height, width))]
    how = choice.downsampling or Downsampling((), True, "max", ())
    for conv, stride, pooled in zip(convs, how.strides, how.pooled, strict=True):
        padding = conv.kernel[0] // 2 if how.padded else 0
        link = Link(len(chain) - 1, conv.weight(), conv.kernel, stride, padding)
        grid = convolved(chain[-1].grid, conv.kernel, stride, padding)
        chain.append(linear(conv, grid, (link,), norms.get(conv.path), choice.activation))
        if pooled:
            chain.append(_pooled(chain, how.pooling))
    if convs and denses[0].fan_in == convs[-1].units:
        chain[-1] = replace(chain[-1], pool=True)
    for dense in denses:
        source = chain[-1]
        grid = (1, 1) if source.pool else source.grid
        if dense.fan_in != source.units * prod(grid):
            raise ValueError(f"{dense.name} expects {dense.fan_in} inputs, {source.name} gives {source.units} x {grid}")
        link = Link(len(chain) - 1, dense.weight(flatten=grid), grid)
        activation = "identity" if dense is denses[-1] else choice.activation
        chain.append(linear(dense, (1, 1), (link,), norms.get(dense.path), activation))
    return chain


def _pooled(chain: list[Layer], pooling: str) -> Layer:
    """Windows of the map of the last layer, pooled."""
    link = Link(len(chain) - 1, None, (WINDOW, WINDOW), WINDOW)
    grid = convolved(chain[-1].grid, link.kernel, link.stride, 0)
    return Layer(f"{chain[-1].name}.pool", "pool", chain[-1].units, grid, (link,), pooling=pooling)
