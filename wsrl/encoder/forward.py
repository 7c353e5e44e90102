"""Runs one network on images in NumPy, layer by layer; nothing is compiled, so many short runs are cheap."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wsrl.program.layers import Link
from wsrl.program.network import Network, WeightedLayer

LAYER_NORM_EPSILON = 1e-6  # that of `wsrl.encoder.sweep`
LARGEST = 2**22  # entries of patches that are put side by side at a time
Maps = Float32[np.ndarray, "images height width units"]

FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(x.dtype) * (x + 0.044715 * x * x * x))),
    "silu": lambda x: x * (0.5 + 0.5 * np.tanh(0.5 * x)),
    "leaky_relu": lambda x: np.maximum(x, 0.01 * x),
}


class Ran(NamedTuple):
    """A layer that has run.

    Attributes:
      layer: with its weights.
      before, after: maps before and after its activation; `after` is a mean over positions where the layer pools them.
    """

    layer: WeightedLayer
    before: Maps
    after: Maps


def run(
    network: Network, images: Maps, adjust: Callable[[WeightedLayer, Maps], Maps] = lambda _, maps: maps
) -> Iterator[Ran]:
    """Yields the layers in their order, as they run.

    Args:
      network: whose input layer has the images' height, width and channels as grid and units.
      images: float32.
      adjust: takes what a linear layer makes of its weighted links, its batch norm included, before other layers are
        added to it, and returns what the network goes on with.
    """
    states: list[np.ndarray] = []
    for layer in network.layers:
        spec = layer.layer
        if spec.op == "input":
            before = images
        elif spec.op == "position":
            before = np.eye(spec.units, dtype=np.float32).reshape(1, *spec.grid, spec.units)
        elif spec.op == "attention":
            query, key, value = (states[link.source] for link in spec.links)
            before = _attend(query, key, value, spec.heads)
        elif spec.op == "norm":
            source = states[spec.links[0].source]
            centered = source - source.mean(-1, keepdims=True)
            deviation = np.sqrt(np.square(centered).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
            before = centered / deviation * layer.gain.astype(np.float32) + layer.bias.astype(np.float32)
        elif spec.op == "pool":
            outside, reduce = (-np.inf, np.max) if spec.pooling == "max" else (0.0, np.mean)
            before = reduce(_patches(states[spec.links[0].source], spec.links[0], spec.grid, outside), axis=(4, 5))
        else:
            before = layer.bias.astype(np.float32)
            for link, weight in zip(spec.links, layer.weights, strict=True):
                if weight is not None:
                    before = before + _carried(states[link.source], link, weight, spec.grid)
            before = adjust(layer, before)
            for link, weight in zip(spec.links, layer.weights, strict=True):
                before = states[link.source] + before if weight is None else before
        after = FUNCTIONS[spec.activation](before)
        if spec.pool:
            after = after.mean((1, 2), keepdims=True)
        states.append(after)
        yield Ran(layer, before, after)


def _patches(maps: np.ndarray, link: Link, grid: tuple[int, int], outside: float) -> np.ndarray:
    """What a link's kernel sees at each output position: a view [images, height, width, units, ky, kx]."""
    (oy, ox), (ky, kx), (height, width) = link.origin, link.kernel, grid
    top, left = link.padding - oy, link.padding - ox  # rows and columns to add; to take away where negative
    below = (height - 1) * link.stride + ky - top - maps.shape[1]
    right = (width - 1) * link.stride + kx - left - maps.shape[2]
    added = [(0, 0), (max(top, 0), max(below, 0)), (max(left, 0), max(right, 0)), (0, 0)]
    padded = np.pad(maps, added, constant_values=outside) if any(map(any, added)) else maps
    padded = padded[:, max(-top, 0) :, max(-left, 0) :]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (ky, kx), axis=(1, 2))
    return windows[:, : height * link.stride : link.stride, : width * link.stride : link.stride][:, :height, :width]


def _carried(maps: np.ndarray, link: Link, weight: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Maps through a link; `weight` is [taps, fan_in, units]."""
    patches = _patches(maps, link, grid, 0.0)
    taps, fan_in, units = weight.shape
    matrix = weight.astype(np.float32).transpose(1, 0, 2).reshape(fan_in * taps, units)
    carried = np.empty((*patches.shape[:3], units), np.float32)
    step = max(1, LARGEST // max(1, patches[0].size))
    for start in range(0, len(patches), step):
        own = patches[start : start + step]
        carried[start : start + step] = (own.reshape(-1, fan_in * taps) @ matrix).reshape(*own.shape[:3], units)
    return carried


def _attend(query: Maps, key: Maps, value: Maps, heads: int) -> Maps:
    """Softmax attention over positions, head by head."""
    images, height, width, units = query.shape

    def split(maps: np.ndarray) -> np.ndarray:
        return maps.reshape(images, height * width, heads, units // heads).transpose(0, 2, 1, 3)

    scores = split(query) @ split(key).swapaxes(2, 3) / np.sqrt(np.float32(units // heads))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ split(value)
    return mixed.transpose(0, 2, 1, 3).reshape(images, height, width, units)
