"""The sweeps of one network in NumPy: the road on CPUs, where no program need be compiled for every architecture.

`wsrl.encoder.sweep` computes the same in JAX, for accelerators and for gradients with respect to what is swept. Here a
state is [height, width, units, probes], and each link of a layer is a few stacks of matrix products; see
`dense_windows`.
Backward, the cotangents of some classes at a time are carried from the logits to the input; classes and probes share an
axis.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np
from jaxtyping import Float32

from wsrl.encoder.dense_activations import FUNCTIONS
from wsrl.encoder.dense_attention import attention_weights, by_head, by_unit, pull_attention
from wsrl.encoder.dense_layers import DenseLayer, DenseLink
from wsrl.encoder.dense_windows import (
    Bordered,
    Margin,
    State,
    correlate,
    correlate_back,
    first_largest,
    reach,
    reach_back,
    unwindow,
    widest,
    windows_of,
)

# Numbers of the largest state of the probes that are swept together, or of cotangents of some classes.
CHUNK_SIZE = 2**20
KEPT_SIZE = 2**22  # numbers that first layers read of the inputs, kept for the next network
LAYER_NORM_EPSILON = 1e-6

Adjust = Callable[[int, State], State]


class Inputs:
    """What networks are fed, some probes at a time; what first layers read of it is kept for the next network.

    Args:
      images: [probes, height, width, channels].
    """

    def __init__(self, images: Float32[np.ndarray, "probes height width channels"]):
        self.probes = len(images)
        self._state: State = np.ascontiguousarray(images.transpose(1, 2, 3, 0), np.float32)
        self._kept: dict[tuple, np.ndarray] = {}

    def parts(self, number: int) -> Iterator[slice]:
        """Cuts the probes into parts of about equal size."""
        ends = [self.probes * i // number for i in range(number + 1)]
        return map(slice, ends[:-1], ends[1:])

    def state(self, part: slice) -> State:
        """The images of some probes."""
        return self._state[..., part]

    def slots(self, part: slice, link: DenseLink, grid: tuple[int, int]) -> State:
        """What each position of a grid reads of some probes through a link; and a 1, for biases."""
        key = (part.start, part.stop, link.kernel, link.offset, link.stride, grid)
        found = self._kept.get(key)
        if found is None:
            taps = list(windows_of(self.state(part), link, grid))
            found = np.concatenate([*taps, np.ones_like(taps[0][:, :, :1])], 2)
            while self._kept and found.size + sum(kept.size for kept in self._kept.values()) > KEPT_SIZE:
                del self._kept[next(iter(self._kept))]
            if found.size <= KEPT_SIZE:
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
      `pulled`, one row a channel and pixel, as `wsrl.encoder.sweep.class_gradients`; zero if not asked for.
    """
    classes, size = network[-1].units, max(layer.units * prod(layer.grid) for layer in network)
    centered = np.eye(classes, dtype=np.float32) - np.float32(1 / classes)
    total = np.zeros((classes, prod(network[0].grid) * network[0].units), np.float32)
    logits = []
    with np.errstate(all="ignore"):  # what overflows is bounded by the caller
        for inputs in (pulled, others) if others else (pulled,):
            for part in inputs.parts(min(inputs.probes, -(-inputs.probes * size // CHUNK_SIZE))):
                pulls = gradients and inputs is pulled
                trace = Trace(network, inputs, part, pulls)
                logits.append(trace.states[-1][0, 0])
                if pulls:
                    some = max(1, CHUNK_SIZE // (size * logits[-1].shape[1]))
                    for first in range(0, classes - 1, some):
                        rows = slice(first, min(first + some, classes - 1))
                        total[rows] += trace.pull(centered[rows])
        total[-1] = -total[:-1].sum(0)  # logits less their mean add up to zero
    return np.concatenate(logits, 1), total / np.float32(pulled.probes)


class Trace:
    """States of all layers for some probes, and how cotangents are pulled back through them.

    Args:
      network: its layers.
      inputs: that it is fed.
      part: of them.
      pulls: whether `pull` will be called; else what layers give to their activations is overwritten by it.
      adjust: takes the place of a linear layer and what it makes of its weighted links, its batch norm included, before
        other layers are added to it; returns what the network goes on with, which may be overwritten.

    Attributes:
      states: of all layers.
    """

    def __init__(
        self,
        network: Sequence[DenseLayer],
        inputs: Inputs,
        part: slice,
        pulls: bool = False,
        adjust: Adjust | None = None,
    ):
        self.network, self._inputs, self._part, self._adjust = network, inputs, part, adjust
        self._before: list[State] = []  # the activation
        self.states: list[State] = []
        self._kept: dict[int, list[np.ndarray]] = {}
        self._bordered: dict[int, Bordered] = {}  # states whose margins are read
        for i, (layer, margin) in enumerate(zip(network, _margins(network), strict=True)):
            room = None
            if any(margin):
                shape = (*layer.grid, layer.units, part.stop - part.start)
                self._bordered[i] = Bordered.empty(shape, margin)
                room = self._bordered[i].inside
            own = not pulls and any(link.weight is not None for link in layer.links)
            before = state = (
                inputs.state(part) if layer.op == "input" else self._update(i, layer, room if own else None)
            )
            if layer.activation != "identity":
                out = before if own else np.empty_like(before) if room is None else room
                state = FUNCTIONS[layer.activation][0](before, out=out)
            if room is not None and state is not room:
                room[...] = state
                state = room
            self._before.append(before)
            self.states.append(state.mean((0, 1), keepdims=True) if layer.pool else state)

    def _update(self, i: int, layer: DenseLayer, room: State | None) -> State:
        """What a layer computes of the states before it, up to its activation; in the room that there is for it, if it
        has weights.
        """
        if layer.op == "position":
            return np.eye(layer.units, dtype=np.float32).reshape(*layer.grid, layer.units, 1)
        sources = [self.states[link.source] for link in layer.links]
        if layer.op == "attention":
            query, key, value = (by_head(source, layer.heads) for source in sources)
            return by_unit(attention_weights(query, key) @ value, layer.grid)
        if layer.op == "max":
            return np.maximum.reduce(list(windows_of(sources[0], layer.links[0], layer.grid, -np.inf)))
        if layer.op == "mean":
            windows = list(windows_of(sources[0], layer.links[0], layer.grid))
            return np.add.reduce(windows) / np.float32(len(windows))
        if layer.op == "norm":
            return _normalized(sources[0])[0] * layer.gain[:, None] + layer.bias[:, None]
        added, total, bias = [], None, layer.bias
        for link, source in zip(layer.links, sources, strict=True):
            if link.weight is None:
                added.append(next(windows_of(source, link, layer.grid)))
                continue
            if self.network[link.source].op == "input":
                weight = np.concatenate([link.weight.reshape(-1, layer.units), bias[None]])
                part = np.matmul(weight.T, self._inputs.slots(self._part, link, layer.grid), out=room)
                bias = np.zeros_like(bias)
            else:
                read = self._bordered.get(link.source) or Bordered.of(source, Margin())
                part = correlate(read, link, layer.grid, room)
            total, room = part if total is None else np.add(total, part, out=total), None
        if total is None:
            total = layer.bias[:, None]
        elif bias.any():
            total += bias[:, None]
        if self._adjust is not None:
            total = self._adjust(i, total)
        return sum(added, total) if added else total

    def pull(self, logits: Float32[np.ndarray, "some classes"]) -> Float32[np.ndarray, "some rows"]:
        """Pulls cotangents of the logits, the same for all probes, back to the input; the sum over probes.

        Cotangents are [height, width, units, classes x probes]; those of the input, and of layers that nothing but it
        is read by, are summed over the probes.
        """
        classes = len(logits)
        cotangents: list[State | None] = [None] * len(self.network)
        last = self.states[-1]
        start = np.zeros((*last.shape[:3], classes, last.shape[3]), np.float32)
        start[0, 0] = logits.T[:, :, None]
        cotangents[-1] = start.reshape(*last.shape[:3], -1)
        for i, layer in reversed(list(enumerate(self.network))):
            cotangent, cotangents[i] = cotangents[i], None
            if cotangent is None or layer.op == "position":
                continue
            if layer.op == "input":
                return cotangent.transpose(3, 2, 0, 1).reshape(classes, -1)
            if layer.pool:
                cotangent = np.broadcast_to(
                    cotangent / np.float32(prod(layer.grid)), (*layer.grid, *cotangent.shape[2:])
                )
            bordered: Bordered | None = None
            first = layer.op == "linear" and all(self.network[link.source].op == "input" for link in layer.links)
            if layer.activation != "identity":
                (slope,) = self._keep(i, lambda i=i, layer=layer: [FUNCTIONS[layer.activation][1](self._before[i])])
                split = _by_class(cotangent, classes)
                if first:
                    cotangent = (split @ slope[..., None])[..., 0]
                else:
                    bordered = Bordered.empty(cotangent.shape, self._margin_back(layer))
                    cotangent = bordered.inside
                    np.multiply(split, slope[:, :, :, None], out=_by_class(cotangent, classes))
            elif first:
                cotangent = _summed(cotangent, classes)
            parts = self._pull_layer(i, layer, cotangent, bordered, classes)
            for link, part in zip(layer.links, parts, strict=True):
                if self.network[link.source].op == "input":
                    part = _summed(part, classes)
                other = cotangents[link.source]
                cotangents[link.source] = part if other is None else other + part
        return np.zeros((classes, prod(self.network[0].grid) * self.network[0].units), np.float32)  # nothing reads it

    def _keep(self, layer: int, make: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
        """What the pulls of all classes share."""
        if layer not in self._kept:
            self._kept[layer] = make()
        return self._kept[layer]

    def _margin_back(self, layer: DenseLayer) -> Margin:
        """The margin of a layer's cotangent that its links read."""
        own = [link for link in layer.links if link.weight is not None and self.network[link.source].op != "input"]
        return widest(reach_back(link, layer.grid, self.states[link.source].shape[:2]) for link in own)

    def _pull_layer(
        self, i: int, layer: DenseLayer, cotangent: State, bordered: Bordered | None, classes: int
    ) -> Iterator[State]:
        """Cotangents of what the links of a layer read; its own may have a margin already."""
        sources = [self.states[link.source] for link in layer.links]
        split = _by_class(cotangent, classes)
        if layer.op == "attention":
            query, key, value = (by_head(state, layer.heads) for state in sources)
            own = np.stack([by_head(split[:, :, :, each], layer.heads) for each in range(classes)])
            for part in pull_attention(query, key, value, own):
                yield np.concatenate([by_unit(each, layer.grid) for each in part], 3)
            return
        if layer.op == "norm":
            normal, scale = (part[:, :, :, None] for part in _normalized(sources[0]))
            split = split * layer.gain[:, None, None]
            along = (split * normal).mean(2, keepdims=True)
            cotangent = (scale * (split - split.mean(2, keepdims=True) - normal * along)).reshape(cotangent.shape)
        for link, state in zip(layer.links, sources, strict=True):
            size = state.shape[:2]
            if layer.op == "max":
                first = self._keep(
                    -i, lambda layer=layer, state=state: first_largest(state, layer.links[0], layer.grid)
                )
                yield unwindow([(split * own[:, :, :, None]).reshape(cotangent.shape) for own in first], link, size)
            elif layer.op == "mean":
                taps = prod(link.kernel)
                yield unwindow([cotangent / np.float32(taps)] * taps, link, size)
            elif link.weight is None:
                yield unwindow([cotangent], link, size)
            else:
                first = self.network[link.source].op == "input"
                yield correlate_back(_summed(cotangent, classes) if first else bordered or cotangent, link, size)


def _margins(network: Sequence[DenseLayer]) -> list[Margin]:
    """The margin of each layer's state that the windows of others reach."""
    wanted: list[list[Margin]] = [[] for _ in network]
    for layer in network:
        for link in layer.links:
            source = network[link.source]
            if link.weight is not None and source.op != "input" and not source.pool:
                wanted[link.source].append(reach(link, layer.grid, source.grid))
    return [widest(own) for own in wanted]


def _by_class(cotangent: State, classes: int) -> Float32[np.ndarray, "_height _width _units classes _probes"]:
    return cotangent.reshape(*cotangent.shape[:3], classes, -1)


def _summed(cotangent: State, classes: int) -> Float32[np.ndarray, "_height _width _units classes"]:
    """The sum over probes, for each class."""
    return cotangent if cotangent.shape[3] == classes else _by_class(cotangent, classes).sum(4)


def _normalized(state: State) -> tuple[State, Float32[np.ndarray, "_height _width 1 _columns"]]:
    """Layer norm over the units of every position, and the reciprocal deviations."""
    centered = state - state.mean(2, keepdims=True)
    scale = 1 / np.sqrt(np.square(centered).mean(2, keepdims=True) + np.float32(LAYER_NORM_EPSILON))
    return centered * scale, scale
