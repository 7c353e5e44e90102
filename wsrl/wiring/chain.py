"""Networks whose layers follow one another: multi-layer perceptrons and plain convolutional networks."""

from dataclasses import replace
from math import isqrt, prod

from wsrl.wiring.hints import Hints, guess_input_shape, guess_strides
from wsrl.wiring.layers import Layer, Link
from wsrl.wiring.names import Module, natural_key


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


def layers(modules: list[Module], hints: Hints) -> list[Layer]:
    """Builds the layers of a chain: convolutions, then pooling or flatten, then dense layers."""
    convs = [m for m in modules if m.kind == "conv"]
    denses = [m for m in modules if m.kind == "dense"]
    if not denses:
        raise ValueError("no dense layer at the end")
    norms = attach_norms(convs + denses, [m for m in modules if m.kind == "batch_norm"])
    height, width, channels = hints.input_shape or guess_input_shape((convs + denses)[0])
    chain = [Layer("input", "input", channels, (height, width))]
    flattened = denses[0].fan_in // convs[-1].units if convs else None
    flattened_grid = isqrt(flattened) if flattened and flattened > 1 else None
    strides = hints.strides or guess_strides(convs, height, flattened_grid)
    for conv, stride in zip(convs, strides, strict=True):
        padding = conv.kernel[0] // 2
        link = Link(len(chain) - 1, conv.weight(), conv.kernel, stride, padding)
        grid = convolved(chain[-1].grid, conv.kernel, stride, padding)
        chain.append(linear(conv, grid, (link,), norms.get(conv.path), hints.activation))
    if convs and flattened == 1:
        chain[-1] = replace(chain[-1], pool=True)
    for dense in denses:
        source = chain[-1]
        grid = (1, 1) if source.pool else source.grid
        if dense.fan_in != source.units * prod(grid):
            raise ValueError(f"{dense.name} expects {dense.fan_in} inputs, {source.name} gives {source.units} x {grid}")
        link = Link(len(chain) - 1, dense.weight(flatten=grid), grid)
        activation = "identity" if dense is denses[-1] else hints.activation
        chain.append(linear(dense, (1, 1), (link,), norms.get(dense.path), activation))
    return chain
