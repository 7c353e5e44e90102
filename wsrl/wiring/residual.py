"""Residual convolutional networks: a stem, blocks of two or more convolutions with a shortcut, pooling, a head."""

import re
from dataclasses import replace

from wsrl.wiring.chain import attach_norms, convolved, linear
from wsrl.wiring.hints import Hints, guess_input_shape
from wsrl.wiring.layers import Layer, Link
from wsrl.wiring.names import Module

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


def layers(modules: list[Module], hints: Hints) -> list[Layer]:
    """Builds stem, blocks, global average pooling and head.

    `strides` in the metadata are those of all convolutions in natural order of their names, shortcuts included.
    Where they are unknown, a block with a convolution as shortcut is taken to have stride 2.
    """
    blocks = blocks_of(modules)
    inside = {id(m) for block in blocks.values() for m in block}
    outside = [m for m in modules if id(m) not in inside]
    stem = [m for m in outside if m.kind == "conv"]
    heads = [m for m in outside if m.kind == "dense"]
    stem_norms = attach_norms(stem, [m for m in outside if m.kind == "batch_norm"])
    convs = stem + [m for block in blocks.values() for m in block if m.kind == "conv"]
    strides = dict(zip([m.path for m in convs], hints.strides, strict=True)) if hints.strides else {}

    height, width, channels = hints.input_shape or guess_input_shape(stem[0])
    net = [Layer("input", "input", channels, (height, width))]

    def add(conv: Module, source: int, stride: int, norm: Module | None, activation: str) -> int:
        padding = conv.kernel[0] // 2
        stride = strides.get(conv.path, stride)
        grid = convolved(net[source].grid, conv.kernel, stride, padding)
        link = Link(source, conv.weight(), conv.kernel, stride, padding)
        net.append(linear(conv, grid, (link,), norm, activation))
        return len(net) - 1

    stream = 0
    for conv in stem:
        stream = add(conv, stream, 1, stem_norms.get(conv.path), hints.activation)
    for block in blocks.values():
        siblings = [m for m in block if m.kind == "conv"]
        norms = attach_norms(siblings, [m for m in block if m.kind == "batch_norm"])
        shortcuts = [m for m in siblings if is_shortcut(m, siblings)]
        path = [m for m in siblings if m not in shortcuts]
        skip = stream
        for conv in shortcuts:
            skip = add(conv, skip, 2, norms.get(conv.path), "identity")
        inner = stream
        for i, conv in enumerate(path):
            stride = 2 if shortcuts and i == 0 else 1
            activation = "identity" if conv is path[-1] else hints.activation
            inner = add(conv, inner, stride, norms.get(conv.path), activation)
        last = net.pop()  # the block's last convolution and its shortcut meet before the activation
        net.append(replace(last, links=(*last.links, Link(skip)), activation=hints.activation))
        stream = inner
    net[stream] = replace(net[stream], pool=True)
    for head in heads:
        activation = "identity" if head is heads[-1] else hints.activation
        net.append(linear(head, (1, 1), (Link(len(net) - 1, head.weight()),), None, activation))
    return net
