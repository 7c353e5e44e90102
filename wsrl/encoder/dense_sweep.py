"""The sweeps of one network in NumPy: the road on CPUs, where no program need be compiled for every architecture.

`wsrl.encoder.sweep` computes the same in JAX, for accelerators and for gradients with respect to what is swept. Here a
state is [height, probes, width, units]: the taps of one row of a kernel lie side by side, so a window is a matrix of
probes and slots that products read where it lies, and nothing is gathered (the rows of a kernel are summed after). A
state is written into zeros as wide as its readers' windows reach out of it. Backward, the cotangents of some classes at
a time are carried from the logits to the input; classes and probes share an axis.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from math import prod

import numpy as np
from jaxtyping import Float32

from wsrl.encoder.dense_activations import FUNCTIONS
from wsrl.encoder.dense_attention import attention_weights, by_head, by_unit, pull_attention
from wsrl.encoder.dense_network import DenseLayer, DenseLink
from wsrl.encoder.dense_windows import (
    Map,
    Reach,
    State,
    amid,
    amid_least,
    amid_zeros,
    correlate,
    correlate_back,
    first_largest,
    reach_of_readers,
    unwindow,
    windows_of,
)
from wsrl.encoder.sweep import LAYER_NORM_EPSILON

CHUNK_SIZE = 2**20  # numbers of the largest state of a chunk of probes, or of cotangents of some classes
KEPT_SIZE = 2**22  # numbers that first layers read of the inputs, kept for the next network


class Inputs:
    """What networks are fed, in chunks of probes; what first layers read of it is kept for the next network.

    Args:
      images: [probes, height, width, channels].
    """

    def __init__(self, images: Float32[np.ndarray, "probes height width channels"]):
        self.probes = len(images)
        self._images = images
        self.chunks: list[State] = []
        self._kept: dict[tuple, np.ndarray] = {}

    def split(self, number: int) -> None:
        """Makes `number` chunks."""
        if number != len(self.chunks):
            parts = np.array_split(self._images, number)
            self.chunks = [np.ascontiguousarray(part.swapaxes(0, 1), np.float32) for part in parts]
            self._kept = {}

    def patches(self, chunk: int, link: DenseLink, grid: tuple[int, int]) -> Float32[np.ndarray, "places slots"]:
        """What a link reads of a chunk at each row, probe and column of its outputs: taps, then channels; and a 1."""
        key = (chunk, link.kernel, link.offset, link.stride, grid)
        found = self._kept.get(key)
        if found is None:
            windows = windows_of(amid_zeros(self.chunks[chunk], link, grid), link, grid)
            taps = np.stack(list(windows), 3)
            taps = taps.reshape(prod(taps.shape[:3]), -1)
            found = np.concatenate([taps, np.ones_like(taps[:, :1])], 1)
            if found.size + sum(kept.size for kept in self._kept.values()) <= KEPT_SIZE:
                self._kept[key] = found
        return found


def sweep_network(
    network: Sequence[DenseLayer], pulled: Inputs, others: Inputs | None, gradients: bool = True
) -> tuple[Float32[np.ndarray, "classes probes"], Float32[np.ndarray, "classes rows"]]:
    """Sweeps inputs through a network.

    Args:
      network: its layers.
      pulled: inputs that are swept forward and, for gradients, backward.
      others: inputs that are swept forward only.
      gradients: whether they are asked for.

    Returns:
      The logits for both, and the mean gradient of each class's logit, less the mean of the classes', with respect to
      `pulled`, one row a channel and pixel, as `wsrl.encoder.templates.class_gradients`; zero if not asked for.
    """
    classes, reach = network[-1].units, reach_of_readers(network)
    size = max(
        layer.units * prod(n + sum(r) for n, r in zip(layer.grid, around, strict=True))
        for layer, around in zip(network, reach, strict=True)
    )
    centered = np.eye(classes, dtype=np.float32) - np.float32(1 / classes)
    total = np.zeros((classes, prod(network[0].grid) * network[0].units), np.float32)
    logits = []
    with np.errstate(all="ignore"):  # what overflows is bounded by the caller
        for inputs in (pulled, others) if others else (pulled,):
            inputs.split(min(inputs.probes, -(-inputs.probes * size // CHUNK_SIZE)))
            for chunk in range(len(inputs.chunks)):
                trace = _Trace(network, reach, inputs, chunk)
                logits.append(trace.maps[-1].state[0, :, 0].T)
                if gradients and inputs is pulled:
                    some = max(1, CHUNK_SIZE // (size * logits[-1].shape[1]))
                    for first in range(0, classes - 1, some):
                        rows = slice(first, min(first + some, classes - 1))
                        total[rows] += trace.pull(centered[rows])
        total[-1] = -total[:-1].sum(0)  # logits less their mean add up to zero
    return np.concatenate(logits, 1), total / np.float32(pulled.probes)


class _Trace:
    """States of all layers for a chunk of probes, and how cotangents are pulled back through them."""

    def __init__(self, network: Sequence[DenseLayer], reach: Sequence[Reach], inputs: Inputs, chunk: int):
        self.network, self._inputs, self._chunk = network, inputs, chunk
        self._before: list[State] = []  # the activation
        self.maps: list[Map] = []
        self._kept: dict[int, list[np.ndarray]] = {}
        for layer, around in zip(network, reach, strict=True):
            before = inputs.chunks[chunk] if layer.op == "input" else self._update(layer)
            self._before.append(before)
            self.maps.append(_activated(before, layer, around))

    def _update(self, layer: DenseLayer) -> State:
        """What a layer computes of the states before it, up to its activation."""
        if layer.op == "position":
            one_hot = np.eye(layer.units, dtype=np.float32).reshape(*layer.grid, 1, layer.units)
            return one_hot.swapaxes(1, 2)
        sources = [self.maps[link.source] for link in layer.links]
        if layer.op == "attention":
            query, key, value = (by_head(source.state, layer.heads) for source in sources)
            return by_unit(attention_weights(query, key) @ value, layer.grid)
        if layer.op == "max":
            return reduce(np.maximum, windows_of(amid_least(sources[0].state, layer), layer.links[0], layer.grid))
        if layer.op == "mean":
            windows = windows_of(sources[0], layer.links[0], layer.grid)
            return reduce(np.add, windows) / np.float32(prod(layer.links[0].kernel))
        if layer.op == "norm":
            return _normalized(sources[0].state)[0] * layer.gain + layer.bias
        total, bias = None, layer.bias
        for link, source in zip(layer.links, sources, strict=True):
            if link.weight is None:
                part = next(windows_of(source, link, layer.grid))
            else:
                if self.network[link.source].op == "input":
                    part = self._read_input(link, layer.grid, bias)
                else:
                    first = [o + r[0] for o, r in zip(link.offset, source.reach, strict=True)]
                    part = correlate(source.padded, link.weight, first, link.stride, layer.grid, bias)
                bias = np.zeros_like(bias)
            total = part if total is None else total + part
        assert total is not None
        return total + bias if bias.any() else total

    def _read_input(self, link: DenseLink, grid: tuple[int, int], bias: np.ndarray) -> State:
        assert link.weight is not None
        units = len(bias)
        weight = np.concatenate([link.weight.reshape(-1, units), bias[None]])
        product = self._inputs.patches(self._chunk, link, grid) @ weight
        return product.reshape(grid[0], -1, grid[1], units)

    def pull(self, logits: Float32[np.ndarray, "some classes"]) -> Float32[np.ndarray, "some rows"]:
        """Pulls cotangents of the logits, the same for all probes, back to the input; the sum over probes.

        Cotangents are [height, classes x probes, width, units].
        """
        cotangents: list[State | None] = [None] * len(self.network)
        height, probes, width, units = self.maps[-1].state.shape
        last = np.zeros((height, len(logits), probes, width, units), np.float32)
        last[0, :, :, 0] = logits[:, None]
        cotangents[-1] = last.reshape(height, -1, width, units)
        for i, layer in reversed(list(enumerate(self.network))):
            cotangent, cotangents[i] = cotangents[i], None
            if cotangent is None or layer.op == "position":
                continue
            if layer.op == "input":
                summed = _by_class(cotangent, len(logits)).sum(2)
                return summed.transpose(1, 3, 0, 2).reshape(len(logits), -1)
            if layer.pool:
                shape = (layer.grid[0], cotangent.shape[1], layer.grid[1], layer.units)
                cotangent = np.broadcast_to(cotangent / np.float32(prod(layer.grid)), shape)
            if layer.activation != "identity":
                (slope,) = self._keep(i, lambda i=i, layer=layer: [_slope(layer, self._before[i])])
                split = _by_class(cotangent, len(logits))
                own = split if split.flags.writeable else None
                cotangent = np.multiply(split, slope[:, None], out=own).reshape(cotangent.shape)
            for link, part in zip(layer.links, self._pull_layer(i, layer, cotangent, len(logits)), strict=True):
                other = cotangents[link.source]
                cotangents[link.source] = part if other is None else other + part
        return np.zeros(
            (len(logits), prod(self.network[0].grid) * self.network[0].units), np.float32
        )  # nothing reads it

    def _keep(self, layer: int, make: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
        """What the pulls of all classes share."""
        if layer not in self._kept:
            self._kept[layer] = make()
        return self._kept[layer]

    def _pull_layer(self, i: int, layer: DenseLayer, cotangent: State, classes: int) -> Iterator[State]:
        """Cotangents of what the links of a layer read."""
        sources = [self.maps[link.source].state for link in layer.links]
        split = _by_class(cotangent, classes)
        if layer.op == "attention":
            query, key, value = (by_head(state, layer.heads) for state in sources)
            own = np.stack([by_head(split[:, each], layer.heads) for each in range(classes)])
            for part in pull_attention(query, key, value, own):
                yield np.concatenate([by_unit(each, layer.grid) for each in part], 1)
            return
        if layer.op == "norm":
            normal, scale = (part[:, None] for part in _normalized(sources[0]))
            split = split * layer.gain
            along = (split * normal).mean(-1, keepdims=True)
            cotangent = (scale * (split - split.mean(-1, keepdims=True) - normal * along)).reshape(cotangent.shape)
        for link, state in zip(layer.links, sources, strict=True):
            size = (state.shape[0], state.shape[2])
            if layer.op == "max":
                first = self._keep(-i, lambda layer=layer, state=state: first_largest(state, layer))
                yield unwindow([(split * own[:, None]).reshape(cotangent.shape) for own in first], link, size)
            elif layer.op == "mean":
                taps = prod(link.kernel)
                yield unwindow([cotangent / np.float32(taps)] * taps, link, size)
            elif link.weight is None:
                yield unwindow([cotangent], link, size)
            elif self.network[link.source].op == "input":  # only the sum over probes is asked for
                yield correlate_back(split.sum(2), link, size)
            else:
                yield correlate_back(cotangent, link, size)


def _activated(before: State, layer: DenseLayer, reach: Reach) -> Map:
    """State of a layer, amid the zeros that its readers reach into."""
    activate = FUNCTIONS[layer.activation][0]
    if layer.pool:
        state = activate(before, out=np.empty_like(before)).mean((0, 2), keepdims=True)
        return amid(state, reach)
    if layer.activation == "identity":
        return amid(before, reach)
    (top, bottom), (left, right) = reach
    height, probes, width, units = before.shape
    padded = np.zeros((top + height + bottom, probes, left + width + right, units), np.float32)
    found = Map(padded, reach)
    activate(before, out=found.state)
    return found


def _slope(layer: DenseLayer, before: State) -> State:
    return FUNCTIONS[layer.activation][1](before)


def _by_class(cotangent: State, classes: int) -> Float32[np.ndarray, "_height classes _probes _width _units"]:
    height, _, width, units = cotangent.shape
    return cotangent.reshape(height, classes, -1, width, units)


def _normalized(state: State) -> tuple[State, Float32[np.ndarray, "_height _probes _width 1"]]:
    """Layer norm over the units of every position, and the reciprocal deviations."""
    centered = state - state.mean(-1, keepdims=True)
    scale = 1 / np.sqrt(np.square(centered).mean(-1, keepdims=True) + np.float32(LAYER_NORM_EPSILON))
    return centered * scale, scale
