"""A sweep over the tensors of any claim: states of neurons are carried through the weights in the order of the layers.

Every unit of a group has a state of 64 columns: what it says at the 64 places of a small periodic image. A tensor
reads the states along the axes that it is read along, multiplies them by its (canonical) weights and adds its bias; the
result, its entries, goes to the units along the axes that it is written along:

    entries = W x + b,        x = states of what W reads,        units += mean over slots of entries / rms(entries)

An axis is read as [outer, size, inner]. A slot (outer, inner) or the tap of a kernel reads a unit at another place of
the image, so that convolutions and flattened maps do what they do on real images, and gates, heads and fused
projections are told apart. Axes and groups whose order is fixed (inputs, a vocabulary, positions) have states of their
own.
The two matrices of a product share their entries without a group between them; where queries and keys are a product
too, values are weighed by softmax attention over the places. Nothing depends on the order of the units of a group;
states are float64, since what a deep network makes of rounding errors can be much more than they are.
"""

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from wsrl.encoder.group_schedule import Link, Schedule, Side, Span, Vector, Visit
from wsrl.encoder.group_weights import Weights
from wsrl.encoder.probes import COLUMNS, fixed_states, shifts, signs
from wsrl.wiring.wiring import Segment

TINY = 1e-20  # root mean squares below are those of zeros

State = Float64[np.ndarray, "_models _entries columns"]  # float64; one model where all have the same


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
    gram: Float64[np.ndarray, "models columns columns"]
    mean: Float64[np.ndarray, "models columns"]
    rms: Float64[np.ndarray, "models"]


