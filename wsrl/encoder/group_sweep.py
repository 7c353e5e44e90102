"""A sweep over the tensors of any claim: states of neurons are carried through the weights in the order of the layers.

Every unit of a group has a state of 64 columns: what it says at the 64 places of a small periodic image. A tensor reads
the states along the axes that it is read along, multiplies them by its (canonical) weights, adds its bias, and the
result, its entries, goes to the units along the axes that it is written along:

    entries = W x + b,        x = states of what W reads,        units += mean over slots of entries / rms(entries)

An axis is read as [outer, size, inner]. A slot (outer, inner) or the tap of a kernel reads a unit at another place of the
image, so that convolutions and flattened maps do what they do on real images, and gates, heads and fused projections
are told apart. Axes and groups whose order is fixed (inputs, a vocabulary, positions) have states of their own.
The two matrices of a product share their entries without a group between them; where queries and keys are a product
too, values are weighed by softmax attention over the places. Nothing depends on the order of the units of a group.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from wsrl.canonical.rows import CHUNK, forget_pages, read_whole, row_chunks
from wsrl.checkpoint import Tensor
from wsrl.encoder.group_schedule import Link, Schedule, Side, Span, Vector, Visit
from wsrl.encoder.probes import COLUMNS, fixed_states, shifts, signs
from wsrl.wiring.claim import Segment

TINY = 1e-20  # root mean squares below are those of zeros
SUM_BLOCK = 4096  # entries summed in float32 before float64 takes over

State = Float[np.ndarray, "models entries columns"]


class Weights(Protocol):
    """Tensors of some models of one claim, the models stacked."""

    def whole(self, tensor: str) -> Float[np.ndarray, "models *shape"]:
        """Returns a tensor."""
        ...

    def pieces(self, tensor: str) -> Iterator[tuple[int, int, Float[np.ndarray, "models rows *rest"]]]:
        """Yields (first, last + 1, rows) of a tensor's first axis."""
        ...


@dataclass(frozen=True)
class StreamedWeights:
    """One model, read piece by piece.

    Attributes:
      canonical: its tensors in canonical form.
      stored: its tensors as they lie in the file.
      entries: numbers read at a time, if a row has not more.
    """

    canonical: Mapping[str, Tensor]
    stored: Mapping[str, Tensor]
    entries: int = CHUNK

    def whole(self, tensor: str) -> np.ndarray:
        """Returns a tensor."""
        return read_whole(self.canonical[tensor])[None]

    def pieces(self, tensor: str) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yields pieces, and forgets the file's pages after them."""
        for first, last, rows in row_chunks(self.canonical[tensor], entries=self.entries):
            yield first, last, rows[None]
        forget_pages(self.stored[tensor])


