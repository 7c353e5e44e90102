"""Residual convolutional networks: a stem, blocks of two or more convolutions with a shortcut, pooling, a head."""

import re
from collections.abc import Iterator
from dataclasses import replace

from wsrl.program.chain import DEFAULT_ACTIVATION, attach_norms, convolved, linear
from wsrl.program.hints import Choice, Downsampling, Hints, input_shapes
from wsrl.program.layers import Layer, Link
from wsrl.program.names import Module

SHORTCUT = re.compile(r"(downsample|shortcut|skip|proj)", re.IGNORECASE)
BLOCK = re.compile(r"\d+$")


def block_of(module: Module) -> tuple[str, ...] | None:
    """Path of the residual block that a module is part of: `layer1.0`, `ResidualBlock_2`; None outside of blocks."""
    parent = module.path[:-1]
    if parent and SHORTCUT.search(parent[-1]):
        parent = parent[:-1]
    return parent if parent and BLOCK.search(parent[-1]) else None


def blocks_of(modules: list[Module]) -> dict[tuple[str, ...], list[Module]]:
    """Returns block path -> its convolutions and norms, for blocks of two or more convolutions."""
    blocks: dict[tuple[str, ...], list[Module]] = {}
    for module in modules:
        path = block_of(module)
        if path is not None and module.kind in ("conv", "batch_norm"):
            blocks.setdefault(path, []).append(module)
    return {path: block for path, block in blocks.items() if sum(m.kind == "conv" for m in block) >= 2}


def matches(modules: list[Module]) -> bool:
    """Residual networks have blocks of two or more convolutions."""
    return bool(blocks_of(modules))


def is_shortcut(conv: Module, siblings: list[Module]) -> bool:
    """A 1 x 1 convolution that is named as a shortcut, or, in Flax's automatic names, comes last."""
    if conv.kernel != (1, 1):
        return False
    return any(SHORTCUT.search(part) for part in conv.path) or (
        conv.flax and conv is siblings[-1] and len(siblings) > 2
    )


def _by_place(modules: list[Module]) -> tuple[list[Module], dict[tuple[str, ...], list[Module]]]:
    """Modules outside of blocks, and those of each block."""
    blocks = blocks_of(modules)
    inside = {id(m) for block in blocks.values() for m in block}
    return [m for m in modules if id(m) not in inside], blocks


def _shortcuts_and_path(block: list[Module]) -> tuple[list[Module], list[Module]]:
    siblings = [m for m in block if m.kind == "conv"]
    shortcuts = [m for m in siblings if is_shortcut(m, siblings)]
    return shortcuts, [m for m in siblings if m not in shortcuts]


def choices(modules: list[Module], hints: Hints) -> Iterator[Choice]:
    """Yields geometries, the most usual first.

    Strides are those of all convolutions in natural order of their names, shortcuts included. A block with a
    convolution as shortcut is taken to have stride 2; the stem may have it too.
    """
    outside, blocks = _by_place(modules)
    stem = [m for m in outside if m.kind == "conv"]
    if not stem:
        raise ValueError("no convolution before the blocks")
    inner: tuple[int, ...] = ()
    for block in blocks.values():
        shortcuts, path = _shortcuts_and_path(block)
        halved = [*shortcuts, *path[: bool(shortcuts)]]
        inner += tuple(2 if m in halved else 1 for m in block if m.kind == "conv")
    usual = [(1,) * len(stem) + inner, (2,) * len(stem) + inner]
    for strides in [hints.strides] if hints.strides else usual:
        if len(strides) != len(usual[0]):
            raise ValueError(f"{len(strides)} strides for {len(usual[0])} convolutions")
        for shape in input_shapes(stem[0], hints):
            how = Downsampling(strides, True, "max", (False,) * len(strides))
            yield Choice(DEFAULT_ACTIVATION, shape, how)


def layers(modules: list[Module], choice: Choice) -> list[Layer]:
    """Builds stem, blocks, global average pooling and head."""
    assert choice.downsampling is not None
    outside, blocks = _by_place(modules)
    stem = [m for m in outside if m.kind == "conv"]
    heads = [m for m in outside if m.kind == "dense"]
    stem_norms = attach_norms(stem, [m for m in outside if m.kind == "batch_norm"])
    convs = stem + [m for block in blocks.values() for m in block if m.kind == "conv"]
    strides = dict(zip([m.path for m in convs], choice.downsampling.strides, strict=True))

    height, width, channels = choice.input_shape
    net = [Layer("input", "input", channels, (height, width))]

    def add(conv: Module, source: int, norm: Module | None, activation: str) -> int:
        padding = conv.kernel[0] // 2
        grid = convolved(net[source].grid, conv.kernel, strides[conv.path], padding)
        link = Link(source, conv.weight(), conv.kernel, strides[conv.path], padding)
        net.append(linear(conv, grid, (link,), norm, activation))
        return len(net) - 1

    stream = 0
    for conv in stem:
        stream = add(conv, stream, stem_norms.get(conv.path), choice.activation)
    for block in blocks.values():
        norms = attach_norms([m for m in block if m.kind == "conv"], [m for m in block if m.kind == "batch_norm"])
        shortcuts, path = _shortcuts_and_path(block)
        skip = stream
        for conv in shortcuts:
            skip = add(conv, skip, norms.get(conv.path), "identity")
        inner = stream
        for conv in path:
            inner = add(conv, inner, norms.get(conv.path), "identity" if conv is path[-1] else choice.activation)
        last = net.pop()  # the block's last convolution and its shortcut meet before the activation
        net.append(replace(last, links=(*last.links, Link(skip)), activation=choice.activation))
        stream = inner
    net[stream] = replace(net[stream], pool=True)
    for head in heads:
        activation = "identity" if head is heads[-1] else choice.activation
        net.append(linear(head, (1, 1), (Link(len(net) - 1, head.weight()),), None, activation))
    return net