class Sweep:
    """The states of the neurons of some models in the middle of a sweep.

    Attributes:
      units: group -> [models, size, columns]; a group has one once it has been written, until its last use.
      slots: (group, outer, inner, taps) -> [models, outer, size, inner x taps, columns].
      entries: tensor -> what products take from it, until the last of them is read.
    """

    def __init__(self, schedule: Schedule, weights: Weights):
        self.schedule, self.weights = schedule, weights
        self.units: dict[str, np.ndarray] = {}
        self.slots: dict[tuple[str, int, int, tuple[int, ...]], np.ndarray] = {}
        self.entries: dict[str, np.ndarray] = {}
        self.uses = Counter(use for visit in schedule.visits for use in _uses(visit))
        self.uses.update(s.group for vector in schedule.vectors for s in vector.part if s.group is not None)

    def tokens(self) -> Iterator[Token]:
        """Visits all tensors and yields what each tells."""
        for visit in self.schedule.visits:
            yield self.visit(visit)
            self._forget(visit)
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
        normed = written / np.maximum(rms, TINY)[:, None, None]
        gram = _gram(normed)
        plain = normed
        if visit.opaque:
            plain = normed.copy()
            for start, stop in visit.opaque:
                plain[:, start:stop] = 0
        self._write(visit.writes, plain, visit.opaque)
        return Token(visit.depth, "output" if visit.output else "hidden", gram, plain.mean(1), rms)

    def vector(self, vector: Vector) -> Token:
        """Weighs the states of units by a vector."""
        values = self.weights.whole(vector.tensor)
        states = self._part(vector.part)
        weighed = values[:, :, None] * states
        return Token(vector.depth, "vector", _gram(weighed), weighed.mean(1), _rms(weighed))

    def _forget(self, visit: Visit) -> None:
        """Drops the states that no later visit uses."""
        self.uses.subtract(_uses(visit))
        for use in _uses(visit):
            if not self.uses[use]:
                self.units.pop(use, None)
                self.entries.pop(use, None)
                self.slots = {key: states for key, states in self.slots.items() if key[0] != use}

    def _multiply(self, visit: Visit, states: State) -> State:
        """Returns the products of a tensor and the states along what it reads."""
        reads, writes = visit.reads, visit.writes
        models = states.shape[0]
        grid = states.reshape(models, *reads.lengths, COLUMNS)
        out = None
        order = (0, *(a + 1 for a in writes.axes), *(a + 1 for a in reads.axes))
        for first, last, rows in self.weights.pieces(visit.tensor):
            own_reads = _cut(grid, reads, first, last).reshape(models, -1, COLUMNS)
            matrix = rows.transpose(order).reshape(len(rows), -1, own_reads.shape[1]).astype(np.float64)
            product = matrix @ own_reads
            if out is None:
                out = np.zeros((max(len(rows), models), *writes.lengths, COLUMNS))
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
                states = np.zeros((len(found), visit.reads.size, COLUMNS))
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
        if group is not None and (group, outer, inner, taps) in self.slots:
            states = self._activate(group, self.slots[group, outer, inner, taps])
            return states.reshape(len(states), -1, COLUMNS)
        if group is not None and group in self.units:
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
        rms = np.maximum(_rms(flat), TINY)
        return states / rms.reshape(-1, *[1] * (states.ndim - 1))

    def _linked(self, link: Link) -> State:
        """Entries that a product's other tensor wrote, weighed by attention, at length."""
        values = _heads(self.entries[link.writer.tensor], link.writer)
        if link.key is not None and link.query is not None:
            keys = _heads(self.entries[link.key.tensor], link.key)
            queries = _heads(self.entries[link.query.tensor], link.query)
            scores = queries.swapaxes(-1, -2) @ keys / np.sqrt(link.key.dim)  # [.., query, key]
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            values = values @ (scores / scores.sum(-1, keepdims=True)).swapaxes(-1, -2)
        shape = (*values.shape[:2], link.reader.repeat, *values.shape[3:])
        states = np.broadcast_to(values, shape).reshape(len(values), -1, COLUMNS)
        return states / np.maximum(_rms(states), TINY)[:, None, None]

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
        """Adds [models, outer, size, inner x taps, columns] to a group: to its slots, and folded to its units."""
        group, outer, inner = segment.group, segment.outer, segment.inner
        assert group is not None
        units = entries[:, 0, :, 0]
        slots = outer * inner * prod(taps)
        if slots > 1:
            key = group, outer, inner, taps
            self.slots[key] = self.slots.get(key, 0.0) + entries
            back = np.argsort(shifts(outer, inner, taps), -1)[:, None]  # [outer, 1, inner x taps, columns]
            units = np.take_along_axis(entries, np.broadcast_to(back, entries.shape), -1).sum((1, 3))
            units /= np.sqrt(slots)
        self.units[group] = self.units.get(group, 0.0) + units


def _uses(visit: Visit) -> set[str]:
    """Groups and linked tensors whose states a visit reads or writes."""
    taken = {visit.tensor} if visit.opaque else set()
    return visit.reads.groups | visit.writes.groups | taken | {t for link in visit.links for t in link.sources}


def _heads(entries: State, span: Span) -> Float[np.ndarray, "models heads repeat dim columns"]:
    part = entries[:, span.start : span.stop]
    return part.reshape(len(part), span.heads, span.repeat, span.dim, COLUMNS)


def _cut(grid: np.ndarray, side: Side, first: int, last: int) -> np.ndarray:
    """The part of [models, *lengths of a side, columns] that belongs to rows of the tensor's first axis."""
    if 0 not in side.axes:
        return grid
    at = side.axes.index(0) + 1
    return grid[(slice(None),) * at + (slice(first, last),)]


def _rms(states: State) -> Float64[np.ndarray, "_models"]:
    """Root mean square over entries and columns."""
    flat = states.reshape(len(states), 1, -1)
    return np.sqrt((flat @ flat.swapaxes(1, 2))[:, 0, 0] / flat.shape[2])


def _gram(states: State) -> Float64[np.ndarray, "_models columns columns"]:
    """Mean over entries of the products of two columns."""
    return states.swapaxes(1, 2) @ states / states.shape[1]