@dataclass(frozen=True)
class StackedWeights:
    """Several models in memory."""

    tensors: Mapping[str, np.ndarray]

    def whole(self, tensor: str) -> np.ndarray:
        """Returns a tensor."""
        return self.tensors[tensor]

    def pieces(self, tensor: str) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yields the tensor as one piece."""
        yield 0, self.tensors[tensor].shape[1], self.tensors[tensor]


class Token(NamedTuple):
    """What a visit tells of a layer, blind to the order of its units.

    Attributes:
      depth: 0 for the first layer, 1 for the last.
      kind: `hidden`, `output` or `vector`.
      gram: mean over entries of the products of two columns.
      mean: mean over entries; those that products take count as zero.
      rms: root mean square of the entries before they were normed.
    """

    depth: float
    kind: str
    gram: Float[np.ndarray, "models columns columns"]
    mean: Float[np.ndarray, "models columns"]
    rms: Float[np.ndarray, "models"]


@dataclass
class Sweep:
    """The states of the neurons of some models in the middle of a sweep."""

    schedule: Schedule
    weights: Weights
    units: dict[str, np.ndarray] = field(default_factory=dict)  # group -> [models, size, columns]
    slots: dict[tuple, np.ndarray] = field(default_factory=dict)  # by group and slots
    entries: dict[str, np.ndarray] = field(default_factory=dict)  # tensor -> what products take from it

    def tokens(self) -> Iterator[Token]:
        """Visits all tensors and yields what each tells."""
        for visit in self.schedule.visits:
            yield self.visit(visit)
        for vector in self.schedule.vectors:
            yield self.vector(vector)

    def visit(self, visit: Visit) -> Token:
        """Carries states through a tensor."""
        written = self._multiply(visit, self._read(visit))
        for bias in visit.biases:
            written += self._bias(visit, bias)[:, :, None]
        if visit.gated and any(g in self.units for g in visit.writes.groups):
            written = written * self._side(visit.writes)
        if visit.opaque:
            self.entries[visit.tensor] = written
        rms = _rms(written)
        normed = written / np.maximum(rms, TINY)[:, None, None].astype(np.float32)
        gram = _gram(normed)
        plain = normed
        if visit.opaque:
            plain = normed.copy()
            for start, stop in visit.opaque:
                plain[:, start:stop] = 0
        self._write(visit.writes, plain, visit.opaque)
        return Token(visit.depth, "output" if visit.output else "hidden", gram, _mean(plain), rms)

    def vector(self, vector: Vector) -> Token:
        """Weighs the states of units by a vector."""
        values = self.weights.whole(vector.tensor)
        states = self._part(vector.part)
        weighed = values[:, :, None] * states
        return Token(vector.depth, "vector", _gram(weighed), _mean(weighed), _rms(weighed))

    def _multiply(self, visit: Visit, states: State) -> State:
        """Returns the products of a tensor and the states along what it reads."""
        reads, writes = visit.reads, visit.writes
        models = states.shape[0]
        grid = states.reshape(models, *reads.lengths, COLUMNS)
        out = None
        order = (0, *(a + 1 for a in writes.axes), *(a + 1 for a in reads.axes))
        for first, last, rows in self.weights.pieces(visit.tensor):
            own_reads = _cut(grid, reads, first, last).reshape(models, -1, COLUMNS)
            matrix = rows.transpose(order).reshape(len(rows), -1, own_reads.shape[1])
            product = matrix @ own_reads
            if out is None:
                out = np.zeros((max(len(rows), models), *writes.lengths, COLUMNS), np.float32)
            part = _cut(out, writes, first, last)
            part += product.reshape(part.shape)
        assert out is not None
        return out.reshape(len(out), -1, COLUMNS)

    def _bias(self, visit: Visit, bias: str) -> Float[np.ndarray, "models entries"]:
        values = self.weights.whole(bias)
        if values.ndim > 2:  # one axis for each that is written
            values = values.transpose(0, *(1 + sorted(visit.writes.axes).index(a) for a in visit.writes.axes))
        return values.reshape(len(values), -1)

    def _read(self, visit: Visit) -> State:
        states = None
        if sum(link.reader.stop - link.reader.start for link in visit.links) < visit.reads.size:
            states = self._side(visit.reads)
        for link in visit.links:
            found = self._linked(link)
            if states is None:
                states = np.zeros((len(found), visit.reads.size, COLUMNS), np.float32)
            elif len(states) != len(found) or not states.flags.writeable:
                states = np.broadcast_to(states, (len(found), *states.shape[1:])).copy()
            states[:, link.reader.start : link.reader.stop] = found
        assert states is not None
        return states

    def _side(self, side: Side) -> State:
        """States of the entries of a side: of several axes with neurons, the products of theirs."""
        last = len(side.parts) - 1
        states = self._part(side.parts[0], side.taps if last == 0 else ())
        for i, part in enumerate(side.parts[1:], start=1):
            other = self._part(part, side.taps if last == i else ())
            product = states[:, :, None] * other[:, None]
            states = product.reshape(len(product), -1, COLUMNS)
        return states

    def _part(self, part: tuple[Segment, ...], taps: tuple[int, ...] = ()) -> State:
        """States of the entries of an axis and its taps; one model where all share them."""
        starts = np.cumsum([0] + [s.length for s in part])
        found = [self._segment(s, int(start), taps) for s, start in zip(part, starts, strict=False)]
        if len(found) == 1:
            return found[0]
        models = max(map(len, found))
        return np.concatenate([np.broadcast_to(f, (models, *f.shape[1:])) for f in found], 1)

    def _segment(self, segment: Segment, start: int, taps: tuple[int, ...]) -> State:
        group, outer, inner = segment.group, segment.outer, segment.inner
        slotted = self.slots.get((group, outer, inner, taps))
        if group is not None and slotted is not None:
            states = self._activate(group, slotted)
            return states.reshape(len(states), -1, COLUMNS)
        if group in self.units:
            states = self._activate(group, self.units[group])
        elif group is not None and self.schedule.claim.groups[group].permutable:
            states = np.broadcast_to(signs("unwritten", 0, 1), (1, segment.size, COLUMNS))
        else:
            return fixed_states(start if group is None else 0, segment.length, taps)
        if outer * inner * prod(taps) == 1:
            return states
        shifted = states[:, :, shifts(outer, inner, taps)]  # [models, size, outer, inner x taps, columns]
        return shifted.swapaxes(1, 2).reshape(len(states), -1, COLUMNS)

    def _activate(self, group: str, states: np.ndarray) -> np.ndarray:
        """States as they are read: rectified where no norm and no odd activation is in between, brought to length."""
        if self.schedule.claim.groups[group].scale == "sign":
            states = np.tanh(states)
        elif group not in self.schedule.normed:
            states = np.maximum(states, 0)
        flat = states.reshape(len(states), -1, COLUMNS)
        rms = np.maximum(_rms(flat), TINY).astype(np.float32)
        return states / rms.reshape(-1, *[1] * (states.ndim - 1))

    def _linked(self, link: Link) -> State:
        """Entries that a product's other tensor wrote, weighed by attention, at length."""
        values = _heads(self.entries[link.writer.tensor], link.writer)
        if link.key is not None and link.query is not None:
            keys = _heads(self.entries[link.key.tensor], link.key)
            queries = _heads(self.entries[link.query.tensor], link.query)
            scores = queries.swapaxes(-1, -2) @ keys / np.float32(np.sqrt(link.key.dim))  # [.., query, key]
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            values = values @ (scores / scores.sum(-1, keepdims=True)).swapaxes(-1, -2)
        shape = (*values.shape[:2], link.reader.repeat, *values.shape[3:])
        states = np.broadcast_to(values, shape).reshape(len(values), -1, COLUMNS)
        return states / np.maximum(_rms(states), TINY)[:, None, None].astype(np.float32)

    def _write(self, side: Side, entries: State, opaque: tuple[tuple[int, int], ...]) -> None:
        """Adds entries to the states of the groups along a side."""
        if sum(stop - start for start, stop in opaque) == side.size:
            return
        taps = prod(side.taps)
        lengths = [sum(s.length for s in part) for part in side.parts]
        lengths[-1] *= taps
        grid = entries.reshape(len(entries), *lengths, COLUMNS)
        for i, part in enumerate(side.parts):
            others = tuple(a + 1 for a in range(len(lengths)) if a != i)
            along = grid.mean(others) if others else grid
            own_taps = side.taps if i == len(lengths) - 1 else ()
            start = 0
            for s in part:
                stop = start + s.length * prod(own_taps)
                if s.group is not None:
                    shape = (len(along), s.outer, s.size, s.inner * prod(own_taps), COLUMNS)
                    self._add(s, own_taps, along[:, start:stop].reshape(shape))
                start = stop

    def _add(self, segment: Segment, taps: tuple[int, ...], entries: np.ndarray) -> None:
        """Adds entries [models, outer, size, inner x taps, columns] to a group: to its slots, and folded to its units."""
        group, outer, inner = segment.group, segment.outer, segment.inner
        assert group is not None
        units = entries[:, 0, :, 0]
        slots = outer * inner * prod(taps)
        if slots > 1:
            key = group, outer, inner, taps
            self.slots[key] = self.slots.get(key, np.float32(0)) + entries
            back = np.argsort(shifts(outer, inner, taps), -1)[:, None]  # [outer, 1, inner x taps, columns]
            units = np.take_along_axis(entries, np.broadcast_to(back, entries.shape), -1).sum((1, 3))
            units /= np.float32(np.sqrt(slots))
        self.units[group] = self.units.get(group, np.float32(0)) + units


