"""The sweeps of one network in NumPy: the road on CPUs, where no program need be compiled for every architecture.

`wsrl.encoder.sweep` computes the same in JAX, for accelerators and for gradients with respect to what is swept. Here a
state is [height, probes, width, units]: the taps of one row of a kernel lie side by side, so a window is a matrix of
probes and slots that products read where it lies, and nothing is gathered (the rows of a kernel are summed after). A
state is written into zeros as wide as its readers' windows reach out of it. Backward, the cotangents of some classes at
a time are carried from the logits to the input; classes and probes share an axis.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import product
from math import prod, sqrt
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy.lib.stride_tricks import as_strided

from wsrl.encoder.dense_network import DenseLayer, DenseLink
from wsrl.encoder.sweep import LAYER_NORM_EPSILON

LEAKY_SLOPE = np.float32(0.01)
GELU = (sqrt(2 / np.pi), 0.044715)  # of its tanh approximation
CHUNK_SIZE = 2**20  # numbers of the largest state of a chunk of probes, or of cotangents of some classes
KEPT_SIZE = 2**22  # numbers that first layers read of the inputs, kept for the next network

State = Float32[np.ndarray, "_height _probes _width _units"]
Reach = tuple[tuple[int, int], tuple[int, int]]  # rows above and below a map, columns left and right of it


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5  # does not overflow


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return np.tanh(GELU[0] * (x + GELU[1] * x * x * x))


def _gelu_slope(x: np.ndarray) -> np.ndarray:
    bent = _gelu_tanh(x)
    return 0.5 * (1 + bent) + 0.5 * x * (1 - bent * bent) * GELU[0] * (1 + 3 * GELU[1] * x * x)


def _silu_slope(x: np.ndarray) -> np.ndarray:
    opened = _sigmoid(x)
    return opened * (1 + x * (1 - opened))


# value, written to `out`, and derivative
FUNCTIONS: dict[str, tuple[Callable[..., np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "identity": (np.positive, np.ones_like),
    "relu": (lambda x, out: np.maximum(x, np.float32(0), out=out), lambda x: (x > 0).astype(x.dtype)),
    "tanh": (np.tanh, lambda x: 1 - np.square(np.tanh(x))),
    "gelu": (lambda x, out: np.multiply(0.5 * x, 1 + _gelu_tanh(x), out=out), _gelu_slope),
    "silu": (lambda x, out: np.multiply(x, _sigmoid(x), out=out), _silu_slope),
    "leaky_relu": (
        lambda x, out: np.maximum(x, LEAKY_SLOPE * x, out=out),
        lambda x: np.where(x >= 0, np.float32(1), LEAKY_SLOPE),
    ),
}


class Map(NamedTuple):
    """A state amid zeros."""

    padded: State
    reach: Reach

    @property
    def state(self) -> State:
        """Without the zeros."""
        (top, bottom), (left, right) = self.reach
        height, _, width, _ = self.padded.shape
        return self.padded[top : height - bottom, :, left : width - right]


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
            windows = _windows(_amid_zeros(self.chunks[chunk], link, grid), link, grid)
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
    classes, reach = network[-1].units, _reach_of_readers(network)
    size = max(
        layer.units * prod(n + sum(r) for n, r in zip(layer.grid, around, strict=True))
        for layer, around in zip(network, reach, strict=True)
    )
    centred = np.eye(classes, dtype=np.float32) - np.float32(1 / classes)
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
                        total[rows] += trace.pull(centred[rows])
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
            query, key, value = (_heads(source.state, layer.heads) for source in sources)
            return _units(_attention(query, key) @ value, layer.grid)
        if layer.op == "max":
            return reduce(np.maximum, _windows(_amid_least(sources[0].state, layer), layer.links[0], layer.grid))
        if layer.op == "mean":
            windows = _windows(sources[0], layer.links[0], layer.grid)
            return reduce(np.add, windows) / np.float32(prod(layer.links[0].kernel))
        if layer.op == "norm":
            return _normalized(sources[0].state)[0] * layer.gain + layer.bias
        total, bias = None, layer.bias
        for link, source in zip(layer.links, sources, strict=True):
            if link.weight is None:
                part = next(_windows(source, link, layer.grid))
            else:
                if self.network[link.source].op == "input":
                    part = self._read_input(link, layer.grid, bias)
                else:
                    first = [o + r[0] for o, r in zip(link.offset, source.reach, strict=True)]
                    part = _correlate(source.padded, link.weight, first, link.stride, layer.grid, bias)
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
            query, key, value = (_heads(state, layer.heads) for state in sources)
            own = np.stack([_heads(split[:, each], layer.heads) for each in range(classes)])
            for part in _pull_attention(query, key, value, own):
                yield np.concatenate([_units(each, layer.grid) for each in part], 1)
            return
        if layer.op == "norm":
            normal, scale = (part[:, None] for part in _normalized(sources[0]))
            split = split * layer.gain
            along = (split * normal).mean(-1, keepdims=True)
            cotangent = (scale * (split - split.mean(-1, keepdims=True) - normal * along)).reshape(cotangent.shape)
        for link, state in zip(layer.links, sources, strict=True):
            size = (state.shape[0], state.shape[2])
            if layer.op == "max":
                first = self._keep(-i, lambda layer=layer, state=state: _first_largest(state, layer))
                yield _unwindow([(split * own[:, None]).reshape(cotangent.shape) for own in first], link, size)
            elif layer.op == "mean":
                taps = prod(link.kernel)
                yield _unwindow([cotangent / np.float32(taps)] * taps, link, size)
            elif link.weight is None:
                yield _unwindow([cotangent], link, size)
            elif self.network[link.source].op == "input":  # only the sum over probes is asked for
                yield _correlate_back(split.sum(2), link, size)
            else:
                yield _correlate_back(cotangent, link, size)


def _activated(before: State, layer: DenseLayer, reach: Reach) -> Map:
    """State of a layer, amid the zeros that its readers reach into."""
    activate = FUNCTIONS[layer.activation][0]
    if layer.pool:
        state = activate(before, out=np.empty_like(before)).mean((0, 2), keepdims=True)
        return _amid(state, reach)
    if layer.activation == "identity":
        return _amid(before, reach)
    (top, bottom), (left, right) = reach
    height, probes, width, units = before.shape
    padded = np.zeros((top + height + bottom, probes, left + width + right, units), np.float32)
    found = Map(padded, reach)
    activate(before, out=found.state)
    return found


def _amid(state: State, reach: Reach, fill: float = 0.0) -> Map:
    """A state amid others of the same value; itself where nothing reaches out of it and its rows are whole."""
    (top, bottom), (left, right) = reach
    height, probes, width, units = state.shape
    if not (top or bottom or left or right) and state[:1, :1].flags.c_contiguous:
        return Map(state, reach)
    padded = np.full((top + height + bottom, probes, left + width + right, units), fill, np.float32)
    padded[top : top + height, :, left : left + width] = state
    return Map(padded, reach)


def _amid_zeros(state: State, link: DenseLink, grid: tuple[int, int]) -> Map:
    return _amid(state, _reach(link, grid, (state.shape[0], state.shape[2])))


def _amid_least(state: State, layer: DenseLayer) -> Map:
    reach = _reach(layer.links[0], layer.grid, (state.shape[0], state.shape[2]))
    return _amid(state, reach, -np.inf)


def _slope(layer: DenseLayer, before: State) -> State:
    return FUNCTIONS[layer.activation][1](before)


def _by_class(cotangent: State, classes: int) -> Float32[np.ndarray, "_height classes _probes _width _units"]:
    height, _, width, units = cotangent.shape
    return cotangent.reshape(height, classes, -1, width, units)


def _reach(link: DenseLink, grid: Sequence[int], size: Sequence[int]) -> Reach:
    """How far the windows of a link reach out of a map."""
    ends = [o + link.stride * (n - 1) + k for o, n, k in zip(link.offset, grid, link.kernel, strict=True)]
    rows, columns = ((max(0, -o), max(0, end - n)) for o, end, n in zip(link.offset, ends, size, strict=True))
    return rows, columns


def _reach_of_readers(network: Sequence[DenseLayer]) -> list[Reach]:
    """How far the readers of each layer reach out of its map, but for those that read the input or take the largest."""
    found: list[Reach] = [((0, 0), (0, 0))] * len(network)
    for layer in network:
        for link in layer.links:
            source = network[link.source]
            if layer.op == "max" or source.op == "input":
                continue
            own = _reach(link, layer.grid, (1, 1) if source.pool else source.grid)
            rows, columns = ((max(a, c), max(b, d)) for (a, b), (c, d) in zip(found[link.source], own, strict=True))
            found[link.source] = rows, columns
    return found


def _windows(source: Map, link: DenseLink, grid: Sequence[int]) -> Iterator[State]:
    """Views of a state, one for each tap of a link in row-major order: what all output positions read through it."""
    first = [o + before for o, (before, _) in zip(link.offset, source.reach, strict=True)]
    for tap in product(*map(range, link.kernel)):
        start = [f + t for f, t in zip(first, tap, strict=True)]
        rows, columns = (slice(s, s + link.stride * (n - 1) + 1, link.stride) for s, n in zip(start, grid, strict=True))
        yield source.padded[rows, :, columns]


def _unwindow(taps: Sequence[State], link: DenseLink, size: tuple[int, int]) -> State:
    """The transpose of `_windows`: what each tap reads, added up to a map of this size."""
    rows, probes, columns, units = taps[0].shape
    reach = _reach(link, (rows, columns), size)
    height, width = (n + sum(r) for n, r in zip(size, reach, strict=True))
    total = Map(np.zeros((height, probes, width, units), np.float32), reach)
    for tap, window in zip(taps, _windows(total, link, (rows, columns)), strict=True):
        window += tap
    return total.state


def _correlate(
    padded: State,
    weight: Float32[np.ndarray, "kernel_height kernel_width units new_units"],
    first: Sequence[int],
    stride: int,
    grid: tuple[int, int],
    bias: Float32[np.ndarray, " new_units"] | None = None,
) -> State:
    """Weights times windows that begin at `first`, `stride` apart.

    One product for each output position and row of the kernel, [probes, kernel_width * units] times
    [kernel_width * units, new_units], of views.
    """
    kernel_height, kernel_width, units, new_units = weight.shape
    row, probe, column, unit = padded.strides
    windows = as_strided(
        padded[first[0] :, :, first[1] :],
        (*grid, kernel_height, padded.shape[1], kernel_width * units),
        (row * stride, column * stride, row, probe, unit),
    )
    products = windows @ weight.reshape(kernel_height, -1, new_units)
    total = products[:, :, 0]
    for other in range(1, kernel_height):
        total += products[:, :, other]
    if bias is not None:
        total += np.tile(bias, (padded.shape[1], 1))  # longer runs than the bias alone
    return total.swapaxes(1, 2)


def _correlate_back(cotangent: State, link: DenseLink, size: tuple[int, int]) -> State:
    """The transpose of `_correlate`: the cotangent of a state whose map has this size.

    Positions of the state that are `stride` apart are read through the same taps: for each of those phases it is the
    correlation of the cotangent with these taps, turned round.
    """
    assert link.weight is not None
    rows, probes, columns, _ = cotangent.shape
    units = link.weight.shape[2]
    total = np.zeros((size[0], probes, size[1], units), np.float32)
    if (rows, columns) == (1, 1):  # one window: a product of all its taps
        matrix = link.weight.reshape(-1, link.weight.shape[3])
        taps = (cotangent[0, :, 0] @ matrix.T).reshape(probes, *link.kernel, units)
        return _unwindow(list(np.moveaxis(taps, 0, 2).reshape(-1, 1, probes, 1, units)), link, size)
    phases = [_phases(n, k, o, link.stride) for n, k, o in zip(size, link.kernel, link.offset, strict=True)]
    reach = [
        (max(0, -min(p.first for p in axis)), max(0, max(p.end for p in axis) - n))
        for axis, n in zip(phases, (rows, columns), strict=True)
    ]
    padded = _amid(cotangent, (reach[0], reach[1])).padded
    for y, x in product(*phases):
        weight = link.weight[y.taps, x.taps].swapaxes(2, 3)
        first = [p.first + r[0] for p, r in zip((y, x), reach, strict=True)]
        found = _correlate(padded, weight, first, 1, (y.count, x.count))
        total[y.start :: link.stride, :, x.start :: link.stride] = found
    return total


class Phase(NamedTuple):
    """Positions of a state, along one axis, that are read through the same taps.

    Attributes:
      start: of the positions.
      count: of the positions.
      first: output position that reads the first of them through the last tap.
      end: one after the output position that reads the last of them through the first tap.
      taps: last to first.
    """

    start: int
    count: int
    first: int
    end: int
    taps: slice


def _phases(size: int, kernel: int, offset: int, stride: int) -> list[Phase]:
    """Phases of an axis whose positions are read through any tap.

    Position offset + r + stride * m is read by output position m - j through tap r + stride * j.
    """
    found = []
    for r in range(min(stride, kernel)):
        last = (kernel - 1 - r) // stride  # of the taps
        least, most = -((offset + r) // stride), (size - 1 - offset - r) // stride
        if most >= least:
            taps = slice(r + stride * last, None, -stride)
            found.append(Phase(offset + r + stride * least, most - least + 1, least - last, most + 1, taps))
    return found


def _first_largest(state: State, layer: DenseLayer) -> list[State]:
    """For each tap, 1 where it reads the first of the largest in its window: there JAX sends the gradient as well."""
    windows = list(_windows(_amid_least(state, layer), layer.links[0], layer.grid))
    largest = reduce(np.maximum, windows)
    found, free = [], np.ones(largest.shape, bool)
    for window in windows:
        chosen = free & (window == largest)
        free &= ~chosen
        found.append(chosen.astype(np.float32))
    return found


def _normalized(state: State) -> tuple[State, Float32[np.ndarray, "_height _probes _width 1"]]:
    """Layer norm over the units of every position, and the reciprocal deviations."""
    centred = state - state.mean(-1, keepdims=True)
    scale = 1 / np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(LAYER_NORM_EPSILON))
    return centred * scale, scale


def _heads(state: State, heads: int) -> Float32[np.ndarray, "_heads _probes _positions _dim"]:
    height, probes, width, units = state.shape
    split = state.reshape(height, probes, width, heads, units // heads)
    return split.transpose(3, 1, 0, 2, 4).reshape(heads, probes, height * width, -1)


def _units(by_head: Float32[np.ndarray, "_heads _probes _positions _dim"], grid: tuple[int, int]) -> State:
    """The inverse of `_heads`."""
    heads, probes, _, dim = by_head.shape
    split = by_head.reshape(heads, probes, *grid, dim)
    return split.transpose(2, 1, 3, 0, 4).reshape(grid[0], probes, grid[1], heads * dim)


def _attention(query: np.ndarray, key: np.ndarray) -> Float32[np.ndarray, "_heads _probes _positions _positions"]:
    scores = query @ key.swapaxes(-1, -2) / np.float32(sqrt(query.shape[-1]))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _pull_attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, cotangent: np.ndarray
) -> Iterator[Float32[np.ndarray, "_classes _heads _probes _positions _dim"]]:
    """Cotangents of query, key and value, in this order; all by heads."""
    weights = _attention(query, key)
    slope = cotangent @ value.swapaxes(-1, -2)
    scores = weights * (slope - (slope * weights).sum(-1, keepdims=True)) / np.float32(sqrt(query.shape[-1]))
    yield scores @ key
    yield scores.swapaxes(-1, -2) @ query
    yield weights.swapaxes(-1, -2) @ cotangent