def _heads(entries: State, span: Span) -> Float[np.ndarray, "models heads repeat dim columns"]:
    part = entries[:, span.start : span.stop]
    return part.reshape(len(part), span.heads, span.repeat, span.dim, COLUMNS)


def _cut(grid: np.ndarray, side: Side, first: int, last: int) -> np.ndarray:
    """The part of [models, *lengths of a side, columns] that belongs to rows of the tensor's first axis."""
    if 0 not in side.axes:
        return grid
    at = side.axes.index(0) + 1
    return grid[(slice(None),) * at + (slice(first, last),)]


def _square_sums(rows: np.ndarray) -> Float[np.ndarray, "models"]:
    """Sum of squares of each model, in float64 over blocks of float32."""
    flat = rows.reshape(len(rows), -1)
    whole = flat.shape[1] // SUM_BLOCK * SUM_BLOCK
    blocks = flat[:, :whole].reshape(len(flat), -1, SUM_BLOCK)
    total = np.einsum("mbi,mbi->mb", blocks, blocks).sum(1, dtype=np.float64)
    return total + np.einsum("mi,mi->m", flat[:, whole:], flat[:, whole:])


def _rms(states: State) -> Float[np.ndarray, "models"]:
    """Root mean square over entries and columns, float64."""
    return np.sqrt(_square_sums(states) / (states.shape[1] * states.shape[2]))


def _mean(states: State) -> Float[np.ndarray, "models columns"]:
    """Mean over entries, float64."""
    return states.mean(1, dtype=np.float64)


def _gram(states: State) -> Float[np.ndarray, "models columns columns"]:
    """Mean over entries of the products of two columns, float64."""
    total = 0.0
    for start in range(0, states.shape[1], SUM_BLOCK):
        block = states[:, start : start + SUM_BLOCK]
        total = total + (block.swapaxes(1, 2) @ block).astype(np.float64)
    return np.asarray(total) / states.shape[1]
